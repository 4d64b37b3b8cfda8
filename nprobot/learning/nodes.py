"""What node perturbation needs of each kind of layer: pre-activation, input, weight gradient.

A new kind of layer is one class with `@layer_kind` before it, here or in a module of its own.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, ClassVar, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from nprobot.errors import UnsupportedLayerError
from nprobot.policies.chip.crossbar import (
    ChipBiasHead,
    ChipConv2d,
    ChipDecorrelatedConv2d,
    ChipDecorrelatedLinear,
    ChipLayer,
    ChipLinear,
)
from nprobot.policies.gsde import StateDependentStd
from nprobot.policies.layers import (
    BiasHead,
    DecorrelatedConv2d,
    DecorrelatedLinear,
    patches,
)

KINDS: dict[type[nn.Module], type[NodeLayer]] = {}
"""Which class knows the nodes of which module; `layer_kind` fills it."""

Kind = TypeVar("Kind", bound="type[NodeLayer]")


def layer_kind(kind: Kind) -> Kind:
    """Register a class as the one that knows the nodes of the modules that it `supports`."""
    if kind.pull_back is NodeLayer.pull_back:  # a guess of the errors ends here
        kind.takes_inputs = False
    KINDS.update(dict.fromkeys(kind.supports, kind))
    return kind


class NodeLayer:
    """A layer with nodes, for the length of one learning step.

    Args:
        name: of the module within the network.
        module: the layer.
    """

    supports: ClassVar[tuple[type[nn.Module], ...]]
    takes_inputs: ClassVar[bool] = True
    """Whether the pre-activations depend on the inputs, so that errors pass through the layer."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self.readable = getattr(module, "readable", True)

    def pre_activation(self, x: Tensor) -> Tensor:
        """``a = W x* + b``, shape (rows, *units)."""
        raise NotImplementedError

    def decorrelated_input(self, x: Tensor) -> Tensor:
        """What the weights multiply, ``x* = R x``, in the form that `accumulate` takes."""
        raise NotImplementedError

    def accumulate(self, error: Tensor, x: Tensor) -> None:
        """Add the outer product of node errors (B, *units) and `x` to the parameters' `.grad`."""
        raise NotImplementedError

    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What `accumulate` adds for each sample by itself: parameters, with parts (B, *shape)."""
        raise NotImplementedError

    def input_rows(self, x: Tensor) -> Tensor:
        """Inputs as they come, before R, as the rows that one linear map takes: (rows, d)."""
        raise NotImplementedError

    def node_rows(self, a: Tensor) -> Tensor:
        """Pre-activations (B, *units) as the rows that this map makes of them: (rows, n)."""
        return a if a.dim() == 2 else a.flatten(0, -2)

    def pull_back(self, error: Tensor, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Errors of the inputs from errors of the nodes, by a matrix in place of the weights.

        Args:
            error: shape (B, *units).
            matrix: from rows of inputs to rows of nodes, shape (d, n).
            shape: of the inputs, (B, ...).
        """
        raise NotImplementedError


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


@layer_kind
class LinearNodes(NodeLayer):
    """Nodes of a `Linear` or `DecorrelatedLinear` layer."""

    supports = (nn.Linear, DecorrelatedLinear)
    module: nn.Linear

    def __init__(self, name: str, module: nn.Linear) -> None:
        super().__init__(name, module)
        _check_weight(name, module)
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
        return _outer(self.module, error.reshape(rows, -1, n), x.reshape(rows, -1, d))

    @override
    def input_rows(self, x: Tensor) -> Tensor:
        return x if x.dim() == 2 else x.flatten(0, -2)

    @override
    def node_rows(self, a: Tensor) -> Tensor:
        return a if a.dim() == 2 else a.flatten(0, -2)

    @override
    def pull_back(self, error: Tensor, matrix: Tensor, shape: torch.Size) -> Tensor:
        return error @ matrix.mT


