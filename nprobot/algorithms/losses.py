"""The losses of PPO, SAC and TD3, one number a transition, as functions of network outputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor

from nprobot.policies.distributions import ActionDistribution
from nprobot.policies.sb3_networks import FrozenCritic

Array = NDArray[Any]


class ClippedSurrogate:
    """Loss of the actor: ``−min(ρ A, clip(ρ, 1 ± c) A) − β H``, with ρ = π(a|s) / π_old(a|s).

    Schulman et al. 2017, equation 7, before the average over the batch.

    Args:
        distribution: the distribution of the actions.
        actions: taken, shape (B, action size).
        old_log_prob: the log-probabilities of these actions when they were taken, shape (B,).
        advantages: A, shape (B,).
        clip_range: c.
        entropy_coefficient: β.

    Attributes:
        log_ratio: log ρ of the clean pass, shape (B,), once the loss has been evaluated on it.
        surrogate: the first term of the loss there, shape (B,).
        entropy: H there, shape (B,); −log π(a|s) where the entropy has no closed form.
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
        self.surrogate: Tensor | None = None
        self.entropy: Tensor | None = None

    def __call__(self, outputs: tuple[Tensor, ...]) -> Tensor:
        """Losses, shape (..., B), from the actor's outputs (..., B, n)."""
        log_prob = self.distribution.log_prob(outputs, self.actions)
        log_ratio = log_prob - self.old_log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        loss = -torch.minimum(ratio * self.advantages, clipped * self.advantages)
        clean = log_ratio.dim() == 1
        if clean:
            self.log_ratio, self.surrogate = log_ratio.detach(), loss.detach()
        if clean or self.entropy_coefficient:
            entropy = self.distribution.entropy(outputs)
            if entropy is None:
                entropy = -log_prob
            if clean:
                self.entropy = entropy.detach()
            if self.entropy_coefficient:
                loss = loss - self.entropy_coefficient * entropy
        return loss

    def terms(self) -> tuple[float, float]:
        """Means of the surrogate and of the negative entropy, both losses, in the clean pass."""
        assert self.surrogate is not None, "evaluated before the clean pass"
        assert self.entropy is not None, "evaluated before the clean pass"
        return float(self.surrogate.mean()), -float(self.entropy.mean())

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

    Attributes:
        error: ``(V(s) − R)²`` of the clean pass, shape (B,), once the loss has been evaluated.
    """

    def __init__(
        self, returns: Tensor, old_values: Tensor, clip_range: float | None, coefficient: float
    ) -> None:
        self.returns = returns
        self.old_values = old_values
        self.clip_range = clip_range
        self.coefficient = coefficient
        self.error: Tensor | None = None

    def __call__(self, values: Tensor) -> Tensor:
        """Losses, shape (..., B), from the critic's outputs (..., B, 1)."""
        values = values.squeeze(-1)
        if self.clip_range is not None:
            change = (values - self.old_values).clamp(-self.clip_range, self.clip_range)
            values = self.old_values + change
        error = (values - self.returns).square()
        if error.dim() == 1:
            self.error = error.detach()
        return self.coefficient * error

    def mean(self) -> float:
        """Mean of the squared errors in the clean pass."""
        assert self.error is not None, "evaluated before the clean pass"
        return float(self.error.mean())


class SharedLoss:
    """Loss of actor and critic in one network: the sum of both.

    Args:
        surrogate: the loss of the actor's outputs, all but the last.
        value_error: the error of the critic's output, the last.
    """

    def __init__(self, surrogate: ClippedSurrogate, value_error: SquaredValueError) -> None:
        self.surrogate = surrogate
        self.value_error = value_error

    def __call__(self, outputs: tuple[Tensor, ...]) -> Tensor:
        """Losses, shape (..., B), from the outputs of a `SharedActorCritic`, (..., B, n)."""
        return self.surrogate(outputs[:-1]) + self.value_error(outputs[-1])


_SQUASHING_EPSILON = 1e-6
"""Keeps the logarithm of the squashing's derivative finite; the value is SB3's."""


class SquaredTemporalDifference:
    """Loss of a critic: ``coefficient · (Q(s, a) − y)²``.

    Args:
        targets: y, shape (B,).
        coefficient: weight of the loss; ½ in SB3's SAC, 1 in its TD3.
    """

    def __init__(self, targets: Tensor, coefficient: float) -> None:
        self.targets = targets
        self.coefficient = coefficient

    def __call__(self, values: Tensor) -> Tensor:
        """Losses, shape (..., B), from the critic's outputs (..., B, 1)."""
        return self.coefficient * (values.squeeze(-1) - self.targets).square()

    def on_arrays(
        self, outputs: list[Array], *, slopes: bool, step: float
    ) -> tuple[Array, list[Array]]:
        """See `ArrayLoss`."""
        del step  # nothing has to be moved
        off = outputs[0][..., 0] - self.targets.numpy()
        found = [2 * self.coefficient * off[0][:, None]] if slopes else []
        return self.coefficient * off * off, found


