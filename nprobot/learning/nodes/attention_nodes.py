"""Nodes of attention: the projections. Scores, softmax and weighted means have no weights."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from nprobot.errors import RuleError

from .linear_nodes import LinearNodes
from .node_layer import NodeLayer, Run, add_gradient, check_weight, layer_kind, learnt


class ProjectionNodes(LinearNodes):
    """A linear map whose weight and bias are parts of parameters.

    Args:
        name: the name of the map.
        module: whose parameters they are.
        weight: the parameter.
        bias: the parameter, or None.
        rows: of the weight.
        entries: the entries of the bias.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        weight: Tensor,
        bias: Tensor | None,
        rows: slice,
        entries: slice,
    ) -> None:
        NodeLayer.__init__(self, name, module)
        self.whole = (weight, bias)
        self.rows, self.entries = rows, entries
        self.weight = weight[rows]
        self.bias = bias if bias is None else bias[entries]  # type: ignore[assignment]

    @override
    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.whole if isinstance(p, nn.Parameter)]

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        error = error.flatten(0, -2)
        weight, bias = self.whole
        add_gradient(weight, error.mT, x.flatten(0, -2), self.rows)
        add_gradient(bias, error, part=self.entries)

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        parts = []
        for (whole, where), part in zip(
            ((self.whole[0], self.rows), (self.whole[1], self.entries)),
            (error.mT @ x, error.sum(1)),
            strict=True,
        ):
            if whole is not None:
                full = part.new_zeros(len(part), *whole.shape)
                full[:, where] = part
                parts.append((whole, full))
        return learnt(*parts)


@layer_kind
class AttentionNodes(NodeLayer):
    """Nodes of a `MultiheadAttention`; those of its output projection are another layer."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (nn.MultiheadAttention,)
    module: nn.MultiheadAttention

    def __init__(self, name: str, module: nn.MultiheadAttention) -> None:
        super().__init__(name, module)
        check_weight(name, module, "in_proj_weight", "q_proj_weight", "in_proj_bias")
        if module.bias_k is not None:
            raise self.refuse("adds a key and a value; make it with add_bias_kv=False")
        size, bias = module.embed_dim, module.in_proj_bias
        thirds = [slice(i * size, (i + 1) * size) for i in range(3)]
        names = [f"{name}.{part}" for part in ("query", "key", "value")]
        self.packed: ProjectionNodes | None = None
        if module._qkv_same_embed_dim:
            weight, every = module.in_proj_weight, slice(0, 3 * size)
            self.packed = ProjectionNodes(f"{name}.in_proj", module, weight, bias, every, every)
            weights = [(weight, third) for third in thirds]
        else:
            every = slice(0, size)
            separate = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
            weights = [(weight, every) for weight in separate]
        self.separate = [
            ProjectionNodes(part, module, weight, bias, rows, third)
            for part, (weight, rows), third in zip(names, weights, thirds, strict=True)
        ]

    @override
    def forward(
        self,
        run: Run,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        module = self.module
        if query.dim() != 3:
            raise RuleError(
                f"layer {self.name!r} takes a batch of sequences, a tensor of three axes; got "
                f"shape {tuple(query.shape)}"
            )
        same = query is key and key is value
        fed = [x if module.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        if same and self.packed is not None:
            projected = run(self.packed, fed[0]).chunk(3, -1)
        else:
            projected = tuple(run(part, x) for part, x in zip(self.separate, fed, strict=True))
        q, k, v = (x.view(*x.shape[:2], module.num_heads, -1).transpose(1, 2) for x in projected)
        mask = self._mask(q, k, attn_mask, key_padding_mask)
        if module.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            mask = mask if mask is None else F.pad(mask, (0, 1))
        weights = None
        if need_weights:
            scores = q @ k.mT * q.shape[-1] ** -0.5
            weights = torch.softmax(scores if mask is None else scores + mask, -1)
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask)
        y = module.out_proj(y.transpose(1, 2).flatten(2))
        return y if module.batch_first else y.transpose(0, 1), weights

    def _mask(
        self, q: Tensor, k: Tensor, mask: Tensor | None, padding: Tensor | None
    ) -> Tensor | None:
        """What is added to the scores (B, heads, T, S); None for nothing."""
        total = None
        if mask is not None:
            total = _additive(mask, q)
            if total.dim() == 3:  # one for each sample and head
                total = total.view(q.shape[0], -1, *total.shape[1:])
        if padding is not None:
            own = _additive(padding, q)[:, None, None]
            total = own if total is None else total + own
        return total


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as summands: minus infinity where a boolean one is True."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
