"""What a learner must not see: a place to hide it, and a way to save it.

*Hiding.* The owner holds no reference to what is hidden for it. That lies in the cache of a C
function, which has no attribute to look into: no chain of attributes, closures or module globals
that starts at the owner ends at the secret. Python's garbage collector and debugger see everything
in a process, and calling this module on purpose is cheating, not learning. A learner that is to be
kept out by more than manners belongs in another process.

*Sealing.* A state is encrypted with a keystream (SHAKE-256 of the key and the tag) and signed
(keyed BLAKE2b of the state). The tag is both the signature and the nonce, so the same state makes
the same bytes, and no two different states share a keystream.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import weakref
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from .errors import DamagedFileError

Secret = TypeVar("Secret")

_TAG = 32


class Vault(Generic[Secret]):
    """Keeps one secret for every owner, as long as the owner lives."""

    def __init__(self) -> None:
        # By the owner's number: a reference from here would be one that others can follow.
        # An empty list stays behind for each address that ever held an owner.
        @functools.cache
        def cell(owner: int) -> list[Secret]:
            return []

        self._cell = cell

    def hide(self, owner: object, secret: Secret) -> None:
        """Keep a secret for an owner; a new one takes the place of an old one."""
        self._cell(id(owner))[:] = [secret]
        weakref.finalize(owner, self._forget, id(owner)).atexit = False

    def of(self, owner: object) -> Secret:
        """The secret of an owner."""
        return self._cell(id(owner))[0]

    def _forget(self, owner: int) -> None:
        self._cell(owner).clear()


def seal(state: object, secret: Sequence[int], kind: str) -> bytes:
    """Encrypt a state, so that anyone can keep it and only who knows the secret can open it.

    Args:
        state: numbers, strings, lists, dicts and numpy arrays.
        secret: words of a seed, each from 0 to below 2**64.
        kind: what it is the state of, such as "actuators"; stands at the beginning in plain.
    """
    key = _key(secret, kind)
    plain = json.dumps(state, default=_array_to_json, separators=(",", ":")).encode()
    tag = _sign(plain, key)
    return _head(kind) + tag + _mask(plain, tag, key)


def unseal(capsule: bytes, secret: Sequence[int], kind: str) -> Any:  # noqa: ANN401
    """The state in a capsule.

    Raises:
        DamagedFileError: it is no such capsule, was altered, or belongs to another secret.
    """
    head = _head(kind)
    if not isinstance(capsule, bytes) or not capsule.startswith(head):
        raise DamagedFileError(
            f"this is no saved state of {kind}; give the bytes that were saved, unchanged"
        )
    tag, body = capsule[len(head) :][:_TAG], capsule[len(head) + _TAG :]
    key = _key(secret, kind)
    plain = _mask(body, tag, key)
    if not hmac.compare_digest(tag, _sign(plain, key)):
        raise DamagedFileError(
            f"the saved state of {kind} cannot be opened: it was saved with another seed, or the "
            "bytes were damaged. Use the same seed as in the run that saved it."
        )
    return json.loads(plain, object_hook=_array_from_json)


def _head(kind: str) -> bytes:
    return f"nprobot {kind} 2\n".encode()


def _key(secret: Sequence[int], kind: str) -> bytes:
    words = np.array(secret, np.uint64).tobytes() + kind.encode()
    return hashlib.blake2b(words, digest_size=32, person=b"nprobot-seal").digest()


def _sign(plain: bytes, key: bytes) -> bytes:
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
