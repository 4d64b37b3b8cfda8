"""What is searched: options of an algorithm and a rule, with their ranges.

The same for backprop and for perturbation, but for what backprop does not have: the noise and R's
step size. Options that change what a run costs (noisy passes, networks, environments side by
side) are not searched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nprobot import catalogue
from nprobot.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from optuna import Trial

Value = float | int | str


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, on a logarithmic scale."""

    name: str
    low: float
    high: float

    def suggest(self, trial: Trial) -> Value:
        """A value that a trial chooses: three digits, which is all that a person wants to copy."""
        return rounded(trial.suggest_float(self.name, self.low, self.high, log=True))

    def nearest(self, value: Any) -> Value:  # noqa: ANN401
        """The value in the range that is nearest to a given one."""
        return min(max(float(value), self.low), self.high)


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    name: str
    values: tuple[Value, ...]

    def suggest(self, trial: Trial) -> Value:
        """The value that a trial chooses."""
        chosen: Any = trial.suggest_categorical(self.name, self.values)
        return chosen  # type: ignore[no-any-return]

    def nearest(self, value: Any) -> Value:  # noqa: ANN401
        """The value that is a given one, or nearest to it."""
        if value in self.values:
            return self.values[self.values.index(value)]
        numbers = [v for v in self.values if not isinstance(v, str)]
        if not numbers or isinstance(value, str):
            return self.values[0]
        return min(numbers, key=lambda number: abs(number - value))


Parameter = Range | Choice

_SCHEDULE = Choice("lr_schedule", ("constant", "linear"))
_GAMMA = Choice("gamma", (0.95, 0.98, 0.99, 0.995))
_GAE = Choice("gae_lambda", (0.9, 0.95, 0.98))
_OFF_POLICY = (
    Range("learning_rate", 1e-4, 1e-2),
    Choice("batch_size", (64, 128, 256)),
    Range("tau", 2e-3, 2e-2),
    _GAMMA,
    Choice("learning_starts", (100, 1000)),
)
SPACES: Mapping[str, tuple[Parameter, ...]] = {
    "ppo": (
        Range("learning_rate", 1e-4, 1e-2),
        _SCHEDULE,
        Choice("batch_size", (64, 128, 256)),
        Choice("n_epochs", (5, 10, 20)),
        _GAMMA,
        _GAE,
    ),
    "nrl": (
        Range("learning_rate", 1e-4, 1e-2),
        _SCHEDULE,
        Choice("n_steps", (16, 32, 64)),
        _GAMMA,
        _GAE,
        Range("node_noise", 2e-2, 5e-1),
    ),
    "sac": _OFF_POLICY,
    "td3": (*_OFF_POLICY, Choice("exploration_noise", (0.05, 0.1, 0.2))),
}
"""What is searched for each algorithm under every rule."""

_NOISE = Range("sigma", 1e-4, 1e-1)
_DECORRELATION = Range("decorrelation_lr", 1e-4, 3e-2)


def parameters(algo: str, rule: str) -> tuple[Parameter, ...]:
    """What is searched.

    Raises:
        UnknownNameError: there is no search of that algorithm.
    """
    if algo not in SPACES:
        raise UnknownNameError("algorithm to tune", algo, SPACES)
    known = catalogue.rule_named(rule)
    noise = (_NOISE,) if known.perturbs and algo != "nrl" else ()
    decorrelation = (_DECORRELATION,) if known.decorrelated else ()
    return (*SPACES[algo], *noise, *decorrelation)


def point(space: tuple[Parameter, ...], values: Mapping[str, Any]) -> dict[str, Value]:
    """The point of the space that is nearest to some settings; of the general defaults, itself.

    Args:
        space: what is searched.
        values: every option in use, by name.

    Raises:
        ConfigError: an option has no value.
    """
    missing = [parameter.name for parameter in space if values.get(parameter.name) is None]
    if missing:
        raise ConfigError(f"the general defaults say nothing of {', '.join(missing)}")
    return {parameter.name: parameter.nearest(values[parameter.name]) for parameter in space}


def rounded(value: float, digits: int = 3) -> float:
    """A number to some significant digits."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else value
