"""The limits that a robot's owner sets, and what holds observations and actions against them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nprobot.errors import ConfigError
from nprobot.policies.files.policy import Array, BoxAction, DiscreteAction, Normaliser

from . import safe_actions
from .faults import FaultKind
from .safe_actions import SafeAction, Zero

PerElement = float | tuple[float, ...]
"""One number for all elements, or one for each."""

MISSED_DEADLINES = 10


@dataclass(frozen=True)
class Safety:
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
        max_repeats: so many bit-identical observations in a row are stale: a sensor has frozen.
        max_missed_deadlines: so many actions in a row that took longer than a period are a fault.

    Raises:
        ConfigError: a value makes no sense.
    """

    safe_action: SafeAction = field(default_factory=Zero)
    action_low: PerElement | None = None
    action_high: PerElement | None = None
    slew: PerElement | None = None
    observation_low: PerElement | None = None
    observation_high: PerElement | None = None
    observation_deviations: float | None = None
    max_age: float | None = None
    max_repeats: int | None = None
    max_missed_deadlines: int | None = MISSED_DEADLINES

    def __post_init__(self) -> None:
        for name in ("action_low", "action_high", "observation_low", "observation_high"):
            value = getattr(self, name)
            if value is not None and np.isnan(np.asarray(value, float)).any():
                raise ConfigError(f"{name} is not a number: {value}")
        for name in ("slew", "observation_deviations", "max_age"):
            value = getattr(self, name)
            if value is not None and not (np.asarray(value, float) > 0).all():
                raise ConfigError(f"{name} must be above 0, got {value}")
        for name in ("max_repeats", "max_missed_deadlines"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, got {value}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**values, "safe_action": safe_actions.to_dict(self.safe_action)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Safety:
        """The settings in a JSON object.

        Raises:
            ConfigError: a key is unknown, or a value makes no sense.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        if unknown := set(values) - set(known):
            raise ConfigError(f"unknown safety settings {sorted(unknown)}; known: {known}")
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        try:
            if "safe_action" in settings:
                settings["safe_action"] = safe_actions.from_dict(settings["safe_action"])
            return cls(**settings)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the safety settings make no sense: {error}") from error


class Supervisor:
    """Holds the observations and actions of one policy against the limits.

    Args:
        safety: the limits.
        observation_shape: shape of one observation.
        action: the policy's own bounds, or choices.
        dtype: number type of the policy's actions.
        normaliser: statistics of the observations in training; None if there are none.
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
        observation_shape: tuple[int, ...],
        action: BoxAction | DiscreteAction,
        dtype: npt.DTypeLike,
        normaliser: Normaliser | None,
        period: float,
    ) -> None:
        self.safety = safety
        self.repeats = 0
        self._shape = observation_shape
        self._last: Array | None = None
        self._low = _array("observation_low", safety.observation_low, observation_shape)
        self._high = _array("observation_high", safety.observation_high, observation_shape)
        self._mean, self._reach = _deviations(safety, normaliser)
        self._bounds: tuple[Array, Array] | None = None
        self._step: Array | None = None
        if isinstance(action, BoxAction):
            self._bounds = _action_bounds(safety, action)
            self.rest = np.clip(0, *self._bounds).astype(dtype)
            if safety.slew is not None:
                if not math.isfinite(period):
                    raise ConfigError("a slew limit needs a control rate")
                slew = _array("slew", safety.slew, self.rest.shape)
                self._step = None if slew is None else slew * period
        else:
            if not safety.action_low is safety.action_high is safety.slew is None:
                raise ConfigError("action limits and slew need continuous actions")
            self.rest = np.zeros(len(action.choices) if action.several else (), dtype)
        safety.safe_action.check(observation_shape, self.rest)

    def begin(self) -> None:
        """Begin a new row of observations: what came before says nothing about what comes."""
        self._last, self.repeats = None, 0

    def resume(self, observation: Array | None, repeats: int) -> None:
        """Go on as if `observation` had come last, `repeats` times in a row."""
        self._last, self.repeats = observation, repeats

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
        return self._out_of_range(observation)

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
            observation: of this step; None if it cannot be trusted.
            previous: the action before.
        """
        action = self.safety.safe_action(observation, previous, self.rest)
        if self._bounds is None:
            return action
        return np.clip(action, *self._bounds).astype(self.rest.dtype)

    def _out_of_range(self, observation: Array) -> tuple[FaultKind, str] | None:
        for limit, beyond, word in (
            (self._low, np.less, "below"),
            (self._high, np.greater, "above"),
        ):
            if limit is not None and (outside := beyond(observation, limit)).any():
                at = _first(outside)
                message = f"element {at} is {observation[at]:.6g}, {word} {limit[at]:.6g}"
                return FaultKind.OUT_OF_RANGE, message
        if self._reach is not None:
            with np.errstate(over="ignore"):
                outside = np.abs(observation - self._mean) > self._reach
            if outside.any():
                at = _first(outside)
                return FaultKind.OUT_OF_RANGE, (
                    f"element {at} is {observation[at]:.6g}, more than "
                    f"{self.safety.observation_deviations:g} standard deviations from the "
                    f"{self._mean[at]:.6g} of training"
                )
        return None


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
    shape = action.low.shape
    low, high = action.low.astype(np.float64), action.high.astype(np.float64)
    own_low = _array("action_low", safety.action_low, shape)
    own_high = _array("action_high", safety.action_high, shape)
    low = low if own_low is None else np.maximum(low, own_low)
    high = high if own_high is None else np.minimum(high, own_high)
    if not (low <= high).all():
        raise ConfigError(
            f"no action is inside the limits {safety.action_low} to {safety.action_high} and the "
            f"policy's own bounds, {action.low} to {action.high}"
        )
    return low, high


def _deviations(safety: Safety, normaliser: Normaliser | None) -> tuple[Array, Array | None]:
    """Mean of the observations, and how far from it they may be; None if that is not limited."""
    if safety.observation_deviations is None:
        return np.zeros(()), None
    if normaliser is None:
        raise ConfigError(
            "observation_deviations needs the statistics of the training, and this policy has no "
            "normaliser; give observation_low and observation_high"
        )
    deviation = np.sqrt(normaliser.var + normaliser.epsilon)
    return normaliser.mean, safety.observation_deviations * deviation


def _first(where: Array) -> tuple[int, ...]:
    """Index of the first true element."""
    return tuple(int(i) for i in np.argwhere(where)[0])
