"""What electronics and gears do without chance: quantisation, dead zone, backlash, limits, lag."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from ...options import NotNegative
from .actuator_model import (
    ActuatorModel,
    Array,
    Dynamics,
    Mask,
    Plant,
    ScaledModel,
    clip,
    parameter,
)


@dataclass(frozen=True)
class Quantisation(ScaledModel):
    """Only whole multiples of a step get through (digital-to-analog converter, encoder counts)."""

    formula: ClassVar[str] = "v = step·round(u/step), halves to the even multiple"

    step: NotNegative = parameter(
        2 / 4096, "units", "one step; 2/4096: 4096 over the action range", neutral=0
    )


class _Quantisation(Dynamics, of=[Quantisation]):
    def __init__(self, model: Quantisation, plant: Plant) -> None:
        step = plant.tile(model.step * plant.unit(model))
        # An actuator whose range has no width has nothing to round.
        self.step, self.some = np.where(step > 0, step, 1.0), step > 0

    def apply(self, u: Array, active: Mask | None) -> Array:
        return np.where(self.some, self.step * np.rint(u / self.step), u)


@dataclass(frozen=True)
class DeadZone(ScaledModel):
    """Small commands do nothing, and larger ones are short of what overcoming friction takes."""

    formula: ClassVar[str] = "v = sign(u)·max(|u| − width, 0)"

    width: NotNegative = parameter(0.02, "units", "largest command that does nothing", neutral=0)


class _DeadZone(Dynamics, of=[DeadZone]):
    def __init__(self, model: DeadZone, plant: Plant) -> None:
        width = plant.tile(model.width * plant.unit(model))
        self.low, self.high = -width, width

    def apply(self, u: Array, active: Mask | None) -> Array:
        return u - clip(u, self.low, self.high)


@dataclass(frozen=True)
class Backlash(ScaledModel):
    """Play in a gear: after turning round, the output waits until the gap is crossed."""

    formula: ClassVar[str] = "v ← clip(v, u − width/2, u + width/2)"
    memory: ClassVar[str] = "v = the rest command"

    width: NotNegative = parameter(0.01, "units", "width of the gap", neutral=0)


class _Follower(Dynamics):
    """An output that starts at rest and follows the command."""

    state = ("output",)

    def __init__(self, model: Backlash | Lag, plant: Plant) -> None:
        self.rest, self.output = plant.rest, plant.tile(plant.rest)

    def begin(self, row: int, generator: Generator) -> None:
        self.output[row] = self.rest


class _Backlash(_Follower, of=[Backlash]):
    def __init__(self, model: Backlash, plant: Plant) -> None:
        super().__init__(model, plant)
        self.half_width = plant.tile(model.width * plant.unit(model) / 2)

    def apply(self, u: Array, active: Mask | None) -> Array:
        self.output = clip(self.output, u - self.half_width, u + self.half_width)
        return self.output


@dataclass(frozen=True)
class Saturation(ScaledModel):
    """The actuator gives no more than this, whatever it is told."""

    formula: ClassVar[str] = (
        "v = clip(u, c ± limit), c the middle of the action range (0 in native units)"
    )

    limit: NotNegative = parameter(
        1.0, "units", "largest output; 1 is the edge of the action range"
    )


class _Saturation(Dynamics, of=[Saturation]):
    def __init__(self, model: Saturation, plant: Plant) -> None:
        reach = model.limit * plant.unit(model)
        centre = plant.centre if model.units == "range" else np.zeros(plant.size)
        self.low, self.high = plant.tile(centre - reach), plant.tile(centre + reach)

    def apply(self, u: Array, active: Mask | None) -> Array:
        return clip(u, self.low, self.high)


@dataclass(frozen=True)
class Lag(ActuatorModel):
    """First-order response, as of a current loop or a position servo; exact for held commands."""

    formula: ClassVar[str] = "v ← v + (1 − exp(−dt/tau))·(u − v)"
    memory: ClassVar[str] = "v = the rest command"

    tau: NotNegative = parameter(0.02, "s", "time constant", neutral=0)


class _Lag(_Follower, of=[Lag]):
    def __init__(self, model: Lag, plant: Plant) -> None:
        super().__init__(model, plant)
        share = -math.expm1(-plant.period(model) / model.tau) if model.tau > 0 else 1.0
        self.share = plant.tile(share)

    def apply(self, u: Array, active: Mask | None) -> Array:
        self.output = self.output + self.share * (u - self.output)
        return self.output


@dataclass(frozen=True)
class GainLoss(ScaledModel):
    """A sudden fault: from a given moment on, commands have only part of their effect.

    Without any gain the actuator is stuck, at 0 or at its offset.
    """

    formula: ClassVar[str] = "v = gain·u + offset from time `at` on"
    memory: ClassVar[str] = (
        "clock “device”: runs on, only `reset(seed=…)` sets it to 0; “episode”: 0"
    )

    gain: NotNegative = parameter(0.4, "1", "what is left of the gain", neutral=1)
    at: NotNegative = parameter(0.0, "s", "when it happens")
    offset: float = parameter(0.0, "units", "what is added then", neutral=0)
    _: KW_ONLY
    clock: Literal["device", "episode"] = parameter(
        "device", "1", "whether `at` counts from the device's or the episode's start"
    )


class _GainLoss(Dynamics, of=[GainLoss]):
    state = ("elapsed",)

    def __init__(self, model: GainLoss, plant: Plant) -> None:
        self.gain, self.each_episode = model.gain, model.clock == "episode"
        # Without an offset an infinite range does no harm.
        self.offset = plant.tile(model.offset * plant.unit(model) if model.offset else 0.0)
        self.first = plant.steps(model.at, model) if model.at > 0 else 0
        self.elapsed = np.zeros((plant.rows, 1), np.int64)

    def restart(self, row: int) -> None:
        self.elapsed[row] = 0

    def begin(self, row: int, generator: Generator) -> None:
        if self.each_episode:
            self.elapsed[row] = 0

    def apply(self, u: Array, active: Mask | None) -> Array:
        faulty = self.elapsed >= self.first
        self.elapsed += 1
        return np.where(faulty, self.gain * u + self.offset, u)
