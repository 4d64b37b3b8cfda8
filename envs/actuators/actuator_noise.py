"""Noise and errors of actuators: white, coloured, per episode, per device, drifting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta
from numpy.random import Generator

from ...options import NotNegative, Seed
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
class WhiteNoise(ScaledModel):
    """Gaussian noise, independent at every step and for every actuator."""

    formula: ClassVar[str] = "v = u + std·ξ"
    draws_each_step: ClassVar[bool] = True

    std: NotNegative = parameter(0.05, "units", "standard deviation", neutral=0, noise=True)


class _WhiteNoise(Dynamics, of=[WhiteNoise]):
    def __init__(self, model: WhiteNoise, plant: Plant) -> None:
        self.noise = plant.normal(model.std * plant.unit(model))

    def apply(self, u: Array, active: Mask | None) -> Array:
        return u + self.noise.take(active)


@dataclass(frozen=True)
class SignalDependentNoise(ActuatorModel):
    """Gaussian noise whose standard deviation grows with the command (Harris & Wolpert 1998)."""

    formula: ClassVar[str] = "v = u + k·|u|·ξ"
    draws_each_step: ClassVar[bool] = True

    k: NotNegative = parameter(
        0.05, "1", "standard deviation as a share of the command", neutral=0, noise=True
    )


class _SignalDependentNoise(Dynamics, of=[SignalDependentNoise]):
    def __init__(self, model: SignalDependentNoise, plant: Plant) -> None:
        self.noise = plant.normal(model.k)

    def apply(self, u: Array, active: Mask | None) -> Array:
        return u + np.abs(u) * self.noise.take(active)


@dataclass(frozen=True)
class OrnsteinUhlenbeckNoise(ScaledModel):
    """Gaussian noise that stays similar for about `tau` seconds; sampled exactly, any dt."""

    formula: ClassVar[str] = "x ← a·x + std·√(1 − a²)·ξ with a = exp(−dt/tau); v = u + x"
    memory: ClassVar[str] = "x drawn afresh from N(0, std²)"
    draws_each_step: ClassVar[bool] = True

    std: NotNegative = parameter(
        0.05, "units", "standard deviation of x at any time", neutral=0, noise=True
    )
    tau: NotNegative = parameter(0.05, "s", "correlation time; 0 is white noise")


class _OrnsteinUhlenbeckNoise(Dynamics, of=[OrnsteinUhlenbeckNoise]):
    state = ("x",)

    def __init__(self, model: OrnsteinUhlenbeckNoise, plant: Plant) -> None:
        self.std = model.std * plant.unit(model)
        decay = math.exp(-plant.period(model) / model.tau) if model.tau > 0 else 0.0
        self.decay = plant.tile(decay)
        self.noise = plant.normal(self.std * math.sqrt(1 - decay**2))
        self.x = np.zeros((plant.rows, plant.size))

    def begin(self, row: int, generator: Generator) -> None:
        self.x[row] = self.std * generator.standard_normal(len(self.std))

    def apply(self, u: Array, active: Mask | None) -> Array:
        self.x *= self.decay
        self.x += self.noise.take(active)
        return u + self.x


@dataclass(frozen=True)
class EpisodeBias(ScaledModel):
    """A constant error that changes from episode to episode (calibration at start-up)."""

    formula: ClassVar[str] = "v = u + b with b ~ N(0, std²)"
    memory: ClassVar[str] = "b drawn afresh"

    std: NotNegative = parameter(
        0.05, "units", "standard deviation of the bias", neutral=0, noise=True
    )


class _EpisodeBias(Dynamics, of=[EpisodeBias]):
    state = ("bias",)

    def __init__(self, model: EpisodeBias, plant: Plant) -> None:
        self.std = model.std * plant.unit(model)
        self.bias = np.zeros((plant.rows, plant.size))

    def begin(self, row: int, generator: Generator) -> None:
        self.bias[row] = self.std * generator.standard_normal(len(self.std))

    def apply(self, u: Array, active: Mask | None) -> Array:
        return u + self.bias


@dataclass(frozen=True)
class DeviceMismatch(ScaledModel):
    """Fixed differences between actuators of one make, drawn once for a device.

    A device with a number is the same wherever it is made, and anyone who reads the number can draw
    it too. Without one (`device_seed=None`) it follows from the wrapper's secret `seed`.
    """

    formula: ClassVar[str] = (
        "v = max(0, 1 + g)·u + o with g ~ N(0, gain_std²), o ~ N(0, offset_std²)"
    )
    memory: ClassVar[str] = "kept for life"

    gain_std: NotNegative = parameter(
        0.1, "1", "standard deviation of the gain", neutral=0, noise=True
    )
    offset_std: NotNegative = parameter(
        0.0, "units", "standard deviation of the offset", neutral=0, noise=True
    )
    device_seed: Seed | None = parameter(
        0, "1", "number of the device; null: from the wrapper's seed"
    )


class _DeviceMismatch(Dynamics, of=[DeviceMismatch]):
    state = ("gain", "offset")

    def __init__(self, model: DeviceMismatch, plant: Plant) -> None:
        self.gain_std = model.gain_std
        # Without an offset an infinite range does no harm.
        self.offset_std = np.zeros(plant.size)
        if model.offset_std:
            self.offset_std = model.offset_std * plant.unit(model)
        self.gain = np.ones((plant.rows, plant.size))
        self.offset = np.zeros((plant.rows, plant.size))

    def manufacture(self, row: int, generator: Generator) -> None:
        deviations = generator.standard_normal((2, len(self.offset_std)))
        self.gain[row] = np.maximum(0.0, 1.0 + self.gain_std * deviations[0])
        self.offset[row] = self.offset_std * deviations[1]

    def apply(self, u: Array, active: Mask | None) -> Array:
        return self.gain * u + self.offset


@dataclass(frozen=True)
class OffsetDrift(ScaledModel):
    """An offset that wanders slowly, on and on through the episodes (temperature, wear)."""

    formula: ClassVar[str] = (
        "x ← clip(x + rate·dt + diffusion·√dt·ξ, ±limit) from `start` on; v = u + x"
    )
    memory: ClassVar[str] = "kept; only `reset(seed=…)` makes x = 0"
    draws_each_step: ClassVar[bool] = True

    rate: float = parameter(0.0, "units/s", "steady drift", neutral=0, noise=True)
    diffusion: NotNegative = parameter(0.002, "units/√s", "random walk", neutral=0, noise=True)
    limit: NotNegative = parameter(0.2, "units", "largest offset")
    start: NotNegative = parameter(0.0, "s", "when it sets in, in the device's time")


@dataclass(frozen=True)
class GainDrift(ActuatorModel):
    """A gain that wanders slowly, on and on through the episodes (magnets, batteries, wear)."""

    formula: ClassVar[str] = (
        "x ← clip(x + rate·dt + diffusion·√dt·ξ, ±limit) from `start` on; v = max(0, 1 + x)·u"
    )
    memory: ClassVar[str] = "kept; only `reset(seed=…)` makes x = 0"
    draws_each_step: ClassVar[bool] = True

    rate: float = parameter(0.0, "1/s", "steady drift", neutral=0, noise=True)
    diffusion: NotNegative = parameter(0.002, "1/√s", "random walk", neutral=0, noise=True)
    limit: NotNegative = parameter(0.2, "1", "largest change of the gain")
    start: NotNegative = parameter(0.0, "s", "when it sets in, in the device's time")


class _Drift(Dynamics):
    state = ("x", "elapsed")

    def __init__(self, model: OffsetDrift | GainDrift, plant: Plant) -> None:
        unit = plant.unit(model) if isinstance(model, OffsetDrift) else np.ones(plant.size)
        dt, limit = plant.period(model), model.limit * unit
        self.step = plant.tile(model.rate * unit * dt)
        self.low, self.high = plant.tile(-limit), plant.tile(limit)
        self.first = plant.steps(model.start, model)
        self.noise = plant.normal(model.diffusion * unit * math.sqrt(dt))
        self.x = np.zeros((plant.rows, plant.size))
        self.elapsed = np.zeros((plant.rows, 1), np.int64)

    def restart(self, row: int) -> None:
        self.x[row] = 0.0
        self.elapsed[row] = 0

    def advance(self, active: Mask | None) -> Array:
        walked = clip(self.x + self.step + self.noise.take(active), self.low, self.high)
        self.x[...] = np.where(self.elapsed >= self.first, walked, self.x)
        self.elapsed += 1
        return self.x


class _OffsetDrift(_Drift, of=[OffsetDrift]):
    def apply(self, u: Array, active: Mask | None) -> Array:
        return u + self.advance(active)


class _GainDrift(_Drift, of=[GainDrift]):
    def apply(self, u: Array, active: Mask | None) -> Array:
        return np.maximum(0.0, 1.0 + self.advance(active)) * u


@dataclass(frozen=True)
class TelegraphNoise(ScaledModel):
    """An error that jumps between two levels, as in spintronic devices and loose contacts."""

    formula: ClassVar[str] = (
        "s = ±1 turns over with probability ½(1 − exp(−2·dt/dwell)); v = u + offset + amplitude·s"
    )
    memory: ClassVar[str] = "s drawn afresh"
    draws_each_step: ClassVar[bool] = True

    amplitude: NotNegative = parameter(
        0.05, "units", "half the distance of the levels", neutral=0, noise=True
    )
    dwell: Annotated[float, Meta(ge=1e-9)] = parameter(0.5, "s", "mean time on a level")
    offset: float = parameter(0.0, "units", "middle of the levels", neutral=0)


class _TelegraphNoise(Dynamics, of=[TelegraphNoise]):
    state = ("level",)

    def __init__(self, model: TelegraphNoise, plant: Plant) -> None:
        unit = plant.unit(model)
        self.amplitude = plant.tile(model.amplitude * unit)
        self.offset = plant.tile(model.offset * unit)
        self.turn = -math.expm1(-2 * plant.period(model) / model.dwell) / 2
        self.noise = plant.uniform()
        self.level = np.ones((plant.rows, plant.size))

    def begin(self, row: int, generator: Generator) -> None:
        self.level[row] = np.where(generator.random(self.level.shape[1]) < 0.5, -1.0, 1.0)

    def apply(self, u: Array, active: Mask | None) -> Array:
        self.level[self.noise.take(active) < self.turn] *= -1.0
        return u + (self.offset + self.amplitude * self.level)
