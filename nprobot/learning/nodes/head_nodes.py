"""Nodes of the heads of policies that are not linear in what they are fed."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from nprobot.policies.gsde import StateDependentStd
from nprobot.policies.layers import BiasHead

from .node_layer import NodeLayer, add_gradient, add_to_gradient, layer_kind, learnt


@layer_kind
class BiasNodes(NodeLayer):
    """Nodes of a `BiasHead`."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (BiasHead,)
    takes_inputs = False
    module: BiasHead

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        # A copy, as noise is added in place; `repeat` takes ten times as long.
        bias = self.module.bias
        return bias.expand(x.shape[0], *bias.shape).clone(memory_format=torch.contiguous_format)

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        add_gradient(self.module.bias, error)

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        return learnt((self.module.bias, error))


@layer_kind
class StateDependentStdNodes(NodeLayer):
    """Nodes of a `StateDependentStd`: the log standard deviation of every action."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (StateDependentStd,)
    module: StateDependentStd

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, module)
        self.clean: Tensor | None = None

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        forward = partial(StateDependentStd.forward, self.module)  # the instance's is stood in for
        if self.module.learn_features:
            return forward(x)
        # What noise does to the features must not be judged by the spread: that is held.
        if self.clean is None:
            self.clean = forward(x)
            return self.clean
        return self.clean.repeat(x.shape[0] // self.clean.shape[0], 1)

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        if (parameter := self.module.log_std).requires_grad:
            add_to_gradient(parameter, self.module.gradient(error, x))
