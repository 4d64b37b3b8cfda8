"""Layers that decorrelate their input, and the conversions between plain and decorrelated networks.

A decorrelated layer multiplies its input by a square matrix R before the weights do (Dalm, van
Gerven & Ahmad, arXiv 2310.00965): ``x* = R x``, ``a = W x* + b``. R is a buffer: it is learned by
its own local rule (`LearningRule.decorrelate`) and gets no gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UnsupportedLayerError

Module = TypeVar("Module", bound=nn.Module)


class DecorrelatedLinear(nn.Linear):
    """Linear layer on a decorrelated input: ``weight @ (R @ x) + bias``.

    Args:
        in_features: size d of the input.
        out_features: number of nodes n.
        bias: whether there is a bias.
        device: where the parameters live.
        dtype: their floating-point type.

    Attributes:
        weight: parameter, shape (n, d).
        bias: parameter, shape (n,), or None.
        R: decorrelation matrix, a buffer of shape (d, d); the identity at first.
    """

    R: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.register_buffer("R", torch.eye(in_features, device=device, dtype=dtype))

    def decorrelated_input(self, x: Tensor) -> Tensor:
        """``x* = R x`` for inputs of shape (..., d)."""
        return F.linear(x, self.R)

    def folded_weight(self) -> Tensor:
        """``W R``, shape (n, d): the weight of the plain layer with the same outputs."""
        return self.weight @ self.R

    def forward(self, x: Tensor) -> Tensor:
        """Pre-activations, shape (..., n), of inputs of shape (..., d)."""
        return F.linear(self.decorrelated_input(x), self.weight, self.bias)


class DecorrelatedConv2d(nn.Conv2d):
    """Convolution whose input patches are decorrelated by one matrix R, shared by all positions.

    Takes the arguments of `torch.nn.Conv2d`, with ``groups=1``.

    Attributes:
        R: decorrelation matrix of a patch, a buffer of shape (d, d), where
            d = in_channels · kernel height · kernel width; the identity at first.
    """

    R: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.groups != 1:
            raise UnsupportedLayerError(
                f"a decorrelated convolution needs groups=1, got groups={self.groups}"
            )
        size = self.weight[0].numel()
        self.register_buffer(
            "R", torch.eye(size, device=self.weight.device, dtype=self.weight.dtype)
        )

    def decorrelated_input(self, x: Tensor) -> Tensor:
        """Decorrelated patches, shape (B, positions, d), of images (B, channels, height, width)."""
        return F.linear(patches(self, x), self.R)

    def folded_weight(self) -> Tensor:
        """``W R`` in the shape of `weight`: the plain convolution with the same outputs."""
        return (self.weight.flatten(1) @ self.R).view_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-activations, shape (B, out_channels, height, width)."""
        a: Tensor = self._conv_forward(x, self.folded_weight(), self.bias)
        return a


DecorrelatedLayer = DecorrelatedLinear | DecorrelatedConv2d


class BiasHead(nn.Module):
    """Nodes with a bias and no input, such as a Gaussian policy's state-independent log std.

    Args:
        bias: the parameter, shape (n,), or the number of nodes n for a new one that starts at 0.
            Passing the parameter lets another module (an SB3 policy, say) own it.
    """

    bias: nn.Parameter

    def __init__(self, bias: nn.Parameter | int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(bias)) if isinstance(bias, int) else bias

    def forward(self, x: Tensor) -> Tensor:
        """The bias once for each sample, shape (B, n), for any x of shape (B, ...)."""
        return self.bias.expand(x.shape[0], -1)


