"""Running a trained policy on a robot: controller, safety, simulated robots, server.

Needs numpy, or onnxruntime; neither torch nor stable-baselines3 is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .controller import Controller, DeployablePolicy
    from .errors import (
        DeployError,
        DisplayError,
        FlightRecordError,
        MessageError,
        RateError,
        RobotError,
        SafetyConfigError,
        ServerError,
    )
    from .export import export_run
    from .faults import Fault, FaultKind
    from .flight import Episode, fly
    from .flight_recorder import FlightRecord, FlightRecorder
    from .latency import LatencySummary
    from .policies import load_policy
    from .rendering import Film, choose_backend
    from .replaying import Replay, replay
    from .robot import RateWarning, Robot, make_robot
    from .safe_actions import Damping, Hold, Zero
    from .safety import Safety
    from .server import PolicyServer
    from .watchdog import Watchdog

_HOME = {
    "Controller": "controller",
    "DeployablePolicy": "controller",
    "DeployError": "errors",
    "DisplayError": "errors",
    "FlightRecordError": "errors",
    "MessageError": "errors",
    "RateError": "errors",
    "RobotError": "errors",
    "SafetyConfigError": "errors",
    "ServerError": "errors",
    "export_run": "export",
    "Fault": "faults",
    "FaultKind": "faults",
    "Episode": "flight",
    "fly": "flight",
    "FlightRecord": "flight_recorder",
    "FlightRecorder": "flight_recorder",
    "LatencySummary": "latency",
    "load_policy": "policies",
    "Film": "rendering",
    "choose_backend": "rendering",
    "Replay": "replaying",
    "replay": "replaying",
    "RateWarning": "robot",
    "Robot": "robot",
    "make_robot": "robot",
    "Damping": "safe_actions",
    "Hold": "safe_actions",
    "Zero": "safe_actions",
    "Safety": "safety",
    "PolicyServer": "server",
    "Watchdog": "watchdog",
}

__all__ = [  # noqa: RUF022 - in the order of the modules
    "Controller",
    "DeployablePolicy",
    "DeployError",
    "DisplayError",
    "FlightRecordError",
    "MessageError",
    "RateError",
    "RobotError",
    "SafetyConfigError",
    "ServerError",
    "export_run",
    "Fault",
    "FaultKind",
    "Episode",
    "fly",
    "FlightRecord",
    "FlightRecorder",
    "LatencySummary",
    "load_policy",
    "Film",
    "choose_backend",
    "Replay",
    "replay",
    "RateWarning",
    "Robot",
    "make_robot",
    "Damping",
    "Hold",
    "Zero",
    "Safety",
    "PolicyServer",
    "Watchdog",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
