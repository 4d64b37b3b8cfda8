"""The local learning rule of the decorrelation matrices R, and what it does to a network.

A step is ``R ← M R`` with ``M = I − E`` and ``E = η_R [(1 − κ) C + κ diag(v)]``, C the mean of
``x* x*ᵀ`` with its diagonal set to zero, v the mean of ``x*² − 1`` (Dalm, van Gerven & Ahmad, arXiv
2310.00965, with κ = 0). By itself it changes what a layer computes, ``a = W R x + b``. With
``W ← W M⁻¹`` beside it the layer computes the same as before, and R only preconditions the
gradient of W: see docs/experiments/decorrelation.md.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from nprobot.errors import RuleError
from nprobot.policies.layers import DecorrelatedLayer, is_decorrelated_layer

if TYPE_CHECKING:
    from .rule import LearningRule

LONGEST = 0.5
"""Bound of ‖E‖ where the weights follow: at 1, M would be singular and W without bound."""


class Step(ABC):
    """``M = I − E`` of one step of R."""

    most_terms: ClassVar[int]
    """Terms of ``M⁻¹ = I + E + E² + …`` beyond which it is cheaper to solve the equations."""

    @abstractmethod
    def move(self, R: Tensor) -> None:
        """``R ← M R``, in place, for R of shape (d, m)."""

    @abstractmethod
    def right(self, matrix: Tensor) -> Tensor:
        """``P E``, shape (n, d), of a matrix (n, d)."""

    @abstractmethod
    def solve(self, matrix: Tensor) -> Tensor:
        """``P M⁻¹``, shape (n, d), of a matrix (n, d), by Cholesky's decomposition."""

    @abstractmethod
    def norm(self) -> Tensor:
        """An upper bound of ‖E‖, the largest absolute eigenvalue."""

    @abstractmethod
    def shorten(self, share: Tensor | float) -> None:
        """Multiply E by a factor."""

    def limit(self) -> int:
        """See to it that ‖E‖ is at most `LONGEST`.

        Returns:
            Terms of the series of M⁻¹ after which what is left is below rounding, or
            `most_terms` + 1 if there are more.
        """
        norm = self.norm()
        if norm.is_cuda and torch.cuda.is_current_stream_capturing():
            self.shorten((LONGEST / norm).clamp(max=1.0))  # nothing can be fetched
            return self.most_terms + 1
        bound = float(norm)
        if bound > LONGEST:
            self.shorten(LONGEST / bound)
            bound = LONGEST
        rounding, terms, rest = torch.finfo(norm.dtype).eps / 2, 0, bound / (1 - bound)
        while rest > rounding and terms <= self.most_terms:
            terms, rest = terms + 1, rest * bound
        return terms

    def follow(self, weight: Tensor, terms: int) -> Tensor:
        """``W M⁻¹`` to rounding, for weights W of shape (n, d); see `limit` for the terms."""
        if terms > self.most_terms:
            return self.solve(weight)
        total = weight
        for _ in range(terms):
            total = weight + self.right(total)
        return total


class DenseStep(Step):
    """E as a matrix: B d² multiply-adds to make it, and d³ to multiply R.

    Args:
        x: decorrelated inputs, shape (B, d).
        lr: step size η_R.
        whitening: κ.
    """

    most_terms = 4

    def __init__(self, x: Tensor, lr: float, whitening: float) -> None:
        self.E = x.mT @ x
        diagonal = self.E.diagonal()
        own = (lr * whitening) * (diagonal / x.shape[0] - 1)
        self.E *= lr * (1 - whitening) / x.shape[0]
        diagonal.copy_(own)

    @override
    def move(self, R: Tensor) -> None:
        R -= self.E @ R

    @override
    def right(self, matrix: Tensor) -> Tensor:
        return matrix @ self.E

    @override
    def solve(self, matrix: Tensor) -> Tensor:
        factor, _ = torch.linalg.cholesky_ex(_identity_minus(self.E))
        return torch.cholesky_solve(matrix.mT, factor).mT

    @override
    def norm(self) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(self.E)
        return norm

    @override
    def shorten(self, share: Tensor | float) -> None:
        self.E *= share


