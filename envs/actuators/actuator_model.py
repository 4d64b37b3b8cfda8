"""What every actuator model is: checked, documented parameters, and the dynamics that run them.

Everything is computed for a batch of robots at once, one row each, so that a single wrapper (one
row) and a vectorised one do the same arithmetic in the same order and give the same numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from msgspec import Meta
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from ...errors import ActuatorError, ConfigError, UnknownNameError
from ...options import Options

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Steps = Annotated[int, Meta(ge=0)]

#: Steps whose noise is drawn in one go; drawing costs more than anything else a model does.
BLOCK = 256


def parameter(
    default: float | str | None,
    unit: str,
    about: str,
    *,
    neutral: float | None = None,
    noise: bool = False,
) -> Any:  # noqa: ANN401 - what a dataclass takes as the default of a field of any type
    """A parameter of a model; its type says which values are allowed.

    Args:
        default: its default.
        unit: for the documentation; "units" is what the parameter `units` of the model says.
        about: one line for the documentation.
        neutral: the value at which this parameter has no effect.
        noise: whether it is a magnitude of noise, which `scale_noise` multiplies.
    """
    metadata = {"unit": unit, "about": about, "neutral": neutral, "noise": noise}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ActuatorModel(Options):
    """One thing that an actuator does to a command; models are chained in the order given.

    Attributes:
        actuators: indices of the actuators that the model acts on; none means all of them.

    Raises:
        ConfigError: (when made) a parameter has a value that is not allowed.
        UnknownNameError: a word is not one of those that a parameter allows.
    """

    #: What the model computes, for the documentation: u is the command that reaches the model, v
    #: what leaves it, ξ a standard normal number drawn for each actuator and step, dt the control
    #: period.
    formula: ClassVar[str] = ""
    #: What a new episode does to the model's memory, for the documentation.
    memory: ClassVar[str] = "none"
    #: Whether it draws fresh numbers at every step (a sensor must, or it would measure the noise).
    draws_each_step: ClassVar[bool] = False
    #: What runs it; every `Dynamics` names its models.
    dynamics: ClassVar[type[Dynamics]]

    _: KW_ONLY
    actuators: tuple[Annotated[int, Meta(ge=0)], ...] | None = parameter(
        None, "1", "indices of the actuators concerned; all by default"
    )

    def __post_init__(self) -> None:
        if isinstance(self.actuators, Iterable) and not isinstance(self.actuators, str):
            object.__setattr__(self, "actuators", tuple(self.actuators))
        try:
            super().__post_init__()
        except ConfigError as error:
            error.args = (f"{type(self).__name__}: {error}",)
            raise

    def check(self) -> None:
        """Refuse indices of actuators that are none, or come twice."""
        indices = self.actuators
        if indices is not None and (not indices or len(set(indices)) < len(indices)):
            raise ConfigError(
                f"actuators must be different indices, at least one of them, got {indices}; leave "
                "it out for all actuators"
            )

    @property
    def inert(self) -> bool:
        """Whether the parameters are such that commands pass unchanged."""
        neutral = {
            field.name: field.metadata["neutral"]
            for field in dataclasses.fields(self)
            if field.metadata["neutral"] is not None
        }
        return bool(neutral) and all(getattr(self, k) == v for k, v in neutral.items())

    def scaled(self, factor: float) -> Self:
        """The same model with its noise `factor` times as strong; probabilities stop at 1."""
        changes = {
            field.name: factor * getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata["noise"]
        }
        if "probability" in changes:
            changes["probability"] = min(1.0, changes["probability"])
        return self.replace(**changes)

    def to_dict(self) -> dict[str, Any]:
        """All parameters by name, and the model's name under "model"; fit for JSON."""
        values = super().to_dict()
        order = sorted(values, key=("units", "actuators").__contains__)
        return {"model": type(self).__name__, **{name: values[name] for name in order}}

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters in what `to_dict` wrote.

        Raises:
            UnknownNameError: one is no parameter of this model.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        parameters = {name: value for name, value in values.items() if name != "model"}
        for name in parameters:
            if name not in known:
                raise UnknownNameError(f"parameter of {cls.__name__}", name, known)
        return parameters


