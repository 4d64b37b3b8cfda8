"""Saved states that can be kept by anyone and opened only by who knows the actuators' secret seed.

A state is encrypted with a keystream (SHAKE-256 of the key and the tag) and signed (keyed BLAKE2b
of the state). The tag is both the signature and the nonce, so the same state makes the same bytes,
and no two different states share a keystream.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import ActuatorError

_MAGIC = b"nprobot actuators 1\n"
_TAG = 32


def seal(state: dict[str, Any], secret: Sequence[int]) -> bytes:
    """Encrypts a state of numbers, strings, lists, dictionaries and numpy arrays."""
    key = _key(secret)
    plain = json.dumps(state, default=_array_to_json, separators=(",", ":")).encode()
    tag = _tag(plain, key)
    return _MAGIC + tag + _mask(plain, tag, key)


def unseal(capsule: bytes, secret: Sequence[int]) -> dict[str, Any]:
    """The state in a capsule.

    Raises:
        ActuatorError: If it is no such capsule, was damaged, or belongs to another secret.
    """
    if not isinstance(capsule, bytes) or not capsule.startswith(_MAGIC):
        raise ActuatorError(
            "This is no saved state of noisy actuators; give the bytes that save_actuators() "
            "returned, unchanged."
        )
    tag, body = capsule[len(_MAGIC) :][:_TAG], capsule[len(_MAGIC) + _TAG :]
    key = _key(secret)
    plain = _mask(body, tag, key)
    if not hmac.compare_digest(tag, _tag(plain, key)):
        raise ActuatorError(
            "The saved state of the actuators cannot be opened: it was saved by actuators with "
            "another seed, or the bytes were damaged. Make the wrapper with the same seed= as in "
            "the run that saved it."
        )
    state: dict[str, Any] = json.loads(plain, object_hook=_array_from_json)
    return state


def _key(secret: Sequence[int]) -> bytes:
    words = np.array(secret, np.uint32).tobytes()
    return hashlib.blake2b(words, digest_size=32, person=b"nprobot-seal").digest()


def _tag(plain: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(plain, digest_size=_TAG, key=key).digest()


def _mask(text: bytes, tag: bytes, key: bytes) -> bytes:
    stream = hashlib.shake_256(key + tag).digest(len(text))
    return (np.frombuffer(text, np.uint8) ^ np.frombuffer(stream, np.uint8)).tobytes()


def _array_to_json(value: object) -> dict[str, Any]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value)} is no part of a state")
    content = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {"array": content, "dtype": value.dtype.str, "shape": value.shape}


def _array_from_json(value: dict[str, Any]) -> object:
    if value.keys() != {"array", "dtype", "shape"}:
        return value
    flat = np.frombuffer(base64.b64decode(value["array"]), np.dtype(value["dtype"]))
    return flat.reshape(value["shape"]).copy()
