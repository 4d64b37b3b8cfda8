"""Nodes of convolutions: one for each channel and position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from nprobot.policies.layers import (
    DecorrelatedConv1d,
    DecorrelatedConv2d,
    DecorrelatedConv3d,
    DecorrelatedConvolution,
    padded,
    patches,
    some_patches,
    times_R,
)

from .node_layer import (
    NodeLayer,
    Run,
    add_gradient,
    add_to_gradient,
    check_weight,
    layer_kind,
    learnt,
)

SOME = 2
"""Patches of a convolution that R sees for each number in a patch, at most."""
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class PatchNodes(NodeLayer):
    """What convolutions and transposed ones share: rows are patches, the same map for all.

    With G groups a patch has G parts of d numbers, and each has its own map.
    """

    module: Any
    R: Tensor | None = None

    @override
    def input_rows(self, x: Tensor) -> Tensor:
        rows = self.patches(x)
        return self._by_group(rows)

    @override
    def node_rows(self, a: Tensor) -> Tensor:
        rows = a.flatten(2).mT
        return self._by_group(rows)

    def _by_group(self, rows: Tensor) -> Tensor:
        groups: int = self.module.groups
        if groups == 1:
            return rows.flatten(0, 1)
        rows = rows.view(*rows.shape[:2], groups, -1)
        return rows.permute(2, 0, 1, 3).flatten(1, 2)

    @override
    def from_node_rows(self, rows: Tensor, shape: torch.Size) -> Tensor:
        by_group = rows.reshape(self.module.groups, shape[0], -1, rows.shape[-1])
        return by_group.permute(1, 0, 3, 2).reshape(shape)

    def patches(self, x: Tensor) -> Tensor:
        """What reaches each position, (rows, positions, G · d)."""
        raise NotImplementedError

    def outer_of_patches(self, error: Tensor, rows: Tensor) -> Tensor:
        """For each row the product of errors and patches, (rows, G, n, d)."""
        groups: int = self.module.groups
        error = error.flatten(2)
        error = error.reshape(len(error), groups, -1, error.shape[2])
        return error @ rows.reshape(*rows.shape[:2], groups, -1).transpose(1, 2)

    def convolution_backward(
        self,
        error: Tensor,
        x: Tensor,
        weight: Tensor,
        mask: list[bool],
        padding: Sequence[int],
        more: Sequence[int],
    ) -> tuple[Tensor | None, ...]:
        """The kernel for the adjoints of a convolution: for inputs, weight, bias as in `mask`.

        Args:
            error: the error of the nodes.
            x: inputs; of which only the shape counts where nothing is wanted of the weight.
            weight: in the module's layout.
            mask: which of the three are wanted.
            padding: the padding of every axis.
            more: output padding of every axis, of a transposed convolution.
        """
        module = self.module
        found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            *(error, x, weight, [module.out_channels], module.stride, padding, module.dilation),
            *(module.transposed, more, module.groups, mask),
        )
        return found

    def add_gradients(
        self, error: Tensor, x: Tensor, padding: Sequence[int], more: Sequence[int]
    ) -> None:
        """Those of weight and bias, by the kernel."""
        module, bias = self.module, self.module.bias
        mask = [False, module.weight.requires_grad, bias is not None and bias.requires_grad]
        _, weight, own = self.convolution_backward(error, x, module.weight, mask, padding, more)
        for parameter, gradient in ((module.weight, weight), (bias, own)):
            if gradient is None:
                continue
            if parameter is module.weight and self.R is not None:
                gradient = times_R(gradient, self.R.mT)  # Σ e (R x)ᵀ = (Σ e xᵀ) Rᵀ
            add_to_gradient(parameter, gradient)


@layer_kind
class ConvolutionNodes(PatchNodes):
    """Nodes of a convolution of one to three dimensions, with or without R."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
        *(DecorrelatedConv1d, DecorrelatedConv2d, DecorrelatedConv3d),
    )
    by_patches = False
    """Whether `decorrelated_input` gives patches (and not what the layer is fed)."""

    def __init__(self, name: str, module: Any) -> None:  # noqa: ANN401
        super().__init__(name, module)
        check_weight(name, module)
        self.weight = module.weight
        if isinstance(module, DecorrelatedConvolution):
            self.weight, self.R = module.folded_weight(), module.R

    @property
    def pads(self) -> bool:
        """Whether the kernel cannot pad by itself."""
        module = self.module
        return module.padding_mode != "zeros" or isinstance(module.padding, str)

    @property
    def none(self) -> tuple[int, ...]:
        """No padding, of every axis."""
        return (0,) * len(self.module.kernel_size)

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        a: Tensor = self.module._conv_forward(x, self.weight, self.module.bias)
        return a

    @override
    def decorrelated_input(self, x: Tensor) -> Tensor:
        return x

    @override
    def correlated_rows(self, x: Tensor) -> Tensor:
        if self.by_patches or self.R is None:
            return x
        # Patches lie over each other: some say of their correlations what all do.
        rows = some_patches(self.module, x, SOME * self.R.shape[-1])
        if self.R.dim() == 2:
            return F.linear(rows, self.R)
        return (rows.view(len(rows), len(self.R), 1, -1) @ self.R.mT).flatten(1)

    @override
    def patches(self, x: Tensor) -> Tensor:
        return patches(self.module, x)

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        module = self.module
        if not self.by_patches:
            padding = self.none if self.pads else module.padding
            self.add_gradients(error, padded(module, x) if self.pads else x, padding, self.none)
            return
        # Positions are samples that share the weights: (B, channels, positions) to rows of nodes.
        rows = error.flatten(2).mT.flatten(0, 1)
        if module.groups == 1:
            add_gradient(module.weight, rows.mT, x.flatten(0, 1))
        else:
            add_to_gradient(module.weight, self.outer_of_patches(error, x).sum(0))
        add_gradient(module.bias, rows)

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        module = self.module
        if not self.by_patches:
            x = self.patches(x) if self.R is None else module.decorrelated_input(x)
        parts = self.outer_of_patches(error, x)
        parts = parts.reshape(len(error), *module.weight.shape)
        return learnt((module.weight, parts), (module.bias, error.flatten(2).sum(2)))

    @override
    def pull_back(self, error: Tensor, matrix: Tensor, shape: torch.Size) -> Tensor:
        module = self.module
        weight = matrix.mT.reshape(module.weight.shape)
        around = module._reversed_padding_repeated_twice if self.pads else ()
        sizes = list(shape)
        for axis in range(len(around) // 2):
            sizes[-1 - axis] += around[2 * axis] + around[2 * axis + 1]
        like = error.new_empty(()).expand(sizes)
        padding = self.none if self.pads else module.padding
        only = [True, False, False]
        x, _, _ = self.convolution_backward(error, like, weight, only, padding, self.none)
        assert x is not None
        # What other than zeros was padded with gets no error: a guess that is a little off at the
        # edge.
        return F.pad(x, [-size for size in around]) if self.pads else x


@layer_kind
class TransposedConvolutionNodes(PatchNodes):
    """Nodes of a transposed convolution of one to three dimensions.

    It is the convolution, with a stride of 1 and its kernel turned round, of inputs with zeros
    between them; that is what its patches are.
    """

    supports: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    )

    def __init__(self, name: str, module: Any) -> None:  # noqa: ANN401
        super().__init__(name, module)
        check_weight(name, module)
        self.output_size: list[int] | None = None

    @override
    def forward(self, run: Run, x: Tensor, output_size: list[int] | None = None) -> Any:
        self.output_size = output_size
        return run(self, x)

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        # Of the class, as the instance's own is stood in for.
        a: Tensor = type(self.module).forward(self.module, x, self.output_size)
        return a

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        self.add_gradients(error, x, self.module.padding, self._more(x.shape))

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        parts = self._kernel(self.outer_of_patches(error, self.patches(x)))
        return learnt((self.module.weight, parts), (self.module.bias, error.flatten(2).sum(2)))

    @override
    def patches(self, x: Tensor) -> Tensor:
        module = self.module
        between = x.new_zeros(
            *x.shape[:2],
            *((size - 1) * step + 1 for size, step in zip(x.shape[2:], module.stride, strict=True)),
        )
        places: list[Any] = [slice(None, None, step) for step in module.stride]
        between[(..., *places)] = x
        around: list[int] = []
        sizes = zip(module.kernel_size, module.dilation, module.padding, strict=True)
        for (kernel, dilation, padding), more in zip(sizes, self._more(x.shape), strict=True):
            reach = dilation * (kernel - 1) - padding
            around = [reach, reach + more, *around]
        return patches(module, F.pad(between, around), plain=True)

    @override
    def pull_back(self, error: Tensor, matrix: Tensor, shape: torch.Size) -> Tensor:
        module = self.module
        weight = self._kernel(matrix.mT.reshape(1, module.groups, -1, matrix.shape[-2])).squeeze(0)
        convolve = CONVOLVE[len(module.kernel_size)]
        sides = (module.stride, module.padding, module.dilation, module.groups)
        x: Tensor = convolve(error, weight, None, *sides)
        return x

    def _kernel(self, maps: Tensor) -> Tensor:
        """Maps of patches, (rows, G, n, d), in the layout of the weight, (rows, in, n, ...)."""
        size: tuple[int, ...] = self.module.kernel_size
        kernel = maps.reshape(*maps.shape[:3], -1, *size).flip(tuple(range(-len(size), 0)))
        return kernel.transpose(2, 3).flatten(1, 2)

    def _more(self, shape: torch.Size) -> list[int]:
        """Output padding of every axis, for inputs of a shape."""
        m = self.module
        if self.output_size is None:
            return list(m.output_padding)
        axes = zip(
            *(self.output_size[-len(m.stride) :], shape[2:]),
            *(m.stride, m.padding, m.dilation, m.kernel_size),
            strict=True,
        )
        return [n - ((i - 1) * s - 2 * p + d * (k - 1) + 1) for n, i, s, p, d, k in axes]
