"""Nodes of layers on a noisy chip: the chip computes them, and they come out noisy."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from nprobot.policies.chip.crossbar import (
    ChipBiasHead,
    ChipConv2d,
    ChipDecorrelatedConv2d,
    ChipDecorrelatedLinear,
    ChipLayer,
    ChipLinear,
)

from .convolution_nodes import ConvolutionNodes
from .head_nodes import BiasNodes
from .linear_nodes import LinearNodes
from .node_layer import NodeLayer, layer_kind


class ChipNodes(NodeLayer):
    """Nodes of any layer on a noisy chip."""

    def __init__(self, name: str, module: nn.Module) -> None:
        NodeLayer.__init__(self, name, module)
        self.readable = cast("ChipLayer", module).readable

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        # Of the class, as the instance's own may be stood in for.
        a: Tensor = type(self.module).forward(self.module, x)
        return a

    @override
    def decorrelated_input(self, x: Tensor) -> Tensor:
        return cast("ChipLayer", self.module).crossbar_input(x)


@layer_kind
class ChipLinearNodes(ChipNodes, LinearNodes):
    """Nodes of a linear layer on a noisy chip."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (ChipLinear, ChipDecorrelatedLinear)
    module: ChipLinear


@layer_kind
class ChipConvolutionNodes(ChipNodes, ConvolutionNodes):
    """Nodes of a convolution on a noisy chip."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (ChipConv2d, ChipDecorrelatedConv2d)
    module: ChipConv2d
    by_patches = True


@layer_kind
class ChipBiasNodes(ChipNodes, BiasNodes):
    """Nodes of a bias head on a noisy chip."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (ChipBiasHead,)
    module: ChipBiasHead


class JumpNodes(NodeLayer):
    """Nodes of a layer whose inputs cannot be read, as a map from what can be read before it.

    Only its bias learns.

    Args:
        layer: the layer.
    """

    def __init__(self, layer: NodeLayer) -> None:
        super().__init__(layer.name, layer.module)
        self.layer = layer

    @override
    def parameters(self) -> list[nn.Parameter]:
        return self.layer.parameters()

    @override
    def correlated_rows(self, x: Tensor) -> Tensor:
        return self.layer.correlated_rows(x)

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        self.layer.accumulate(error, x)

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        return self.layer.outer(error, x)

    @override
    def input_rows(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    @override
    def node_rows(self, a: Tensor) -> Tensor:
        return a.flatten(1)

    @override
    def pull_back(self, error: Tensor, matrix: Tensor, shape: torch.Size) -> Tensor:
        return (error.flatten(1) @ matrix.mT).view(shape)
