"""Log-probability and entropy of actions from raw network outputs, with any leading axes.

SB3's distribution objects sum over axis 1, which fits one batch; perturbed passes have an axis of
draws before it. Here everything reduces over the last axis only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.distributions import TanhBijector
from torch import Tensor

from ..errors import ArchitectureError


class ActionDistribution(ABC):
    """Distribution over actions, as a function of the actor's outputs."""

    @abstractmethod
    def log_prob(self, outputs: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        """Log-probability (density) of actions.

        Args:
            outputs: the outputs of the actor, tensors (..., B, n).
            actions: shape (B, action size).

        Returns:
            Shape (..., B).
        """

    @abstractmethod
    def entropy(self, outputs: tuple[Tensor, ...]) -> Tensor | None:
        """Entropy of each sample's distribution in nats, (..., B); None without a closed form."""


class DiagonalGaussian(ActionDistribution):
    """Independent Gaussians; outputs are the mean and the log standard deviation."""

    def log_prob(self, outputs: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        """See the base class."""
        mean, log_std = outputs
        z = (actions - mean) * torch.exp(-log_std)
        constant = 0.5 * math.log(2 * math.pi) * mean.shape[-1]
        return -0.5 * z.square().sum(-1) - log_std.sum(-1) - constant

    def entropy(self, outputs: tuple[Tensor, ...]) -> Tensor | None:
        """See the base class."""
        _, log_std = outputs
        return log_std.sum(-1) + 0.5 * (1 + math.log(2 * math.pi)) * log_std.shape[-1]


class SquashedGaussian(DiagonalGaussian):
    """Independent Gaussians squashed by tanh, as gSDE has them with ``squash_output=True``."""

    def log_prob(self, outputs: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        """See the base class."""
        gaussian = TanhBijector.inverse(actions)
        correction = TanhBijector().log_prob_correction(gaussian).sum(-1)
        return super().log_prob(outputs, gaussian) - correction

    def entropy(self, outputs: tuple[Tensor, ...]) -> None:
        """None: it has no closed form."""


class Categorical(ActionDistribution):
    """One or several independent choices; outputs are their logits side by side.

    Args:
        choices: number of options of every choice.
    """

    def __init__(self, choices: Sequence[int]) -> None:
        self.choices = [int(n) for n in choices]

    def log_prob(self, outputs: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        """See the base class."""
        chosen = actions.long().view(-1, len(self.choices))
        total = torch.zeros(())
        for i, logits in enumerate(torch.split(outputs[0], self.choices, dim=-1)):
            index = chosen[:, i : i + 1].expand(*logits.shape[:-1], 1)
            total = total + F.log_softmax(logits, dim=-1).gather(-1, index).squeeze(-1)
        return total

    def entropy(self, outputs: tuple[Tensor, ...]) -> Tensor:
        """See the base class."""
        total = torch.zeros(())
        for logits in torch.split(outputs[0], self.choices, dim=-1):
            log_p = F.log_softmax(logits, dim=-1)
            total = total - (log_p.exp() * log_p).sum(-1)
        return total


class Bernoulli(ActionDistribution):
    """Independent yes-or-no actions; outputs are the logits of yes."""

    def log_prob(self, outputs: tuple[Tensor, ...], actions: Tensor) -> Tensor:
        """See the base class."""
        (logits,) = outputs
        return -F.softplus(torch.where(actions.bool(), -logits, logits)).sum(-1)

    def entropy(self, outputs: tuple[Tensor, ...]) -> Tensor:
        """See the base class."""
        (logits,) = outputs
        p = torch.sigmoid(logits)
        return (p * F.softplus(-logits) + (1 - p) * F.softplus(logits)).sum(-1)


def action_distribution(
    space: spaces.Space[object], *, squashed: bool = False
) -> ActionDistribution:
    """The distribution that SB3 uses for an action space.

    Args:
        space: the action space.
        squashed: whether continuous actions go through a tanh.

    Raises:
        ArchitectureError: the space is none of `Box`, `Discrete`, `MultiDiscrete`, `MultiBinary`.
    """
    if isinstance(space, spaces.Box):
        return SquashedGaussian() if squashed else DiagonalGaussian()
    if isinstance(space, spaces.Discrete):
        return Categorical([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return Categorical(space.nvec.tolist())
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli()
    raise ArchitectureError(
        f"no policy for action space {space}; Box, Discrete, MultiDiscrete and MultiBinary have one"
    )
