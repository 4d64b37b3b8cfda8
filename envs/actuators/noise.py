"""Noise and errors of actuators: white, coloured, per episode, per device, drifting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from .dynamics import Array, Dynamics, Mask, Plant, clip
from .model import ActuatorModel, ScaledModel, count, number


@dataclass(frozen=True)
class WhiteNoise(ScaledModel):
    """Gaussian noise, independent at every step and for every actuator."""

    formula: ClassVar[str] = "v = u + std·ξ"
    draws_each_step: ClassVar[bool] = True

    std: float = number(0.05, "units", "standard deviation", neutral=0, noise=True)

    def build(self, plant: Plant) -> Dynamics:
        """Makes the noise for these robots."""
        return _WhiteNoise(plant, self.std * plant.unit(self))


class _WhiteNoise(Dynamics):
    def __init__(self, plant: Plant, std: Array) -> None:
        self.noise = plant.normal(std)

    def apply(self, u: Array, active: Mask | None) -> Array:
        return u + self.noise.take(active)


@dataclass(frozen=True)
class SignalDependentNoise(ActuatorModel):
    """Gaussian noise whose standard deviation grows with the command (Harris & Wolpert 1998)."""

    formula: ClassVar[str] = "v = u + k·|u|·ξ"
    draws_each_step: ClassVar[bool] = True

    k: float = number(
        0.05, "1", "standard deviation as a share of the command", neutral=0, noise=True
    )

    def build(self, plant: Plant) -> Dynamics:
        """Makes the noise for these robots."""
        return _SignalDependentNoise(plant, self.k)


class _SignalDependentNoise(Dynamics):
    def __init__(self, plant: Plant, k: float) -> None:
        self.noise = plant.normal(k)

    def apply(self, u: Array, active: Mask | None) -> Array:
        return u + np.abs(u) * self.noise.take(active)


@dataclass(frozen=True)
class OrnsteinUhlenbeckNoise(ScaledModel):
    """Gaussian noise that stays similar for about `tau` seconds; sampled exactly, any dt."""

    formula: ClassVar[str] = "x ← a·x + std·√(1 − a²)·ξ with a = exp(−dt/tau); v = u + x"
    memory: ClassVar[str] = "x drawn afresh from N(0, std²)"
    draws_each_step: ClassVar[bool] = True

    std: float = number(0.05, "units", "standard deviation of x at any time", neutral=0, noise=True)
    tau: float = number(0.05, "s", "correlation time; 0 is white noise")

    def build(self, plant: Plant) -> Dynamics:
        """Makes the noise for these robots."""
        decay = math.exp(-plant.period(self) / self.tau) if self.tau > 0 else 0.0
        return _OrnsteinUhlenbeckNoise(plant, self.std * plant.unit(self), decay)


class _OrnsteinUhlenbeckNoise(Dynamics):
    state = ("x",)

    def __init__(self, plant: Plant, std: Array, decay: float) -> None:
        self.std, self.decay = std, plant.tile(decay)
        self.noise = plant.normal(std * math.sqrt(1 - decay**2))
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

    std: float = number(0.05, "units", "standard deviation of the bias", neutral=0, noise=True)

    def build(self, plant: Plant) -> Dynamics:
        """Makes the bias for these robots."""
        return _EpisodeBias(plant, self.std * plant.unit(self))


class _EpisodeBias(Dynamics):
    state = ("bias",)

    def __init__(self, plant: Plant, std: Array) -> None:
        self.std = std
        self.bias = np.zeros((plant.rows, plant.size))

    def begin(self, row: int, generator: Generator) -> None:
        self.bias[row] = self.std * generator.standard_normal(len(self.std))

    def apply(self, u: Array, active: Mask | None) -> Array:
        return u + self.bias


@dataclass(frozen=True)
class DeviceMismatch(ScaledModel):
    """Fixed differences between actuators of one make, drawn once for a device.

    A device with a number is the same wherever it is made, and whoever reads the number can draw it
    too. Without one (`device_seed=None`) it follows from the wrapper's secret `seed`.
    """

    formula: ClassVar[str] = (
        "v = max(0, 1 + g)·u + o with g ~ N(0, gain_std²), o ~ N(0, offset_std²)"
    )
    memory: ClassVar[str] = "kept for life"

    gain_std: float = number(0.1, "1", "standard deviation of the gain", neutral=0, noise=True)
    offset_std: float = number(
        0.0, "units", "standard deviation of the offset", neutral=0, noise=True
    )
    device_seed: int | None = count(
        0, "1", "number of the device; null: from the wrapper's seed", optional=True
    )

    def build(self, plant: Plant) -> Dynamics:
        """Makes the devices of these robots."""
        offset = self.offset_std * plant.unit(self) if self.offset_std else np.zeros(plant.size)
        return _DeviceMismatch(plant, self.gain_std, offset)


class _DeviceMismatch(Dynamics):
    state = ("gain", "offset")

    def __init__(self, plant: Plant, gain_std: float, offset_std: Array) -> None:
        self.gain_std, self.offset_std = gain_std, offset_std
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
    memory: ClassVar[str] = "goes on; only `reset(seed=…)` makes x = 0"
    draws_each_step: ClassVar[bool] = True

    rate: float = number(0.0, "units/s", "steady drift", minimum=-math.inf, neutral=0, noise=True)
    diffusion: float = number(0.002, "units/√s", "random walk", neutral=0, noise=True)
    limit: float = number(0.2, "units", "largest offset")
    start: float = number(0.0, "s", "when it sets in, in the device's time")

    def build(self, plant: Plant) -> Dynamics:
        """Makes the drift for these robots."""
        unit = plant.unit(self)
        return _OffsetDrift(plant, self.rate * unit, self.diffusion * unit, self.limit * unit, self)


@dataclass(frozen=True)
class GainDrift(ActuatorModel):
    """A gain that wanders slowly, on and on through the episodes (magnets, batteries, wear)."""

    formula: ClassVar[str] = (
        "x ← clip(x + rate·dt + diffusion·√dt·ξ, ±limit) from `start` on; v = max(0, 1 + x)·u"
    )
    memory: ClassVar[str] = "goes on; only `reset(seed=…)` makes x = 0"
    draws_each_step: ClassVar[bool] = True

    rate: float = number(0.0, "1/s", "steady drift", minimum=-math.inf, neutral=0, noise=True)
    diffusion: float = number(0.002, "1/√s", "random walk", neutral=0, noise=True)
    limit: float = number(0.2, "1", "largest change of the gain")
    start: float = number(0.0, "s", "when it sets in, in the device's time")

    def build(self, plant: Plant) -> Dynamics:
        """Makes the drift for these robots."""
        one = np.ones(plant.size)
        return _GainDrift(plant, self.rate * one, self.diffusion * one, self.limit * one, self)


class _Drift(Dynamics):
    state = ("x", "elapsed")

    def __init__(
        self,
        plant: Plant,
        rate: Array,
        diffusion: Array,
        limit: Array,
        model: OffsetDrift | GainDrift,
    ) -> None:
        dt = plant.period(model)
        self.step, self.low, self.high = map(plant.tile, (rate * dt, -limit, limit))
        self.first = plant.steps(model.start, model)
        self.noise = plant.normal(diffusion * math.sqrt(dt))
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


class _OffsetDrift(_Drift):
    def apply(self, u: Array, active: Mask | None) -> Array:
        return u + self.advance(active)


class _GainDrift(_Drift):
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

    amplitude: float = number(
        0.05, "units", "half the distance of the levels", neutral=0, noise=True
    )
    dwell: float = number(0.5, "s", "mean time on a level", minimum=1e-9)
    offset: float = number(0.0, "units", "middle of the levels", minimum=-math.inf, neutral=0)

    def build(self, plant: Plant) -> Dynamics:
        """Makes the noise for these robots."""
        unit = plant.unit(self)
        turn = -math.expm1(-2 * plant.period(self) / self.dwell) / 2
        return _TelegraphNoise(plant, self.amplitude * unit, self.offset * unit, turn)


class _TelegraphNoise(Dynamics):
    state = ("level",)

    def __init__(self, plant: Plant, amplitude: Array, offset: Array, turn: float) -> None:
        self.amplitude, self.offset, self.turn = plant.tile(amplitude), plant.tile(offset), turn
        self.noise = plant.uniform()
        self.level = np.ones((plant.rows, plant.size))

    def begin(self, row: int, generator: Generator) -> None:
        self.level[row] = np.where(generator.random(self.level.shape[1]) < 0.5, -1.0, 1.0)

    def apply(self, u: Array, active: Mask | None) -> Array:
        self.level[self.noise.take(active) < self.turn] *= -1.0
        return u + (self.offset + self.amplitude * self.level)
