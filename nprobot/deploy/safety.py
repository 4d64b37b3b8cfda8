"""What may go wrong between an observation and an action, the limits, and what is done beyond them.

A controller that raised an exception would leave its robot without an action. Faults are data here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from nprobot.errors import ConfigError
from nprobot.options import Count, Options, Positive
from nprobot.policies.files.policy import Array, BoxAction, Normaliser
from nprobot.training.evaluation import DeployablePolicy

PerElement = float | tuple[float, ...]
"""One number for all elements, or one for each."""

MISSED_DEADLINES = 10


class FaultKind(StrEnum):
    """What went wrong."""

    UNUSABLE = "observation-unusable"
    """The observation is not an array of numbers, or has another shape."""
    NOT_FINITE = "observation-not-finite"
    """There is a NaN or an infinity in the observation."""
    OUT_OF_RANGE = "observation-out-of-range"
    """The observation is outside the limits that were set."""
    STALE = "observation-stale"
    """The observation is too old, or has not changed for too many steps."""
    POLICY = "policy-failed"
    """The policy raised an error."""
    ACTION = "action-not-finite"
    """There is a NaN or an infinity in the action."""
    DEADLINE = "deadline-missed"
    """Too many actions in a row came too late."""
    WATCHDOG = "watchdog"
    """The loop around the controller has stopped."""
    EXTERNAL = "external"
    """Somebody else tripped the controller, such as a person at the emergency stop."""


EXTERNAL_KINDS = (FaultKind.WATCHDOG, FaultKind.EXTERNAL)
"""Faults that come from outside a step."""
READABLE_KINDS = (FaultKind.POLICY, FaultKind.ACTION, FaultKind.DEADLINE)
"""Faults that leave the observation itself trustworthy."""


@dataclass(frozen=True)
class ControlFault:
    """A fault that has latched.

    Attributes:
        kind: what went wrong.
        step: number of the step, from 0 on, since the controller was made.
        message: the same for a person, with the values.
    """

    kind: FaultKind
    step: int
    message: str

    def __str__(self) -> str:
        return f"{self.kind} at step {self.step:,}: {self.message}"


class SafeAction(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
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
            observation: the observation of this step; None if it cannot be trusted.
            previous: the action before.
            rest: the action of a robot at rest.
        """
        raise NotImplementedError


class Zero(SafeAction, frozen=True, tag="zero"):
    """No torque (or, for a discrete policy, the action 0): the robot goes limp."""

    def __call__(self, observation: Array | None, previous: Array, rest: Array) -> Array:
        """The action at rest."""
        return rest


class Hold(SafeAction, frozen=True, tag="hold"):
    """The last action again: right for position servos, dangerous for torques."""

    def __call__(self, observation: Array | None, previous: Array, rest: Array) -> Array:
        """The action before."""
        return previous