class FactoredStep(Step):
    """``E = YᵀY + diag(s)`` with Y of B rows: 2 B d² multiply-adds to multiply R.

    Args:
        x: decorrelated inputs, shape (B, d).
        lr: step size η_R.
        whitening: κ.
    """

    most_terms = 2

    def __init__(self, x: Tensor, lr: float, whitening: float) -> None:
        rows = x.shape[0]
        square = x.square().sum(0)
        share = lr * (1 - whitening) / rows
        self.Y = x * math.sqrt(share)
        self.s = (lr * whitening) * (square / rows - 1) - share * square

    @override
    def move(self, R: Tensor) -> None:
        # In place, as to write a matrix of this size takes as long as the products.
        product = self.Y @ R
        R.mul_((1 - self.s).unsqueeze(1)).addmm_(self.Y.mT, product, alpha=-1)

    @override
    def right(self, matrix: Tensor) -> Tensor:
        return torch.addmm(matrix * self.s, matrix @ self.Y.mT, self.Y)

    @override
    def solve(self, matrix: Tensor) -> Tensor:
        """``P M⁻¹`` by the Woodbury identity: B equations instead of d."""
        scale = 1 - self.s
        scaled, own = matrix / scale, self.Y / scale
        factor, _ = torch.linalg.cholesky_ex(_identity_minus(own @ self.Y.mT))
        return scaled + torch.cholesky_solve((scaled @ self.Y.mT).mT, factor).mT @ own

    @override
    def norm(self) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(self.Y @ self.Y.mT)
        return norm + self.s.abs().max()

    @override
    def shorten(self, share: Tensor | float) -> None:
        self.Y *= share**0.5
        self.s *= share


def update(
    R: Tensor,
    x: Tensor,
    lr: float,
    whitening: float = 0.0,
    *,
    weight: Tensor | None = None,
    keep_scale: bool = False,
) -> None:
    """One step of ``R ← R − lr [(1 − κ) C R + κ diag(v) R]``, in place.

    C is the mean of ``x* x*ᵀ`` with its diagonal set to zero (no mean is subtracted): the rule of
    Dalm et al., κ = 0. With κ > 0 the variances, ``v = mean(x*² − 1)``, are driven to 1 as well, as
    in the decorrelated backpropagation of the same group.

    Args:
        R: decorrelation matrix, shape (d, d), or one for each group, (G, d, d); overwritten.
        x: decorrelated inputs ``x* = R x``, shape (..., d), or all groups' side by side.
        lr: step size η_R.
        whitening: κ in [0, 1].
        weight: W, shape (n, ...) with d entries in a row; overwritten by ``W M⁻¹``, so that W R
            stays what it is, to rounding. A step with ‖E‖ above 1/2 is shortened to it then.
        keep_scale: multiply R, after the step, so that its Frobenius norm stays what it is: the
            preconditioner RᵀR then neither lengthens nor shortens the mean step.
    """
    if R.dim() == 3:
        parts = x.chunk(len(R), -1), () if weight is None else weight.chunk(len(R))
        for group, own in enumerate(R):
            some = None if weight is None else parts[1][group]
            update(own, parts[0][group], lr, whitening, weight=some, keep_scale=keep_scale)
        return
    x = x.reshape(-1, x.shape[-1])
    rows, size = x.shape
    # By multiply-adds: for W to follow, the factors cost twice what E does for each of its terms.
    few = rows < size if weight is None else rows < size / 2
    step = (FactoredStep if few else DenseStep)(x, lr, whitening)
    terms = 0 if weight is None else step.limit()
    before = torch.linalg.vector_norm(R) if keep_scale else None
    step.move(R)
    if before is not None:
        scale = before / torch.linalg.vector_norm(R)
        R *= scale
    if weight is not None:
        follower = step.follow(weight.flatten(1), terms)
        weight.copy_((follower / scale if keep_scale else follower).view_as(weight))


