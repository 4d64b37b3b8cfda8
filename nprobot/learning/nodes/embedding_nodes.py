"""Nodes of embeddings."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from .node_layer import NodeLayer, add_to_gradient, check_weight, layer_kind, learnt


@layer_kind
class EmbeddingNodes(NodeLayer):
    """Nodes of an `Embedding`: one for each number that a look-up gives.

    Indices that are the same for all samples, such as ``torch.arange(length)``, are looked up once
    for each sample, as the samples' noise is not the same.
    """

    supports: ClassVar[tuple[type[nn.Module], ...]] = (nn.Embedding,)
    takes_inputs = False
    positionwise = True
    module: nn.Embedding

    def __init__(self, name: str, module: nn.Embedding) -> None:
        super().__init__(name, module)
        check_weight(name, module)
        for option in ("sparse", "scale_grad_by_freq"):
            if getattr(module, option):
                raise self.refuse(
                    f"has {option}=True, and its gradient here is dense and plain; make it with "
                    f"{option}=False"
                )
        if module.max_norm is not None:
            raise self.refuse(
                "changes its weights in each pass (max_norm); make it with max_norm=None"
            )

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.module.weight)

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        weight = self.module.weight
        if weight.requires_grad:
            rows = error.reshape(-1, weight.shape[1])
            gradient = weight.new_zeros(weight.shape).index_add_(0, x.reshape(-1), rows)
            add_to_gradient(weight, self._without_padding(gradient))

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        weight, rows = self.module.weight, len(x)
        parts = error.new_zeros(rows, *weight.shape)
        error = error.reshape(rows, -1, weight.shape[1])
        index = x.reshape(rows, -1, 1).expand_as(error)
        return learnt((weight, self._without_padding(parts.scatter_add_(1, index, error))))

    def _without_padding(self, gradient: Tensor) -> Tensor:
        if self.module.padding_idx is not None:
            gradient[..., self.module.padding_idx, :] = 0.0
        return gradient
