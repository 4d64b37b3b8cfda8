"""What every actuator model has in common: a frozen, checked, documented set of parameters."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from ...errors import ActuatorError

if TYPE_CHECKING:
    from .dynamics import Dynamics, Plant

#: What a dataclass takes as the default of a field of any type.
Default: TypeAlias = Any


def number(
    default: float | None,
    unit: str,
    about: str,
    *,
    minimum: float = 0.0,
    maximum: float = math.inf,
    neutral: float | None = None,
    noise: bool = False,
) -> Default:
    """A real parameter.

    Args:
        default: Its default; none makes it a required argument.
        unit: Unit, for the documentation; "units" is what the parameter `units` of the model says.
        about: One line for the documentation.
        minimum: Smallest value allowed.
        maximum: Largest value allowed.
        neutral: The value at which this parameter has no effect.
        noise: Whether it is a magnitude of noise, which `scale_noise` multiplies.
    """
    return _parameter(float, default, unit, about, minimum, maximum, neutral, noise)


def count(
    default: int | None,
    unit: str,
    about: str,
    *,
    minimum: int = 0,
    neutral: int | None = None,
    optional: bool = False,
) -> Default:
    """An integer parameter, or none where it is `optional`; the rest as for `number`."""
    return _parameter(int, default, unit, about, minimum, math.inf, neutral, False, optional)


def choice(default: str, options: tuple[str, ...], about: str) -> Default:
    """A parameter that takes one of a few names."""
    return dataclasses.field(default=default, metadata={"options": options, "about": about})


def _parameter(
    kind: type[float],
    default: float | None,
    unit: str,
    about: str,
    minimum: float,
    maximum: float,
    neutral: float | None,
    noise: bool,
    optional: bool = False,
) -> Default:
    metadata = {
        "kind": kind,
        "unit": unit,
        "about": about,
        "minimum": minimum,
        "maximum": maximum,
        "neutral": neutral,
        "noise": noise,
        "optional": optional,
    }
    if default is None:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ActuatorModel:
    """One thing that hardware does to a command; models are chained in the order given.

    Attributes:
        actuators: Indices of the actuators that the model acts on; none means all of them.
    """

    #: What the model computes, for the documentation: u is the command that reaches the model, v
    #: what leaves it, ξ a standard normal number drawn for each actuator and step, dt the control
    #: period.
    formula: ClassVar[str] = ""
    #: What a new episode does to the model's memory, for the documentation.
    memory: ClassVar[str] = "none"
    #: Whether it draws fresh numbers at every step (a sensor must, or it would measure the noise).
    draws_each_step: ClassVar[bool] = False

    _: KW_ONLY
    actuators: tuple[int, ...] | None = dataclasses.field(
        default=None, metadata={"about": "indices of the actuators concerned; all by default"}
    )

    def __post_init__(self) -> None:
        """Checks every parameter against its declaration."""
        if self.actuators is not None:
            object.__setattr__(self, "actuators", self._indices(self.actuators))
        for field in dataclasses.fields(self):
            if "options" in field.metadata:
                self._check_option(field)
            elif "kind" in field.metadata:
                self._check_number(field)

    def build(self, plant: Plant) -> Dynamics:
        """Makes what runs this model for the robots and the action range of `plant`."""
        raise NotImplementedError

    @classmethod
    def parameters(cls) -> list[str]:
        """Names of the parameters, those that are common to many models last."""
        names = [field.name for field in dataclasses.fields(cls)]
        return sorted(names, key=("units", "actuators").__contains__)

    @property
    def inert(self) -> bool:
        """Whether the parameters are such that commands pass unchanged."""
        neutral = {
            field.name: field.metadata["neutral"]
            for field in dataclasses.fields(self)
            if field.metadata.get("neutral") is not None
        }
        return bool(neutral) and all(getattr(self, k) == v for k, v in neutral.items())

    def scaled(self, factor: float) -> Self:
        """The same model with its noise `factor` times as strong; probabilities stop at 1."""
        changes = {
            field.name: min(field.metadata["maximum"], factor * getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.metadata.get("noise")
        }
        return dataclasses.replace(self, **changes) if changes else self

    def to_dict(self) -> dict[str, Any]:
        """All parameters under their names, and the model's name under "model"; fit for JSON."""
        values = {name: getattr(self, name) for name in self.parameters()}
        if self.actuators is not None:
            values["actuators"] = list(self.actuators)
        return {"model": type(self).__name__, **values}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`, without the key "model".

        Raises:
            ActuatorError: For a key that is no parameter of this model, or a missing one.
        """
        known = cls.parameters()
        for key in values:
            if key not in known:
                raise ActuatorError(
                    f"{cls.__name__} has no parameter {key!r}{did_you_mean(key, known)} "
                    f"It takes {', '.join(known)}."
                )
        try:
            return cls(**values)
        except TypeError as error:
            raise ActuatorError(f"{cls.__name__}: {error}.") from error

    def _indices(self, given: Iterable[Any]) -> tuple[int, ...]:
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise ActuatorError(
                f"{type(self).__name__}: actuators={given!r} is not a sequence of indices; "
                "write (0, 2) for the first and the third actuator."
            )
        indices = tuple(given)
        wrong = [i for i in indices if isinstance(i, bool) or not isinstance(i, int) or i < 0]
        if wrong or not indices or len(set(indices)) != len(indices):
            raise ActuatorError(
                f"{type(self).__name__}: actuators={given!r} must be different indices, each an "
                "integer of at least 0, and at least one of them; leave it out for all actuators."
            )
        return indices

    def _check_option(self, field: dataclasses.Field[Any]) -> None:
        value, options = getattr(self, field.name), field.metadata["options"]
        if value not in options:
            raise ActuatorError(
                f"{type(self).__name__}: {field.name}={value!r} is not one of {options}"
                f"{did_you_mean(value, options)}"
            )

    def _check_number(self, field: dataclasses.Field[Any]) -> None:
        value, kind = getattr(self, field.name), field.metadata["kind"]
        if value is None and field.metadata["optional"]:
            return
        low, high = field.metadata["minimum"], field.metadata["maximum"]
        if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
            what = "an integer" if kind is int else "a number"
            raise ActuatorError(f"{type(self).__name__}: {field.name}={value!r} must be {what}.")
        if not (low <= value <= high and math.isfinite(value)):
            upper = f" and at most {high:g}" if math.isfinite(high) else " and finite"
            lower = f"at least {low:g}" if math.isfinite(low) else "a number"
            raise ActuatorError(
                f"{type(self).__name__}: {field.name}={value!r} must be {lower}{upper}."
            )


@dataclass(frozen=True)
class ScaledModel(ActuatorModel):
    """A model with magnitudes that are actions.

    Attributes:
        units: "range": one unit is half the width of the action range, so that ±1 about its centre
            spans it. "native": the units of the action itself (N·m, N, rad, …).
    """

    _: KW_ONLY
    units: str = choice("range", ("range", "native"), "units of the magnitudes marked u")


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """A sentence that suggests the nearest of the known names, or just the full stop."""
    nearest = difflib.get_close_matches(str(given), list(known), n=1, cutoff=0.5)
    return f": did you mean {nearest[0]!r}?" if nearest else "."
