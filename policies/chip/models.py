"""What is wrong with a chip, each thing a frozen dataclass: noise, mismatch, drift, converters.

Pre-activations are in the units in which the network computes. One *evaluation* is one row of a
batch: a chip computes the rows one after the other, in order, and its slow noise goes on from row
to row and from batch to batch.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from ...errors import ConfigError
from .effects import (
    Drift,
    Effect,
    Fixed,
    Mismatch,
    OrnsteinUhlenbeck,
    Proportional,
    Read,
    Rounding,
    Site,
    Telegraph,
    White,
)

Default: TypeAlias = Any
"""What a dataclass takes as the default of a field of any type."""


def number(
    default: float, unit: str, about: str, minimum: float = 0.0, maximum: float = math.inf
) -> Default:
    """A parameter: default, unit ("a" for that of a pre-activation), meaning, smallest, largest."""
    metadata = {"unit": unit, "about": about, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class HardwareModel:
    """One thing that a chip does to what a network should compute; they apply in order.

    Raises:
        ConfigError: a parameter is no number, or out of range.
    """

    formula: ClassVar[str] = ""
    """What it computes, for the documentation: a is the pre-activation that reaches the model, ξ a
    standard normal number for each node and evaluation, w a weight, t the evaluations so far."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low, high = field.metadata["minimum"], field.metadata["maximum"]
            kinds = int if isinstance(field.default, int) else (int, float)
            number = isinstance(value, kinds) and not isinstance(value, bool)
            if not number or not (low <= value <= high and math.isfinite(value)):
                upper = f" and at most {high:g}" if math.isfinite(high) else " and finite"
                lower = f" of at least {low:g}" if math.isfinite(low) else ""
                what = "an integer" if kinds is int else "a number"
                raise ConfigError(
                    f"{type(self).__name__}: {field.name}={value!r} must be {what}{lower}{upper}"
                )

    def effect(self, site: Site) -> Effect:
        """What runs this model in one layer of one chip."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """All parameters, and the model's name under "model"; fit for JSON."""
        return {"model": type(self).__name__, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class GaussianNoise(HardwareModel):
    """White noise on every pre-activation."""

    formula: ClassVar[str] = "a + std·ξ"

    std: float = number(0.06, "a", "standard deviation")

    def effect(self, site: Site) -> Effect:
        """See `HardwareModel`."""
        return White(site, self.std)


@dataclass(frozen=True)
class MultiplicativeNoise(HardwareModel):
    """White noise that grows with the pre-activation."""

    formula: ClassVar[str] = "a·(1 + std·ξ)"

    std: float = number(0.1, "1", "standard deviation, as a share of the pre-activation")

    def effect(self, site: Site) -> Effect:
        """See `HardwareModel`."""
        return Proportional(site, self.std)


@dataclass(frozen=True)
class ReadNoise(HardwareModel):
    """Every weight is a little different each time it is used (cycle-to-cycle variation)."""

    formula: ClassVar[str] = "Σ w·(1 + std·ξ_w)·x + b, ξ_w drawn for each weight and evaluation"

    std: float = number(0.05, "1", "standard deviation, as a share of the weight")

    def effect(self, site: Site) -> Effect:
        """See `HardwareModel`."""
        return Read(site, self.std)


@dataclass(frozen=True)
class OrnsteinUhlenbeckNoise(HardwareModel):
    """Noise that stays similar from one evaluation to the next."""

    formula: ClassVar[str] = "s ← ρ·s + std·√(1 − ρ²)·ξ with ρ = exp(−1/correlation); a + s"

    std: float = number(0.06, "a", "standard deviation of s at any time")
    correlation: float = number(20.0, "evaluations", "correlation time; 0 is white noise")

    def effect(self, site: Site) -> Effect:
        """See `HardwareModel`."""
        return OrnsteinUhlenbeck(site, self.std, self.correlation)


@dataclass(frozen=True)
class TelegraphNoise(HardwareModel):
    """Noise that jumps between two levels, as a magnetic tunnel junction's does."""

    formula: ClassVar[str] = "s = ±1 turns over with probability `switching`; a + amplitude·s"

    amplitude: float = number(0.00593, "a", "half the distance of the levels")
    switching: float = number(0.0809, "1", "chance of a jump from one evaluation to the next", 0, 1)

    def effect(self, site: Site) -> Effect:
        """See `HardwareModel`."""
        return Telegraph(site, self.amplitude, self.switching)


@dataclass(frozen=True)
class Offset(HardwareModel):
    """A constant error of every node, the same for all or different from node to node."""

    formula: ClassVar[str] = "a + value + spread·ξ_node, ξ_node drawn once for a device"

    value: float = number(0.0421, "a", "offset of all nodes", -math.inf)
    spread: float = number(0.0, "a", "standard deviation over nodes")

    def effect(self, site: Site) -> Effect:
        """See `HardwareModel`."""
        return Fixed(site, self.value, self.spread)


@dataclass(frozen=True)
class WeightMismatch(HardwareModel):
    """Weights that are not what was written: every device is a little different, for life."""

    formula: ClassVar[str] = "w·max(0, 1 + std·ξ_w), ξ_w drawn once for a device"

    std: float = number(0.3, "1", "standard deviation, as a share of the weight")

    def effect(self, site: Site) -> Effect:
        """See `HardwareModel`."""
        return Mismatch(site, self.std)


@dataclass(frozen=True)
class ConductanceDrift(HardwareModel):
    """Weights that fade with time by a power law, each at its own pace, as phase-change cells."""

    formula: ClassVar[str] = "w·(1 + t/onset)^−n with n = max(0, exponent + spread·ξ_w)"

    exponent: float = number(0.05, "1", "mean exponent n")
    spread: float = number(0.02, "1", "standard deviation of n over the weights")
    onset: float = number(10_000.0, "evaluations", "time after which it shows", 1.0)

    def effect(self, site: Site) -> Effect:
        """See `HardwareModel`."""
        return Drift(site, self.exponent, self.spread, self.onset)


@dataclass(frozen=True)
class Converter(HardwareModel):
    """The converter that reads a pre-activation: it saturates, and knows only so many levels."""

    formula: ClassVar[str] = "a cut off at ±bound, rounded to the nearest of `levels` values"

    bound: float = number(12.0, "a", "largest value that is read", 1e-9)
    levels: int = number(510, "1", "number of values; 0 for no rounding")

    def effect(self, site: Site) -> Effect:
        """See `HardwareModel`."""
        return Rounding(site, self.bound, self.levels)


MODELS: dict[str, type[HardwareModel]] = {
    model.__name__: model
    for model in (
        GaussianNoise,
        MultiplicativeNoise,
        ReadNoise,
        OrnsteinUhlenbeckNoise,
        TelegraphNoise,
        Offset,
        WeightMismatch,
        ConductanceDrift,
        Converter,
    )
}
"""Every model under the name that `to_dict` writes."""

PRESETS: dict[str, tuple[HardwareModel, ...]] = {
    "ideal": (),
    "analog": (WeightMismatch(0.3), GaussianNoise(0.06), Converter(12.0, 510)),
    "spintronic": (Offset(0.042092), TelegraphNoise(0.0059316, 0.0809), GaussianNoise(9.0841e-4)),
}
"""Ready-made chips: one with 30 % device mismatch and output noise .06 read by a converter of 510
levels to ±12 (the magnitudes that the simulator aihwkit has as defaults; there the 30 % concern
how devices are programmed), and the noise of magnetic tunnel junctions as measured and modelled
for node perturbation by artcogsys/MTJ-Node-Perturbation."""

HardwareSpec = (
    float | str | HardwareModel | Mapping[str, Any] | Iterable["float | str | HardwareModel"]
)
"""What may stand where hardware models are asked for."""


def resolve(models: HardwareSpec) -> tuple[HardwareModel, ...]:
    """Turn whatever describes a chip into its models.

    Args:
        models: a preset's name, a model, a dictionary as `HardwareModel.to_dict` writes it, a
            number (the standard deviation of Gaussian noise), or a sequence of these.

    Raises:
        ConfigError: it is none of these, or a name is unknown.
    """
    if isinstance(models, HardwareModel):
        return (models,)
    if isinstance(models, str):
        if models not in PRESETS:
            raise ConfigError(f"no chip is called {models!r}{_near(models, PRESETS)}")
        return PRESETS[models]
    if isinstance(models, int | float) and not isinstance(models, bool):
        return (GaussianNoise(float(models)),)
    if isinstance(models, Mapping):
        return (_from_dict(models),)
    if isinstance(models, Iterable) and not isinstance(models, bytes):
        return tuple(model for part in models for model in resolve(part))
    raise ConfigError(
        f"{models!r} does not describe noisy hardware; give a model such as GaussianNoise(0.06), "
        f"a preset ({', '.join(PRESETS)}), a standard deviation, or a sequence of these"
    )


def _from_dict(values: Mapping[str, Any]) -> HardwareModel:
    name = str(values.get("model"))
    if name not in MODELS:
        raise ConfigError(f"there is no hardware model {name!r}{_near(name, MODELS)}")
    known = [field.name for field in dataclasses.fields(MODELS[name])]
    parameters = {key: value for key, value in values.items() if key != "model"}
    for key in parameters:
        if key not in known:
            raise ConfigError(f"{name} has no parameter {key!r}{_near(key, known)}")
    return MODELS[name](**parameters)


def _near(given: str, known: Iterable[str]) -> str:
    names = list(known)
    nearest = difflib.get_close_matches(given, names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return f"{hint} Known: {', '.join(names)}"
