"""Layers that decorrelate their input, and the conversions between plain and decorrelated networks.

A decorrelated layer multiplies its input by a square matrix R before the weights do (Dalm, van
Gerven & Ahmad, arXiv 2310.00965): ``x* = R x``, ``a = W x* + b``. R is a buffer: it is learned by
its own local rule (`LearningRule.decorrelate`) and gets no gradient.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class DecorrelatedConvolution(nn.modules.conv._ConvNd):
    """Convolution whose input patches are decorrelated by R, shared by all positions.

    Takes the arguments of the plain convolution.

    Attributes:
        R: decorrelation matrix of a patch, a buffer of shape (d, d), where d = input channels of a
            group · size of the kernel; with G groups one for each, shape (G, d, d). The identity at
            first.
    """

    R: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        R = torch.eye(self.weight[0].numel(), device=self.weight.device, dtype=self.weight.dtype)
        self.register_buffer("R", R if self.groups == 1 else R.repeat(self.groups, 1, 1))

    def decorrelated_input(self, x: Tensor) -> Tensor:
        """Decorrelated patches, shape (B, positions, G · d), of images (B, channels, ...)."""
        rows = patches(self, x)
        if self.groups == 1:
            return F.linear(rows, self.R)
        parts = rows.view(*rows.shape[:2], self.groups, 1, -1) @ self.R.mT
        return parts.flatten(2)

    def folded_weight(self) -> Tensor:
        """``W R`` in the shape of `weight`: the plain convolution with the same outputs."""
        return times_R(self.weight, self.R)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-activations, shape (B, out_channels, ...)."""
        a: Tensor = self._conv_forward(x, self.folded_weight(), self.bias)
        return a


class DecorrelatedConv1d(DecorrelatedConvolution, nn.Conv1d):
    """A decorrelated `Conv1d`."""


class DecorrelatedConv2d(DecorrelatedConvolution, nn.Conv2d):
    """A decorrelated `Conv2d`."""


class DecorrelatedConv3d(DecorrelatedConvolution, nn.Conv3d):
    """A decorrelated `Conv3d`."""


DecorrelatedLayer = DecorrelatedLinear | DecorrelatedConvolution
DECORRELATED: dict[type[nn.Module], type[DecorrelatedConvolution]] = {
    nn.Conv1d: DecorrelatedConv1d,
    nn.Conv2d: DecorrelatedConv2d,
    nn.Conv3d: DecorrelatedConv3d,
}
"""Convolutions with R, by those without."""
PLAIN = {kind: plain for plain, kind in DECORRELATED.items()}


class BiasHead(nn.Module):
    """Nodes with a bias and no input, such as a Gaussian policy's state-independent log std.

    Args:
        bias: the parameter, of any shape, or the number of nodes n for a new one that starts at 0.
            Passing the parameter lets another module (an SB3 policy, say) own it.
    """

    bias: nn.Parameter

    def __init__(self, bias: nn.Parameter | int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(bias)) if isinstance(bias, int) else bias

    def forward(self, x: Tensor) -> Tensor:
        """The bias once for each sample, shape (B, *shape), for any x of shape (B, ...)."""
        return self.bias.expand(x.shape[0], *self.bias.shape)


class ParameterUse(nn.Module):
    """A bare parameter and the operation that uses it, so that a rule can perturb what comes out.

    Args:
        function: ``torch.add``, ``torch.sub``, ``torch.mul``, ``torch.matmul``,
            ``torch.nn.functional.linear``, or one that you have registered.
        parameter: what it takes beside its input. It may belong to another module, too.

    Example:
        self.position = nn.Parameter(torch.zeros(1, length, width))
        self.add_position = ParameterUse(torch.add, self.position)  # and x = self.add_position(x)
    """

    def __init__(self, function: Callable[..., Tensor], parameter: nn.Parameter) -> None:
        super().__init__()
        self.function = function
        self.parameter = parameter

    def forward(self, x: Tensor) -> Tensor:
        """``function(x, parameter)``; the first axis of x is the batch."""
        return self.function(x, self.parameter)


