"""What lies between the layers of a network: how a guess passes down it with no weight in it.

Layers with weights are one thing, what connects them is another: activation functions, sums,
concatenations, reshapes have no weights, so nothing about them has to be learned. They are looked
at by *replaying* them: the network runs with every layer's pre-activations put in place, and no
layer computes.

- *Forward*: once for each network, some units of one layer at a time are moved, to see which
  inputs of which layers follow. Where every unit moves at most its own place in each of them, all
  that is between is a slope for every unit. A slope is measured in the noisy pass, as the change of
  an input over the change of the pre-activation; where several layers' units come together in one
  input (a residual sum, a gate), in a replay with the noisy pre-activations of one of them alone.
  Nothing is differentiated.
- *Autograd*: where units mix without weights (pooling, normalisation, attention), autograd
  differentiates a replay in which a layer's backward step takes the learned matrix. The weights
  have no part in it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from nprobot.errors import RuleError, did_you_mean

from .activity import Activity, Call, Tree, share, tensors

WIRINGS = ("auto", "forward")
"""The names that `wiring` knows."""

Signature = tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Edge:
    """Units of one layer call, each of which moves one place of an input, or of the outputs."""

    source: int
    """Index of the call."""
    target: int | None
    """Index of the call whose input it is; None for the outputs."""
    start: int
    """Place of the first unit in the flattened target."""
    size: int
    identity: bool = False
    """Whether the target holds the pre-activations themselves."""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """Least and greatest slope to expect: of moves as large as the pre-activations, and 0 and 1."""
    shared: bool = False
    """Whether units of another call move the same places."""


class Wiring:
    """How errors pass between the layer calls of one network.

    Args:
        activity: the activity of the network.
        mode: ``"auto"``: forward where that is possible, else by autograd; or ``"forward"``.

    Attributes:
        signature: the signature of the calls, to see whether a network still has this wiring.
        kind: ``"forward"`` or ``"autograd"``.
        reason: why not forward; empty if it is.
        edges: from each call.
        fed: for each call whether its input moves with the pre-activations of others.
        known: for each call the outputs that its nodes are, if they are outputs and nothing else.
        known_layers: names of the layers of such calls.

    Raises:
        RuleError: the mode is ``"forward"``, and units mix.
    """

    def __init__(self, activity: Activity, mode: str) -> None:
        self.signature = signature(activity)
        edges, self.fed, self.reason = _edges(activity)
        self.kind = "autograd" if self.reason else "forward"
        if self.reason and mode == "forward":
            raise RuleError(
                f"wiring='forward' cannot be had: {self.reason}. Leave wiring at 'auto', which has "
                "autograd replay what lies between the layers, with no weight in it"
            )
        self.edges = [[edge for edge in edges if edge.source == i] for i in range(len(self.fed))]
        self.known: list[slice | None] = []
        for own in self.edges:
            alone = len(own) == 1 and own[0].target is None and own[0].identity
            self.known.append(slice(own[0].start, own[0].start + own[0].size) if alone else None)
        if self.reason:
            logging.getLogger(__name__).info(
                "feedback passes down by autograd, with no weight in it: %s", self.reason
            )
        for after, names in activity.jumped.items():
            logging.getLogger(__name__).warning(
                "feedback jumps over %s, which cannot be read: a map from their inputs to layer %r "
                "takes their place; their weights stay as they are, and of that layer only the "
                "bias learns",
                ", ".join(map(repr, names)),
                after,
            )
        names = [name for name, _ in self.signature[2:]]
        self.known_layers = frozenset(
            name
            for name in names
            if all(k is not None for k, n in zip(self.known, names, strict=True) if n == name)
        )

    def __str__(self) -> str:
        """The kind, and why it is not the other."""
        return f"{self.kind}: {self.reason}" if self.reason else self.kind

    def slopes(
        self,
        activity: Activity,
        moved: Sequence[Tensor],
        inputs: Mapping[int, Tensor],
        sources: Iterable[int],
        *,
        floor: float,
    ) -> dict[Edge, Tensor]:
        """The slope of every unit at every edge that has one, shapes (rows, size).

        Args:
            activity: the activity of the pass that slopes are wanted for.
            moved: change of the pre-activations of each call in another pass, (rows, units).
            inputs: change of the inputs of calls in it, (rows, ...).
            sources: calls from which edges are wanted.
            floor: changes of a pre-activation much below it count for little.
        """
        slopes: dict[Edge, Tensor] = {}
        if self.kind == "autograd":
            return slopes
        base: dict[int | None, Tensor] = {}
        for source in sources:
            alone: dict[int | None, Tensor] = {}
            for edge in self.edges[source]:
                if edge.identity:
                    continue
                if edge.target is None or edge.shared:
                    base = base or replay(activity, {})
                    alone = alone or replay(activity, {source: moved[source]})
                    change = alone[edge.target] - base[edge.target]
                else:
                    change = inputs[edge.target]
                    change = by_sample(change, activity.batch)
                if change.shape[1] != edge.size:
                    change = change.narrow(1, edge.start, edge.size)
                slopes[edge] = _ratio(change, moved[source], floor)
        return slopes

    def pull(
        self,
        activity: Activity,
        error: Tensor,
        matrices: Mapping[int, Tensor],
        slopes: Mapping[Edge, Tensor],
    ) -> Tensor:
        """Errors of all nodes, shape (rows, N), from those of the outputs, (rows, outputs).

        Args:
            activity: the activity of the pass whose errors are wanted.
            error: dL/dy, all outputs of a row side by side.
            matrices: what stands in for the weights of each call that is fed by others, (d, n).
            slopes: of `slopes`.
        """
        if self.kind == "autograd":
            return _pull_by_autograd(activity, error, matrices)
        calls = activity.calls
        total = error.new_empty(len(error), activity.size)
        pulled: dict[int | None, Tensor] = {None: error}
        for index in range(len(calls) - 1, -1, -1):
            call, own = calls[index], share(total, calls[index])
            first = True
            for edge in self.edges[index]:
                if (part := pulled.get(edge.target)) is None:
                    continue  # what it feeds asks for no inputs
                if part.shape[1] != edge.size:
                    part = part.narrow(1, edge.start, edge.size)
                slope = slopes.get(edge)
                if first:
                    own.copy_(part) if slope is None else torch.mul(part, slope, out=own)
                elif slope is None:
                    own.add_(part)
                else:
                    own.addcmul_(part, slope)
                first = False
            if first:
                own.zero_()
            if index in matrices:
                units = call.pre_activation.shape
                below = own if units == own.shape else own.reshape(units)
                below = call.layer.pull_back(below, matrices[index], call.raw_inputs.shape)
                pulled[index] = by_sample(below, len(own))
        return total


def signature(activity: Activity) -> Signature:
    """What tells whether two passes are of the same calls, in the same numbers."""
    like = activity.like
    calls = [(call.layer.name, call.units) for call in activity.calls]
    return (like.dtype, like.device, *calls)


def check_wiring(name: str) -> str:
    """The name, if there is such a wiring.

    Raises:
        RuleError: there is not.
    """
    if name not in WIRINGS:
        hint = did_you_mean(name, WIRINGS)
        raise RuleError(f"unknown wiring {name!r}{hint}. Known: {', '.join(WIRINGS)}")
    return name


def output_sizes(outputs: Tree) -> list[int]:
    """How many numbers of a sample each output holds."""
    return [y.numel() // y.shape[0] for y in tensors(outputs)]


def by_sample(x: Tensor, batch: int) -> Tensor:
    """All of a sample side by side, shape (B, n)."""
    return x if x.dim() == 2 and x.shape[0] == batch else x.reshape(batch, -1)


def _ratio(change: Tensor, moved: Tensor, floor: float) -> Tensor:
    """``change / moved`` as change · moved / (moved² + floor²), which rounding does not blow up."""
    below = _square(floor, moved.dtype, moved.device)
    return (change * moved).div_(torch.addcmul(below, moved, moved))


@cache
def _square(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(value**2, dtype=dtype, device=device)


def replay(activity: Activity, moved: Mapping[int, Tensor]) -> dict[int | None, Tensor]:
    """Inputs of all calls, and outputs (None), each row flat, with some calls' nodes moved.

    No layer computes, on a chip or off it.
    """
    seen: dict[int | None, Tensor] = {}

    def stand_in(index: int, x: Tensor) -> Tensor:
        seen[index] = x.reshape(activity.batch, -1).clone()
        a = activity.calls[index].pre_activation
        return a + moved[index].view_as(a) if index in moved else a

    outputs = tensors(activity.replayed(stand_in))
    seen[None] = torch.cat([y.flatten(1) for y in outputs], dim=-1)
    return seen


def _edges(activity: Activity) -> tuple[list[Edge], list[bool], str]:
    """The edges between calls; which calls are fed by others; why units mix, or nothing."""
    calls = activity.calls
    edges: list[Edge] = []
    fed = [False] * len(calls)
    reason = ""
    base = replay(activity, {})
    generator = torch.Generator().manual_seed(0)
    for source, call in enumerate(calls):
        a = by_sample(call.pre_activation, activity.batch)
        chosen = (torch.rand(a.shape, generator=generator) < 0.5).to(a.device)
        far = 1.0 + torch.rand(a.shape, generator=generator).to(a) + a.abs()
        # Both halves of the units, up and down: a rectifier may be deaf on one side.
        probes = [(mask, sign) for mask in (chosen, ~chosen) for sign in (1.0, -1.0)]
        seen = [replay(activity, {source: far * mask * sign}) for mask, sign in probes]
        for target in base:
            takes = target is None or calls[target].layer.takes_inputs
            follow = torch.stack([other[target] != base[target] for other in seen])
            if not takes or not follow.any():
                continue
            if target is not None:
                fed[target] = True
            start, size = 0, a.shape[1]
            if (width := follow.shape[2]) != size:
                start = int(follow.flatten(0, 1).any(0).nonzero()[0])
            inside = follow[..., start : start + size]
            masks = torch.stack([mask for mask, _ in probes])
            own_place = inside.shape[2] == size and not (inside & ~masks).any()
            if not own_place or inside.sum() != follow.sum():
                where = "the outputs" if target is None else f"layer {calls[target].layer.name!r}"
                reason = reason or (
                    f"units of layer {call.layer.name!r} mix on their way to {where} (as by "
                    "pooling, normalisation or attention)"
                )
                edges.append(Edge(source, target, 0, width))
                continue
            after = torch.stack([other[target].narrow(1, start, size) for other in seen])
            moves = torch.stack([far * mask * sign for mask, sign in probes])
            secants = ((after - base[target].narrow(1, start, size)) / moves)[masks]
            # Rounded up, or it would depend on the activity that was met first.
            steepest = max(1.0, math.ceil(4 * float(secants.abs().max()) - 1e-3) / 4)
            bounds = (-steepest if (secants < 0).any() else 0.0, steepest)
            identity = torch.equal(after, a + moves)
            edges.append(Edge(source, target, start, size, identity, bounds))
    return [_with_company(edge, edges) for edge in edges], fed, reason


def _with_company(edge: Edge, edges: list[Edge]) -> Edge:
    """The edge, marked if another reaches the same places."""
    shared = any(
        other is not edge
        and other.target == edge.target
        and other.start < edge.start + edge.size
        and edge.start < other.start + other.size
        for other in edges
    )
    # What the others' units are just now decides whether it looks like the identity.
    return replace(edge, shared=shared, identity=edge.identity and not shared)


def _pull_by_autograd(activity: Activity, error: Tensor, matrices: Mapping[int, Tensor]) -> Tensor:
    """`Wiring.pull`, with what lies between the layers differentiated by autograd."""
    total = error.new_zeros(len(error), activity.size)
    with torch.enable_grad():
        token = error.new_zeros((), requires_grad=True)
        calls = activity.calls
        place = partial(_stand_in, calls, matrices, total, token)
        outputs = tensors(activity.replayed(place))
    parts = torch.split(error, output_sizes(activity.outputs), dim=1)
    pairs = [
        (y, part.view_as(y)) for y, part in zip(outputs, parts, strict=True) if y.requires_grad
    ]
    if pairs:
        # The token gets no gradient: it is there so that every layer's backward step is taken.
        torch.autograd.grad(
            [y for y, _ in pairs], token, [part for _, part in pairs], allow_unused=True
        )
    return total


def _stand_in(
    calls: list[Call],
    matrices: Mapping[int, Tensor],
    total: Tensor,
    token: Tensor,
    index: int,
    x: Tensor,
) -> Tensor:
    call = calls[index]
    a: Tensor = _Replayed.apply(x, token, call, matrices.get(index), share(total, call))  # type: ignore[no-untyped-call]
    return a


class _Replayed(torch.autograd.Function):
    """A layer whose pre-activations are given, and whose weights a learned matrix stands in for."""

    @staticmethod
    @override
    def forward(
        ctx: Any,
        x: Tensor,
        token: Tensor,
        call: Call,
        matrix: Tensor | None,
        error: Tensor,
    ) -> Tensor:
        """The pre-activations; `error` is where their error is to be written."""
        ctx.call, ctx.matrix, ctx.error, ctx.shape = call, matrix, error, x.shape
        return call.pre_activation.clone()

    @staticmethod
    @override
    def backward(ctx: Any, *errors: Any) -> Any:
        """Errors of the inputs, by the matrix."""
        (own,) = errors
        ctx.error.copy_(own.reshape(ctx.error.shape))
        if ctx.matrix is None or not ctx.needs_input_grad[0]:
            return (None,) * 5
        return ctx.call.layer.pull_back(own, ctx.matrix, ctx.shape), None, None, None, None
