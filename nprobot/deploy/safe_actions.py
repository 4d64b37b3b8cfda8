"""What a robot is told to do after a fault; three small classes with one method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nprobot.errors import ConfigError
from nprobot.policies.files.policy import Array


class SafeAction(Protocol):
    """Chooses the action after a fault."""

    def check(self, observation_shape: tuple[int, ...], rest: Array) -> None:
        """Refuse a policy that this does not fit.

        Args:
            observation_shape: shape of one observation.
            rest: the action of a robot at rest.

        Raises:
            ConfigError: it does not fit.
        """

    def __call__(self, observation: Array | None, previous: Array, rest: Array) -> Array:
        """The action, before the action limits.

        Args:
            observation: of this step; None if it cannot be trusted.
            previous: the action before.
            rest: the action of a robot at rest.
        """


@dataclass(frozen=True)
class Zero:
    """No torque (or, for a discrete policy, the action 0): the robot goes limp."""

    def check(self, observation_shape: tuple[int, ...], rest: Array) -> None:
        """Always fits."""

    def __call__(self, observation: Array | None, previous: Array, rest: Array) -> Array:
        """The action at rest."""
        return rest


@dataclass(frozen=True)
class Hold:
    """The last action again: right for position servos, dangerous for torques."""

    def check(self, observation_shape: tuple[int, ...], rest: Array) -> None:
        """Always fits."""

    def __call__(self, observation: Array | None, previous: Array, rest: Array) -> Array:
        """The action before."""
        return previous


@dataclass(frozen=True)
class Damping:
    """A torque against the motion, u = -gain · q̇: the robot sinks slowly instead of falling.

    It needs to know the velocities. With an observation that cannot be trusted it is `Zero`: to
    brake a velocity of some time ago would drive the robot.

    Attributes:
        velocities: place, in the flattened observation, of the joint velocity of each actuator.
        gain: action units per rad/s (or m/s), for all actuators or one for each.
    """

    velocities: tuple[int, ...]
    gain: float | tuple[float, ...] = 1.0

    def check(self, observation_shape: tuple[int, ...], rest: Array) -> None:
        """Refuse discrete actions, and indices or gains that do not fit."""
        if rest.dtype.kind != "f":
            raise ConfigError("damping needs continuous actions; use hold or zero")
        numbers = int(np.prod(observation_shape))
        if len(self.velocities) != rest.size:
            raise ConfigError(
                f"damping needs the velocity of each of the {rest.size} actuators, got "
                f"{len(self.velocities)} indices: {self.velocities}"
            )
        if not all(0 <= index < numbers for index in self.velocities):
            raise ConfigError(
                f"the observation has the indices 0 to {numbers - 1}, got velocities "
                f"{self.velocities}"
            )
        gain = np.atleast_1d(np.asarray(self.gain, float))
        if gain.size not in (1, rest.size) or not (np.isfinite(gain) & (gain >= 0)).all():
            raise ConfigError(
                f"the damping gain must be one number of at least 0, or {rest.size}; got "
                f"{self.gain}"
            )

    def __call__(self, observation: Array | None, previous: Array, rest: Array) -> Array:
        """A torque against the velocities in the observation."""
        if observation is None:
            return rest
        velocity = observation.ravel()[list(self.velocities)]
        torque = -np.asarray(self.gain, float).ravel() * velocity
        return torque.reshape(rest.shape)


KINDS: dict[str, type[Zero] | type[Hold] | type[Damping]] = {
    "zero": Zero,
    "hold": Hold,
    "damping": Damping,
}


def to_dict(safe_action: SafeAction) -> dict[str, Any]:
    """A JSON object that `from_dict` reads."""
    names = {kind: name for name, kind in KINDS.items()}
    return {"kind": names[type(safe_action)], **vars(safe_action)}  # type: ignore[index]


def from_dict(values: Mapping[str, Any]) -> Zero | Hold | Damping:
    """The safe action in a JSON object.

    Raises:
        ConfigError: there is no such action, or it does not take such settings.
    """
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    kind = settings.pop("kind", None)
    try:
        return KINDS[str(kind)](**settings)
    except KeyError:
        known = ", ".join(KINDS)
        raise ConfigError(f"unknown safe action {kind!r}; known: {known}") from None
    except TypeError as error:
        raise ConfigError(f"safe action {kind}: {error}") from None
