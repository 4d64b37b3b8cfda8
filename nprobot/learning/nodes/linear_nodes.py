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
    R: Tensor | None = None
    met = True
    """Whether it has been settled where R goes."""
    fed: tuple[Tensor, Tensor] | None = None
    """Inputs that R was applied to last, and what came of them."""

    def __init__(self, name: str, module: nn.Linear) -> None:
        super().__init__(name, module)
        check_weight(name, module)
        self.weight: Tensor = module.weight
        self.bias = module.bias
        self.R = module.R if isinstance(module, DecorrelatedLinear) else None
        self.met = self.R is None

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        if not self.met:
            self._meet(x)
        if self.R is None:
            return F.linear(x, self.weight, self.bias)
        self.fed = x, F.linear(x, self.R)
        return F.linear(self.fed[1], self.weight, self.bias)

    def _meet(self, x: Tensor) -> None:
        """Fold R into the weights, W R, unless the rows of a step are fewer than they have.

        Once a step: clean and noisy passes round alike, as their difference is what rules measure.
        """
        self.met = True
        if (1 + self.draws) * x[..., 0].numel() >= len(self.weight):
            assert isinstance(self.module, DecorrelatedLinear)
            self.weight, self.R = self.module.folded_weight(), None

    @override
    def decorrelated_input(self, x: Tensor) -> Tensor:
        if self.fed is not None and self.fed[0] is x:
            return self.fed[1]
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
