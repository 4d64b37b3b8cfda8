"""The rules' short form: perceptrons in numpy, those of one shape side by side.

The engine (`activity`, `rules`) takes any network and calls a hundred small operations of torch a
step. For some thousand weights those calls take longer than the arithmetic, and a perceptron needs
few of them: no graph, fixed shapes. Here is the same algebra, from the same noise, on arrays that
share memory with torch's parameters:

    a_l = W_l x_{l-1} + b_l              x_l = f(a_l)                     the clean pass
    δa_l = W_l δx_{l-1} + ε_l            δx_l = f(a_l + δa_l) − x_l       a noisy one

The rules in `rules` stay the reference: a test holds every step against theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable
from weakref import ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nprobot.errors import NonFiniteError
from nprobot.policies.activations import Heaviside, Quantised, Sign
from nprobot.policies.layers import BiasHead, DecorrelatedLinear
from nprobot.policies.sb3_networks import chain_of_view

from .activity import Activity, Tree, tensors
from .feedback import MANY_OUTPUTS, UNCORRECTED, LayerwiseFeedback, LinearFit
from .wiring import Wiring

if TYPE_CHECKING:
    from .rule import PerturbationRule

Array = NDArray[Any]
Activation = Callable[[Array, Array], object]
"""From pre-activations to activities, the second argument, which may be the first."""

_ELEMENTWISE = (
    *(nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.ReLU6),
    *(nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish),
    *(Sign, Heaviside, Quantised),
)


class Tally:
    """How much was multiplied.

    Attributes:
        multiply_adds: of the matrix products of arrays in this process so far.
    """

    multiply_adds: ClassVar[int] = 0


def product(x: Array, y: Array, out: Array | None = None) -> Array:
    """The matrix product of (m, k) and (k, n), counted in `Tally`."""
    Tally.multiply_adds += x.size * y.shape[1]
    made: Array = np.dot(x, y, out=out)
    return made


class ArrayLoss(Protocol):
    """A loss of arrays, which knows its slope at the outputs."""

    def __call__(self, outputs: list[Array], *, slopes: bool) -> tuple[Array, list[Array]]:
        """Losses, and their slopes.

        Args:
            outputs: of a network, (1 + P, B, n) each or what spreads to that: row 0 is the clean
                pass, the others are noisy.
            slopes: whether they are wanted.

        Returns:
            Losses (1 + P, B), and for every output dL/dy of the clean pass, (B, n).
        """


@runtime_checkable
class KnownSlopes(Protocol):
    """A loss in torch that knows a shorter way to its slopes than to move every output."""

    def on_arrays(
        self, outputs: list[Array], *, slopes: bool, step: float
    ) -> tuple[Array, list[Array]]:
        """See `ArrayLoss`; `step` is how far to move what has to be moved."""


class ClosureLoss:
    """A loss in torch, as `LearningRule.backward` takes it; slopes by central differences.

    Args:
        loss: from outputs to losses: (B, n) to (B,), and with axes before those, too.
        step: how far an output is moved for its slope.
        single: whether the loss takes the one output itself, and no tuple.
    """

    def __init__(
        self, loss: Callable[[Tree, tuple[int, ...]], Tensor], step: float, *, single: bool
    ) -> None:
        self.loss = loss
        self.step = step
        self.single = single

    def __call__(self, outputs: list[Array], *, slopes: bool) -> tuple[Array, list[Array]]:
        """See `ArrayLoss`."""
        shape = np.broadcast_shapes(*(y.shape[:2] for y in outputs))
        ys = [torch.from_numpy(y).expand(*shape, y.shape[2]) for y in outputs]
        clean = self._losses([y[0] for y in ys])
        if not slopes:
            return np.concatenate([clean[None], self._losses([y[1:] for y in ys])]), []
        sizes = [y.shape[2] for y in ys]
        count, kind = sum(sizes), outputs[0].dtype
        there = self.step * np.eye(count, dtype=kind)
        both = torch.from_numpy(np.concatenate([there, -there])[:, None])
        parts = torch.split(both, sizes, dim=2)
        moved = [torch.cat([y[0] + d, y[1:]]) for y, d in zip(ys, parts, strict=True)]
        losses = self._losses(moved)
        found = ((losses[:count] - losses[count : 2 * count]) / (2 * self.step)).T.astype(kind)
        ends = np.cumsum(sizes)[:-1]
        return np.concatenate([clean[None], losses[2 * count :]]), np.split(found, ends, axis=1)

    def _losses(self, outputs: list[Tensor]) -> Array:
        given = outputs[0] if self.single else tuple(outputs)
        return self.loss(given, tuple(outputs[0].shape[:-1])).numpy()


@dataclass(frozen=True, slots=True)
class Chain:
    """What a perceptron consists of.

    Attributes:
        hidden: layers with an activation function, in order.
        activations: the activations of these.
        heads: the layers above, side by side; their nodes are the outputs.
        single: whether the network returns a tensor, and no tuple.
    """

    hidden: tuple[nn.Linear, ...]
    activations: tuple[nn.Module | None, ...]
    heads: tuple[nn.Module, ...]
    single: bool

    @property
    def shape(self) -> tuple[object, ...]:
        """What networks side by side have in common."""
        layers = [(m.in_features, m.out_features) for m in self.hidden]
        inputs = {m.in_features for m in self.heads if isinstance(m, nn.Linear)}
        return (*layers, repr(self.activations), type(self.heads[0]), *inputs)


class NoShortForm(Exception):
    """Why a network takes the general path."""


def find_chain(network: nn.Module) -> Chain:
    """The layers of a perceptron.

    Raises:
        NoShortForm: it is none, or not one that is known here.
    """
    single = True
    if type(network) is nn.Sequential:
        modules = list(network)
        heads: list[nn.Module] = []
    elif (view := chain_of_view(network)) is not None:
        modules, heads, single = view
    elif (own_chain := getattr(network, "chain", None)) and (view := own_chain()) is not None:
        modules, heads, single = view  # of a view that knows what it is made of
    else:
        raise NoShortForm(f"{type(network).__name__} is no plain chain of layers")
    modules = list(_flat(modules))
    if not heads:
        if not modules or not isinstance(modules[-1], nn.Linear):
            raise NoShortForm("the last module is no linear layer")
        heads = [modules.pop()]
    hidden: list[nn.Linear] = []
    activations: list[nn.Module | None] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            hidden.append(module)
            activations.append(None)
        elif type(module) is nn.Identity or (
            type(module) is nn.Flatten and not hidden and module.start_dim == 1
        ):
            continue
        elif not hidden or activations[-1] is not None:
            raise NoShortForm(f"{type(module).__name__} stands where no activation function does")
        else:
            _function(module)
            activations[-1] = module
    for module in (*hidden, *heads):
        _check_layer(module)
    if len({id(module) for module in (*hidden, *heads)}) < len(hidden) + len(heads):
        raise NoShortForm("a layer runs twice")
    everything = [network, *network.modules()]
    if any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in everything):
        raise NoShortForm("a module has a hook")
    own = {id(p) for module in (*hidden, *heads) for p in module.parameters()}
    if any(id(p) not in own for p in network.parameters()):
        raise NoShortForm("it has parameters beside its layers")
    outputs = sum(m.out_features for m in heads if isinstance(m, nn.Linear))
    if outputs > MANY_OUTPUTS:  # here a loss is moved in all of them at once
        raise NoShortForm(f"it has {outputs} outputs")
    return Chain(tuple(hidden), tuple(activations), tuple(heads), single)


def _flat(modules: Sequence[nn.Module]) -> list[nn.Module]:
    found: list[nn.Module] = []
    for module in modules:
        found += _flat(list(module)) if type(module) is nn.Sequential else [module]
    return found


def _check_layer(module: nn.Module) -> None:
    if type(module) not in (nn.Linear, DecorrelatedLinear, BiasHead):
        raise NoShortForm(f"{type(module).__name__} is no linear layer")
    for p in module.parameters():
        if p.device.type != "cpu" or p.dtype not in (torch.float32, torch.float64):
            raise NoShortForm(f"parameters are {p.dtype} on {p.device}")
        if not p.requires_grad or not p.is_contiguous():
            raise NoShortForm("a parameter is frozen" if p.is_contiguous() else "strided weights")


def _identity(a: Array, out: Array) -> None:
    if out is not a:
        out[...] = a


def _function(module: nn.Module | None) -> Activation:
    """What an activation function does to arrays.

    Raises:
        NoShortForm: it is not known to move every unit by itself.
    """
    if module is None:
        return _identity
    if type(module) is nn.Tanh:
        return np.tanh
    if type(module) is nn.ReLU:
        return lambda a, out: np.maximum(a, 0, out=out)
    if type(module) not in _ELEMENTWISE or getattr(module, "inplace", False):
        raise NoShortForm(f"{module} is none of the activation functions known in numpy")

    def by_torch(a: Array, out: Array) -> None:
        out[...] = module(torch.from_numpy(a)).numpy()

    return by_torch


class Layer:
    """One layer, as arrays that share memory with its parameters.

    Attributes:
        weight: W, or W R in a decorrelated layer, (n, d); None in a bias head.
        bias: (n,), or None.
        weight_gradient, bias_gradient: where the estimate goes.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module: Any = module
        self.linear = not isinstance(module, BiasHead)
        self.R: Array | None = None
        self.parameters: list[nn.Parameter] = list(module.parameters())
        self.nodes = self.parameters[0].shape[0]
        self.inputs = self.parameters[0].shape[1] if self.linear else 0
        self.weight_gradient: Array
        self.bias_gradient: Array
        self.fed: Array
        self.look(fold=False)

    def look(self, *, fold: bool = True) -> None:
        """Find the parameters' memory, which may have moved, and fold R into the weights."""
        module = self.module
        if self.linear:
            self.weight: Array = module.weight.detach().numpy()
            if isinstance(module, DecorrelatedLinear):
                self.R = module.R.numpy()
                if fold:
                    self.weight = product(self.weight, self.R)
        bias = module.bias
        self.bias_row: Array
        self.bias: Array | None = None if bias is None else bias.detach().numpy()
        if self.bias is not None:
            self.bias_row = self.bias[None]
        self.places = [p.data_ptr() for p in self.parameters]

    def refresh(self) -> None:
        """`look`, where there is something new to see."""
        if self.R is not None or [p.data_ptr() for p in self.parameters] != self.places:
            self.look()

    def pre_activation(self, x: Array, out: Array) -> Array:
        """``W x* + b``, (B, n)."""
        product(x, self.weight.T, out)
        if self.bias is not None:
            out += self.bias
        return out

    def accumulate(self, error: Array, x: Array) -> None:
        """The gradient that node errors (B, n) make, with clean inputs (B, d)."""
        if self.linear:
            if self.R is not None:
                x = product(x, self.R.T)
            product(error.T, x, self.weight_gradient)
        self.fed = x
        if self.bias is not None:
            np.add.reduce(error, axis=0, out=self.bias_gradient)