@layer_kind
class ConvolutionNodes(NodeLayer):
    """Nodes of a `Conv2d` or `DecorrelatedConv2d` layer: one for each channel and position."""

    supports = (nn.Conv2d, DecorrelatedConv2d)
    module: nn.Conv2d

    def __init__(self, name: str, module: nn.Conv2d) -> None:
        super().__init__(name, module)
        _check_weight(name, module)
        if module.groups != 1:
            raise UnsupportedLayerError(
                f"convolution {name!r} has groups={module.groups}; only groups=1 can be perturbed"
            )
        self.weight = (
            module.folded_weight() if isinstance(module, DecorrelatedConv2d) else module.weight
        )

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        a: Tensor = self.module._conv_forward(x, self.weight, self.module.bias)
        return a

    @override
    def decorrelated_input(self, x: Tensor) -> Tensor:
        module = self.module
        if isinstance(module, DecorrelatedConv2d):
            return module.decorrelated_input(x)
        return patches(module, x)

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        # Positions are samples that share the weights: (B, channels, positions) to rows of nodes.
        error = error.flatten(2).mT.flatten(0, 1)
        add_gradient(self.module.weight, error.mT, x.flatten(0, 1))
        add_gradient(self.module.bias, error)

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        return _outer(self.module, error.flatten(2).mT, x)

    @override
    def input_rows(self, x: Tensor) -> Tensor:
        return patches(self.module, x).flatten(0, 1)

    @override
    def node_rows(self, a: Tensor) -> Tensor:
        return a.flatten(2).mT.flatten(0, 1)

    @override
    def pull_back(self, error: Tensor, matrix: Tensor, shape: torch.Size) -> Tensor:
        module = self.module
        kernel = matrix.mT.reshape(-1, module.in_channels, *module.kernel_size)
        padded = F.conv_transpose2d(error, kernel, stride=module.stride, dilation=module.dilation)
        # Without the padding, and with rows and columns at the end that no patch has reached. What
        # other than zeros was padded with gets no error: a guess that is a little off at the edge.
        left, _, top, _ = module._reversed_padding_repeated_twice
        height, width = shape[2:]
        right, bottom = left + width - padded.shape[3], top + height - padded.shape[2]
        return F.pad(padded, (-left, right, -top, bottom))


@layer_kind
class BiasNodes(NodeLayer):
    """Nodes of a `BiasHead`."""

    supports = (BiasHead,)
    takes_inputs = False
    module: BiasHead

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        # A copy, as noise is added in place; `repeat` takes ten times as long.
        return self.module.bias.expand(x.shape[0], -1).clone(memory_format=torch.contiguous_format)

    @override
    def decorrelated_input(self, x: Tensor) -> Tensor:
        return x

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        add_gradient(self.module.bias, error)

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(self.module.bias, error)] if self.module.bias.requires_grad else []


@layer_kind
class StateDependentStdNodes(NodeLayer):
    """Nodes of a `StateDependentStd`: the log standard deviation of every action."""

    supports = (StateDependentStd,)
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
    def decorrelated_input(self, x: Tensor) -> Tensor:
        return x

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        if (parameter := self.module.log_std).requires_grad:
            gradient = self.module.gradient(error, x)
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


class ChipNodes(NodeLayer):
    """Nodes of a layer on a noisy chip: the chip computes them, and they come out noisy."""

    def __init__(self, name: str, module: nn.Module) -> None:
        NodeLayer.__init__(self, name, module)

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

    supports = (ChipLinear, ChipDecorrelatedLinear)
    module: ChipLinear


@layer_kind
class ChipConvolutionNodes(ChipNodes, ConvolutionNodes):
    """Nodes of a convolution on a noisy chip."""

    supports = (ChipConv2d, ChipDecorrelatedConv2d)
    module: ChipConv2d


@layer_kind
class ChipBiasNodes(ChipNodes, BiasNodes):
    """Nodes of a bias head on a noisy chip."""

    supports = (ChipBiasHead,)
    module: ChipBiasHead


