"""Learned feedback: a guess of the node errors that takes most of the variance out of NP and INP.

The loss of a noisy pass tells how the noise of *all* nodes did together; every node hears its own
share under the noise of the others. A guess g⁰ of the node errors says what that noise should have
done, and only what it leaves unexplained has to come from the loss:

    g_l = g⁰_l + (δL − Σ_m g⁰_m·ε_m) ε_l / σ²

The mean does not depend on the guess, so the estimate stays unbiased whatever g⁰ is; its variance
falls as the guess gets better: a control variate. For a hidden layer the guess is ``B_l e``. There
e = dL/dy is the error of the outputs, found by perturbing the *outputs*, which takes evaluations of
the loss and no pass through the network; and B_l is a matrix that learns on the side, from the same
noisy passes, how noise in layer l moves the outputs (least mean squares). Nodes that *are* outputs
get their error from e exactly and need no noise. No derivative of the network, no transposed
weights, no backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .activity import Activity, Call, Tree, tensors, tree_map
from .errors import RuleError


class Feedback:
    """The feedback matrices of the networks that one rule has met.

    Args:
        lr: step size of the matrices.

    Attributes:
        matrices: for every network, by the number that the rule gives it, B_l of every layer call,
            shape (N_l, outputs); None where the nodes are outputs themselves.
    """

    def __init__(self, lr: float) -> None:
        if not 0.0 <= lr <= 1.0:
            raise RuleError(f"feedback_lr must be in [0, 1], got {lr!r}")
        self.lr = lr
        self.matrices: dict[int, list[Tensor | None]] = {}

    def guess(self, network: int, activity: Activity, error: Tensor) -> Tensor:
        """``g⁰`` of every node, shape (B, N): ``B_l e``, or e itself where a node is an output.

        Args:
            network: its number.
            activity: of the clean pass.
            error: e, shape (B, outputs).
        """
        places = [output_columns(call, activity.outputs) for call in activity.calls]
        if network not in self.matrices:
            # From zero: before it has learned anything, the guess is no guess.
            self.matrices[network] = [
                None if place else error.new_zeros(_size(call), error.shape[1])
                for call, place in zip(activity.calls, places, strict=True)
            ]
        guesses = []
        for place, matrix in zip(places, self.matrices[network], strict=True):
            if place is not None:
                guesses.append(error[:, place])
            else:
                assert matrix is not None
                guesses.append(error @ matrix.mT)
        return torch.cat(guesses, dim=-1)

    def hidden(self, network: int, activity: Activity) -> list[tuple[int, Call, Tensor]]:
        """Index, call and matrix of every layer whose nodes are not outputs themselves."""
        matrices = self.matrices[network]
        return [
            (i, call, matrix)
            for i, (call, matrix) in enumerate(zip(activity.calls, matrices, strict=True))
            if matrix is not None
        ]

    def learn(self, matrix: Tensor, noise: Tensor, unexplained: Tensor, sigma: float) -> None:
        """One step of least mean squares: ``B += lr · mean ε (δy − Σ_m B_mᵀ ε_m)ᵀ / σ²``.

        Args:
            matrix: B_l, shape (N_l, outputs); overwritten.
            noise: ε_l, shape (K, B, N_l).
            unexplained: change of the outputs less its prediction, shape (K, B, outputs).
            sigma: standard deviation of the noise.
        """
        rows = noise.shape[0] * noise.shape[1]
        rate = self.lr / (rows * sigma**2)
        matrix.addmm_(noise.flatten(0, 1).mT, unexplained.flatten(0, 1), alpha=rate)

    def state_dict(self) -> dict[int, list[Tensor | None]]:
        """The matrices, by network and layer call."""
        return {n: [m if m is None else m.clone() for m in own] for n, own in self.matrices.items()}

    def load_state_dict(self, state: dict[int, list[Tensor | None]]) -> None:
        """Go on from saved matrices."""
        self.matrices = {int(n): list(own) for n, own in state.items()}


def output_error(activity: Activity, delta_loss: Callable[[Tree], Tensor], step: float) -> Tensor:
    """``dL/dy`` of every output, shape (B, outputs), by central differences of the loss alone.

    Args:
        activity: of the clean pass.
        delta_loss: from outputs (K, B, ...) to the change of the loss, (K, B).
        step: how far an output is moved; the error is of the order of its square.
    """
    clean = tensors(activity.outputs)
    sizes = [y[0].numel() for y in clean]
    directions = step * torch.eye(sum(sizes), dtype=clean[0].dtype, device=clean[0].device)
    both = torch.cat([directions, -directions])
    parts = iter(
        (y + part.view(-1, 1, *y.shape[1:]))
        for y, part in zip(clean, torch.split(both, sizes, dim=1), strict=True)
    )
    change = delta_loss(tree_map(lambda _: next(parts), activity.outputs))
    up, down = change.chunk(2)
    return ((up - down) / (2 * step)).mT


def output_columns(call: Call, outputs: Tree) -> slice | None:
    """Which outputs the nodes of a call are; None if something comes between."""
    start = 0
    for y in tensors(outputs):
        size = y[0].numel()
        a = call.pre_activation
        if a.data_ptr() == y.data_ptr() and a.numel() == y.numel():
            return slice(start, start + size)
        start += size
    return None


def flatten(outputs: Tree, leading: int) -> Tensor:
    """All outputs of a sample side by side, keeping the first `leading` axes."""
    return torch.cat([y.flatten(leading) for y in tensors(outputs)], dim=-1)


def _size(call: Call) -> int:
    return call.pre_activation[0].numel()
