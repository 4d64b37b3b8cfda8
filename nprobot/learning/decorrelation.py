"""The local learning rule of the decorrelation matrices R, and how correlated inputs are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nprobot.errors import RuleError
from nprobot.policies.layers import DecorrelatedConv2d, DecorrelatedLinear


def update(R: Tensor, x: Tensor, lr: float, whitening: float = 0.0) -> None:
    """One step of ``R ← R − lr [(1 − κ) C R + κ diag(v) R]``, in place.

    C is the mean of ``x* x*ᵀ`` with its diagonal set to zero (no mean is subtracted): the rule of
    Dalm et al., κ = 0. With κ > 0 the variances, ``v = mean(x*² − 1)``, are driven to 1 as well, as
    in the decorrelated backpropagation of the same group.

    Args:
        R: decorrelation matrix, shape (d, d); overwritten.
        x: decorrelated inputs ``x* = R x``, shape (..., d).
        lr: step size η_R.
        whitening: κ in [0, 1].
    """
    x = x.reshape(-1, x.shape[-1])
    correlation = x.mT @ x
    diagonal = correlation.diagonal()
    if whitening:
        variance = whitening * (diagonal / x.shape[0] - 1)
        correlation *= (1 - whitening) / x.shape[0]
        diagonal.copy_(variance)
        R.addmm_(correlation, R.clone(), alpha=-lr)
    else:
        diagonal.zero_()
        R.addmm_(correlation, R.clone(), alpha=-lr / x.shape[0])


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
) -> list[tuple[str, DecorrelatedLinear | DecorrelatedConv2d]]:
    """Names and layers of a network that have a matrix R and are not frozen.

    Raises:
        RuleError: there is none.
    """
    layers = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, DecorrelatedLinear | DecorrelatedConv2d)
        and module.weight.requires_grad
    ]
    if not layers:
        raise RuleError(
            "a decorrelated rule needs decorrelated layers: build the network with "
            "nprobot.policies.mlp(..., decorrelated=True), or convert it with "
            "nprobot.policies.decorrelate(network), or choose the plain rule"
        )
    return layers
