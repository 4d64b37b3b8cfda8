"""Parts that observations are put together from, by name, for one robot or for a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import UnknownNameError
from .robot_state import RobotState

Array = NDArray[np.float64]

#: Points of the height scan, m in the heading's frame, for a robot 1 m high.
_SCAN = np.array([(x, y) for x in (-1.0, 0.0, 1.0, 2.0, 3.0) for y in (-1.0, 0.0, 1.0)])


@dataclass(frozen=True)
class Part:
    """A part of an observation.

    Attributes:
        read: from a state to `(…, n)`.
        about: what it is, and its unit.
        noise: standard deviation that a sensor of a real robot has, for `randomise`.
    """

    read: Callable[[RobotState], Array]
    about: str
    noise: float = 0.0


def _scan(s: RobotState) -> Array:
    """How far the ground around the base lies below it, `(…, 15)`, m."""
    points = _SCAN * s.layout.robot.home_height
    cosine, sine = np.cos(s.heading)[..., None], np.sin(s.heading)[..., None]
    x = s.base_position[..., :1] + cosine * points[:, 0] - sine * points[:, 1]
    y = s.base_position[..., 1:2] + sine * points[:, 0] + cosine * points[:, 1]
    return s.base_position[..., 2:] - s.ground_at(x, y)


PARTS: Mapping[str, Part] = {
    "linear_velocity": Part(
        lambda s: s.linear_velocity, "velocity of the base, its frame, m/s", 0.05
    ),
    "angular_velocity": Part(
        lambda s: s.angular_velocity, "angular velocity of the base, its frame, rad/s", 0.1
    ),
    "gravity": Part(lambda s: s.gravity, "direction of gravity, base's frame", 0.02),
    "heading": Part(
        lambda s: np.stack([np.cos(s.heading), np.sin(s.heading)], -1),
        "cosine and sine of the rotation about the vertical",
        0.02,
    ),
    "joint_positions": Part(lambda s: s.joint_positions, "joints relative to home, rad or m", 0.01),
    "joint_angles": Part(lambda s: s.joint_angles, "joints, rad or m", 0.01),
    "joint_velocities": Part(lambda s: s.joint_velocities, "joints, rad/s or m/s", 0.3),
    "last_action": Part(lambda s: s.memory.action, "the last action"),
    "command": Part(lambda s: s.memory.command, "what is asked for, in its units"),
    "tip": Part(lambda s: s.tip, "end effector, world frame, m", 0.002),
    "tip_error": Part(
        lambda s: s.tip_error,
        "from the end effector to the commanded point, base's frame, m",
        0.005,
    ),
    "reference": Part(
        lambda s: s.memory.reference,
        "positions, velocities, accelerations that the joints should have one step ahead",
    ),
    "height": Part(lambda s: s.height[..., None], "of the base above the ground, m", 0.01),
    "contacts": Part(lambda s: s.contacts, "1 for each foot that touches something"),
    "feet_height": Part(lambda s: s.feet_height, "of the feet above the ground, m"),
    "air_time": Part(lambda s: s.memory.air_time, "how long each foot has been in the air, s"),
    "friction": Part(lambda s: s.memory.friction[..., None], "factor on friction, of this episode"),
    "ground": Part(_scan, "how far the ground around the base lies below it, 15 points, m", 0.01),
}
"""Every part by name."""


def observe(state: RobotState, parts: Sequence[str]) -> Array:
    """The parts of a state one after the other, `(…, n)`."""
    if not parts:
        return np.zeros((*state.batch, 0))
    return np.concatenate([PARTS[name].read(state) for name in parts], axis=-1)


def part_sizes(state: RobotState, parts: Sequence[str]) -> dict[str, int]:
    """How many numbers each part has.

    Raises:
        UnknownNameError: there is no such part.
    """
    for name in parts:
        if name not in PARTS:
            raise UnknownNameError("part of the observation", name, PARTS)
    return {name: PARTS[name].read(state).shape[-1] for name in parts}


def noise_of(sizes: Mapping[str, int]) -> Array:
    """Standard deviation of the sensors' noise for each number of an observation."""
    return np.concatenate([np.zeros(0), *(np.full(n, PARTS[p].noise) for p, n in sizes.items())])
