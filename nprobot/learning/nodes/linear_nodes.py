"""Nodes of linear layers."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from typing_extensions import override

from nprobot.policies.layers import DecorrelatedLinear

from .node_layer import NodeLayer, add_gradient, check_weight, layer_kind, learnt


@layer_kind
class LinearNodes(NodeLayer):
    """Nodes of a `Linear` or `DecorrelatedLinear` layer."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.Linear,
        DecorrelatedLinear,
        NonDynamicallyQuantizableLinear,
    )
    positionwise = True
    module: nn.Linear

    def __init__(self, name: str, module: nn.Linear) -> None:
        super().__init__(name, module)
        check_weight(name, module)
        # Folded once a step, so that clean and noisy passes cost what a plain layer does, and so
        # that both round alike: their difference is what the rules measure.
        self.weight = (
            module.folded_weight() if isinstance(module, DecorrelatedLinear) else module.weight
        )
        self.bias = module.bias

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    @override
    def decorrelated_input(self, x: Tensor) -> Tensor:
        module = self.module
        return module.decorrelated_input(x) if isinstance(module, DecorrelatedLinear) else x

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        if error.dim() > 2:
            error, x = error.flatten(0, -2), x.flatten(0, -2)
        add_gradient(self.module.weight, error.mT, x)
        add_gradient(self.module.bias, error)

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        rows, n, d = error.shape[0], error.shape[-1], x.shape[-1]
        error, x = error.reshape(rows, -1, n), x.reshape(rows, -1, d)
        return learnt((self.module.weight, error.mT @ x), (self.module.bias, error.sum(1)))

    @override
    def input_rows(self, x: Tensor) -> Tensor:
        return x if x.dim() == 2 else x.flatten(0, -2)

    @override
    def pull_back(self, error: Tensor, matrix: Tensor, shape: torch.Size) -> Tensor:
        return error @ matrix.mT
