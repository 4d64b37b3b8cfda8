"""PPO's losses, one number per transition, as functions of raw network outputs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nprobot.policies.distributions import ActionDistribution


class ClippedSurrogate:
    """Loss of the actor: ``−min(ρ A, clip(ρ, 1 ± c) A) − β H``, with ρ = π(a|s) / π_old(a|s).

    Schulman et al. 2017, equation 7, before the average over the batch.

    Args:
        distribution: of the actions.
        actions: taken, shape (B, action size).
        old_log_prob: of these actions when they were taken, shape (B,).
        advantages: A, shape (B,).
        clip_range: c.
        entropy_coefficient: β.

    Attributes:
        log_ratio: log ρ of the clean pass, shape (B,), once the loss has been evaluated on it.
    """

    def __init__(
        self,
        distribution: ActionDistribution,
        actions: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        clip_range: float,
        entropy_coefficient: float,
    ) -> None:
        self.distribution = distribution
        self.actions = actions
        self.old_log_prob = old_log_prob
        self.advantages = advantages
        self.clip_range = clip_range
        self.entropy_coefficient = entropy_coefficient
        self.log_ratio: Tensor | None = None

    def __call__(self, outputs: tuple[Tensor, ...]) -> Tensor:
        """Losses, shape (..., B), from the actor's outputs (..., B, n)."""
        log_ratio = self.distribution.log_prob(outputs, self.actions) - self.old_log_prob
        if log_ratio.dim() == 1:
            self.log_ratio = log_ratio.detach()
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        loss = -torch.minimum(ratio * self.advantages, clipped * self.advantages)
        if self.entropy_coefficient:
            loss = loss - self.entropy_coefficient * self.distribution.entropy(outputs)
        return loss

    def approximate_kl(self) -> float:
        """Estimate of KL(π_old ‖ π) of the clean pass (Schulman's k3 estimator), in nats."""
        assert self.log_ratio is not None, "evaluated before the clean pass"
        log_ratio = self.log_ratio.cpu().numpy()
        return float((np.expm1(log_ratio) - log_ratio).sum()) / log_ratio.size

    def clip_fraction(self) -> float:
        """Share of transitions whose ratio left the clip range in the clean pass."""
        assert self.log_ratio is not None, "evaluated before the clean pass"
        change = np.expm1(self.log_ratio.cpu().numpy())
        clipped = np.count_nonzero(abs(change) > self.clip_range)
        return float(clipped / change.size)


class SquaredValueError:
    """Loss of the critic: ``coefficient · (V(s) − R)²``.

    Args:
        returns: R, the regression targets, shape (B,).
        old_values: V(s) when the data were collected, shape (B,).
        clip_range: how far V may move from `old_values`; None for as far as it likes.
        coefficient: weight of the loss.
    """

    def __init__(
        self, returns: Tensor, old_values: Tensor, clip_range: float | None, coefficient: float
    ) -> None:
        self.returns = returns
        self.old_values = old_values
        self.clip_range = clip_range
        self.coefficient = coefficient

    def __call__(self, values: Tensor) -> Tensor:
        """Losses, shape (..., B), from the critic's outputs (..., B, 1)."""
        values = values.squeeze(-1)
        if self.clip_range is not None:
            change = (values - self.old_values).clamp(-self.clip_range, self.clip_range)
            values = self.old_values + change
        return self.coefficient * (values - self.returns).square()