def node_layers(
    network: nn.Module, *, frozen: bool = False
) -> tuple[list[NodeLayer], list[nn.Module]]:
    """The layers of a network that have nodes to perturb, and its other modules.

    The former are those with a trainable parameter. Both in one go, as walking through a network
    takes as long as a layer's matrix product.

    Args:
        network: any module.
        frozen: whether layers of a known kind without a trainable parameter are among the former,
            too.

    Raises:
        UnsupportedLayerError: a trainable parameter lives in another kind of module, or a module
            makes the samples of a batch, or two passes over it, differ from what one pass tells.
    """
    layers: list[NodeLayer] = []
    others: list[nn.Module] = []
    for name, module in network.named_modules():
        own = cast("dict[str, Tensor | None]", module._parameters)
        if module.training and (reason := _unfit(module.__class__)) and getattr(module, "p", 1.0):
            raise UnsupportedLayerError(
                f"module {name or 'network'!r} ({type(module).__name__}) {reason}"
            )
        if not own or not (_trainable(own) or (frozen and type(module) in KINDS)):
            others.append(module)
            continue
        # By exact type: a subclass may compute something else.
        kind = KINDS.get(type(module))
        if kind is None:
            if hasattr(module, "parametrizations"):
                _check_weight(name, module)
            known = ", ".join(module.__name__ for module in KINDS)
            raise UnsupportedLayerError(
                f"module {name or 'network'!r} ({type(module).__name__}) has parameters "
                f"({', '.join(own)}) that node perturbation cannot reach; parameters must live in "
                f"{known}. Replace the module, or freeze its parameters (requires_grad_(False))."
            )
        layers.append(kind(name, module))
    return layers, others


@cache
def _unfit(kind: Any) -> str | None:  # noqa: ANN401 - a class
    """Why a weightless module cannot work in training mode; None if it can."""
    if issubclass(kind, nn.modules.dropout._DropoutNd | nn.RReLU):
        return (
            "draws at random in each pass, so a noisy pass differs from the clean one by more than "
            "its noise, which tells the nodes nothing; take it out"
        )
    if issubclass(kind, nn.modules.batchnorm._BatchNorm):
        return (
            "mixes the samples of a batch, so the noise of one reaches the losses of all; use "
            "LayerNorm(elementwise_affine=False) instead, or eval() where its statistics are fixed"
        )
    return None


def _check_weight(name: str, module: nn.Module) -> None:
    """Refuse a layer whose weight is computed from other parameters, which would not learn."""
    own = module._parameters
    if "weight" not in own:
        raise UnsupportedLayerError(
            f"layer {name or 'network'!r} computes its weight from {', '.join(own)}, as "
            "spectral_norm, weight_norm and pruning do, and node perturbation moves the weight "
            "itself; remove that (torch.nn.utils.remove_spectral_norm, remove_weight_norm, "
            "parametrize.remove_parametrizations, prune.remove)"
        )


def _trainable(parameters: dict[str, Tensor | None]) -> bool:
    for parameter in parameters.values():  # `any` of a generator takes twice as long
        if parameter is not None and parameter.requires_grad:
            return True
    return False


def add_gradient(parameter: Tensor | None, error: Tensor, x: Tensor | None = None) -> None:
    """Accumulate ``error @ x`` (or, without x, the sum of the rows of `error`) as autograd does."""
    if parameter is None or not parameter.requires_grad:
        return
    gradient = error.sum(0) if x is None else error @ x
    if gradient.shape != parameter.shape:
        gradient = gradient.view_as(parameter)
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient


def _outer(module: nn.Linear | nn.Conv2d, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For error (B, positions, n) and x (B, positions, d)."""
    parts = []
    if module.weight.requires_grad:
        parts.append((module.weight, (error.mT @ x).view(-1, *module.weight.shape)))
    if module.bias is not None and module.bias.requires_grad:
        parts.append((module.bias, error.sum(1)))
    return parts