class Damping(SafeAction, frozen=True, tag="damping"):
    """A torque against the motion, u = -gain · q̇: the robot sinks slowly instead of falling.

    It needs to know the velocities. With an observation that cannot be trusted it is `Zero`: to
    brake a velocity of some time ago would drive the robot.

    Attributes:
        velocities: place, in the flattened observation, of the joint velocity of each actuator.
        gain: action units per rad/s (or m/s), for all actuators or one for each.
    """

    velocities: tuple[int, ...]
    gain: PerElement = 1.0

    def check(self, observation_shape: tuple[int, ...], rest: Array) -> None:
        """Refuse discrete actions, and indices or gains that do not fit."""
        if rest.dtype.kind != "f":
            raise ConfigError("damping needs continuous actions; use hold or zero")
        if len(self.velocities) != rest.size:
            raise ConfigError(
                f"damping needs the velocity of each of the {rest.size} actuators, got "
                f"{len(self.velocities)} indices: {self.velocities}"
            )
        last = math.prod(observation_shape) - 1
        if not all(0 <= index <= last for index in self.velocities):
            raise ConfigError(
                f"the observation has the indices 0 to {last}, got velocities {self.velocities}"
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


@dataclass(frozen=True)
class Safety(Options):
    """Limits and what to do beyond them. What is None is not checked.

    Attributes:
        safe_action: what a robot is told after a fault; `Zero`, `Hold` or `Damping`.
        action_low: lowest action, in the action's units; the policy's own bounds always hold too.
        action_high: highest action.
        slew: most change of the action, units/s. The safe action is not slowed down by it.
        observation_low: below it an observation is a fault; in the observation's units.
        observation_high: above it an observation is a fault.
        observation_deviations: an observation this many standard deviations from the mean of
            training is a fault; needs a policy with a normaliser.
        max_age: an observation older than this is stale, s.
        max_repeats: bit-identical observations in a row after which a sensor counts as frozen.
        max_missed_deadlines: actions in a row that may take longer than a period; more are a fault.

    Raises:
        ConfigError: a value is not allowed.
    """

    safe_action: Zero | Hold | Damping = field(default_factory=Zero)
    action_low: PerElement | None = None
    action_high: PerElement | None = None
    slew: Positive | tuple[Positive, ...] | None = None
    observation_low: PerElement | None = None
    observation_high: PerElement | None = None
    observation_deviations: Positive | None = None
    max_age: Positive | None = None
    max_repeats: Count | None = None
    max_missed_deadlines: Count | None = MISSED_DEADLINES

    def check(self) -> None:
        """Refuse limits that are no numbers."""
        for name in ("action_low", "action_high", "observation_low", "observation_high"):
            value = getattr(self, name)
            if value is not None and np.isnan(value).any():
                raise ConfigError(f"{name} is not a number: {value}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


class Supervisor:
    """Holds the observations and actions of one policy against the limits.

    Args:
        safety: the limits.
        policy: gives the actions.
        dtype: number type of the actions.
        period: time between two actions, s; infinite if there is no rate.

    Attributes:
        rest: the action of a robot at rest: 0, or the nearest that is allowed.
        repeats: how often in a row the present observation has come.

    Raises:
        ConfigError: a limit does not fit the policy.
    """

    def __init__(
        self,
        safety: Safety,
        policy: DeployablePolicy,
        dtype: npt.DTypeLike,
        period: float,
    ) -> None:
        self.safety = safety
        self._shape = policy.observation_shape
        self._range = _range_limits(safety, self._shape, getattr(policy, "normaliser", None))
        self._bounds: tuple[Array, Array] | None = None
        self._step: Array | None = None
        action = policy.action
        if isinstance(action, BoxAction):
            self._bounds = _action_bounds(safety, action)
            self.rest = np.clip(0, *self._bounds).astype(dtype)
            slew = _array("slew", safety.slew, self.rest.shape)
            if slew is not None:
                if not math.isfinite(period):
                    raise ConfigError("a slew limit needs a control rate")
                if policy.task is not None and policy.task.kwargs.get("action_chunk", 1) != 1:
                    raise ConfigError(
                        "slew limits are of policies that give one action at a time; this one "
                        "gives chunks, and would jump within them. Clone it with --execute 1."
                    )
                self._step = slew * period
        else:
            if not safety.action_low is safety.action_high is safety.slew is None:
                raise ConfigError("action limits and slew need continuous actions")
            self.rest = np.zeros(len(action.choices) if action.several else (), dtype)
        safety.safe_action.check(self._shape, self.rest)
        self.begin()

    def begin(self, last: Array | None = None, repeats: int = 0) -> None:
        """Begin a new row of observations.

        Args:
            last: the observation that came last, if the row has begun already.
            repeats: how often it has come in a row.
        """
        self._last, self.repeats = last, repeats

    def numbers(self, observation: object) -> Array | None:
        """The observation as float64 of the right shape; None if that cannot be."""
        try:
            values = np.asarray(observation)
        except Exception:  # whatever a stranger's object raises, there is an answer
            return None
        if values.dtype.kind not in "fiu" or values.shape != self._shape:
            return None
        return values.astype(np.float64)

    def inspect(self, observation: Array, age: float) -> tuple[FaultKind, str] | None:
        """What is wrong with an observation.

        Args:
            observation: from `numbers`.
            age: time since it was measured, s.

        Returns:
            The fault and a message; None if all is well.
        """
        same = self._last is not None and np.array_equal(observation, self._last)
        self.repeats = self.repeats + 1 if same else 1
        self._last = observation
        if not np.isfinite(observation).all():
            at = _first(~np.isfinite(observation))
            return FaultKind.NOT_FINITE, f"element {at} is {observation[at]}"
        safety = self.safety
        if not 0 <= age < math.inf or (safety.max_age is not None and age > safety.max_age):
            return FaultKind.STALE, f"it is {age:.3g} s old"
        if safety.max_repeats is not None and self.repeats > safety.max_repeats:
            return FaultKind.STALE, f"it has not changed for {self.repeats} steps"
        for limit, compare, words in self._range:
            if (beyond := compare(observation, limit)).any():
                at = _first(beyond)
                message = f"element {at} is {observation[at]:.6g}, {words.format(limit[at])}"
                return FaultKind.OUT_OF_RANGE, message
        return None

    def limit(self, action: Array, previous: Array) -> Array:
        """The action inside bounds and slew limit; the same bits if it is inside already."""
        if self._bounds is None:
            return action
        limited = action
        if self._step is not None:
            limited = np.clip(limited, previous - self._step, previous + self._step)
        return np.clip(limited, *self._bounds).astype(action.dtype)

    def safe(self, observation: Array | None, previous: Array) -> Array:
        """The safe action, inside the bounds.

        Args:
            observation: the observation of this step; None if it cannot be trusted.
            previous: the action before.
        """
        action = self.safety.safe_action(observation, previous, self.rest)
        if self._bounds is None:
            return action
        return np.clip(action, *self._bounds).astype(self.rest.dtype)


def _array(name: str, value: PerElement | None, shape: tuple[int, ...]) -> Array | None:
    """A limit as an array of some shape."""
    if value is None:
        return None
    given = np.asarray(value, np.float64)
    size = math.prod(shape)
    if given.size not in (1, size):
        raise ConfigError(f"{name} must be one number, or {size}; got {given.size}")
    full: Array = np.broadcast_to(given.ravel(), size).reshape(shape)
    return full


def _action_bounds(safety: Safety, action: BoxAction) -> tuple[Array, Array]:
    """The policy's own bounds and those of the limits, whichever are narrower."""
    low, high = action.low.astype(np.float64), action.high.astype(np.float64)
    if (own := _array("action_low", safety.action_low, low.shape)) is not None:
        low = np.maximum(low, own)
    if (own := _array("action_high", safety.action_high, low.shape)) is not None:
        high = np.minimum(high, own)
    if not (low <= high).all():
        raise ConfigError(
            f"no action is inside the limits {safety.action_low} to {safety.action_high} and the "
            f"policy's own bounds, {action.low} to {action.high}"
        )
    return low, high


def _range_limits(
    safety: Safety, shape: tuple[int, ...], normaliser: Normaliser | None
) -> list[tuple[Array, Callable[[Array, Array], Array], str]]:
    """The limits of an observation: where they are, what is beyond them, and how to say so."""
    limits = [
        (_array("observation_low", safety.observation_low, shape), np.less, "below {:.6g}"),
        (_array("observation_high", safety.observation_high, shape), np.greater, "above {:.6g}"),
    ]
    if safety.observation_deviations is not None:
        if normaliser is None:
            raise ConfigError(
                "observation_deviations needs the statistics of the training, and this policy has "
                "no normaliser; give observation_low and observation_high"
            )
        reach = safety.observation_deviations * np.sqrt(normaliser.var + normaliser.epsilon)
        words = f"{{:.6g}}, {safety.observation_deviations:g} standard deviations from the mean"
        limits += [
            (normaliser.mean - reach, np.less, f"below {words} of training"),
            (normaliser.mean + reach, np.greater, f"above {words} of training"),
        ]
    return [(limit, beyond, words) for limit, beyond, words in limits if limit is not None]


def _first(where: Array) -> tuple[int, ...]:
    """Index of the first true element."""
    return tuple(int(i) for i in np.argwhere(where)[0])