@dataclass(frozen=True)
class ScaledModel(ActuatorModel):
    """A model with magnitudes that are actions.

    Attributes:
        units: "range": one unit is half the width of the action range, so that ±1 about its centre
            spans it. "native": the units of the action itself (N·m, N, rad, …).
    """

    _: KW_ONLY
    units: Literal["range", "native"] = parameter("range", "1", "units of the magnitudes marked u")


@dataclass(frozen=True, eq=False)
class Plant:
    """The robots that a model acts on.

    Attributes:
        rows: number of robots, R.
        low: lower action bounds, shape (d,), in native units.
        high: upper action bounds, shape (d,), in native units.
        dt: control period, s; none if nobody knows it.
    """

    rows: int
    low: Array
    high: Array
    dt: float | None

    @property
    def size(self) -> int:
        """Number of actuators d."""
        return len(self.low)

    @cached_property
    def rest(self) -> Array:
        """The command before any command has come, shape (d,): 0, or the bound nearest to it."""
        return np.clip(np.zeros(self.size), self.low, self.high)

    @cached_property
    def centre(self) -> Array:
        """The middle of the action range, shape (d,)."""
        return (self.low + self.high) / 2

    @cached_property
    def half_range(self) -> Array:
        """Half the width of the action range, shape (d,)."""
        return (self.high - self.low) / 2

    def tile(self, values: Array | float) -> Array:
        """Values for each actuator, repeated for all robots, shape (R, d).

        Arithmetic on arrays of one shape takes a third of the time of broadcasting, and for arrays
        this small that is what a step costs.
        """
        return np.tile(np.broadcast_to(values, (self.size,)), (self.rows, 1))

    def unit(self, model: ActuatorModel) -> Array:
        """One unit of the model's magnitudes in native units, shape (d,).

        Raises:
            ActuatorError: that is a fraction of an infinite range.
        """
        if getattr(model, "units", "range") == "native":
            return np.ones(self.size)
        infinite = np.flatnonzero(~np.isfinite(self.half_range))
        if len(infinite):
            raise ActuatorError(
                f"{model} is given in fractions of the action range, but the range of actuator "
                f"{', '.join(map(str, infinite))} is infinite. Give its magnitudes in the action's "
                "own units with units='native', or bound the action space first."
            )
        return self.half_range

    def period(self, model: ActuatorModel) -> float:
        """The control period dt in s, which the model needs.

        Raises:
            ActuatorError: it is not known.
        """
        if self.dt is None:
            raise ActuatorError(
                f"{model} has times in seconds, but the environment has neither `dt` nor "
                "metadata['render_fps']. Say how long a step is with dt=<seconds>."
            )
        return self.dt

    def steps(self, seconds: float, model: ActuatorModel) -> int:
        """The number of control steps nearest to a time."""
        return round(seconds / self.period(model))

    def select(self, columns: NDArray[np.intp]) -> Plant:
        """The same robots with only some of their actuators."""
        return dataclasses.replace(self, low=self.low[columns], high=self.high[columns])

    def normal(self, scale: Array | float) -> NoiseStream:
        """A stream of independent N(0, scale²) numbers, shape (R, d) a step."""
        return NoiseStream(self.rows, self.size, Generator.standard_normal, scale)

    def uniform(self, width: int | None = None) -> NoiseStream:
        """A stream of independent numbers uniform on [0, 1), shape (R, width or d) a step."""
        return NoiseStream(self.rows, width or self.size, Generator.random)


