"""Nodes of bare parameters, whose use a `ParameterUse` declares."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from nprobot.policies.layers import ParameterUse

from .gain_nodes import GainNodes
from .linear_nodes import LinearNodes
from .node_layer import KINDS, NodeLayer, Run, add_gradient, learnt


class SummandNodes(NodeLayer):
    """Nodes of a parameter that is added: one for each of its numbers, in every sample."""

    takes_inputs = False
    module: ParameterUse

    @override
    def forward(self, run: Run, x: Tensor) -> Any:
        return self.module.function(x, run(self, x))

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        shape = self.module.parameter.shape
        shape = torch.Size((*(1,) * (x.dim() - len(shape)), *shape))
        if len(shape) != x.dim() or shape[0] != 1:
            raise self.refuse(
                f"has a parameter of shape {tuple(self.module.parameter.shape)} for inputs of "
                f"shape {tuple(x.shape)}, whose first axis is the batch's; let its first axis be 1"
            )
        a = self.module.parameter.view(shape).expand(x.shape[0], *shape[1:])
        return a.clone(memory_format=torch.contiguous_format)

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        add_gradient(self.module.parameter, error)

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        own = self.module.parameter
        return learnt((own, error.reshape(-1, *own.shape)))


class FactorNodes(GainNodes):
    """Nodes of a parameter that inputs are multiplied by, number by number."""

    def __init__(self, name: str, module: ParameterUse) -> None:
        NodeLayer.__init__(self, name, module)
        self.gain, self.bias = module.parameter, None

    @override
    def forward(self, run: Run, x: Tensor) -> Any:
        return run(self, torch.broadcast_tensors(x, self.gain)[0])  # type: ignore[no-untyped-call]


class ProductNodes(LinearNodes):
    """Nodes of a matrix that inputs are multiplied by: ``x @ θ``, or ``x @ θᵀ`` of `F.linear`."""

    def __init__(self, name: str, module: ParameterUse) -> None:
        NodeLayer.__init__(self, name, module)
        own = module.parameter
        if own.dim() != 2:
            raise self.refuse(f"has a parameter of shape {tuple(own.shape)} and not of two axes")
        self.own = own
        self.weight = own if module.function is F.linear else own.mT
        self.bias = None  # type: ignore[assignment]

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        error, x = error.flatten(0, -2), x.flatten(0, -2)
        pair = (error.mT, x) if self.weight is self.own else (x.mT, error)
        add_gradient(self.own, *pair)

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        rows = error.shape[0]
        error = error.reshape(rows, -1, error.shape[-1])
        x = x.reshape(rows, -1, x.shape[-1])
        return learnt((self.own, error.mT @ x if self.weight is self.own else x.mT @ error))


USES: dict[Callable[..., Tensor], Callable[[str, Any], NodeLayer]] = {
    **dict.fromkeys((torch.add, torch.sub, operator.add, operator.sub), SummandNodes),
    **dict.fromkeys((torch.mul, operator.mul), FactorNodes),
    **dict.fromkeys((torch.matmul, operator.matmul, F.linear), ProductNodes),
}
"""What makes the nodes of a parameter, by the function that uses it; add yours in one line."""


def _of_use(name: str, module: ParameterUse) -> NodeLayer:
    if module.function in USES:
        return USES[module.function](name, module)
    raise NodeLayer(name, module).refuse(
        f"uses its parameter by {module.function}; known are add, sub, mul, matmul and "
        "F.linear. For another one, register a class in nprobot.learning.nodes.parameter_nodes.USES"
    )


KINDS[ParameterUse] = _of_use
