"""What runs an actuator model: the plant it acts on, its random numbers and its memory.

Everything is computed for a batch of robots at once, one row each, so that a single wrapper (one
row) and a vectorised one do the same arithmetic in the same order and give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray

from ...errors import ActuatorError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Steps whose noise is drawn in one go; drawing costs more than anything else a model does.
BLOCK = 256


@dataclass(frozen=True, eq=False)
class Plant:
    """The robots a model acts on.

    Attributes:
        rows: Number of robots, R.
        low: Lower action bounds, shape (d,), in native units.
        high: Upper action bounds, shape (d,), in native units.
        dt: Control period, s; none if nobody knows it.
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

    def unit(self, model: object) -> Array:
        """One unit of the model's magnitudes in native units, shape (d,).

        Raises:
            ActuatorError: If that is a fraction of an infinite range.
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

    def period(self, model: object) -> float:
        """The control period dt in s, which the model needs.

        Raises:
            ActuatorError: If it is not known.
        """
        if self.dt is None:
            raise ActuatorError(
                f"{model} has times in seconds, but the environment has neither `dt` nor "
                "metadata['render_fps']. Say how long a step is with dt=<seconds>."
            )
        return self.dt

    def steps(self, seconds: float, model: object) -> int:
        """The number of control steps nearest to a time."""
        return round(seconds / self.period(model))

    def select(self, columns: NDArray[np.intp]) -> Plant:
        """The same robots with only some of their actuators."""
        return replace(self, low=self.low[columns], high=self.high[columns])

    def normal(self, scale: Array | float, width: int | None = None) -> NoiseStream:
        """A stream of independent N(0, scale²) numbers, shape (R, width or d) a step."""
        return NoiseStream(self.rows, width or self.size, Generator.standard_normal, scale)

    def uniform(self, width: int | None = None) -> NoiseStream:
        """A stream of independent numbers uniform on [0, 1), shape (R, width or d) a step."""
        return NoiseStream(self.rows, width or self.size, Generator.random)


class NoiseStream:
    """Random numbers for every step of one model, from one generator of its own for each row."""

    def __init__(
        self,
        rows: int,
        width: int,
        draw: Callable[..., Any],
        scale: Array | float = 1.0,
    ) -> None:
        """Makes a stream that must be seeded before use.

        Args:
            rows: Number of robots R.
            width: Numbers a robot needs at each step.
            draw: Method of `Generator` that draws an array of a shape.
            scale: What the draws are multiplied with, scalar or shape (width,).
        """
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
        """Starts the row's numbers afresh."""
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
        """Goes back to what `save` described."""
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
    """One model at work on R robots with d actuators; a subclass for each model."""

    #: Attributes that change as time passes; each an array with one row a robot.
    state: ClassVar[tuple[str, ...]] = ()
    #: The numbers drawn at every step; models that draw none do not have it.
    noise: NoiseStream

    def manufacture(self, row: int, generator: Generator) -> None:
        """Draws what makes this device differ from others of its kind; once in its life."""

    def restart(self, row: int) -> None:
        """Makes the device new again: what outlives an episode goes back to its beginning."""

    def begin(self, row: int, generator: Generator) -> None:
        """Starts an episode: forgets what does not outlive one and draws what lasts for one."""

    def apply(self, u: Array, active: Mask | None) -> Array:
        """Turns the commands of one step, shape (R, d), into what leaves this model.

        The caller keeps neither `u` nor the result beyond the step, so the result may be the
        model's memory itself. Rows that are not `active` are computed in vain: the caller discards
        the result and puts back the memory.
        """
        raise NotImplementedError

    def save(self) -> dict[str, Any]:
        """All that `restore` needs to go on with the same numbers."""
        saved: dict[str, Any] = {name: getattr(self, name).copy() for name in self.state}
        if hasattr(self, "noise"):
            saved["noise"] = self.noise.save()
        return saved

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes back to what `save` described."""
        for name in self.state:
            getattr(self, name)[...] = saved[name]
        if hasattr(self, "noise"):
            self.noise.restore(saved["noise"])
