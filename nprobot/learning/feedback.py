"""Learned feedback: a guess of the node errors that takes most of the variance out of NP and INP.

The loss of a noisy pass tells how the noise of *all* nodes did together; every node hears its own
share under the noise of the others. A guess g⁰ of the node errors says what that noise should have
done, and only what it leaves unexplained has to come from the loss:

    g_l = g⁰_l + (δL − Σ_m g⁰_m·ε_m) ε_l / σ²

The mean does not depend on the guess, so the estimate stays unbiased (to the order of σ²) whatever
g⁰ is; its variance falls as the guess gets better: a control variate. The guess starts from e =
dL/dy, the error of the outputs, found by perturbing the *outputs*, which takes evaluations of the
loss and no pass through the network. Nodes that *are* outputs get their error from e exactly and
need no noise. For the others there are two kinds of feedback:

- *layerwise*: ``g⁰_l = s_l ⊙ (B_l g⁰_{l+1})``. The slope s_l of every unit is measured, as the
  change of its activity over the change of its pre-activation in the first noisy pass. B_l learns
  from the same pass how the next layer's pre-activations follow the changes of this layer's
  activity. That relation is linear, and the next layer's own noise is known, so a few samples tell
  nearly all of it: B_l moves to their least-squares answer. The other samples are guessed with the
  new B_l at once; those that it was learned from with the old one, so that no guess knows the noise
  that it will be multiplied by.
- *direct*: ``g⁰_l = B_l e``. B_l learns how noise in layer l moves the outputs, averaged over
  inputs, by least mean squares. It asks nothing of what lies between, and explains less.

Only activities and noise are read: no derivative of the network, no weights, no backward pass of
the network. B_l of layerwise feedback comes to what ``(W R)ᵀ`` of the next layer is; it is measured
through the noise, as a "weight mirror" is (Akrout et al., NeurIPS 2019), not copied.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from nprobot.errors import RuleError

from .activity import Activity, Call, NoisyCall, Tree, share, tensors, tree_map
from .nodes import LinearNodes

KINDS = ("layerwise", "direct")

DIRECT_LR = 0.01
"""Step size of direct feedback, whose targets are noisy."""
LAYERWISE_LR = 1.0
"""Share of the way to the least-squares answer that layerwise feedback goes in one step."""
RIDGE = 0.01
"""Regularisation of that answer, in units of the mean square of the changes."""


@dataclass(slots=True, eq=False)
class Link:
    """Where the guess for the nodes of one layer call comes from."""

    index: int
    call: Call
    columns: slice | None
    """The outputs that the nodes are; None if they are hidden."""
    target: int | None
    """Index of the call that they feed, for layerwise feedback; None for direct."""

    @property
    def hidden(self) -> bool:
        """Whether the nodes need a guess, and noise."""
        return self.columns is None


@dataclass(slots=True, eq=False)
class Response:
    """What noise did to one layer call and to what it feeds, in the first noisy pass.

    For direct feedback it is the noise of all passes and what it did to the outputs.
    """

    changes: Tensor
    """What B_l is fed, backwards: changes of the activity, or noise; shape (rows, N_l)."""
    effects: Tensor
    """What that did to the nodes, or outputs, that B_l comes from; shape (rows, ·)."""
    slopes: Tensor | None
    """Measured slopes s_l, shape (B, N_l); None for direct feedback."""


class Feedback:
    """The feedback matrices of the networks that one rule has met.

    Args:
        kind: ``"layerwise"``, which falls back to direct feedback for layers that do not feed a
            dense layer unit by unit; or ``"direct"``.
        lr: step size of the matrices, in [0, 1]; None for `LAYERWISE_LR` and `DIRECT_LR`.

    Attributes:
        matrices: for every network, by the number that the rule gives it, B_l of every layer call,
            shape (N_l, nodes of the next layer) or (N_l, outputs); None where the nodes are outputs
            themselves.

    Raises:
        RuleError: unknown kind, or a step size out of range.
    """

    def __init__(self, kind: str, lr: float | None) -> None:
        if kind not in KINDS:
            near = difflib.get_close_matches(str(kind), KINDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise RuleError(f"unknown feedback {kind!r}{hint} Known: True, {', '.join(KINDS)}")
        if lr is not None and not 0.0 <= lr <= 1.0:
            raise RuleError(f"feedback_lr must be in [0, 1], got {lr!r}")
        self.kind = kind
        self.lr = lr
        self.matrices: dict[int, list[Tensor | None]] = {}

    def links(self, network: int, activity: Activity) -> list[Link]:
        """How feedback reaches each layer call; makes the matrices when first asked.

        Args:
            network: its number.
            activity: of the clean pass.
        """
        links = []
        outputs = tensors(activity.outputs)
        for index, call in enumerate(activity.calls):
            columns = output_columns(call, outputs)
            target = None
            if columns is None and self.kind == "layerwise":
                target = _fed_by(index, activity.calls)
            links.append(Link(index, call, columns, target))
        if network not in self.matrices:
            # From zero: before it has learned anything, the guess is no guess.
            size = sum(map(_units, outputs))
            self.matrices[network] = [
                activity.like.new_zeros(
                    _units(link.call.pre_activation),
                    size
                    if link.target is None
                    else _units(activity.calls[link.target].pre_activation),
                )
                if link.hidden
                else None
                for link in links
            ]
        return links

    def guess(
        self,
        network: int,
        links: list[Link],
        responses: dict[int, Response],
        error: Tensor,
        before: dict[int, Tensor],
    ) -> Tensor:
        """``g⁰`` of every node, shape (B, N).

        Args:
            network: its number.
            links: of its layer calls.
            responses: by index of the call; of the hidden ones.
            error: e, shape (B, outputs).
            before: what `learn` has returned. Samples from which B_l has just learned are guessed
                with what it was before: a guess that knew their noise would bias the estimate.
        """
        batch = len(error)
        total = error.new_empty(batch, links[-1].call.nodes.stop)
        for link in reversed(links):
            guess = share(total, link.call)
            if link.columns is not None:
                guess.copy_(error[:, link.columns])
                continue
            matrix = self.matrices[network][link.index]
            assert matrix is not None
            source = error if link.target is None else share(total, links[link.target].call)
            response = responses[link.index]
            known = min(batch, response.changes.shape[0]) if link.index in before else 0
            if known:
                old = before[link.index].mT
                torch.mm(source.narrow(0, 0, known), old, out=guess.narrow(0, 0, known))
            if known < batch:
                rest = (0, known, batch - known)
                torch.mm(source.narrow(*rest), matrix.mT, out=guess.narrow(*rest))
            if response.slopes is not None:
                guess.mul_(response.slopes)
        return total

    def learn(
        self, network: int, links: list[Link], responses: dict[int, Response], sigma: float
    ) -> dict[int, Tensor]:
        """One step of every matrix towards what the noisy pass has shown.

        Args:
            network: its number.
            links: of its layer calls.
            responses: by index of the call; of the hidden ones.
            sigma: standard deviation of the noise.

        Returns:
            What the matrices that have learned were before, by index of the call.
        """
        before: dict[int, Tensor] = {}
        for link in links:
            matrix = self.matrices[network][link.index]
            if matrix is None:
                continue
            changes, effects = responses[link.index].changes, responses[link.index].effects
            # A captured step goes on from where its matrices are, so they have to stay there.
            in_place = matrix.is_cuda and torch.cuda.is_current_stream_capturing()
            before[link.index] = matrix.clone() if in_place else matrix
            unexplained = torch.addmm(effects, changes, matrix, alpha=-1)
            if link.target is None:
                lr = DIRECT_LR if self.lr is None else self.lr
                alpha = lr / (len(changes) * sigma**2)
                learned = torch.addmm(matrix, changes.mT, unexplained, alpha=alpha)
            else:
                lr = LAYERWISE_LR if self.lr is None else self.lr
                learned = torch.add(matrix, _least_squares(changes, unexplained), alpha=lr)
            self.matrices[network][link.index] = matrix.copy_(learned) if in_place else learned
        return before

    def direct_responses(
        self, network: int, links: list[Link], activity: Activity, outputs: Tree, noise: Tensor
    ) -> dict[int, Response]:
        """What passes with noise everywhere say to direct feedback, by index of the call.

        Each layer learns from what the others leave unexplained.

        Args:
            network: its number.
            links: of its layer calls.
            activity: of the clean pass.
            outputs: of the noisy passes.
            noise: of every node, (K, B, N).
        """
        direct = [link for link in links if link.hidden and link.target is None]
        if not direct:
            return {}
        noises = [noise[..., link.call.nodes].flatten(0, 1) for link in direct]
        matrices = [self.matrices[network][link.index] for link in direct]
        shares = [own @ b for own, b in zip(noises, matrices, strict=True) if b is not None]
        effects = (flatten(outputs, 2) - flatten(activity.outputs, 1)).flatten(0, 1)
        effects = effects - torch.stack(shares).sum(0)
        return {
            link.index: Response(own, effects + share, None)
            for link, own, share in zip(direct, noises, shares, strict=True)
        }

    def state_dict(self) -> dict[str, dict[int, Any]]:
        """The matrices by network and layer call."""
        matrices = {
            n: [m if m is None else m.clone() for m in own] for n, own in self.matrices.items()
        }
        return {"matrices": matrices}

    def load_state_dict(self, state: dict[str, dict[int, Any]]) -> None:
        """Go on from a saved state."""
        self.matrices = {int(n): list(own) for n, own in state["matrices"].items()}


def layerwise_response(
    link: Link, activity: Activity, seen: list[NoisyCall], noise: Tensor, sigma: float
) -> Response:
    """What the first noisy pass shows of one call and the call that it feeds.

    Args:
        link: of the call; its target is not None.
        activity: of the clean pass.
        seen: what the calls saw in the noisy pass.
        noise: of the pass's every node, (K, B, N); 0 where there was none.
        sigma: standard deviation of the noise.
    """
    assert link.target is not None
    target, batch = activity.calls[link.target], activity.batch
    own, fed = seen[link.index].pre_activation, seen[link.target]
    changes = fed.raw_inputs.narrow(0, 0, batch) - target.raw_inputs
    moved = own.narrow(0, 0, batch) - link.call.pre_activation
    rows = learning_rows(batch, changes.shape[1])
    effects = fed.pre_activation.narrow(0, 0, rows) - target.pre_activation.narrow(0, 0, rows)
    effects -= share(noise[0], target).narrow(0, 0, rows)
    # As moved / moved², with a floor: rounding decides the sign of a change much below σ.
    slopes = (changes * moved).div_(moved.square_().add_((1e-3 * sigma) ** 2))
    return Response(changes.narrow(0, 0, rows), effects, slopes)


def learning_rows(batch: int, units: int) -> int:
    """From how many samples the layerwise feedback of a layer learns in one step.

    As many as units would tell all that there is to know; three quarters of that come as near in
    two steps, for half of the cost. At most half of the batch, as the others gain at once.
    """
    return max(1, min(batch // 2, max(48, 3 * units // 4)))


def output_error(activity: Activity, delta_loss: Callable[[Tree], Tensor], step: float) -> Tensor:
    """``dL/dy`` of every output, shape (B, outputs), by central differences of the loss alone.

    Args:
        activity: of the clean pass.
        delta_loss: from outputs (K, B, ...) to the change of the loss, (K, B).
        step: how far an output is moved; the error is of the order of its square.
    """
    return error_and_change(activity, (), delta_loss, step)[0]


def error_and_change(
    activity: Activity, outputs: Tree, delta_loss: Callable[[Tree], Tensor], step: float
) -> tuple[Tensor, Tensor]:
    """`output_error` and δL of noisy outputs, from one evaluation of the loss.

    A loss is many small operations, which take as long for a few rows as for some more.

    Args:
        activity: of the clean pass.
        outputs: of the noisy passes, (K, B, ...); may be none.
        delta_loss: from outputs (K, B, ...) to the change of the loss, (K, B).
        step: how far an output is moved.

    Returns:
        The error, shape (B, outputs), and δL, shape (K, B).
    """
    clean, noisy = tensors(activity.outputs), tensors(outputs)
    sizes = [_units(y) for y in clean]
    count = sum(sizes)
    both = _there_and_back(count, step, clean[0].dtype, clean[0].device)
    moved = [
        y + part.view(-1, 1, *y.shape[1:])
        for y, part in zip(clean, torch.split(both, sizes, dim=1), strict=True)
    ]
    if noisy:
        moved = [torch.cat(pair) for pair in zip(moved, noisy, strict=True)]
    parts = iter(moved)
    change = delta_loss(tree_map(lambda _: next(parts), activity.outputs))
    up, down = change[:count], change[count : 2 * count]
    return ((up - down) / (2 * step)).mT, change[2 * count :]


@cache
def _there_and_back(size: int, step: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Steps along every axis, and the same backwards; shape (2 · size, size)."""
    directions = step * torch.eye(size, dtype=dtype, device=device)
    return torch.cat([directions, -directions])


