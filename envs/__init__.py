"""MuJoCo environments, robot models, actuators and regression data; heavy parts on first use.

Importing this package registers the environments with gymnasium and nothing more: MuJoCo is loaded
when an environment is made.
"""

from __future__ import annotations

import gymnasium
import lazy_loader as lazy

ROBOT = "nprobot/Robot-v0"
#: A task for any MJCF file.
ARM_TRACK = "nprobot/ArmTrack-v0"
#: The environment that a fitted inverse dynamics of our arm controls.

#: Environment id → (entry point, steps an episode; None where the environment ends it itself).
ENVIRONMENTS: dict[str, tuple[str, int | None]] = {
    "nprobot/ArmReach-v0": ("nprobot.envs.arm_reach:ArmReachEnv", 100),
    ARM_TRACK: ("nprobot.envs.arm_track:ArmTrackEnv", None),
    ROBOT: ("nprobot.envs.robots.robot_env:RobotEnv", None),
}

#: Environment id → entry point of many at once, as `gymnasium.make_vec` takes it.
VECTOR_ENTRY_POINTS: dict[str, str] = {
    "nprobot/ArmReach-v0": "nprobot.envs.arm_vector:ArmReachVectorEnv",
    ARM_TRACK: "nprobot.envs.arm_vector:ArmTrackVectorEnv",
    ROBOT: "nprobot.envs.robots.robot_vector:RobotVectorEnv",
}

#: Robots of the package at the task that suits them: id → arguments of `nprobot/Robot-v0`.
ROBOT_ENVIRONMENTS: dict[str, dict[str, str]] = {
    "nprobot/Quadruped-v0": {"model": "quadruped", "task": "velocity"},
    "nprobot/Quadrotor-v0": {"model": "quadrotor", "task": "hover"},
    "nprobot/HoppingLeg-v0": {"model": "hopper", "task": "velocity"},
    "nprobot/Biped-v0": {"model": "biped", "task": "velocity"},
}

#: The same for robots that `pip install 'nprobot[robots]'` brings.
OPTIONAL_ENVIRONMENTS: dict[str, tuple[str, int | None]] = {
    f"nprobot/{name}-v0": (f"nprobot.envs.gymnasium_robotics:{function}", steps)
    for name, function, steps in (
        ("FetchReach", "fetch_reach", 50),
        ("FetchPush", "fetch_push", 50),
        ("FetchSlide", "fetch_slide", 50),
        ("FetchPickAndPlace", "fetch_pick_and_place", 50),
        ("HandReach", "hand_reach", 50),
        ("HandManipulateBlock", "hand_manipulate_block", 100),
    )
}

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)


def _register() -> None:
    for name, (entry_point, steps) in (ENVIRONMENTS | OPTIONAL_ENVIRONMENTS).items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point=entry_point,
                max_episode_steps=steps,
                vector_entry_point=VECTOR_ENTRY_POINTS.get(name),
            )
    for name, arguments in ROBOT_ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            entry_point, _ = ENVIRONMENTS[ROBOT]
            many = VECTOR_ENTRY_POINTS[ROBOT]
            gymnasium.register(
                id=name, entry_point=entry_point, vector_entry_point=many, kwargs=arguments
            )


_register()
