"""Devices that hold a chip's weights, and how imperfectly they are written: pulses, spread, drift.

A weight is a conductance in units of half its usual range, from about −1 to 1, times a scale of its
layer. A pulse moves it by a step, which depends on where it is, differs from device to device, and
from pulse to pulse. `PulsedDevice` is the law, `Cells` the devices of one layer that obey it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .nonidealities import PulsedDevice

ONE_SIDED_RESET = 0.9
"""Share of its range from which on a device that only grows is set back, with its partner."""
PROGRAMMING_PULSES = 20.0
"""That writing a weight by trial and error is taken to cost beside those that move it there."""


def programming_sd(share: Tensor) -> Tensor:
    """SD of a programmed phase-change conductance, as a share of the largest.

    In µS ``.263 + 1.965 r − 1.173 r²`` for r = g / g_max and g_max = 25 µS (Nandakumar et al.,
    ICECS 2019).

    Args:
        share: r, any shape.
    """
    return (0.26348 + 1.9650 * share - 1.1731 * share.square()).clamp_min(0.0) / 25.0


def drift_exponent(share: Tensor, normal: Tensor) -> Tensor:
    """Exponent nu of ``g(t) = g(t₀) (t / t₀)^−nu``, t₀ = 20 s (Nandakumar et al., ICECS 2019).

    Mean ``−.0155 ln r + .0244`` within [.049, .1], SD ``−.0125 ln r − .0059`` within [.008, .045].

    Args:
        share: r = g / g_max.
        normal: standard normal numbers of its shape.
    """
    log = share.clamp_min(1e-6).log()
    mean = (-0.0155 * log + 0.0244).clamp(0.049, 0.1)
    return (mean + (-0.0125 * log - 0.0059).clamp(0.008, 0.045) * normal).clamp_min(0.0)


DRIFT_START = 20.0
"""t₀, s after programming, from which on drift is counted."""


class Cells:
    """The devices of one layer: pairs of them where they only grow, else single ones.

    Args:
        device: their law.
        shape: the shape of the weights, (n, d).
        fixed: what is fixed for the life of these devices is drawn from it.
        fresh: everything else.

    Attributes:
        pulses: sent so far.
    """

    def __init__(
        self,
        device: PulsedDevice,
        shape: tuple[int, ...],
        fixed: torch.Generator,
        fresh: torch.Generator,
    ) -> None:
        self.device = device
        self.pulses = 0.0
        self._fresh = fresh
        sides = 2 if device.one_sided else 1
        whole = (sides, *shape)

        def normal() -> Tensor:
            return torch.randn(whole, generator=fixed)

        spread = device.step_spread
        self._step = device.step * torch.exp(spread * normal() - spread**2 / 2)
        bias = (device.asymmetry + device.asymmetry_spread * normal()).clamp(-1.0, 1.0)
        self._up, self._down = self._step * (1 + bias), self._step * (1 - bias)
        self._high = device.high * (1 + device.bound_spread * normal()).clamp_min(0.05)
        low = torch.zeros(whole) if device.one_sided else torch.full(whole, device.low)
        self._low = low * (1 + device.bound_spread * normal()).clamp_min(0.05)
        self._works = torch.rand(whole, generator=fixed) >= device.failed
        stuck = device.stuck_range * (2 * torch.rand(whole, generator=fixed) - 1)
        self._stuck = stuck.abs() if device.one_sided else stuck
        self._exponents = normal()
        self.state = torch.where(self._works, torch.zeros(whole), self._stuck)
        self._noise = torch.zeros(whole)
        self._age = DRIFT_START
        self._at_start = self.state.clone()
        """What drift is counted from."""

    @property
    def weights(self) -> Tensor:
        """As the chip computes with them, shape (n, d), in units of half the range."""
        state = self.state + self._noise
        return state[0] - state[1] if self.device.one_sided else state[0]

    def pulse(self, up: Tensor, down: Tensor) -> None:
        """Send whole numbers of pulses, shapes (n, d)."""
        device = self.device
        self.pulses += float(up.sum() + down.sum())
        if device.one_sided:
            counts = torch.stack([up, down])
            state = self._moved(self.state, counts, self._up, self._high, device.slope_up)
            touched = counts > 0
        else:
            # One direction after the other, as an array does it.
            state = self._moved(self.state, up[None], self._up, self._high, device.slope_up)
            state = self._moved(state, down[None], -self._down, self._low, device.slope_down)
            touched = (up + down)[None] > 0
        self._settle(state, touched)
        if device.lifetime:
            self._settle(self.state * (1 - 1 / device.lifetime), torch.zeros_like(touched))
        if device.one_sided:
            self.refresh(ONE_SIDED_RESET)

    def program(self, targets: Tensor) -> None:
        """Write weights by trial and error, (n, d): as near as a step, or as cells can be put."""
        device = self.device
        if device.one_sided:
            goal = torch.stack([targets.clamp_min(0.0), (-targets).clamp_min(0.0)])
        else:
            goal = targets[None]
        moved = (goal - self.state).abs() / self._step.clamp_min(1e-9)
        self.pulses += float(moved.sum()) + PROGRAMMING_PULSES * moved.numel()
        if device.programming_noise:
            top = device.high
            goal = goal + top * programming_sd((goal / top).abs()) * self._normal()
        else:
            goal = goal + self._step * (self._uniform() - 0.5)
        self._settle(goal, torch.ones_like(self._works))

    def refresh(self, from_share: float = 0.0) -> None:
        """Set pairs of devices that only grow back to the same difference, where one is full.

        Args:
            from_share: the from share of its range that a device must have reached.
        """
        if not self.device.one_sided:
            return
        full = (self.state > from_share * self._high).any(0)
        if not bool(full.any()):
            return
        difference = self.state[0] - self.state[1]
        goal = torch.stack([difference.clamp_min(0.0), (-difference).clamp_min(0.0)])
        moved = goal / self._step.clamp_min(1e-9) * full
        self.pulses += float(moved.sum()) + 2 * float(full.sum())
        mask = full.expand_as(self.state)
        self._settle(torch.where(mask, goal, self.state), mask)

    def advance(self, seconds: float) -> None:
        """Let time pass: phase-change cells drift by ``(t / t₀)^−nu`` since they were written."""
        if not self.device.drift:
            return
        before, self._age = self._age, self._age + seconds
        share = (self._at_start.abs() / self._high).clamp_max(1.0)
        fade = torch.exp(-math.log(self._age / before) * drift_exponent(share, self._exponents))
        self.state = torch.where(self._works, self.state * fade, self.state)

    def fail(self, share: float, generator: torch.Generator) -> None:
        """Let a share of the devices that still work get stuck where failed ones are."""
        broken = torch.rand(self.state.shape, generator=generator) < share
        self._works = self._works & ~broken
        self.state = torch.where(self._works, self.state, self._stuck)
        self._noise = torch.where(self._works, self._noise, 0.0)

    def save(self) -> dict[str, Any]:
        """Everything that changes; arrays and numbers."""
        tensors = ("state", "_noise", "_works", "_at_start")
        return {
            **{name: getattr(self, name).numpy() for name in tensors},
            "age": self._age,
            "pulses": self.pulses,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what `save` returned."""
        for name in ("state", "_noise", "_works", "_at_start"):
            setattr(self, name, torch.from_numpy(saved[name]))
        self._age, self.pulses = float(saved["age"]), float(saved["pulses"])

    def _moved(
        self, state: Tensor, count: Tensor, step: Tensor, bound: Tensor, slope: float
    ) -> Tensor:
        """States after so many pulses towards a bound, the mean of the law summed exactly."""
        if slope:
            # w ← w + s (1 − γ w / w_b): what is left to the point of rest w_b / γ shrinks.
            rest = bound / slope
            keep = (1 - step * slope / bound).clamp(0.0, 1.0)
            mean = rest + (state - rest) * keep**count
        else:
            mean = state + step * count
        noise = self.device.cycle * step.abs() * count.sqrt() * self._normal()
        return torch.where(count > 0, mean + noise, state)

    def _settle(self, state: Tensor, touched: Tensor) -> None:
        """Take on states, within bounds and but for what is stuck, with new noise where written."""
        state = torch.minimum(torch.maximum(state, self._low), self._high)
        self.state = torch.where(self._works, state, self._stuck)
        if noise := self.device.write_noise:
            new = noise * self.device.step * self._normal()
            self._noise = torch.where(touched & self._works, new, self._noise)
        if self.device.drift and bool(touched.any()):
            # Written cells drift anew; the clock is one for the array, so from a mean age.
            self._age = DRIFT_START + (self._age - DRIFT_START) * float(1 - touched.float().mean())
            self._at_start = torch.where(touched, self.state, self._at_start)

    def _normal(self) -> Tensor:
        return torch.randn(self.state.shape, generator=self._fresh)

    def _uniform(self) -> Tensor:
        return torch.rand(self.state.shape, generator=self._fresh)


