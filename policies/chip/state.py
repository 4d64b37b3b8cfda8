"""The state of a chip for a checkpoint, sealed: kept by anyone, opened by the same chip alone.

Noise that could be read from a file would be noise that is known. So the state is masked with a
keystream (SHAKE-256) from the chip's secret seeds, and carries a keyed checksum of itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ConfigError
from .crossbar import crossbars

_MAGIC = b"nprobot chip 1\n"
_TAG = 32


def save_chip(network: nn.Module) -> bytes:
    """How often the layers of a chip ran, and where their noise is; sealed.

    Args:
        network: on a chip.
    """
    state = [crossbar.save() for crossbar in crossbars(network)]
    plain = json.dumps(state, default=_to_json, separators=(",", ":")).encode()
    key = _key(network)
    tag = hashlib.blake2b(plain, digest_size=_TAG, key=key).digest()
    return _MAGIC + tag + _mask(plain, tag, key)


def restore_chip(network: nn.Module, capsule: bytes) -> None:
    """Go back to a state from `save_chip`.

    Args:
        network: on the same chip: the same architecture, models and seeds.
        capsule: the state.

    Raises:
        ConfigError: it was damaged, or is that of another chip.
    """
    key = _key(network)
    tag, body = capsule[len(_MAGIC) :][:_TAG], capsule[len(_MAGIC) + _TAG :]
    plain = _mask(body, tag, key)
    right = hashlib.blake2b(plain, digest_size=_TAG, key=key).digest()
    if not capsule.startswith(_MAGIC) or not hmac.compare_digest(tag, right):
        raise ConfigError(
            "the saved state of the chip cannot be opened: it is that of another chip, or damaged. "
            "Put the network on the chip with the same seeds as in the run that saved it"
        )
    states = json.loads(plain, object_hook=_from_json)
    for crossbar, state in zip(crossbars(network), states, strict=True):
        crossbar.restore(state)


def _key(network: nn.Module) -> bytes:
    words = [word for crossbar in crossbars(network) for word in crossbar.secret()]
    content = np.array(words, np.uint64).tobytes()
    return hashlib.blake2b(content, digest_size=32, person=b"nprobot-chip").digest()


def _mask(text: bytes, tag: bytes, key: bytes) -> bytes:
    stream = hashlib.shake_256(key + tag).digest(len(text))
    return (np.frombuffer(text, np.uint8) ^ np.frombuffer(stream, np.uint8)).tobytes()


def _to_json(value: object) -> dict[str, Any]:
    if not isinstance(value, Tensor):
        raise TypeError(f"{type(value)} is no part of a chip's state")
    array = value.detach().cpu().numpy()
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"array": content, "dtype": array.dtype.str, "shape": array.shape}


def _from_json(value: dict[str, Any]) -> object:
    if value.keys() != {"array", "dtype", "shape"}:
        return value
    flat = np.frombuffer(base64.b64decode(value["array"]), np.dtype(value["dtype"]))
    return torch.from_numpy(flat.reshape(value["shape"]).copy())
