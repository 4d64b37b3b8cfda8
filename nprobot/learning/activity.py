"""Node activity: clean and perturbed forward passes through any network, and its weight gradients.

A *node* is one pre-activation of a layer that has parameters. `Activity` runs a network once
without noise and then, as often as asked, with noise added to the pre-activation of every node. It
does so by standing in for the `forward` of the layers while a pass runs, so networks need not be
written for it; and it never runs autograd.

Layers get the batch as their first axis, wherever a network has it (`Layout`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nprobot.errors import RuleError

from .layout import LAYOUTS, USUAL, Layout, UnusualBatch, looks_usual, tree_shapes
from .nodes import JumpNodes, NodeLayer, node_layers

Tree = Any
"""A tensor, or a tuple or dict of trees: what a network takes and returns."""


@dataclass(slots=True, eq=False)
class Call:
    """One execution of a layer in the clean pass."""

    layer: NodeLayer
    inputs: Tensor
    """Clean input of the layer, decorrelated if the layer decorrelates: ``x*``."""
    pre_activation: Tensor
    """Clean pre-activation ``a``, shape (rows, *units): B rows, or B · T where the network folds T
    frames of a sample into the rows."""
    nodes: slice
    """Where this call's nodes lie in the flat list of all N nodes."""
    raw_inputs: Tensor
    """Clean input of the layer as it came, before decorrelation: x."""
    units: torch.Size
    """Shape of a sample's nodes: ``units``, or (T, *units)."""


@dataclass(slots=True, eq=False)
class NoisyCall:
    """What one layer call saw in a noisy pass: rows of K·B, draw by draw."""

    raw_inputs: Tensor
    pre_activation: Tensor


