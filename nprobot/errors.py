"""The errors that this package raises: few, and each because somebody may want to catch it.

All of them are a `NprobotError`, and most are also the built-in error that a Python user expects.
What is wrong and what to do about it is in the message.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NprobotError(Exception):
    """The base of all errors that this package raises on purpose."""


class ConfigError(NprobotError):
    """A setting has a value that is not allowed, or settings contradict each other.

    Not a `ValueError`: `tyro` would take that for its own mistake and exit.
    """


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

    def __init__(self, kind: str, given: object, known: Iterable[str], hint: str = "") -> None:
        names = list(known)
        self.near = near_matches(given, names)
        message = f"unknown {kind} {given!r}"
        if self.near:
            message += f"; did you mean {' or '.join(self.near)}?"
        elif not hint:
            message += f"; known: {', '.join(names)}"
        elif not self.near:
            message += "."
        super().__init__(f"{message} {hint}".rstrip())


class MissingPackageError(NprobotError, ImportError):
    """An optional package is not installed; the message has the command that installs it."""


class RuleError(NprobotError, ValueError):
    """A learning rule was asked for, or used, in a way that cannot work."""


class UnsupportedLayerError(NprobotError, TypeError):
    """A module holds parameters that the learning rules cannot reach."""


class NoiseInaccessibleError(NprobotError, TypeError):
    """Something needs to know noise that is hidden."""


class ArchitectureError(NprobotError, ValueError):
    """A network is not the one that is needed: sizes, layers, outputs or weights do not fit."""


class ObservationError(NprobotError, ValueError):
    """An observation has the wrong shape, or is not a finite number."""


class ActuatorError(NprobotError, ValueError):
    """Actuators, or an action for them, do not fit the robot."""


class RobotError(NprobotError, ValueError):
    """A robot's model cannot be found, compiled or used."""


class DataError(NprobotError, ValueError):
    """Data cannot be read, or cannot be learned from."""


class FileError(NprobotError, ValueError):
    """A file cannot be used; the subclasses say whose fault it is."""


class DamagedFileError(FileError):
    """A file of ours is incomplete or altered."""


class ForeignFileError(FileError):
    """A file is where one of ours should be, but this software did not write it."""


class NewerFileError(FileError):
    """A file was written by a newer version of this software."""


class NotFoundError(NprobotError, FileNotFoundError):
    """There is no such run, policy, model or file."""


class ExistsError(NprobotError, FileExistsError):
    """Something is there already, and is never written over."""


class BusyError(NprobotError):
    """Another process is at work in the same folder."""


class EnvironmentUnavailableError(NprobotError):
    """An environment exists but cannot be made, or has spaces that no policy here can handle."""


class RunFailedError(NprobotError):
    """Work that was asked for rightly has come to a premature end; it can be resumed."""


class NonFiniteError(RunFailedError, FloatingPointError):
    """An observation, an action, a reward, a loss or a weight became NaN or infinite."""


class EnvironmentFailedError(RunFailedError):
    """An environment raised an exception, took too long, or its process died."""


class ChipError(RunFailedError):
    """A chip did not answer, answered late, or said something that cannot be."""


class StorageError(RunFailedError, OSError):
    """The disk is full, a folder is read-only, or the operating system refuses to write."""


class DeployError(NprobotError, ValueError):
    """A policy cannot be deployed as asked."""


class MessageError(DeployError):
    """A message to the policy server is not one that it understands.

    Args:
        code: short name of the fault, for programs.
        message: what is wrong, for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DataWarning(UserWarning):
    """Data can be used, but something about it should be known."""


class ActuatorWarning(UserWarning):
    """An environment tells the learner what the noisy actuators did."""


class EnvironmentWarning(UserWarning):
    """An environment can be learned, but its actions lie where learning begins badly."""


class DeployWarning(UserWarning):
    """A policy runs at another rate than it was trained at."""


def near_matches(given: object, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names most like a given one, the best first; case does not count."""
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(name.lower(), name)
    return [names[near] for near in difflib.get_close_matches(str(given).lower(), names, most)]


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """`` (did you mean 'servo'?)``, to go after an unknown name; empty if nothing is near."""
    near = near_matches(given, known)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
