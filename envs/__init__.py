"""MuJoCo environments, robot models, actuators and regression data; heavy parts on first use.

Importing this package registers the environments with gymnasium and nothing more: MuJoCo is loaded
when an environment is made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import gymnasium

if TYPE_CHECKING:
    from . import datasets
    from .actuators import NoisyActuators, NoisyActuatorsVector

__all__ = ["ENVIRONMENTS", "NoisyActuators", "NoisyActuatorsVector", "datasets"]

#: Environment id → (entry point, steps an episode; None where the environment ends it itself).
ENVIRONMENTS: dict[str, tuple[str, int | None]] = {
    "nprobot/ArmReach-v0": ("nprobot.envs.arm_reach:ArmReachEnv", 100),
    "nprobot/ArmTrack-v0": ("nprobot.envs.arm_track:ArmTrackEnv", None),
}

#: The same for robots that `pip install 'nprobot[robots]'` brings.
OPTIONAL_ENVIRONMENTS: dict[str, tuple[str, int | None]] = {
    "nprobot/FetchReach-v0": ("nprobot.envs.robotics:fetch_reach", 50),
    "nprobot/FetchPush-v0": ("nprobot.envs.robotics:fetch_push", 50),
    "nprobot/FetchSlide-v0": ("nprobot.envs.robotics:fetch_slide", 50),
    "nprobot/FetchPickAndPlace-v0": ("nprobot.envs.robotics:fetch_pick_and_place", 50),
    "nprobot/HandReach-v0": ("nprobot.envs.robotics:hand_reach", 50),
    "nprobot/HandManipulateBlock-v0": ("nprobot.envs.robotics:hand_manipulate_block", 100),
}

#: Public name → the module that holds it (a name of a module itself maps to that module).
_HOME = {
    "NoisyActuators": ".actuators",
    "NoisyActuatorsVector": ".actuators",
    "datasets": ".datasets",
}


def _register() -> None:
    for name, (entry_point, steps) in (ENVIRONMENTS | OPTIONAL_ENVIRONMENTS).items():
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point=entry_point, max_episode_steps=steps)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOME[name], __name__)
    return module if _HOME[name] == f".{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


_register()