class Activity:
    """The activity of one network on one batch.

    Args:
        network: any module whose parameters live in supported layers.
        inputs: tensor (B, ...), or a tuple or dict of such.
        frozen: whether layers without a trainable parameter have nodes, too.
        draws: K, how many noisy passes there will be, as far as known.

    Attributes:
        outputs: the outputs of the clean pass.
        calls: the layers in the order in which they ran.
        batch: B, the number of samples.
        size: N, the number of nodes of one sample, over all perturbed layers.
        jumped: names of layers of a chip that cannot be read, by the name of the layer after them,
            whose call is from the inputs of the first of them.

    Raises:
        UnsupportedLayerError: a parameter lives in a module that is not supported.
        RuleError: nothing can be learned.
    """

    def __init__(
        self, network: nn.Module, inputs: Tree, *, frozen: bool = False, draws: int = 1
    ) -> None:
        self.network = network
        self.inputs = inputs
        self.layers, others = node_layers(network, frozen=frozen)
        self._tanhs = [m.__dict__ for m in others if type(m) is nn.Tanh]
        if draws > 1:
            for layer in self.layers:
                layer.draws = draws
        self._fused = any(isinstance(module, FUSED) for module in others)
        self.batch = first_tensor(inputs).shape[0]
        self._overwritten: set[int] = set()
        key = torch.is_grad_enabled(), tree_shapes(inputs), *[layer.name for layer in self.layers]
        known = LAYOUTS.setdefault(network, {})
        self._layout = known.get(key)
        try:
            self._run_clean()
        except UnusualBatch:
            self._layout = self._found_layout()
            self._run_clean()
        if self._overwritten:
            self._run_clean()
        if not self.calls:
            raise RuleError(
                "the network has no layer with trainable parameters that its forward pass uses: "
                "there is nothing to perturb"
            )
        if key not in known:
            self._layout = self._layout or USUAL
            if not torch.is_grad_enabled():
                self._refuse_stray_uses()
            known[key] = self._layout

    @property
    def like(self) -> Tensor:
        """A tensor of the device and type in which noise is to be drawn."""
        return self.calls[0].pre_activation

    def layer_inputs(self) -> list[tuple[nn.Module, Tensor]]:
        """Every layer that ran, and of its clean inputs x* what R is learned from."""
        return [(c.layer.module, c.layer.correlated_rows(c.inputs)) for c in self.calls]

    def join(self, noise: Sequence[Tensor]) -> Tensor:
        """Explicit perturbations, a tensor (K, B, units) a layer call, as one tensor (K, B, N).

        Raises:
            RuleError: their number or a shape does not fit.
        """
        if len(noise) != len(self.calls):
            raise RuleError(
                f"perturbations must be tensors for each of the {len(self.calls)} perturbed layers"
                f", in forward order; got {len(noise)}"
            )
        flat = []
        for call, given in zip(self.calls, noise, strict=True):
            units = tuple(call.units)
            wanted = (noise[0].shape[0], self.batch, *units)
            if tuple(given.shape) != wanted:
                raise RuleError(
                    f"perturbations of layer {call.layer.name!r} must have shape (K, B, units) = "
                    f"{wanted}, got {tuple(given.shape)}"
                )
            flat.append(given.reshape(*wanted[:2], -1).to(self.like))
        return torch.cat(flat, dim=-1)

    def perturbed(
        self,
        noise: Tensor,
        *,
        start: int = 0,
        stop: int | None = None,
        activity: Tensor | None = None,
        record: list[NoisyCall] | None = None,
    ) -> Tree:
        """Outputs of K noisy passes, run as one batch of K·B rows.

        Nothing before the first noisy layer changes, so calls before number `start` give back their
        clean pre-activation, and call `start` only adds its noise to it.

        Args:
            noise: (K, B, N), added to the pre-activations.
            start: index of the first call that gets noise.
            stop: index of the first call after it that gets none; by default all do.
            activity: where to write the change of the pre-activations, (K, B, N). It may be `noise`
                itself, which is overwritten then.
            record: where to note what every layer call saw, in the order of the calls.

        Returns:
            The network's outputs, each tensor of shape (K, B, ...).
        """
        draws = noise.shape[0]
        calls = iter(enumerate(self.calls))
        noisy = range(start, len(self.calls) if stop is None else stop)
        handler = partial(self._noisy, calls, noise, noisy, activity, record)
        outputs = self._intercepted(handler, tree_map(partial(repeat, draws), self.inputs))
        return tree_map(lambda y: y.reshape(draws, -1, *y.shape[1:]), outputs)

    def replayed(self, stand_in: Callable[[int, Tensor], Tensor]) -> Tree:
        """Outputs of what lies between the layers, none of which computes anything.

        With autograd on it records what lies between them, and nothing of the layers.

        Args:
            stand_in: from the index of a layer call and the inputs that reach it to what takes the
                place of its pre-activations.
        """
        calls = iter(enumerate(self.calls))
        jump: list[Tensor] = []

        def handler(layer: NodeLayer, x: Tensor) -> Tensor:
            if layer in self._silent:
                if not jump:
                    jump.append(stand_in(self.calls.index(self._silent[layer][0]), x))
                return x.new_zeros(self._silent[layer][1])
            index, call = next(calls, (-1, None))
            if call is None or layer not in (call.layer, getattr(call.layer, "layer", None)):
                raise _out_of_order(layer)
            a = jump.pop() if jump else stand_in(index, x)
            return a.clone() if index in self._overwritten else a

        return self._intercepted(handler, self.inputs)

    def accumulate(self, node_error: Tensor) -> None:
        """Add the gradient that node errors make to every parameter's `.grad`.

        Args:
            node_error: dL/da of every node, shape (B, N), in the order of the calls; L is the mean
                loss of the batch, so an average over the batch is in it already.
        """
        for call in self.calls:
            error = share(node_error, call)
            if len(call.pre_activation.shape) > 2 or len(call.units) > 1:
                error = error.reshape(call.pre_activation.shape)
            call.layer.accumulate(error, call.inputs)

    def _run_clean(self) -> None:
        """Fill `calls`, `size` and `outputs`, and note whose pre-activation has been overwritten.

        An activation function that works in place (``nn.ReLU(inplace=True)``) would leave its own
        output where the pre-activation was; such calls keep a copy in a second run.
        """
        self.calls: list[Call] = []
        self.size = 0
        self.jumped: dict[str, list[str]] = {}
        self._silent: dict[NodeLayer, tuple[Call, torch.Size]] = {}
        self._unread: list[tuple[NodeLayer, Tensor, torch.Size]] = []
        self.outputs: Tree = self._intercepted(self._clean, self.inputs)
        versions = enumerate(call.pre_activation._version for call in self.calls)
        self._overwritten |= {i for i, version in versions if version}
        if self._unread:
            raise RuleError(
                f"layer {self._unread[0][0].name!r} cannot be read, and neither can anything after "
                "it: what the network says must be readable"
            )

    def pre_activation(self, layer: NodeLayer, x: Tensor) -> Tensor:
        """What a layer makes of its input in the clean pass."""
        return layer.pre_activation(x)

    def _clean(self, layer: NodeLayer, x: Tensor) -> Tensor:
        a = self.pre_activation(layer, x)
        if not layer.readable:
            self._unread.append((layer, x, a.shape))
            return a
        units, batch = a.shape[1:], self.batch
        if (rows := a.shape[0]) != batch:
            units = torch.Size((rows // batch, *units))
        nodes = slice(self.size, self.size + units.numel())
        kept = a.clone() if len(self.calls) in self._overwritten else a
        call = Call(layer, layer.decorrelated_input(x), kept, nodes, x, units)
        if self._unread:
            self._jump(call)
        self.calls.append(call)
        self.size = nodes.stop
        return a

    def _jump(self, call: Call) -> None:
        """Have a call start where something can be read, before the layers that cannot be."""
        layer = call.layer
        # What it was fed is not known; what the first of those before it was fed is.
        call.layer, call.raw_inputs = JumpNodes(layer), self._unread[0][1]
        call.inputs = torch.zeros_like(call.inputs)
        self.jumped[layer.name] = [silent.name for silent, _, _ in self._unread]
        self._silent |= {silent: (call, shape) for silent, _, shape in self._unread}
        self._unread.clear()

    def _noisy(
        self,
        calls: Iterator[tuple[int, Call]],
        noise: Tensor,
        noisy: range,
        activity: Tensor | None,
        record: list[NoisyCall] | None,
        layer: NodeLayer,
        x: Tensor,
    ) -> Tensor:
        index, call = next(calls, (-1, None))
        if call is None or call.layer is not layer:
            raise _out_of_order(layer)
        clean = call.pre_activation
        if index < noisy.start:
            a = repeat(noise.shape[0], clean)
            if index in self._overwritten:
                a = a.clone()  # one draw is a view of the clean pass
            if record is not None:
                record.append(NoisyCall(x, a))
            return a
        own = _units(noise, call)
        if folded := clean.shape[0] != own.shape[1]:
            clean = clean.view(own.shape[1:])
        if index == noisy.start:
            a = (clean + own).flatten(0, 2 if folded else 1)
        else:
            a = layer.pre_activation(x)
            if index in noisy:
                a.view_as(own).add_(own)
        if activity is not None:
            torch.sub(a.view_as(own), clean, out=_units(activity, call))
        if record is not None:
            record.append(NoisyCall(x, a.clone() if index in self._overwritten else a))
        return a

    def _intercepted(self, handler: Callable[[NodeLayer, Tensor], Tensor], inputs: Tree) -> Tree:
        """The network's outputs, with `handler` standing in for the layers' `forward`.

        An entry in the instance's own dict comes before the class's method; setting it there avoids
        the bookkeeping of `nn.Module.__setattr__`. Nothing of it is kept: an activity that refers
        to itself would hold its tensors until Python collects its oldest garbage, in minutes.
        """
        run = partial(self._run, handler, first_tensor(inputs).shape[0], Counter[str]())
        stand_ins: list[tuple[dict[str, Any], Callable[..., Any]]] = [
            (
                layer.module.__dict__,
                partial(run, layer)
                if type(layer).forward is NodeLayer.forward
                else partial(layer.forward, run),
            )
            for layer in self.layers
        ]
        if not torch.is_grad_enabled():  # DBP differentiates through what runs here
            stand_ins += [(attributes, _tanh) for attributes in self._tanhs]
        before = [attributes.get("forward") for attributes, _ in stand_ins]
        for attributes, forward in stand_ins:
            attributes["forward"] = forward
        try:
            if self._fused:
                with _no_fused_layers():
                    return self.network(inputs)
            return self.network(inputs)
        finally:
            for (attributes, _), own in zip(stand_ins, before, strict=True):
                del attributes["forward"]
                if own is not None:
                    attributes["forward"] = own

    def _run(
        self,
        handler: Callable[[NodeLayer, Tensor], Tensor],
        rows: int,
        uses: Counter[str],
        layer: NodeLayer,
        x: Tensor,
    ) -> Tensor:
        layout = self._layout
        if layout is None:
            if not looks_usual(layer, x, rows):
                raise UnusualBatch
        elif layout.unusual:
            return layout.apply(layer, x, rows, uses, handler)
        return handler(layer, x)

    def _found_layout(self) -> Layout:
        """Where the batch is in what layers are fed, by a pass of the batch, and of it twice."""
        seen: list[dict[tuple[str, int], tuple[NodeLayer, Tensor]]] = []
        self._layout = Layout({})
        for times in (1, 2):
            seen.append({})
            uses: Counter[str] = Counter()

            def note(layer: NodeLayer, x: Tensor, uses: Counter[str] = uses) -> Tensor:
                seen[-1][layer.name, uses[layer.name]] = layer, x
                uses[layer.name] += 1
                return layer.pre_activation(x)

            self._intercepted(note, tree_map(partial(repeat, times), self.inputs))
        return Layout.compare(seen[0], seen[1], self.batch)

    def _refuse_stray_uses(self) -> None:
        """Refuse weights that have a part in what lies between the layers: it would not learn.

        They are not there while the layers are replayed.

        Raises:
            RuleError: a trainable parameter is used otherwise than by running its layer.
        """
        modules = {id(call.layer.module): call.layer for call in self.calls}.values()
        held: list[tuple[str, dict[str, Any], str, Tensor]] = [
            (f"{layer.name}.{key}", layer.module._parameters, key, parameter)
            for layer in modules
            for key, parameter in layer.module._parameters.items()
            if parameter is not None and parameter.requires_grad
        ]
        if not self._needs(held):
            return
        names = [one[0] for one in held if self._needs([one])]
        raise RuleError(
            f"the network uses the parameters {', '.join(names)} without running their layer (as "
            "in F.linear(x, layer.weight)), so their nodes cannot be perturbed there; call the "
            "layer, give the parameter to a second one, or declare the use with "
            "nprobot.policies.ParameterUse"
        )

    def _needs(self, held: list[tuple[str, dict[str, Any], str, Tensor]]) -> bool:
        """Whether inputs of layers, or outputs, depend on parameters beside the nodes."""
        found: list[Tensor] = []

        def stand_in(index: int, x: Tensor) -> Tensor:
            call = self.calls[index]
            found.append(torch.isnan(x).any() & ~torch.isnan(call.raw_inputs).any())
            return call.pre_activation

        try:
            for _, parameters, key, parameter in held:
                parameters[key] = torch.full_like(parameter, float("nan"))
            outputs = self.replayed(stand_in)
        finally:
            for _, parameters, key, parameter in held:
                parameters[key] = parameter
        for y, clean in zip(tensors(outputs), tensors(self.outputs), strict=True):
            found.append(torch.isnan(y).any() & ~torch.isnan(clean).any())
        return bool(torch.stack(found).any())


FUSED = (nn.TransformerEncoderLayer, nn.TransformerEncoder)
"""Modules that by themselves may run one kernel instead of the layers in them."""


@contextmanager
def _no_fused_layers() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _out_of_order(layer: NodeLayer) -> RuleError:
    return RuleError(
        f"layer {layer.name!r} ran at another place in the noisy pass than in the clean "
        "one; the order of the layers must not depend on their activity"
    )


def tree_map(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The tree with `function` applied to each tensor; other leaves are kept as they are."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: tree_map(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(tree_map(function, value) for value in tree)
    return tree


def tensors(tree: Tree) -> list[Tensor]:
    """All tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    found: list[Tensor] = []

    def collect(x: Tensor) -> Tensor:
        found.append(x)
        return x

    tree_map(collect, tree)
    return found


def first_tensor(tree: Tree) -> Tensor:
    """The first tensor of a tree.

    Raises:
        RuleError: there is none.
    """
    if isinstance(tree, Tensor):
        return tree
    if found := tensors(tree):
        return found[0]
    raise RuleError(f"network inputs must be tensors, or tuples or dicts of them; got {type(tree)}")


def _tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent by numpy on the CPU: a tenth of `torch.tanh`'s time.

    At K = 16 the tanh of noisy passes took as long as their matrix products.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return torch.tanh(x)
    return torch.from_numpy(np.tanh((x.detach() if x.requires_grad else x).numpy()))


def _units(flat: Tensor, call: Call) -> Tensor:
    """The part of (K, B, N) that belongs to one call, as a view of shape (K, B, *units)."""
    own, units = share(flat, call), call.units
    return own if len(units) == 1 else own.view(*flat.shape[:2], *units)


def share(flat: Tensor, call: Call) -> Tensor:
    """The columns of (..., N) that are one call's nodes; `narrow` takes half of a slice's time."""
    start = call.nodes.start
    return flat.narrow(-1, start, call.nodes.stop - start)


def repeat(times: int, x: Tensor) -> Tensor:
    """A batch repeated as a whole, (B, ...) to (times · B, ...)."""
    return x.expand(times, *x.shape).flatten(0, 1)
