"""Training runs on disk: configuration, run folder, checkpoints, evaluation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import AlgorithmOptions, LearningOptions, NetworkOptions, RunConfig
    from .errors import (
        ArchitectureMismatchError,
        ConfigError,
        DamagedRunError,
        EnvironmentFailedError,
        EnvironmentUnavailableError,
        ForeignRunError,
        NewerRunError,
        NonFiniteError,
        RunBusyError,
        RunError,
        RunExistsError,
        RunFailedError,
        RunNotFoundError,
        StorageError,
        UnknownNameError,
    )
    from .evaluation import Evaluation, evaluate, record
    from .reporting import Progress, Reporter
    from .run_folder import RunFolder
    from .runner import resume, train
    from .session import Result

_HOME = {
    "AlgorithmOptions": "config",
    "LearningOptions": "config",
    "NetworkOptions": "config",
    "RunConfig": "config",
    "ArchitectureMismatchError": "errors",
    "ConfigError": "errors",
    "DamagedRunError": "errors",
    "EnvironmentFailedError": "errors",
    "EnvironmentUnavailableError": "errors",
    "ForeignRunError": "errors",
    "NewerRunError": "errors",
    "NonFiniteError": "errors",
    "RunBusyError": "errors",
    "RunError": "errors",
    "RunExistsError": "errors",
    "RunFailedError": "errors",
    "RunNotFoundError": "errors",
    "StorageError": "errors",
    "UnknownNameError": "errors",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "record": "evaluation",
    "Progress": "reporting",
    "Reporter": "reporting",
    "RunFolder": "run_folder",
    "resume": "runner",
    "train": "runner",
    "Result": "session",
}

__all__ = [  # noqa: RUF022 - in the order of the modules
    "AlgorithmOptions",
    "LearningOptions",
    "NetworkOptions",
    "RunConfig",
    "ArchitectureMismatchError",
    "ConfigError",
    "DamagedRunError",
    "EnvironmentFailedError",
    "EnvironmentUnavailableError",
    "ForeignRunError",
    "NewerRunError",
    "NonFiniteError",
    "RunBusyError",
    "RunError",
    "RunExistsError",
    "RunFailedError",
    "RunNotFoundError",
    "StorageError",
    "UnknownNameError",
    "Evaluation",
    "evaluate",
    "record",
    "Progress",
    "Reporter",
    "RunFolder",
    "resume",
    "train",
    "Result",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