def mean_square_correlation(x: Tensor) -> float:
    """Mean squared off-diagonal entry of the (uncentred) correlation matrix of x, shape (..., d).

    Inputs that are 0 in the whole batch count as uncorrelated.
    """
    x = x.reshape(-1, x.shape[-1])
    size = x.shape[-1]
    if size < 2:
        return 0.0
    unit = torch.nn.functional.normalize(x, dim=0)
    correlation = unit.mT @ unit
    square = correlation.square_()
    return float((square.sum() - square.diagonal().sum()) / (size * (size - 1)))


def decorrelated_layers(
    network: nn.Module,
) -> list[tuple[str, DecorrelatedLayer]]:
    """Names and layers of a network that have a matrix R and are not frozen.

    Raises:
        RuleError: there is none.
    """
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if is_decorrelated_layer(module) and module.weight.requires_grad
    ]
    if not layers:
        raise RuleError(
            "a decorrelated rule needs decorrelated layers: build the network with "
            "nprobot.policies.mlp(..., decorrelated=True), or convert it with "
            "nprobot.policies.decorrelate(network), or choose the plain rule"
        )
    return layers


@dataclass(frozen=True)
class LayerState:
    """What decorrelation has made of a layer.

    Attributes:
        name: the name of the layer in its network.
        condition: condition number of R, its largest singular value over its smallest: how
            unequal the preconditioning is. It costs a decomposition of R, some 20 d³.
        correlation: mean squared correlation of the decorrelated inputs; NaN if not known.
        scale: root mean square of the decorrelated inputs; NaN if not known.
        weight_norm: Frobenius norm of W, by which a step of the optimiser is to be judged.
        folded_norm: the same of ``W R``, by which the function is.
    """

    name: str
    condition: float
    correlation: float
    scale: float
    weight_norm: float
    folded_norm: float


@torch.no_grad()
def layer_states(network: nn.Module, inputs: Mapping[str, Tensor]) -> list[LayerState]:
    """What decorrelation has made of each layer of a network.

    Args:
        network: with decorrelated layers.
        inputs: of the layers by name, decorrelated; `LearningRule.remembered_inputs` has them.

    Raises:
        RuleError: the network has no decorrelated layer.
    """
    states = []
    for name, layer in decorrelated_layers(network):
        x = inputs.get(name)
        states.append(
            LayerState(
                name=name,
                condition=float(torch.linalg.cond(layer.R.double()).max()),
                correlation=math.nan if x is None else mean_square_correlation(x),
                scale=math.nan if x is None else float(x.square().mean().sqrt()),
                weight_norm=float(torch.linalg.vector_norm(layer.weight)),
                folded_norm=float(torch.linalg.vector_norm(layer.folded_weight())),
            )
        )
    return states


@torch.no_grad()
def moved_by_decorrelation(
    rule: LearningRule,
    network: nn.Module,
    inputs: Any,  # noqa: ANN401 - tensors, or tuples or dicts of them
    divergence: Callable[[Any, Any], Tensor],
    *,
    scale: float = 1.0,
) -> float:
    """Call `rule.decorrelate`, and measure how far R alone moved what the network computes.

    Costs two passes. For a policy, `divergence` is the Kullback-Leibler divergence of the action
    distributions: what R moves between two minibatches has no gradient behind it.

    Args:
        rule: whose `backward` has seen the network.
        network: any.
        inputs: a batch, as for `backward`.
        divergence: of the outputs after from those before, one number per sample, shape (B,).
        scale: factor on η_R.

    Returns:
        Mean divergence over the batch; 0 to rounding where the function is kept.
    """
    before = network(inputs)
    rule.decorrelate(network, scale=scale)
    return float(divergence(before, network(inputs)).mean())


def _identity_minus(matrix: Tensor) -> Tensor:
    result = -matrix
    result.diagonal().add_(1)
    return result