def output_columns(call: Call, outputs: list[Tensor]) -> slice | None:
    """Which outputs the nodes of a call are; None if something comes between."""
    start = 0
    a = call.pre_activation
    for y in outputs:
        size = _units(y)
        if a.data_ptr() == y.data_ptr() and a.numel() == y.numel():
            return slice(start, start + size)
        start += size
    return None


def flatten(outputs: Tree, leading: int) -> Tensor:
    """All outputs of a sample side by side, keeping the first `leading` axes."""
    return torch.cat([y.flatten(leading) for y in tensors(outputs)], dim=-1)


def _fed_by(index: int, calls: list[Call]) -> int | None:
    """The dense layer call whose inputs are, by their shape, the activity of call `index`.

    A wrong match costs variance, not correctness: its response is 0 and so is the guess.
    """
    a = calls[index].pre_activation
    for later in range(index + 1, len(calls)):
        call = calls[later]
        if isinstance(call.layer, LinearNodes) and call.raw_inputs.shape == a.shape:
            return later if a.dim() == 2 else None
    return None


def _least_squares(x: Tensor, y: Tensor) -> Tensor:
    """The smallest M with ``x M ≈ y``, for x of shape (rows, n); regularised.

    Solved in the smaller of the two spaces, of samples or of units; for many columns of y by an
    explicit inverse, which takes half the time and loses nothing next to the regularisation.
    """
    rows, units = x.shape
    square = x @ x.mT if rows < units else x.mT @ x
    trace = square.trace()
    # On a GPU a number that is fetched halts the step; on the CPU a float is added faster.
    mean = (trace if trace.is_cuda else trace.item()) / len(square)
    square.diagonal().add_(RIDGE * mean * rows / max(rows, units) + torch.finfo(x.dtype).tiny)
    factor, _ = torch.linalg.cholesky_ex(square)
    right = y if rows < units else x.mT @ y
    if 2 * right.shape[1] > len(right):
        answer = torch.cholesky_inverse(factor) @ right
    else:
        answer = torch.cholesky_solve(right, factor)
    return x.mT @ answer if rows < units else answer


def _units(x: Tensor) -> int:
    """How many numbers there are to a sample."""
    return x.numel() // x.shape[0]
