"""What node perturbation needs of a layer, which class knows it of which kind, and what is refused.

A kind of layer is one class with `@layer_kind` before it: here, or in your module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from nprobot.errors import UnsupportedLayerError

KINDS: dict[type[nn.Module], Callable[[str, Any], NodeLayer]] = {}
"""What makes the nodes of which kind of module; `layer_kind` fills it."""

Kind = TypeVar("Kind", bound="type[NodeLayer]")


def layer_kind(kind: Kind) -> Kind:
    """Register a class as the one that knows the nodes of the modules that it `supports`."""
    if kind.pull_back is NodeLayer.pull_back:  # a guess of the errors ends here
        kind.takes_inputs = False
    KINDS.update(dict.fromkeys(kind.supports, kind))
    return kind


Run = Callable[..., Tensor]
"""From a layer and its inputs to its pre-activations, noisy or not."""


class NodeLayer:
    """A layer with nodes, for the length of one learning step.

    Rows of a layer are samples, or samples times what is folded into them behind the sample (frames
    of a sequence, say). A linear map takes rows of d inputs to rows of n nodes; a layer of G maps
    that have nothing in common (groups of a convolution, gains) has an axis (G, ...) before both.

    Args:
        name: the name of the module within the network.
        module: the layer.
    """

    supports: ClassVar[tuple[type[nn.Module], ...]] = ()
    module: Any
    takes_inputs: ClassVar[bool] = True
    """Whether the pre-activations depend on the inputs, so that errors pass through the layer."""
    positionwise: ClassVar[bool] = False
    """Whether it works on the last axes alone, so that the batch may be behind another axis."""

    readable: bool = True
    """Whether its pre-activations can be read, and so the inputs of what comes next."""
    draws: int = 1
    """K, as far as known: how many noisy passes share what is prepared once."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module

    def forward(self, run: Run, *inputs: Any, **options: Any) -> Any:  # noqa: ANN401
        """What the module's `forward` computes, with `run(layer, inputs)` where nodes are.

        A layer with several maps, or with operations around them that have no weights, has its own.

        Args:
            run: what runs a layer.
            inputs: what the module is called with.
            options: likewise.
        """
        return run(self, *inputs, **options)

    def parameters(self) -> list[nn.Parameter]:
        """Those that its node errors make a gradient for."""
        return [p for p in self.module._parameters.values() if p is not None]

    def pre_activation(self, x: Tensor) -> Tensor:
        """``a = W x* + b``, shape (rows, *units)."""
        raise NotImplementedError

    def decorrelated_input(self, x: Tensor) -> Tensor:
        """What the weights multiply, ``x* = R x``, in the form that `accumulate` takes."""
        return x

    def correlated_rows(self, x: Tensor) -> Tensor:
        """What R is learned from, (..., d), of what `decorrelated_input` gave."""
        return x

    def accumulate(self, error: Tensor, x: Tensor) -> None:
        """Add the outer product of node errors (rows, *units) and `x` to the gradients."""
        raise NotImplementedError

    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What `accumulate` adds for each row by itself: parameters, with parts (rows, *shape)."""
        raise NotImplementedError

    def input_rows(self, x: Tensor) -> Tensor:
        """Inputs as they come, before R, as the rows of the map: ([G,] rows, d)."""
        raise NotImplementedError

    def node_rows(self, a: Tensor) -> Tensor:
        """Pre-activations (rows, *units) as the rows that the map makes: ([G,] rows, n)."""
        return a if a.dim() == 2 else a.flatten(0, -2)

    def from_node_rows(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `node_rows`, for pre-activations of a shape (rows, *units)."""
        return rows.reshape(shape)

    def pull_back(self, error: Tensor, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Errors of the inputs from errors of the nodes, by a matrix in place of the weights.

        Args:
            error: shape (rows, *units).
            matrix: from rows of inputs to rows of nodes, shape ([G,] d, n).
            shape: the shape of the inputs, (rows, ...).
        """
        raise NotImplementedError

    def refuse(self, reason: str) -> UnsupportedLayerError:
        """The error for a layer that cannot learn as it is made."""
        kind = type(self.module).__name__
        return UnsupportedLayerError(f"layer {self.name or 'network'!r} ({kind}) {reason}")


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
    unknown: list[tuple[str, nn.Module]] = []
    for name, module in network.named_modules():
        if isinstance(module, UNSTEADY) and (reason := _unsteady(module)):
            raise UnsupportedLayerError(
                f"module {name or 'network'!r} ({type(module).__name__}) {reason}"
            )
        own = module._parameters
        known = frozen and type(module) in KINDS and any(p is not None for p in own.values())
        if not own or not (known or _trainable(own)):
            others.append(module)
            continue
        # By exact type: a subclass may compute something else.
        kind = KINDS.get(type(module))
        if kind is None:
            unknown.append((name, module))
        else:
            layers.append(kind(name, module))
    if unknown:
        _refuse_unknown(unknown, layers)
        others += [module for _, module in unknown]
    return layers, others


UNSTEADY = (
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.RNNBase,
    nn.MultiheadAttention,
)
"""Modules that may draw at random, or mix the samples of a batch."""


def _unsteady(module: nn.Module) -> str | None:
    """Why such a module cannot work as it is; None if it can."""
    drops = getattr(module, "p" if isinstance(module, UNSTEADY[0]) else "dropout", 0.0)
    if module.training and (drops or isinstance(module, nn.RReLU)):
        return (
            "draws at random in each pass, so a noisy pass differs from the clean one by more than "
            "its noise, which tells the nodes nothing; take it out"
            + f" (dropout={drops} here; 0 is none)"
            * bool(drops)
        )
    if isinstance(module, nn.modules.batchnorm._NormBase):
        kept = module.running_mean is not None
        if isinstance(module, nn.modules.instancenorm._InstanceNorm):
            if kept and module.training:
                return "changes its statistics in each pass; use track_running_stats=False"
        elif module.training or not kept:
            return (
                "mixes the samples of a batch, so the noise of one reaches the losses of all; use "
                "GroupNorm or LayerNorm instead, or eval() where its statistics are fixed"
            )
    return None


def _refuse_unknown(unknown: list[tuple[str, nn.Module]], layers: list[NodeLayer]) -> None:
    """Refuse modules of an unknown kind, but for parameters that a layer of a known kind uses."""
    used = {id(p) for layer in layers for p in layer.module.parameters()}
    for name, module in unknown:
        own = {key: p for key, p in module._parameters.items() if p is not None}
        lost = [key for key, p in own.items() if p.requires_grad and id(p) not in used]
        if not lost:
            continue
        if hasattr(module, "parametrizations"):
            check_weight(name, module)
        known = ", ".join(module.__name__ for module in KINDS)
        raise UnsupportedLayerError(
            f"module {name or 'network'!r} ({type(module).__name__}) has parameters "
            f"({', '.join(lost)}) that node perturbation cannot reach; parameters must live in "
            f"{known}. Declare the operation that uses it (as in self.scale = nprobot.policies."
            f"ParameterUse(torch.mul, self.{lost[0]})), write a kind for the module (see "
            "nprobot.learning.layer_kind), replace it, or freeze its parameters "
            "(requires_grad_(False))."
        )


def check_weight(name: str, module: nn.Module, *weights: str) -> None:
    """Refuse a layer whose weight is computed from other parameters, which would not learn."""
    own = module._parameters
    if any(weight not in own for weight in weights or ("weight",)):
        raise UnsupportedLayerError(
            f"layer {name or 'network'!r} computes its weight from {', '.join(own)}, as "
            "spectral_norm, weight_norm and pruning do, and node perturbation moves the weight "
            "itself; remove that (torch.nn.utils.remove_spectral_norm, remove_weight_norm, "
            "parametrize.remove_parametrizations, prune.remove)"
        )


def _trainable(parameters: dict[str, nn.Parameter | None]) -> bool:
    for parameter in parameters.values():  # `any` of a generator takes twice as long
        if parameter is not None and parameter.requires_grad:
            return True
    return False


def add_gradient(
    parameter: Tensor | None, error: Tensor, x: Tensor | None = None, part: slice | None = None
) -> None:
    """Accumulate ``error @ x`` (or, without x, the sum of the rows of `error`) as autograd does.

    Args:
        parameter: what gets it; nothing happens if it is None or frozen.
        error: shape (n, rows), or (rows, n) without x.
        x: shape (rows, d).
        part: rows of the parameter that it is for; None for all.
    """
    if parameter is None or not parameter.requires_grad:
        return
    add_to_gradient(parameter, error.sum(0) if x is None else error @ x, part)


def add_to_gradient(parameter: Tensor | None, gradient: Tensor, part: slice | None = None) -> None:
    """Add to a parameter's `.grad`, or to some rows of it."""
    if parameter is None or not parameter.requires_grad:
        return
    if part is not None:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad[part] += gradient
        return
    if gradient.shape != parameter.shape:
        gradient = gradient.reshape(parameter.shape)
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient


def learnt(*parts: tuple[Tensor | None, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The pairs of `NodeLayer.outer` whose parameter is there and not frozen."""
    return [(p, part) for p, part in parts if p is not None and p.requires_grad]
