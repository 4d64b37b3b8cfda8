"""Training runs on disk: configuration, run folder, checkpoints, evaluation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import AlgorithmOptions, LearningOptions, NetworkOptions, RunConfig
    from .errors import (
        ConfigError,
        DamagedRunError,
        EnvironmentUnavailableError,
        NonFiniteError,
        RunError,
        RunExistsError,
        RunNotFoundError,
        UnknownNameError,
    )
    from .evaluation import Evaluation, evaluate, record
    from .reporting import Progress, Reporter
    from .run_folder import RunFolder
    from .runner import Result, resume, train

_HOME = {
    "AlgorithmOptions": "config",
    "LearningOptions": "config",
    "NetworkOptions": "config",
    "RunConfig": "config",
    "ConfigError": "errors",
    "DamagedRunError": "errors",
    "EnvironmentUnavailableError": "errors",
    "NonFiniteError": "errors",
    "RunError": "errors",
    "RunExistsError": "errors",
    "RunNotFoundError": "errors",
    "UnknownNameError": "errors",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "record": "evaluation",
    "Progress": "reporting",
    "Reporter": "reporting",
    "RunFolder": "run_folder",
    "Result": "runner",
    "resume": "runner",
    "train": "runner",
}

__all__ = [  # noqa: RUF022 - in the order of the modules
    "AlgorithmOptions",
    "LearningOptions",
    "NetworkOptions",
    "RunConfig",
    "ConfigError",
    "DamagedRunError",
    "EnvironmentUnavailableError",
    "NonFiniteError",
    "RunError",
    "RunExistsError",
    "RunNotFoundError",
    "UnknownNameError",
    "Evaluation",
    "evaluate",
    "record",
    "Progress",
    "Reporter",
    "RunFolder",
    "Result",
    "resume",
    "train",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
