"""Activations that chips have and backpropagation cannot use: jumps, steps and saturation.

Their derivative is zero wherever it exists, so a gradient never gets past them. Rules that only
look at what a perturbation does need no derivative. For backpropagation, `StraightThrough` puts a
surrogate in its place, the bound that rules without derivatives are compared with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ArchitectureError


class Sign(nn.Module):
    """Two-valued units: −1 below 0, +1 from 0 on."""

    def forward(self, x: Tensor) -> Tensor:
        """Signs, of the shape of x."""
        # torch.sign(0) is 0, which is neither of a unit's two values.
        return torch.sign(torch.sign(x) + 0.5)


class Heaviside(nn.Module):
    """Two-valued units: 0 below 0, 1 from 0 on."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros and ones, of the shape of x."""
        return 0.5 * torch.sign(torch.sign(x) + 0.5) + 0.5


class Quantised(nn.Module):
    """Saturating units with 2^bits evenly spaced values from −1 to 1.

    Args:
        bits: number of bits, 1 to 16; one bit makes signs.

    Raises:
        ArchitectureError: `bits` is out of range.
    """

    def __init__(self, bits: int = 3) -> None:
        super().__init__()
        if int(bits) != bits or not 1 <= bits <= 16:
            raise ArchitectureError(f"bits must be an integer from 1 to 16, got {bits!r}")
        self.bits = int(bits)

    def forward(self, x: Tensor) -> Tensor:
        """The nearest of the values, of the shape of x."""
        intervals: int = 2**self.bits - 1
        # Halves up, so that with one bit the threshold is where `Sign` has it.
        level = torch.floor((x.clamp(-1.0, 1.0) + 1.0) / 2 * intervals + 0.5)
        return level * 2 / intervals - 1.0

    def extra_repr(self) -> str:
        """What is printed between the brackets."""
        return f"bits={self.bits}"


class StraightThrough(nn.Module):
    """An activation whose derivative, for backpropagation, is that of a straight line.

    Forward it is the activation; backward it is x cut off at −1 and 1 (Bengio, Léonard & Courville
    2013, arXiv 1308.3432).

    Args:
        activation: a module from shape to the same shape.
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """The activation's values, of the shape of x."""
        value: Tensor = self.activation(x)
        if not torch.is_grad_enabled():
            return value
        line: Tensor = F.hardtanh(x)
        return line + (value - line).detach()
