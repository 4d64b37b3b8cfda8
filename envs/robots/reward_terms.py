"""Terms of the reward, by name; each a function of a state with the batch's leading axes.

Squares of single numbers are `np.square`: of a scalar, ``** 2`` is C's `pow`, which rounds in
another way than the product that it is for an array, and one robot would differ from many.

A term of your own is a function of a `RobotState` that returns an array of the shape `state.batch`,
named ``module:function``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ...catalogue import named_object
from ...errors import ConfigError, UnknownNameError
from .robot_state import RobotState, mean, total

Array = NDArray[np.float64]
RewardTerm = Callable[[RobotState], Array]

#: Share of a joint's range, at each end, that it should keep out of.
_MARGIN = 0.05
#: Distance at which a goal is half reached, m, and tracking error, rad.
_NEAR, _CLOSE = 0.2, 0.1


def velocity(s: RobotState) -> Array:
    """1 at the commanded velocity along the ground, 0 for a robot that stands instead; −1 at least.

    1 − (error / the command's size)², with 30 % of the largest as the least size: steepest where a
    robot stands that should walk, and flat about the goal, where a gait sways.
    """
    error = np.square(s.linear_velocity[..., 0] - s.command("forward"))
    wanted = np.square(s.command("forward"))
    if s.layout.robot.base == "free":
        error = error + np.square(s.linear_velocity[..., 1] - s.command("sideways"))
        wanted = wanted + np.square(s.command("sideways"))
    return _followed(error, wanted, 0.3 * s.layout.speed)


def turn(s: RobotState) -> Array:
    """The same for the rate of turn, its size 1 rad/s at least; 0 on a boom."""
    if s.layout.robot.base != "free":
        return np.zeros(s.batch)
    wanted = s.command("turn")
    return _followed(np.square(s.angular_velocity[..., 2] - wanted), np.square(wanted), 1.0)


def _followed(error: Array, wanted: Array, least: float) -> Array:
    """1 − error / scale, all of them squares; −1 at the least."""
    return np.maximum(1 - error / np.maximum(wanted, least**2), -1.0)


def bounce(s: RobotState) -> Array:
    """Square of the base's velocity up and down, m²/s²."""
    return np.square(s.linear_velocity[..., 2])


def rocking(s: RobotState) -> Array:
    """Square of the base's roll and pitch rates, rad²/s²."""
    return total(s.angular_velocity[..., :2] ** 2)


def spin(s: RobotState) -> Array:
    """Square of the base's angular velocity, rad²/s²."""
    return total(s.angular_velocity**2)


def tilt(s: RobotState) -> Array:
    """Square of the sine of the base's tilt."""
    return total(s.gravity[..., :2] ** 2)


def upright(s: RobotState) -> Array:
    """1 with the base level, 0 on its side, −1 upside down."""
    return np.asarray(-s.gravity[..., 2])


def height(s: RobotState) -> Array:
    """1 at the home height, exp(−(error / 20 % of it)²) beside it."""
    home = s.layout.robot.home_height
    return np.exp(-np.square((s.height - home) / (0.2 * home)))


def heading(s: RobotState) -> Array:
    """Square of the rotation away from the commanded heading, rad²."""
    error = s.heading - s.command("yaw")
    return np.square((error + np.pi) % (2 * np.pi) - np.pi)


def pose(s: RobotState) -> Array:
    """Mean square of the joints' distance from home, rad²."""
    return mean(s.joint_positions**2)


def posture(s: RobotState) -> Array:
    """1 in the home posture, exp(−mean square / 0.1 rad²) beside it."""
    return np.exp(-pose(s) / 0.1)


def joint_limits(s: RobotState) -> Array:
    """How far the joints are into the last 5 % of their ranges, summed, rad."""
    low, high = s.layout.low, s.layout.high
    margin = np.where(np.isfinite(high - low), _MARGIN * (high - low), 0.0)
    beyond = np.maximum(low + margin - s.joint_angles, 0) + np.maximum(
        s.joint_angles - high + margin, 0
    )
    return total(beyond)


def joint_speed(s: RobotState) -> Array:
    """Mean square of the joints' velocities, rad²/s²."""
    return mean(s.joint_velocities**2)


def energy(s: RobotState) -> Array:
    """Mechanical power of all actuators over the robot's weight, m/s."""
    power = total(np.abs(s.actuator_force * s.actuator_velocity))
    return np.asarray(power / (s.layout.robot.mass * max(s.layout.robot.gravity, 1.0)))


def effort(s: RobotState) -> Array:
    """Mean square of the actuators' forces, as shares of the largest."""
    return mean((s.actuator_force / s.layout.force) ** 2)


def action(s: RobotState) -> Array:
    """Mean square of the action."""
    return mean(s.memory.action**2)


def action_rate(s: RobotState) -> Array:
    """Mean square of the change of the action."""
    return mean((s.memory.action - s.memory.action_before) ** 2)


def air_time(s: RobotState) -> Array:
    """Time in the air beyond a third of a swing, of feet that have just come down, s / swing.

    A swing is √(height / g), the time scale of a pendulum of the robot's height. None is given
    while the robot is told to stand.
    """
    robot = s.layout.robot
    swing = np.sqrt(robot.home_height / max(robot.gravity, 1.0))
    landed = s.memory.landed
    gain = np.where(landed > 0, np.minimum(landed / swing, 2.0) - 1 / 3, 0.0)
    moving = total(s.memory.command**2) > (0.1 * s.layout.speed) ** 2
    return total(gain) * moving


def slip(s: RobotState) -> Array:
    """Square of the velocity along the ground of feet that touch it, summed, m²/s²."""
    return total(total(s.feet_velocity[..., :2] ** 2) * s.contacts)


def forward(s: RobotState) -> Array:
    """Velocity forward, m/s."""
    return np.asarray(s.linear_velocity[..., 0])


def distance(s: RobotState) -> Array:
    """1 at the commanded point, 1 / (1 + distance / 0.2 m) away from it."""
    return np.asarray(1.0 / (1.0 + s.distance / _NEAR))


def tracking(s: RobotState) -> Array:
    """1 on the reference, 1 / (1 + error / 0.1 rad) beside it."""
    return np.asarray(1.0 / (1.0 + s.tracking_error / _CLOSE))


def success(s: RobotState) -> Array:
    """1 where the robot has been at its goal for long enough."""
    return np.asarray(s.succeeded, dtype=np.float64)


def fall(s: RobotState) -> Array:
    """1 where it has fallen."""
    return np.asarray(s.fallen, dtype=np.float64)


def alive(s: RobotState) -> Array:
    """1 at every step."""
    return np.ones(s.batch)


TERMS: Mapping[str, RewardTerm] = {
    term.__name__: term
    for term in (
        *(velocity, turn, bounce, rocking, spin, tilt, upright, height, heading, pose, posture),
        *(joint_limits, joint_speed, energy, effort, action, action_rate, air_time, slip, forward),
        *(distance, tracking, success, fall, alive),
    )
}
"""Every term by name."""


def find_term(name: str) -> RewardTerm:
    """A term by its name, or ``module:function`` of one of your own.

    Raises:
        UnknownNameError: there is no such term.
        ConfigError: the module cannot be imported, or has no such function.
    """
    if ":" not in name:
        if name not in TERMS:
            hint = "; one of your own is module:function"
            raise UnknownNameError("reward term", name, TERMS, hint)
        return TERMS[name]
    found = named_object(name, "reward term")
    if not callable(found):
        raise ConfigError(f"reward term {name!r} is no function: {found!r}")
    term: RewardTerm = found
    return term


def weighted(s: RobotState, terms: Mapping[str, tuple[float, RewardTerm]]) -> dict[str, Array]:
    """Each term times its weight, `(…)`."""
    return {name: weight * term(s) for name, (weight, term) in terms.items()}
