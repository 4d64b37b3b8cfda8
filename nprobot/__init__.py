"""nprobot: robot controllers that learn without backpropagation.

Importing it registers the environments and loads nothing heavy; everything else, torch included, is
imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from . import envs as envs
from . import policies as policies

if TYPE_CHECKING:
    from .algorithms.nrl import NRL
    from .algorithms.ppo import PPO
    from .algorithms.sac import SAC
    from .algorithms.td3 import TD3
    from .captured_step import CapturedStep
    from .gradient_alignment import Alignment, alignment
    from .noisy_network import NoisyNetwork
    from .regression import fit
    from .rule import LearningRule
    from .rules import RULES, learning_rule

__version__ = "0.1.0"

_HOME = {
    "NRL": "algorithms.nrl",
    "PPO": "algorithms.ppo",
    "SAC": "algorithms.sac",
    "TD3": "algorithms.td3",
    "CapturedStep": "captured_step",
    "Alignment": "gradient_alignment",
    "alignment": "gradient_alignment",
    "NoisyNetwork": "noisy_network",
    "fit": "regression",
    "RULES": "rules",
    "LearningRule": "rule",
    "learning_rule": "rules",
}

__all__ = [  # noqa: RUF022 - in the order of the modules
    "envs",
    "policies",
    "NRL",
    "PPO",
    "SAC",
    "TD3",
    "CapturedStep",
    "Alignment",
    "alignment",
    "NoisyNetwork",
    "fit",
    "RULES",
    "LearningRule",
    "learning_rule",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
