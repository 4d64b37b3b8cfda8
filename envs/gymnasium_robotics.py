"""Fetch's arm and the Shadow Hand, from `gymnasium-robotics`, for policies that see one vector.

There an observation is a dictionary of what is, what is reached and what is wanted; here it is one
vector of the three. Installed by ``pip install 'nprobot[robots]'``.
"""

from __future__ import annotations

import importlib
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium
import mujoco
from gymnasium.wrappers import FlattenObservation

Env = gymnasium.Env[Any, Any]


def flat_goal_env(id: str, *, reward_type: str = "dense", **arguments: Any) -> Env:
    """An environment of `gymnasium-robotics` whose observation is one vector.

    ## Observation space
    `Box(-inf, inf, (n,), float64)`: the reached goal, the wanted goal, then the robot's own
    observation, in the units of the original (SI).

    ## Action space, reward, episodes
    As in the original. The reward is by default its dense one, the negative distance to the goal:
    the sparse one gives no policy gradient anything to follow.

    Args:
        id: the original's id, such as "FetchReach-v4".
        reward_type: "dense" or "sparse".
        **arguments: as the original takes them, such as `render_mode`.

    Raises:
        gymnasium.error.DependencyNotInstalled: the package is not installed.
    """
    try:
        importlib.import_module("gymnasium_robotics")  # registers its environments
        compare_joints_as_numbers()
    except ImportError as error:
        raise gymnasium.error.DependencyNotInstalled(
            f"{id} needs `pip install 'nprobot[robots]'` ({error})"
        ) from error
    # Limits of the episode come from our own registration.
    env = gymnasium.make(id, max_episode_steps=-1, reward_type=reward_type, **arguments)
    return FlattenObservation(env)


def compare_joints_as_numbers() -> None:
    """Make `gymnasium-robotics` 1.4.2 work with MuJoCo's newer enumerations.

    It looks a joint's type up in a tuple of members, and those of MuJoCo 3.17 are no longer equal
    to a numpy integer on their right. Numbers are, so it gets numbers; nothing else changes.
    """
    tools = importlib.import_module("gymnasium_robotics.utils.mujoco_utils")
    if not isinstance(tools.mujoco, ModuleType):
        return  # done before
    kind = mujoco.mjtJoint
    numbers = {name: int(getattr(kind, name)) for name in dir(kind) if name.startswith("mjJNT_")}
    tools.mujoco = _MujocoWithNumbers(SimpleNamespace(**numbers))  # type: ignore[attr-defined]


class _MujocoWithNumbers:
    """MuJoCo with joint types that are integers."""

    def __init__(self, joint_types: SimpleNamespace) -> None:
        self.mjtJoint = joint_types

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever MuJoCo has
        return getattr(mujoco, name)


fetch_reach = partial(flat_goal_env, "FetchReach-v4")
fetch_push = partial(flat_goal_env, "FetchPush-v4")
fetch_slide = partial(flat_goal_env, "FetchSlide-v4")
fetch_pick_and_place = partial(flat_goal_env, "FetchPickAndPlace-v4")
hand_reach = partial(flat_goal_env, "HandReach-v3")
hand_manipulate_block = partial(flat_goal_env, "HandManipulateBlock-v1")
