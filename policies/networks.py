"""Plain and decorrelated multi-layer perceptrons."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torch import nn

from ..errors import ArchitectureError, UnknownNameError
from .activations import Heaviside, Quantised, Sign
from .layers import DecorrelatedLinear

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}
"""Modules of `nprobot.catalogue.Activation`; the leaky ReLU has the slope of the authors' code."""

CHIP_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "saturating": nn.Hardtanh,
    "sign": Sign,
    "step": Heaviside,
    "quantised": Quantised,
}
"""Activations of chips, which `mlp` knows by name too; policy files do not hold them."""


def mlp(
    sizes: Sequence[int],
    activation: str | Callable[[], nn.Module] = "tanh",
    decorrelated: bool = False,
    output_activation: str | Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """A multi-layer perceptron, ``Linear, activation, Linear, …, Linear``.

    Args:
        sizes: units of every layer, input and output included: ``[21, 64, 64, 7]``.
        activation: a name from `ACTIVATIONS` or `CHIP_ACTIVATIONS`, or a module class, between
            the layers.
        decorrelated: make every layer a `DecorrelatedLinear`; pass ``rule.decorrelated``.
        output_activation: the same after the last layer; none by default.

    Returns:
        The network, inputs (B, sizes[0]) to outputs (B, sizes[-1]), initialised as PyTorch does.

    Raises:
        ArchitectureError: fewer than two sizes, or a size below 1.
        UnknownNameError: there is no such activation.
    """
    if len(sizes) < 2 or any(int(size) != size or size < 1 for size in sizes):
        raise ArchitectureError(
            "sizes must hold at least an input and an output size, all positive integers, "
            f"got {list(sizes)}"
        )
    layer = DecorrelatedLinear if decorrelated else nn.Linear
    modules: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        if i:
            modules.append(_activation(activation))
        modules.append(layer(fan_in, fan_out))
    if output_activation is not None:
        modules.append(_activation(output_activation))
    return nn.Sequential(*modules)


def _activation(activation: str | Callable[[], nn.Module]) -> nn.Module:
    if callable(activation):
        return activation()
    known = ACTIVATIONS | CHIP_ACTIVATIONS
    if activation not in known:
        raise UnknownNameError("activation", activation, known, f"Known: {', '.join(known)}.")
    return known[activation]()
