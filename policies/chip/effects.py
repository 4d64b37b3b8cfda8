"""The running half of the hardware models: what each does to one layer, and what it remembers.

Effects hold noise, generators and the true weights, so no learner may reach one: they live with
the `Crossbar` that is hidden in `nprobot.policies.chip.crossbar`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Multiply = Callable[[Tensor, Tensor], Tensor]
"""From a layer's inputs and weights to its pre-activations, without bias."""


@dataclass(frozen=True)
class Site:
    """Where an effect takes place: one layer of one device.

    Attributes:
        device_seed: decides what is fixed for the device.
        noise_seed: decides what changes from evaluation to evaluation.
    """

    device_seed: int
    noise_seed: int


class Effect:
    """What one model does to one layer.

    Args:
        site: which layer of which device.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._generators: dict[torch.device, torch.Generator] = {}
        self._state: Tensor | None = None

    def weight(self, weight: Tensor, evaluations: int) -> Tensor:
        """What is in the place of a weight.

        Args:
            weight: as written, or as earlier effects left it.
            evaluations: how many the layer has done before.
        """
        return weight

    def nodes(self, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        """What is in the place of pre-activations.

        Args:
            a: shape (rows, *units), rows in the order in which they are computed.
            x: inputs of the weights.
            weight: what is in the weights' place.
            multiply: how the layer multiplies them.
        """
        return a

    def fixed(self, like: Tensor) -> Tensor:
        """Standard normal numbers that are the same whenever they are asked for."""
        # On the CPU: a device does not change when the emulation moves to another processor.
        generator = torch.Generator().manual_seed(self._site.device_seed)
        return torch.randn(like.shape, generator=generator).to(like)

    def fresh(self, like: Tensor) -> Tensor:
        """Standard normal numbers, new at every call."""
        return torch.empty_like(like).normal_(generator=self._generator(like.device))

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1), new at every call."""
        return torch.empty_like(like).uniform_(generator=self._generator(like.device))

    def seeds(self) -> tuple[int, int]:
        """Where all its randomness comes from."""
        return self._site.device_seed, self._site.noise_seed

    def save(self) -> dict[str, Any]:
        """What changes from evaluation to evaluation."""
        generators = {str(device): g.get_state() for device, g in self._generators.items()}
        return {"generators": generators, "state": self._state}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to what `save` returned."""
        self._state = saved["state"]
        for name, state in saved["generators"].items():
            self._generator(torch.device(name)).set_state(state)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            generator = torch.Generator(device).manual_seed(self._site.noise_seed)
            self._generators[device] = generator
        return self._generators[device]


class White(Effect):
    """Additive white noise."""

    def __init__(self, site: Site, std: float) -> None:
        super().__init__(site)
        self._std = std

    def nodes(self, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        """See `Effect`."""
        return torch.add(a, self.fresh(a), alpha=self._std)


class Proportional(White):
    """White noise in proportion to the pre-activation."""

    def nodes(self, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        """See `Effect`."""
        return a + self._std * a * self.fresh(a)


class Read(White):
    """Fresh noise on every weight at every use."""

    def nodes(self, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        """See `Effect`."""
        # A sum of independent normal numbers is one normal number with the sum of the variances.
        return a + self._std * multiply(x.square(), weight.square()).sqrt() * self.fresh(a)


class OrnsteinUhlenbeck(Effect):
    """Noise with a memory, from row to row."""

    CHUNK = 64

    def __init__(self, site: Site, std: float, correlation: float) -> None:
        super().__init__(site)
        self._std = std
        self._decay = math.exp(-1.0 / correlation) if correlation > 0 else 0.0

    def nodes(self, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        """See `Effect`."""
        if self._state is None or self._state.shape != a.shape[1:]:
            self._state = self.fresh(a[:1]).squeeze(0)
        innovation = math.sqrt(1 - self._decay**2) * self.fresh(a)
        noise = torch.cat([self._advance(part) for part in torch.split(innovation, self.CHUNK)])
        return torch.add(a, noise, alpha=self._std)

    def _advance(self, innovation: Tensor) -> Tensor:
        """``s_t = ρ s_{t−1} + innovation_t`` for some rows, as one matrix product."""
        assert self._state is not None
        lag = torch.arange(len(innovation)).to(innovation)
        powers = (self._decay ** (lag[:, None] - lag).clamp(min=0.0)).tril()
        state = (powers @ innovation.flatten(1)).view_as(innovation)
        first = (self._decay ** (lag + 1)).view(-1, *[1] * (state.dim() - 1))
        state = state + first * self._state.to(innovation)
        self._state = state[-1]
        return state


class Telegraph(Effect):
    """Noise of two levels, from row to row."""

    def __init__(self, site: Site, amplitude: float, switching: float) -> None:
        super().__init__(site)
        self._amplitude, self._switching = amplitude, switching

    def nodes(self, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        """See `Effect`."""
        if self._state is None or self._state.shape != a.shape[1:]:
            self._state = torch.where(self.uniform(a[0]) < 0.5, -1.0, 1.0)
        jumps = torch.where(self.uniform(a) < self._switching, -1.0, 1.0).to(a)
        level = jumps.cumprod(0) * self._state.to(a)
        self._state = level[-1]
        return torch.add(a, level, alpha=self._amplitude)


class Fixed(Effect):
    """Constant offsets."""

    def __init__(self, site: Site, value: float, spread: float) -> None:
        super().__init__(site)
        self._value, self._spread = value, spread

    def nodes(self, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        """See `Effect`."""
        if self._spread:
            a = a + self._spread * self.fixed(a[0])
        return a + self._value


class Mismatch(Effect):
    """Fixed relative errors of the weights."""

    def __init__(self, site: Site, std: float) -> None:
        super().__init__(site)
        self._std = std
        self._gain: Tensor | None = None

    def weight(self, weight: Tensor, evaluations: int) -> Tensor:
        """See `Effect`."""
        if self._gain is None or self._gain.device != weight.device:
            self._gain = (1 + self._std * self.fixed(weight)).clamp_min_(0.0)
        return weight * self._gain.to(weight)


class Drift(Effect):
    """Weights that fade."""

    def __init__(self, site: Site, exponent: float, spread: float, onset: float) -> None:
        super().__init__(site)
        self._exponent, self._spread, self._onset = exponent, spread, onset
        self._exponents: Tensor | None = None

    def weight(self, weight: Tensor, evaluations: int) -> Tensor:
        """See `Effect`."""
        if self._exponents is None or self._exponents.device != weight.device:
            exponents = self._exponent + self._spread * self.fixed(weight)
            self._exponents = exponents.clamp_min_(0.0)
        fade = torch.exp(-math.log1p(evaluations / self._onset) * self._exponents)
        return weight * fade.to(weight)


class Rounding(Effect):
    """A converter of limited range and resolution."""

    def __init__(self, site: Site, bound: float, levels: int) -> None:
        super().__init__(site)
        self._bound = bound
        self._step = 2 * bound / (levels - 1) if levels > 1 else 0.0

    def nodes(self, a: Tensor, x: Tensor, weight: Tensor, multiply: Multiply) -> Tensor:
        """See `Effect`."""
        a = a.clamp(-self._bound, self._bound)
        if not self._step:
            return a
        return torch.round((a + self._bound) / self._step) * self._step - self._bound