def padded(layer: nn.modules.conv._ConvNd, x: Tensor) -> Tensor:
    """The inputs of a convolution with its padding around them."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)


def patches(layer: nn.modules.conv._ConvNd, x: Tensor, *, plain: bool = False) -> Tensor:
    """Input patches of a convolution, (B, positions, d), in the order of ``weight.flatten(1)``.

    Args:
        layer: gives kernel, dilation, stride and padding.
        x: shape (B, channels, ...).
        plain: whether to do without stride and padding.
    """
    size, dilation = layer.kernel_size, layer.dilation
    stride = (1,) * len(size) if plain else layer.stride
    x = x if plain else padded(layer, x)
    if len(size) == 2:
        return F.unfold(x, size, dilation, 0, stride).mT
    axes = len(size)
    return _views(layer, x, stride).movedim(1, 1 + axes).flatten(1 + axes).flatten(1, axes)


def some_patches(layer: nn.modules.conv._ConvNd, x: Tensor, most: int) -> Tensor:
    """Input patches of a convolution, (rows, d), evenly from all samples and positions.

    Args:
        layer: gives kernel, dilation, stride and padding.
        x: shape (B, channels, ...).
        most: rows; if there are no more, it is all of them.
    """
    views = _views(layer, padded(layer, x), layer.stride)
    axes = len(layer.kernel_size)
    views = views.movedim(1, 1 + axes)  # (B, *positions, channels, *kernel)
    places = views.shape[: 1 + axes]
    positions = places[1:].numel()
    step = -(-places.numel() // most)
    while math.gcd(step, positions) > 1:  # not always the same positions
        step += 1
    index = torch.arange(0, places.numel(), step, device=x.device)
    return views[torch.unravel_index(index, places)].flatten(1)


def _views(layer: nn.modules.conv._ConvNd, x: Tensor, stride: Sequence[int]) -> Tensor:
    """Patches without a copy, (B, channels, *positions, *kernel)."""
    sides = zip(layer.kernel_size, layer.dilation, stride, strict=True)
    for axis, (kernel, apart, step) in enumerate(sides):
        x = x.unfold(2 + axis, apart * (kernel - 1) + 1, step)[..., ::apart]
    return x


def times_R(weight: Tensor, R: Tensor) -> Tensor:
    """``W R`` in the shape of W, with one R, (d, d), or one for each group of rows, (G, d, d)."""
    return (weight.reshape(*R.shape[:-2], -1, R.shape[-1]) @ R).view_as(weight)


def decorrelate(network: Module) -> Module:
    """Swap every `Linear` and convolution of a network, in place, for its decorrelated version.

    Other layers stay plain: embeddings, gains and biases have no inputs to decorrelate, and what
    has several maps in one module (recurrent layers, attention) or overlapping outputs (transposed
    convolutions) has no R.

    The parameters stay the same objects, so an optimiser made before keeps working, and R starts
    as the identity, so the outputs do not change. Layers that are decorrelated already stay.

    Args:
        network: any module.

    Returns:
        The same network; only if `network` itself is a single layer, the layer that replaces it.
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
        state: the state of a network of the same layers, plain or decorrelated.

    Returns:
        The state with R multiplied into the weights of plain layers; where it has no R at all, with
        the identity as R of decorrelated layers. One that lacks some is left as it is, to be
        refused where it is loaded.
    """
    fitted = dict(state)
    plain = not any(name.rpartition(".")[2] == "R" for name in state)
    modules = dict(network.named_modules(remove_duplicate=False))  # a state dict has all names
    for name, R in state.items():
        layer, _, key = name.rpartition(".")
        if key == "R" and not is_decorrelated_layer(modules.get(layer)):
            weight = fitted[f"{layer}.weight"]
            fitted[f"{layer}.weight"] = times_R(weight, R)
            del fitted[name]
    for layer, module in modules.items():
        if plain and is_decorrelated_layer(module) and f"{layer}.weight" in fitted:
            fitted.setdefault(f"{layer}.R", _identities(module.R))
    return fitted


def folded_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of the plain network that computes the same; what `fold` makes, without it."""
    return fit_state(nn.Module(), network.state_dict())


def is_decorrelated_layer(module: nn.Module | None) -> TypeGuard[DecorrelatedLayer]:
    """Whether a module is a layer with an R."""
    return isinstance(module, DecorrelatedLinear | DecorrelatedConvolution)


def _swap(module: nn.Module, convert: Callable[[nn.Module], nn.Module]) -> nn.Module:
    replacement = convert(module)
    if replacement is not module:
        return replacement
    for name, child in module.named_children():
        setattr(module, name, _swap(child, convert))
    return module


def _decorrelated(layer: nn.Module) -> nn.Module:
    # By exact type: a subclass may compute something else, and attention reads its own weights.
    new: DecorrelatedLinear | DecorrelatedConvolution
    if type(layer) is nn.Linear:
        new = DecorrelatedLinear(layer.in_features, layer.out_features, False, "meta")
    elif type(layer) in DECORRELATED:
        layer = cast("nn.Conv2d", layer)
        new = DECORRELATED[type(layer)](*_conv_arguments(layer))
    else:
        return layer
    new.R = _identities(new.R).to(layer.weight)
    return _adopt(new, layer.weight, layer.bias, layer.training)


def _folded(layer: nn.Module) -> nn.Module:
    new: nn.Module
    if isinstance(layer, DecorrelatedLinear):
        new = nn.Linear(layer.in_features, layer.out_features, False, "meta")
    elif isinstance(layer, DecorrelatedConvolution):
        new = PLAIN[type(layer)](*_conv_arguments(layer))
    else:
        return layer
    weight = nn.Parameter(layer.folded_weight().detach(), layer.weight.requires_grad)
    return _adopt(new, weight, layer.bias, layer.training)


def _identities(like: Tensor) -> Tensor:
    """The identity in the shape of R, (d, d) or (G, d, d)."""
    return torch.eye(like.shape[-1]).expand(like.shape).clone()


def _conv_arguments(layer: nn.modules.conv._ConvNd) -> tuple[Any, ...]:
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