class SoftActionValue:
    """Loss of SAC's actor: ``α log π(a|s) − min_i Q_i(s, a)`` with ``a = tanh(μ + e^{log s} ξ)``.

    Haarnoja et al. 2018 (arXiv 1812.05905), equation 9. The draw ξ is part of the loss: one for
    each sample, the same in the clean and in all noisy passes. So a node's perturbation is judged
    by what it does to *this* action and its density, as the reparametrised gradient would be.

    Args:
        critic: run forward only.
        noise: ξ, shape (B, action size).
        temperature: α.
        limited: whether the log standard deviation is kept in SB3's limits; not under gSDE.

    Attributes:
        log_prob: log π(a|s) of the clean pass, shape (B,), once the loss has been evaluated on it.
    """

    def __init__(
        self, critic: FrozenCritic, noise: Tensor, temperature: Tensor, *, limited: bool = True
    ) -> None:
        self.critic = critic
        self.noise = noise
        self.temperature = temperature
        self.limited = limited
        self.log_prob: Tensor | None = None

    def __call__(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        """Losses, shape (..., B), from mean and log standard deviation (..., B, n)."""
        actions, log_prob = squashed_gaussian(outputs, self.noise, limited=self.limited)
        if log_prob.dim() == 1:
            self.log_prob = log_prob.detach()
        return self.temperature * log_prob - self.critic(actions).amin(0)

    def on_arrays(
        self, outputs: list[Array], *, slopes: bool, step: float
    ) -> tuple[Array, list[Array]]:
        """See `ArrayLoss`. Only the actions are moved, and what makes them of outputs is known.

        Half as many passes through the critics as if mean and standard deviation were moved.
        """
        mean, log_std = map(torch.from_numpy, outputs)
        losses = torch.cat([self((mean[0], log_std[0]))[None], self((mean[1:], log_std[1:]))])
        if not slopes:
            return losses.numpy(), []
        std = log_std[0]
        inside: Tensor | float = 1.0
        if self.limited:
            std = std.clamp(LOG_STD_MIN, LOG_STD_MAX)
            inside = std == log_std[0]
        std = std.exp()
        actions = torch.tanh(mean[0] + std * self.noise)
        flat = 1 - actions.square()
        entropy = 2 * actions * flat / (flat + _SQUASHING_EPSILON)
        error = self.temperature * entropy - flat * self.critic.slopes(actions, step)
        spread = (error * std * self.noise - self.temperature) * inside
        return losses.numpy(), [error.numpy(), spread.numpy()]


class ActionValue:
    """Loss of TD3's actor: ``−Q_1(s, tanh(output))``.

    Fujimoto et al. 2018 (arXiv 1802.09477), algorithm 1.

    Args:
        critic: the critic of one network, run forward only.
    """

    def __init__(self, critic: FrozenCritic) -> None:
        self.critic = critic

    def __call__(self, outputs: Tensor) -> Tensor:
        """Losses, shape (..., B), from the actor's outputs before the tanh, (..., B, n)."""
        return -self.critic(torch.tanh(outputs))[0]

    def on_arrays(
        self, outputs: list[Array], *, slopes: bool, step: float
    ) -> tuple[Array, list[Array]]:
        """See `SoftActionValue.on_arrays`."""
        y = torch.from_numpy(outputs[0])
        losses = self(y).numpy()
        if not slopes:
            return losses, []
        actions = torch.tanh(y[0])
        error = -(1 - actions.square()) * self.critic.slopes(actions, step)
        return losses, [error.numpy()]


def squashed_gaussian(
    outputs: tuple[Tensor, Tensor], noise: Tensor, *, limited: bool = True
) -> tuple[Tensor, Tensor]:
    """Actions of a Gaussian squashed by tanh, and their log density.

    Args:
        outputs: mean and log standard deviation, tensors (..., B, n).
        noise: standard normal ξ, shape (B, n).
        limited: whether the latter is clamped to SB3's limits.

    Returns:
        Actions (..., B, n) and log densities (..., B).
    """
    mean, log_std = outputs
    if limited:
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    actions = torch.tanh(mean + log_std.exp() * noise)
    gaussian = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std
    squashing = torch.log(1 - actions.square() + _SQUASHING_EPSILON)
    return actions, (gaussian - squashing).sum(-1)
