"""Regression and classification with any learning rule: fits, models, and their use on the arm."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import fit, network_for, resume
    from .config import FitConfig
    from .controller import export_model, feedforward_policy
    from .folder import FitFolder
    from .model import Model, load, save
    from .objectives import ClassificationScore, RegressionScore
    from .reporting import FitProgress, FitReporter
    from .result import FitResult
    from .tracking import Tracking, track

_HOME = {
    "fit": "api",
    "network_for": "api",
    "resume": "api",
    "FitConfig": "config",
    "export_model": "controller",
    "feedforward_policy": "controller",
    "FitFolder": "folder",
    "Model": "model",
    "load": "model",
    "save": "model",
    "ClassificationScore": "objectives",
    "RegressionScore": "objectives",
    "FitProgress": "reporting",
    "FitReporter": "reporting",
    "FitResult": "result",
    "Tracking": "tracking",
    "track": "tracking",
}

__all__ = [  # noqa: RUF022 - in the order of the modules
    "fit",
    "network_for",
    "resume",
    "FitConfig",
    "export_model",
    "feedforward_policy",
    "FitFolder",
    "Model",
    "load",
    "save",
    "ClassificationScore",
    "RegressionScore",
    "FitProgress",
    "FitReporter",
    "FitResult",
    "Tracking",
    "track",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
