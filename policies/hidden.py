"""A place for what a learner must not see: no chain of attributes leads from the owner to it.

The owner holds no reference to what is hidden for it. That lies in the cache of a C function, which
has no attribute to look into. Python's garbage collector and debugger see everything in a process,
and whoever calls this module on purpose gets what is in it: it keeps honest learners honest. A
learner that is to be kept out by more than manners belongs in another process.
"""

from __future__ import annotations

import functools
import weakref
from typing import Generic, TypeVar

Secret = TypeVar("Secret")


class Vault(Generic[Secret]):
    """Keeps one secret for every owner, as long as the owner lives."""

    def __init__(self) -> None:
        # By the owner's number: a reference from here would be one that others can follow.
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