def whole_pulses(wanted: Tensor, generator: torch.Generator) -> Tensor:
    """Whole numbers whose mean is what is wanted: rounded up with the chance of the fraction."""
    return torch.floor(wanted + torch.rand(wanted.shape, generator=generator))


def coincidences(
    errors: Tensor, inputs: Tensor, gain: float, length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pulses that meet at the crossings when rows and columns send random trains of them.

    Every number becomes a train of `length` slots, each with a pulse by a chance in proportion to
    the number (Gokmen & Vlasov, Front. Neurosci. 2016): the mean number of coincidences is
    ``gain · |e x|`` as long as no chance reaches 1.

    Args:
        errors: (rows, n); a weight is to move against their product with the inputs.
        inputs: (rows, d).
        gain: pulses for a product of 1.
        length: slots of a train.
        generator: the generator of the trains.

    Returns:
        Pulses up and down, (n, d), of all rows together.
    """
    e_top, x_top = errors.abs().amax(1, True), inputs.abs().amax(1, True)
    amplitude = (gain / length) ** 0.5
    # Rows and columns share the gain so that their largest chances are alike.
    balance = (x_top / e_top.clamp_min(1e-12)).sqrt()
    chance_e = (amplitude * balance * errors).clamp(-1.0, 1.0)
    chance_x = (amplitude / balance.clamp_min(1e-12) * inputs).clamp(-1.0, 1.0)

    def trains(chance: Tensor) -> tuple[Tensor, Tensor]:
        drawn = torch.rand((length, *chance.shape), generator=generator)
        fired = (drawn < chance.abs()).to(chance.dtype) * chance.sign()
        flat = fired.flatten(0, 1)
        return flat.clamp_min(0.0), (-flat).clamp_min(0.0)

    (e_up, e_down), (x_up, x_down) = trains(chance_e), trains(chance_x)
    against = e_up.mT @ x_up + e_down.mT @ x_down
    along = e_up.mT @ x_down + e_down.mT @ x_up
    return along, against
