"""Errors of training runs; each says what was given, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RunError(Exception):
    """A run cannot start, or cannot go on; the subclasses say why."""


class ConfigError(RunError):
    """A setting of a run makes no sense."""


class UnknownNameError(ConfigError):
    """Something was asked for by a name that does not exist.

    Args:
        kind: what was asked for, such as "environment".
        given: the name.
        known: the names that exist.
        hint: where to find them all, for the end of the message.

    Attributes:
        near: the known names most like the given one, the best first.
    """

    def __init__(self, kind: str, given: str, known: Iterable[str], hint: str = "") -> None:
        names = list(known)
        self.near = near_matches(given, names)
        message = f"unknown {kind} {given!r}"
        if self.near:
            message += f"; did you mean {' or '.join(self.near)}?"
        elif not hint:
            message += f"; known: {', '.join(names)}"
        super().__init__(f"{message} {hint}".rstrip())


class EnvironmentUnavailableError(RunError):
    """An environment exists but cannot be made, or has spaces that no policy here can handle."""


class RunExistsError(RunError, FileExistsError):
    """A run folder is there already."""


class RunNotFoundError(RunError, FileNotFoundError):
    """There is no run, or no checkpoint in it."""


class RunBusyError(RunError):
    """Another process is at work on the run."""


class DamagedRunError(RunError, ValueError):
    """A file of a run is incomplete or altered."""


class ForeignRunError(RunError, ValueError):
    """A file is where one of a run should be, but this software did not write it."""


class NewerRunError(RunError, ValueError):
    """A file of a run was written by a newer version of this software."""


class ArchitectureMismatchError(RunError, ValueError):
    """A checkpoint holds another network than the one that the run's configuration describes."""


class EnvironmentStateError(RunError):
    """The state of an environment cannot be saved, or does not fit the environment."""


class RunFailedError(RunError):
    """A run that was asked for rightly has come to a premature end; it can be resumed."""


class NonFiniteError(RunFailedError, FloatingPointError):
    """An observation, an action, a reward, a loss or a weight became NaN or infinite."""


class EnvironmentFailedError(RunFailedError):
    """An environment raised an exception, took too long, or its process died."""


class StorageError(RunFailedError, OSError):
    """The disk is full, a folder is read-only, or the operating system refuses to write."""


def near_matches(given: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names most like a given one, the best first; case does not count."""
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(name.lower(), name)
    return [names[near] for near in difflib.get_close_matches(given.lower(), names, most)]