def patches(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Input patches of a convolution, (B, positions, d), in the order of ``weight.flatten(1)``."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    columns = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    return columns.mT


def decorrelate(network: Module) -> Module:
    """Swap every `Linear` (and `Conv2d`) of a network, in place, for its decorrelated version.

    The parameters stay the same objects, so an optimiser made before keeps working, and R starts
    as the identity, so the outputs do not change. Layers that are decorrelated already stay.

    Args:
        network: any module.

    Returns:
        The same network; only if `network` itself is a single layer, the layer that replaces it.

    Raises:
        UnsupportedLayerError: a convolution with groups cannot be decorrelated.
    """
    return cast("Module", _swap(network, _decorrelated))


def fold(network: Module) -> Module:
    """A plain copy of a network, R multiplied into the weights: the same outputs for less work.

    Args:
        network: any module; it is not changed.

    Returns:
        A copy in which every decorrelated layer is a `Linear` or `Conv2d` with weight ``W R``.
    """
    return cast("Module", _swap(copy.deepcopy(network), _folded))


def is_decorrelated(network: nn.Module) -> bool:
    """Whether a network has at least one decorrelated layer."""
    return any(map(is_decorrelated_layer, network.modules()))


def fit_state(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as a network takes it, whether one of the two decorrelates or both do.

    Args:
        network: plain or decorrelated.
        state: of a network of the same layers, plain or decorrelated.

    Returns:
        The state with R multiplied into the weights of plain layers, and with the identity as R of
        decorrelated layers of which it has only the weight.
    """
    fitted = dict(state)
    modules = dict(network.named_modules(remove_duplicate=False))  # a state dict has all names
    for name, R in state.items():
        layer, _, key = name.rpartition(".")
        if key == "R" and not is_decorrelated_layer(modules.get(layer)):
            weight = fitted[f"{layer}.weight"]
            fitted[f"{layer}.weight"] = (weight.flatten(1) @ R).view_as(weight)
            del fitted[name]
    for layer, module in modules.items():
        if is_decorrelated_layer(module) and f"{layer}.weight" in fitted:
            fitted.setdefault(f"{layer}.R", torch.eye(len(module.R)))
    return fitted


def folded_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of the plain network that computes the same; what `fold` makes, without it."""
    return fit_state(nn.Module(), network.state_dict())


def is_decorrelated_layer(module: nn.Module | None) -> TypeGuard[DecorrelatedLayer]:
    """Whether a module is a layer with an R."""
    return isinstance(module, DecorrelatedLinear | DecorrelatedConv2d)


def _swap(module: nn.Module, convert: Callable[[nn.Module], nn.Module]) -> nn.Module:
    replacement = convert(module)
    if replacement is not module:
        return replacement
    for name, child in module.named_children():
        setattr(module, name, _swap(child, convert))
    return module


def _decorrelated(layer: nn.Module) -> nn.Module:
    new: DecorrelatedLinear | DecorrelatedConv2d
    if isinstance(layer, DecorrelatedLinear | DecorrelatedConv2d):
        return layer
    if isinstance(layer, nn.Linear):
        new = DecorrelatedLinear(layer.in_features, layer.out_features, False, "meta")
    elif isinstance(layer, nn.Conv2d):
        new = DecorrelatedConv2d(*_conv_arguments(layer))
    else:
        return layer
    new.R = torch.eye(len(new.R), device=layer.weight.device, dtype=layer.weight.dtype)
    return _adopt(new, layer.weight, layer.bias, layer.training)


def _folded(layer: nn.Module) -> nn.Module:
    new: nn.Module
    if isinstance(layer, DecorrelatedLinear):
        new = nn.Linear(layer.in_features, layer.out_features, False, "meta")
    elif isinstance(layer, DecorrelatedConv2d):
        new = nn.Conv2d(*_conv_arguments(layer))
    else:
        return layer
    weight = nn.Parameter(layer.folded_weight().detach(), layer.weight.requires_grad)
    return _adopt(new, weight, layer.bias, layer.training)


def _conv_arguments(layer: nn.Conv2d) -> tuple[Any, ...]:
    """Arguments of a convolution like `layer`, without values: these are adopted afterwards.

    On the device "meta", so that no random numbers are drawn for weights that nobody will use: a
    conversion must not change the random stream of a running experiment.
    """
    return (
        *(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding),
        *(layer.dilation, layer.groups, False, layer.padding_mode, "meta"),
    )


def _adopt(layer: nn.Module, weight: Tensor, bias: Tensor | None, training: bool) -> nn.Module:
    """Give a new layer existing parameters, as the same objects."""
    layer.register_parameter("weight", cast("nn.Parameter", weight))
    layer.register_parameter("bias", cast("nn.Parameter | None", bias))
    return layer.train(training)
