"""What electronics and gears do without chance: quantisation, dead zone, backlash, limits, lag."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from .dynamics import Array, Dynamics, Mask, Plant, clip
from .model import ActuatorModel, ScaledModel, choice, number


@dataclass(frozen=True)
class Quantisation(ScaledModel):
    """Only whole multiples of a step get through (digital-to-analog converter, encoder counts)."""

    formula: ClassVar[str] = "v = step·round(u/step), halves to the even multiple"

    step: float = number(
        2 / 4096, "units", "one step; 2/4096: 4096 over the action range", neutral=0
    )

    def build(self, plant: Plant) -> Dynamics:
        """Makes the converters of these robots."""
        return _Quantisation(plant.tile(self.step * plant.unit(self)))


class _Quantisation(Dynamics):
    def __init__(self, step: Array) -> None:
        # An actuator whose range has no width has nothing to round.
        self.step, self.some = np.where(step > 0, step, 1.0), step > 0

    def apply(self, u: Array, active: Mask | None) -> Array:
        return np.where(self.some, self.step * np.rint(u / self.step), u)


@dataclass(frozen=True)
class DeadZone(ScaledModel):
    """Small commands do nothing, and larger ones are short of what overcoming friction takes."""

    formula: ClassVar[str] = "v = sign(u)·max(|u| − width, 0)"

    width: float = number(0.02, "units", "largest command that does nothing", neutral=0)

    def build(self, plant: Plant) -> Dynamics:
        """Makes the dead zone for these robots."""
        return _DeadZone(plant.tile(self.width * plant.unit(self)))


class _DeadZone(Dynamics):
    def __init__(self, width: Array) -> None:
        self.low, self.high = -width, width

    def apply(self, u: Array, active: Mask | None) -> Array:
        return u - clip(u, self.low, self.high)


@dataclass(frozen=True)
class Backlash(ScaledModel):
    """Play in a gear: after turning round, the output waits until the gap is crossed."""

    formula: ClassVar[str] = "v ← clip(v, u − width/2, u + width/2)"
    memory: ClassVar[str] = "v = the rest command"

    width: float = number(0.01, "units", "width of the gap", neutral=0)

    def build(self, plant: Plant) -> Dynamics:
        """Makes the gears of these robots."""
        return _Backlash(plant, self.width * plant.unit(self) / 2)


class _Backlash(Dynamics):
    state = ("output",)

    def __init__(self, plant: Plant, half_width: Array) -> None:
        self.half_width, self.rest = plant.tile(half_width), plant.rest
        self.output = plant.tile(plant.rest)

    def begin(self, row: int, generator: Generator) -> None:
        self.output[row] = self.rest

    def apply(self, u: Array, active: Mask | None) -> Array:
        self.output = clip(self.output, u - self.half_width, u + self.half_width)
        return self.output


@dataclass(frozen=True)
class Saturation(ScaledModel):
    """The actuator gives no more than this, whatever it is told."""

    formula: ClassVar[str] = (
        "v = clip(u, c ± limit), c the middle of the action range (0 in native units)"
    )

    limit: float = number(1.0, "units", "largest output; 1 is the edge of the action range")

    def build(self, plant: Plant) -> Dynamics:
        """Makes the limits for these robots."""
        reach = self.limit * plant.unit(self)
        centre = plant.centre if self.units == "range" else np.zeros(plant.size)
        return _Saturation(plant.tile(centre - reach), plant.tile(centre + reach))


class _Saturation(Dynamics):
    def __init__(self, low: Array, high: Array) -> None:
        self.low, self.high = low, high

    def apply(self, u: Array, active: Mask | None) -> Array:
        return clip(u, self.low, self.high)


@dataclass(frozen=True)
class Lag(ActuatorModel):
    """First-order response, as of a current loop or a position servo; exact for held commands."""

    formula: ClassVar[str] = "v ← v + (1 − exp(−dt/tau))·(u − v)"
    memory: ClassVar[str] = "v = the rest command"

    tau: float = number(0.02, "s", "time constant", neutral=0)

    def build(self, plant: Plant) -> Dynamics:
        """Makes the lag for these robots."""
        share = -math.expm1(-plant.period(self) / self.tau) if self.tau > 0 else 1.0
        return _Lag(plant, share)


class _Lag(Dynamics):
    state = ("output",)

    def __init__(self, plant: Plant, share: float) -> None:
        self.share, self.rest = plant.tile(share), plant.rest
        self.output = plant.tile(plant.rest)

    def begin(self, row: int, generator: Generator) -> None:
        self.output[row] = self.rest

    def apply(self, u: Array, active: Mask | None) -> Array:
        self.output = self.output + self.share * (u - self.output)
        return self.output


@dataclass(frozen=True)
class GainLoss(ActuatorModel):
    """A sudden fault: from a given moment on, commands have only part of their effect."""

    formula: ClassVar[str] = "v = gain·u from time `at` on"
    memory: ClassVar[str] = (
        "clock “device”: goes on, only `reset(seed=…)` sets it to 0; “episode”: 0"
    )

    gain: float = number(0.4, "1", "what is left of the gain", neutral=1)
    at: float = number(0.0, "s", "when it happens")
    _: KW_ONLY
    clock: str = choice(
        "device",
        ("device", "episode"),
        "whether `at` counts from the device's or the episode's start",
    )

    def build(self, plant: Plant) -> Dynamics:
        """Makes the fault for these robots."""
        first = plant.steps(self.at, self) if self.at > 0 else 0
        return _GainLoss(plant, self.gain, first, self.clock == "episode")


class _GainLoss(Dynamics):
    state = ("elapsed",)

    def __init__(self, plant: Plant, gain: float, first: int, each_episode: bool) -> None:
        self.gain, self.first, self.each_episode = gain, first, each_episode
        self.elapsed = np.zeros((plant.rows, 1), np.int64)

    def restart(self, row: int) -> None:
        self.elapsed[row] = 0

    def begin(self, row: int, generator: Generator) -> None:
        if self.each_episode:
            self.elapsed[row] = 0

    def apply(self, u: Array, active: Mask | None) -> Array:
        faulty = self.elapsed >= self.first
        self.elapsed += 1
        return np.where(faulty, self.gain * u, u)