class _Work:
    """Arrays for steps of K passes over B samples; (G, B, n) and (G, K, B, n) a hidden layer."""

    def __init__(self, sizes: Sequence[int], g: int, k: int, b: int, dtype: Any) -> None:  # noqa: ANN401
        def arrays(*shape: int) -> list[Array]:
            return [np.empty((g, *shape, n), dtype) for n in sizes]

        self.draws, self.batch = k, b
        self.a, self.x, self.slope, self.error = (arrays(b) for _ in range(4))
        self.noise, self.own, self.moved, self.change = (arrays(k, b) for _ in range(4))
        self.moved[:1] = self.noise[:1]
        self.change_rows = [list(y.reshape(g, k * b, -1)) for y in self.change]
        self.own_rows = [list(y.reshape(g, k * b, -1)) for y in self.own]
        self.first_change = [y[:, 0] for y in self.change]
        self.first_moved = [y[:, 0] for y in self.moved]


class Perceptrons:
    """Networks with hidden layers of the same sizes, on the same inputs, and a rule's step on them.

    Args:
        rule: what estimates the gradients.
        networks: perceptrons.
        chains: their layers.

    Attributes:
        parameters: the parameters of all networks, in the order of the layers.
        gradient: the estimate, flat, in that order.
        gradients: the same as tensors, one a parameter.
        shares: the part of `gradient` of every network.

    Raises:
        NoShortForm: the rule has none.
    """

    def __init__(
        self, rule: PerturbationRule, networks: Sequence[nn.Module], chains: Sequence[Chain]
    ) -> None:
        forms = {"np": self._unguided, "anp": self._unguided, "inp": self._inp}
        forms["np+feedback"] = self._guided
        own_form = vars(type(rule)).get("short_form")  # of its class; a subclass may differ
        if own_form not in forms:
            raise NoShortForm(f"{type(rule).__name__} has no short form")
        feedback = getattr(rule, "feedback", None)
        if feedback is not None and not isinstance(feedback, LayerwiseFeedback):
            raise NoShortForm("feedback is direct")
        self.rule = rule
        self._step = forms[own_form]
        self._activity_based = own_form == "anp"
        self._networks = [ref(network) for network in networks]  # a rule keeps these by network
        names = [{module: name for name, module in n.named_modules()} for n in networks]
        self.hidden = [
            [Layer(own[module], module) for module in chain.hidden]
            for own, chain in zip(names, chains, strict=True)
        ]
        self.heads = [
            [Layer(own[module], module) for module in chain.heads]
            for own, chain in zip(names, chains, strict=True)
        ]
        self.layers = [a + b for a, b in zip(self.hidden, self.heads, strict=True)]
        self.activations = [_function(module) for module in chains[0].activations]
        self.sizes = [layer.nodes for layer in self.hidden[0]]
        self.units = [sum(layer.nodes for layer in own) for own in self.layers]
        self._ends = [np.cumsum([head.nodes for head in heads])[:-1] for heads in self.heads]
        self.single = [chain.single for chain in chains]
        self.parameters = [p for own in self.layers for layer in own for p in layer.parameters]
        self.like = self.parameters[0].detach()
        self.dtype = self.like.numpy().dtype
        self.gradient, self.gradients = self._lay_out()
        counts = [sum(p.numel() for layer in own for p in layer.parameters) for own in self.layers]
        self.shares = np.split(self.gradient, np.cumsum(counts)[:-1])
        self._wirings: dict[int, Wiring] = {}
        self._work: dict[tuple[int, int], _Work] = {}
        modules = [module for network in networks for module in network.modules()]
        self._parts = [
            (d, [*map(id, d.values())])
            for module in modules
            for d in (module._modules, module._parameters)
        ]
        # A layer that is put on a chip, or off it, stays the same object.
        self._kinds = [(m, type(m)) for chain in chains for m in (*chain.hidden, *chain.heads)]
        self._hooks = [d for m in modules for d in (m._forward_hooks, m._forward_pre_hooks)]

    def unchanged(self) -> bool:
        """Whether the networks consist of what they consisted of."""
        return (
            all([*map(id, own.values())] == before for own, before in self._parts)
            and all(type(layer) is kind for layer, kind in self._kinds)
            and not any(self._hooks)
            and all(
                p.requires_grad and p.is_cpu and p.dtype is self.like.dtype for p in self.parameters
            )
        )

    def _lay_out(self) -> tuple[Array, list[Tensor]]:
        """One flat array for the gradients of all parameters."""
        gradient = np.zeros(sum(p.numel() for p in self.parameters), self.dtype)
        parts = np.split(gradient, np.cumsum([p.numel() for p in self.parameters])[:-1])
        shaped = [part.reshape(p.shape) for part, p in zip(parts, self.parameters, strict=True)]
        following = iter(shaped)
        for own in self.layers:
            for layer in own:
                if layer.linear:
                    layer.weight_gradient = next(following)
                if layer.bias is not None:
                    layer.bias_gradient = next(following)
        return gradient, [torch.from_numpy(part) for part in shaped]

    def estimate(
        self,
        inputs: Tree | Array,
        losses: Sequence[ArrayLoss],
        noise: Sequence[Array] | None = None,
    ) -> list[Array]:
        """Put the rule's estimate of the gradient of the mean losses into `gradient`.

        Args:
            inputs: of all networks, (B, ...), a tensor or a tuple of such, or an array (B, d).
            losses: one a network.
            noise: the noise of all nodes of each network, (K, B, N); drawn if left out.

        Returns:
            The clean losses of each network, (B,).

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """
        self._inputs = inputs
        x = _rows(inputs)
        rule = self.rule
        if noise is None:
            shapes = [(rule.samples, len(x), units) for units in self.units]
            noise = [rule.source.draw(s, self.like, rule.sigma).numpy() for s in shapes]
        for own in self.layers:
            for layer in own:
                layer.refresh()
        work = self._prepared(len(noise[0]), len(x))
        start = 0
        for size, stacked in zip(self.sizes, work.noise, strict=True):
            for mine, drawn in zip(stacked, noise, strict=True):
                mine[...] = drawn[:, :, start : start + size]
            start += size
        clean = self._clean(work, x)
        found = self._step(work, x, clean, losses, [d[:, :, start:] for d in noise])
        if rule.decorrelated:
            self.remember()
        return found

    def remember(self) -> None:
        """Tell the rule what the layers were fed at last, for decorrelation and its loss."""
        for own in self.layers:
            self.rule.remember_inputs((y.module, torch.from_numpy(y.fed)) for y in own)

    def backward(self, inputs: Tree, loss: ArrayLoss, noise: Tensor | None) -> Tensor:
        """`LearningRule.backward` of the one network here."""
        (found,) = self.estimate(inputs, [loss], None if noise is None else [noise.numpy()])
        self.remember()
        gradient, start = torch.from_numpy(self.gradient.copy()), 0
        for p in self.parameters:
            own = gradient[start : start + p.numel()].view_as(p)
            start += p.numel()
            if p.grad is None:
                p.grad = own
            else:
                p.grad += own
        return torch.from_numpy(found)

    def _prepared(self, draws: int, batch: int) -> _Work:
        if (work := self._work.get((draws, batch))) is None:
            if len(self._work) > 3:
                self._work.clear()
            work = _Work(self.sizes, len(self.layers), draws, batch, self.dtype)
            self._work[draws, batch] = work
        return work

    def _clean(self, work: _Work, x: Array) -> list[list[Array]]:
        """The clean pass; what every head makes of it, (B, n)."""
        below: Sequence[Array] | Array = [x] * len(self.hidden)
        for index, function in enumerate(self.activations):
            for own, inputs, a in zip(self.hidden, below, work.a[index], strict=True):
                own[index].pre_activation(inputs, a)
            function(work.a[index], work.x[index])
            below = work.x[index]
        return [
            [
                head.pre_activation(inputs, np.empty((len(x), head.nodes), self.dtype))
                if head.linear
                else head.bias_row
                for head in heads
            ]
            for heads, inputs in zip(self.heads, below, strict=True)
        ]

    def _noisy(self, work: _Work, start: int = 0, stop: int | None = None) -> None:
        """The hidden layers of noisy passes: `work.own`, W δx, `moved`, δa, and `change`, δx."""
        for index in range(start, len(self.sizes)):
            moved, change = work.moved[index], work.change[index]
            if index == start:
                if index:
                    moved[...] = work.noise[index]
            else:
                own = work.own[index]
                rows = zip(
                    self.hidden, work.change_rows[index - 1], work.own_rows[index], strict=True
                )
                for layers, delta, out in rows:
                    product(delta, layers[index].weight.T, out)
                if stop is None or index < stop:
                    np.add(own, work.noise[index], out=moved)
                else:
                    moved[...] = own
            np.add(work.a[index][:, None], moved, out=change)
            self.activations[index](change, change)
            change -= work.x[index][:, None]

    def _heads_change(self, work: _Work, g: int) -> list[Array | None]:
        """What each head of a network makes of the change below it, (K, B, n); None if nothing."""
        shape = (work.draws, work.batch, -1)
        return [
            product(work.change_rows[-1][g], head.weight.T).reshape(shape)
            if head.linear and self.sizes
            else None
            for head in self.heads[g]
        ]

    def _outputs_change(self, work: _Work, g: int) -> list[Array]:
        """The same, with zeros for nothing."""
        shape = (work.draws, work.batch)
        return [
            np.zeros((*shape, head.nodes), self.dtype) if change is None else change
            for head, change in zip(self.heads[g], self._heads_change(work, g), strict=True)
        ]

    def _unguided(
        self,
        work: _Work,
        x: Array,
        clean: list[list[Array]],
        losses: Sequence[ArrayLoss],
        noise: list[Array],
    ) -> list[Array]:
        """NP, ``δL ε_l / σ²``, and ANP, ``N δL δa_l / ‖δa‖²``."""
        self._noisy(work)
        found, weight = [], self._weights(work)
        moved = [np.concatenate(self._outputs_change(work, g), axis=-1) for g in range(len(clean))]
        for g, (loss, delta, eps) in enumerate(zip(losses, moved, noise, strict=True)):
            delta += eps
            values, _ = self._evaluate(loss, clean[g], np.split(delta, self._ends[g], axis=-1))
            found.append(values[0])
            np.subtract(values[1:], values[0], out=weight[g])
        if self._activity_based:
            square = np.stack([np.vecdot(delta, delta) for delta in moved])
            for delta in work.moved:
                square += np.vecdot(delta, delta)
            weight /= np.maximum(square, np.finfo(self.dtype).tiny)
            weight *= np.array(self.units, self.dtype)[:, None, None]
            hidden, heads = work.moved, moved
        else:
            weight *= 1 / self.rule.sigma**2
            hidden, heads = work.noise, noise
        weight *= 1 / (work.draws * work.batch)
        self._accumulate(work, x, [_average(weight, along) for along in hidden])
        for g, along in enumerate(heads):
            self._accumulate_heads(work, x, g, _average(weight[g], along))
            self.rule.forward_passes += work.batch * (1 + work.draws)
        return found

    def _inp(
        self,
        work: _Work,
        x: Array,
        clean: list[list[Array]],
        losses: Sequence[ArrayLoss],
        noise: list[Array],
    ) -> list[Array]:
        """``N_l δL⁽ˡ⁾ ε_l / ‖ε_l‖²``, with a pass for every layer."""
        passes = [self._noisy_heads(work, index, clean) for index in range(len(self.sizes))]
        found, hidden = [], [np.empty_like(error) for error in work.error]
        tiny, share = np.finfo(self.dtype).tiny, 1 / (work.draws * work.batch)
        for g, (loss, eps) in enumerate(zip(losses, noise, strict=True)):
            parts = np.split(eps, self._ends[g], axis=-1)
            # In one batch: the passes with noise in hidden layers, and those with noise in a head.
            apart = [
                [y if i == j else np.zeros_like(y) for j in range(len(parts))]
                for i, y in enumerate(parts)
            ]
            moved = [np.concatenate(ys) for ys in zip(*(p[g] for p in passes), *apart, strict=True)]
            values, _ = self._evaluate(loss, clean[g], moved)
            found.append(values[0])
            change = (values[1:] - values[0]).reshape(-1, work.draws, work.batch)
            directions = [*(own[g] for own in work.noise), *parts]
            errors = [
                _average(own.shape[-1] * share * delta / np.maximum(np.vecdot(own, own), tiny), own)
                for delta, own in zip(change, directions, strict=True)
            ]
            for into, error in zip(hidden, errors, strict=False):
                into[g] = error
            self._accumulate_heads(work, x, g, np.concatenate(errors[len(hidden) :], axis=-1))
            self.rule.forward_passes += work.batch * (1 + work.draws * len(directions))
        self._accumulate(work, x, hidden)
        return found

    def _noisy_heads(self, work: _Work, index: int, clean: list[list[Array]]) -> list[list[Array]]:
        """Changes of every network's outputs by noise in one hidden layer."""
        self._noisy(work, index, index + 1)
        return [self._outputs_change(work, g) for g in range(len(clean))]

    def _guided(
        self,
        work: _Work,
        x: Array,
        clean: list[list[Array]],
        losses: Sequence[ArrayLoss],
        noise: list[Array],
    ) -> list[Array]:
        """``g⁰_l + (δL − Σ_m g⁰_m·ε_m) ε_l / σ²``; outputs need no noise, as their error is e."""
        del noise
        self._noisy(work)
        fits = self._fits()
        of = self.rule.strength  # type: ignore[attr-defined]
        strength = np.array([of(n, work.batch, work.draws) for n in self.units], self.dtype)
        found, residual = [], self._weights(work)
        answers = [self._heads_change(work, g) for g in range(len(self.heads))]
        if not strength.any():  # no noise is multiplied by the guess, so it may know this step's
            self._learn(work, fits, answers, strength)
        for g, (loss, heads) in enumerate(zip(losses, self.heads, strict=True)):
            values, slopes = self._evaluate(loss, clean[g], answers[g], slopes=True)
            self.rule.forward_passes += work.batch * (1 + work.draws)
            found.append(values[0])
            if self.sizes:
                np.subtract(values[1:], values[0], out=residual[g])
            guesses = [
                product(slope, fits[g][head.name].guide.numpy().T)
                for head, slope in zip(heads, slopes, strict=True)
                if head.linear and self.sizes
            ]
            if guesses:
                work.error[-1][g] = sum(guesses[1:], guesses[0])
            for head, slope in zip(heads, slopes, strict=True):
                slope *= 1 / work.batch
                head.accumulate(slope, work.x[-1][g] if self.sizes else x)
        self._pull(work, fits)
        if strength.any():
            self._learn(work, fits, answers, strength)
        for eps, guess in zip(work.noise, work.error, strict=True):
            residual -= np.vecdot(eps, guess[:, None])
        residual *= strength[:, None, None] / (self.rule.sigma**2 * work.draws * work.batch)
        for eps, guess in zip(work.noise, work.error, strict=True):
            guess *= 1 / work.batch
            guess += _average(residual, eps)
        self._accumulate(work, x, work.error)
        return found

    def _pull(self, work: _Work, fits: list[dict[str, LinearFit]]) -> None:
        """Pass the guess down, from `work.error` of the last hidden layer to the others'."""
        floor = (1e-3 * self.rule.sigma) ** 2
        for index in range(len(self.sizes) - 1, -1, -1):
            error = work.error[index]
            if self.activations[index] is not _identity:
                # δx / δa as δx · δa / (δa² + floor²), which rounding does not blow up
                moved, slope = work.first_moved[index], work.slope[index]
                np.multiply(moved, moved, out=slope)
                slope += floor
                np.divide(moved, slope, out=slope)
                slope *= work.first_change[index]
                error *= slope
            if index:
                for g, layers in enumerate(self.hidden):
                    guide = fits[g][layers[index].name].guide.numpy()
                    product(error[g], guide.T, work.error[index - 1][g])

    def _learn(
        self,
        work: _Work,
        fits: list[dict[str, LinearFit]],
        answers: list[list[Array | None]],
        strength: Array,
    ) -> None:
        """Show every fit what its layer did in the first draw, as `LayerwiseFeedback` does."""
        lr = self.rule.feedback.lr  # type: ignore[attr-defined]
        amplified = [float(s) * n or UNCORRECTED for s, n in zip(strength, self.units, strict=True)]
        for g, (hidden, heads) in enumerate(zip(self.hidden, self.heads, strict=True)):
            own = [y[g, 0] for y in work.own[1:]] + [
                None if y is None else y[0] for y in answers[g]
            ]
            below = [*range(len(hidden) - 1), *[len(hidden) - 1] * len(heads)]
            for layer, index, a in zip([*hidden[1:], *heads], below, own, strict=True):
                if a is None:
                    continue
                fit = fits[g][layer.name]
                if fit.due():
                    rows = fit.samples(work.batch)
                    x = torch.from_numpy(work.change[index][g, 0, :rows])
                    fit.take(x, torch.from_numpy(a[:rows]), lr, amplified[g])

    def _fits(self) -> list[dict[str, LinearFit]]:
        """What feedback has learned of every network, by layer; the engine begins it."""
        feedback: LayerwiseFeedback = self.rule.feedback  # type: ignore[attr-defined]
        found = []
        for network in self.networks():
            index = self.rule._index(network)
            known = feedback.wirings.get(index)
            if known is None or known is not self._wirings.get(index):  # new here, or loaded
                inputs = self._inputs
                if isinstance(inputs, np.ndarray):
                    inputs = torch.from_numpy(inputs)
                with torch.no_grad():
                    activity = Activity(network, inputs, frozen=True)
                self._wirings[index] = feedback.wiring(index, activity)
            found.append(feedback.fits[index])
        return found

    def networks(self) -> list[nn.Module]:
        """What learns."""
        alive = [network() for network in self._networks]
        return [network for network in alive if network is not None]

    def _weights(self, work: _Work) -> Array:
        return np.empty((len(self.layers), work.draws, work.batch), self.dtype)

    def _evaluate(
        self,
        loss: ArrayLoss,
        clean: list[Array],
        moved: Sequence[Array | None],
        *,
        slopes: bool = False,
    ) -> tuple[Array, list[Array]]:
        """The losses of the clean pass and of the noisy ones, and slopes.

        Raises:
            NonFiniteError: one is NaN or infinite.
        """
        outputs = []
        for y, change in zip(clean, moved, strict=True):
            if change is None:  # a bias, and no noise
                outputs.append(y.reshape(1, -1, y.shape[-1]))
                continue
            both = np.empty((1 + len(change), *change.shape[1:]), self.dtype)
            both[0] = y
            np.add(change, y, out=both[1:])
            outputs.append(both)
        values, found = loss(outputs, slopes=slopes)
        with np.errstate(over="ignore"):  # a finite sum is enough; else look at each
            total = np.add.reduce(values, axis=None)
        if not math.isfinite(total) and not np.isfinite(values).all():
            sample = int(np.argwhere(~np.isfinite(values))[0][-1])
            raise NonFiniteError(
                f"loss of sample {sample} is {values[:, sample].tolist()}; look for too high a "
                "learning rate, or for bad values in the inputs or targets"
            )
        return values, found

    def _accumulate(self, work: _Work, x: Array, errors: Sequence[Array]) -> None:
        for index, error in enumerate(errors):
            for g, layers in enumerate(self.hidden):
                layers[index].accumulate(error[g], work.x[index - 1][g] if index else x)

    def _accumulate_heads(self, work: _Work, x: Array, g: int, error: Array) -> None:
        """The gradient of a network's heads from the errors of all outputs, (B, N)."""
        start = 0
        for head in self.heads[g]:
            own = error[:, start : start + head.nodes]
            start += head.nodes
            head.accumulate(own, work.x[-1][g] if self.sizes else x)


def _average(weight: Array, values: Array) -> Array:
    """``Σ_k weight[..., k, b] values[..., k, b, :]``, shape (..., B, n)."""
    if weight.shape[-2] == 1:
        return weight[..., 0, :, None] * values[..., 0, :, :]
    total: Array = np.einsum("...kb,...kbn->...bn", weight, values)
    return total


def _rows(inputs: Tree | Array) -> Array:
    """Inputs as one array (B, d)."""
    if isinstance(inputs, np.ndarray):
        return inputs
    if isinstance(inputs, Tensor):
        return inputs.numpy() if inputs.dim() == 2 else inputs.flatten(1).numpy()
    return np.concatenate([x.flatten(1).numpy() for x in tensors(inputs)], axis=1)
