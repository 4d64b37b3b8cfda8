"""Nodes of layers with a gain for every feature: normalisation layers, `PReLU`.

What they do beside, normalise or rectify, has no weights, and is part of the wiring.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from .node_layer import NodeLayer, Run, add_to_gradient, check_weight, layer_kind, learnt


class GainNodes(NodeLayer):
    """``a = w ⊙ x + b``: one node for each number that the layer puts out."""

    module: Any

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(name, module)
        check_weight(name, module)
        self.gain: Tensor = module.weight  # type: ignore[assignment]
        self.bias: Tensor | None = getattr(module, "bias", None)

    def spread(self, x: Tensor) -> tuple[int, ...]:
        """The shape in which gains stand before inputs."""
        return tuple(self.gain.shape)

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        shape = self.spread(x)
        if self.bias is None:
            return x * self.gain.view(shape)
        return torch.addcmul(self.bias.view(shape), x, self.gain.view(shape))

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        shape = self.spread(x)
        add_to_gradient(self.gain, (error * x).sum_to_size(shape))
        add_to_gradient(self.bias, error.sum_to_size(shape))

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        shape = self.spread(x)
        rows = (len(x), *(1,) * (error.dim() - 1 - len(shape)), *shape[-(error.dim() - 1) :])
        parts = [part.sum_to_size(rows) for part in (error * x, error)]
        own = ((self.gain, parts[0]), (self.bias, parts[1]))
        return learnt(*((p, g.reshape(-1, *p.shape)) for p, g in own if p is not None))

    @override
    def input_rows(self, x: Tensor) -> Tensor:
        return self.node_rows(x)

    @override
    def node_rows(self, a: Tensor) -> Tensor:
        axes = self._axes(a)
        return a.permute(axes).reshape(self.gain.numel(), -1, 1)

    @override
    def from_node_rows(self, rows: Tensor, shape: torch.Size) -> Tensor:
        axes = self._axes(rows.new_empty(()).expand(shape))
        back = [axes.index(axis) for axis in range(len(axes))]
        return rows.reshape([shape[axis] for axis in axes]).permute(back)

    def _axes(self, x: Tensor) -> list[int]:
        """Axes of the inputs: those over which the gains differ, then the others."""
        shape = self.spread(x)
        shape = (*(1,) * (x.dim() - len(shape)), *shape)
        own = [axis for axis, size in enumerate(shape) if size > 1]
        return own + [axis for axis in range(x.dim()) if axis not in own]

    @override
    def pull_back(self, error: Tensor, matrix: Tensor, shape: torch.Size) -> Tensor:
        return (error * matrix.reshape(self.spread(error))).sum_to_size(shape)


@layer_kind
class NormNodes(GainNodes):
    """Nodes of `LayerNorm` and `RMSNorm`, whose gains are those of the last axes."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (nn.LayerNorm, nn.RMSNorm)
    positionwise = True

    @override
    def forward(self, run: Run, x: Tensor) -> Any:
        module = self.module
        if isinstance(module, nn.RMSNorm):
            return run(self, F.rms_norm(x, module.normalized_shape, None, module.eps))
        return run(self, F.layer_norm(x, module.normalized_shape, None, None, module.eps))


@layer_kind
class ChannelNormNodes(GainNodes):
    """Nodes of `GroupNorm`, `InstanceNorm` and, in evaluation mode, `BatchNorm`."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (
        *(nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    )

    @override
    def spread(self, x: Tensor) -> tuple[int, ...]:
        return (self.gain.numel(), *(1,) * (x.dim() - 2))

    @override
    def forward(self, run: Run, x: Tensor) -> Any:
        m = self.module
        if isinstance(m, nn.GroupNorm):
            return run(self, F.group_norm(x, m.num_groups, None, None, m.eps))
        fixed = (x, m.running_mean, m.running_var, None, None)
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            return run(self, F.batch_norm(*fixed, False, 0.0, m.eps))
        return run(self, F.instance_norm(*fixed, m.running_mean is None, 0.0, m.eps))


@layer_kind
class RectifierNodes(GainNodes):
    """Nodes of a `PReLU`: its slopes times the negative part of the inputs."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (nn.PReLU,)

    @override
    def spread(self, x: Tensor) -> tuple[int, ...]:
        return (self.gain.numel(), *(1,) * max(0, x.dim() - 2))

    @override
    def forward(self, run: Run, x: Tensor) -> Any:
        return F.relu(x) + run(self, x.clamp(max=0.0))