class NoiseStream:
    """Random numbers for every step of one model, from a separate generator for each row.

    It must be seeded before use.

    Args:
        rows: number of robots R.
        width: numbers that a robot needs at each step.
        draw: method of `Generator` that draws an array of a shape.
        scale: what the draws are multiplied with, scalar or shape (width,).
    """

    def __init__(
        self, rows: int, width: int, draw: Callable[..., Any], scale: Array | float = 1.0
    ) -> None:
        self._width = width
        self._draw = draw
        self._scale = scale
        self._every_row = np.arange(rows)
        self._generators = [Generator(PCG64(0)) for _ in range(rows)]
        self._before: list[dict[str, Any]] = [{} for _ in range(rows)]
        self._blocks = np.zeros((BLOCK, rows, width))
        self._position = np.full(rows, BLOCK)
        # As long as all rows are at the same place, which is the quick way, only this is counted.
        self._common: int | None = BLOCK

    def seed(self, row: int, sequence: SeedSequence) -> None:
        """Start the row's numbers afresh."""
        self._generators[row] = Generator(PCG64(sequence))
        self._place(row, BLOCK)

    def take(self, active: Mask | None) -> Array:
        """The next numbers, shape (R, width), good until the next call.

        Those of rows that are not `active` mean nothing.
        """
        position = self._common
        if position is None or active is not None:
            return self._take_apart(active)
        if position == BLOCK:
            for row in range(len(self._generators)):
                self._fill(row)
            position = 0
        self._common = position + 1
        numbers: Array = self._blocks[position]
        return numbers

    def save(self) -> list[dict[str, Any]]:
        """For each row the generator's state before the current block, and the place in it."""
        return [
            {
                "generator": before if position < BLOCK else generator.bit_generator.state,
                "position": position,
            }
            for before, generator, position in zip(
                self._before, self._generators, self._positions().tolist(), strict=True
            )
        ]

    def restore(self, saved: list[dict[str, Any]]) -> None:
        """Go back to what `save` described."""
        for row, entry in enumerate(saved):
            self._generators[row].bit_generator.state = entry["generator"]
            if entry["position"] < BLOCK:
                self._fill(row)
            self._place(row, entry["position"])

    def _take_apart(self, active: Mask | None) -> Array:
        positions = self._positions()
        for row in np.flatnonzero(positions == BLOCK).tolist():
            self._fill(row)
            positions[row] = 0
        numbers: Array = self._blocks[positions, self._every_row]
        positions += 1 if active is None else active
        if active is not None:
            self._common = int(positions[0]) if (positions == positions[0]).all() else None
        return numbers

    def _fill(self, row: int) -> None:
        generator = self._generators[row]
        self._before[row] = dict(generator.bit_generator.state)
        self._blocks[:, row] = self._draw(generator, (BLOCK, self._width)) * self._scale

    def _positions(self) -> NDArray[np.int_]:
        if self._common is not None:
            self._position[:] = self._common
        return self._position

    def _place(self, row: int, position: int) -> None:
        positions = self._positions()
        positions[row] = position
        self._common = position if (positions == position).all() else None


def clip(u: Array, low: Array, high: Array) -> Array:
    """The same as `numpy.clip` in a third of the time."""
    return np.minimum(np.maximum(u, low), high)


class Dynamics:
    """A model at work on R robots with d actuators; a subclass names the models `of` which it is.

    Args:
        model: the parameters.
        plant: the robots and their action range.
    """

    #: Attributes that change as time passes; each an array with one row a robot.
    state: ClassVar[tuple[str, ...]] = ()
    #: The numbers drawn at every step; models that draw none do not have it.
    noise: NoiseStream

    def __init__(self, model: Any, plant: Plant) -> None:  # noqa: ANN401 - each its own model
        raise NotImplementedError

    def __init_subclass__(cls, of: Iterable[type[ActuatorModel]] = ()) -> None:
        for model in of:
            model.dynamics = cls

    def manufacture(self, row: int, generator: Generator) -> None:
        """Draw what makes this device differ from others of its kind; once in its life."""

    def restart(self, row: int) -> None:
        """Make the device new again: what outlives an episode goes back to its beginning."""

    def begin(self, row: int, generator: Generator) -> None:
        """Start an episode: forget what does not outlive one and draw what lasts for one."""

    def apply(self, u: Array, active: Mask | None) -> Array:
        """Turn the commands of one step, shape (R, d), into what leaves this model.

        The caller keeps neither `u` nor the result beyond the step, so the result may be the
        model's memory itself. Rows that are not `active` are computed in vain: the caller discards
        the result and puts back the memory.
        """
        raise NotImplementedError

    def save(self) -> dict[str, Any]:
        """All that `restore` needs to continue with the same numbers."""
        saved: dict[str, Any] = {name: getattr(self, name).copy() for name in self.state}
        if hasattr(self, "noise"):
            saved["noise"] = self.noise.save()
        return saved

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what `save` described."""
        for name in self.state:
            getattr(self, name)[...] = saved[name]
        if hasattr(self, "noise"):
            self.noise.restore(saved["noise"])
