"""Generalised state-dependent exploration (gSDE): noise on actions that depends on the state."""

from __future__ import annotations

import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Tensor, nn


class StateDependentStd(nn.Module):
    """How far gSDE spreads each action in a state: ``log s_a = ½ log(Σ_l z_l² σ_la² + ε)``.

    Raffin, Kober & Stulp (arXiv 2005.05719), equation 5. z are the latent features of the policy,
    σ a matrix of parameters. One node an action, so that perturbation judges a spread as it judges
    a mean, whatever the number of features.

    Args:
        log_std: the parameter, shape (features, actions), or (features, 1) for all actions alike.
        distribution: stable-baselines3's, which says how σ follows from `log_std`, and whether the
            features learn from the spread.
    """

    def __init__(
        self, log_std: nn.Parameter, distribution: StateDependentNoiseDistribution
    ) -> None:
        super().__init__()
        self.log_std = log_std
        self.learn_features = distribution.learn_features
        self.use_expln = distribution.use_expln
        self.actions = distribution.action_dim
        self.epsilon = distribution.epsilon

    def forward(self, latent: Tensor) -> Tensor:
        """Log standard deviations of the actions, (B, actions), for features (B, features)."""
        if not self.learn_features:
            latent = latent.detach()
        return 0.5 * self._variance(latent, self._std()).log()

    def gradient(self, error: Tensor, latent: Tensor) -> Tensor:
        """``Σ_b error_ba ∂ log s_ba / ∂ log_std``, in the shape of `log_std`; each from its share.

        Args:
            error: the error of the nodes, shape (B, actions).
            latent: features, shape (B, features).
        """
        std = self._std()
        share = latent.square().mT @ (error / self._variance(latent, std))
        gradient = share * std * self._slope()
        return gradient if self.log_std.shape[1] > 1 else gradient.sum(1, keepdim=True)

    def _variance(self, latent: Tensor, std: Tensor) -> Tensor:
        return latent.square() @ std.square() + self.epsilon

    def _std(self) -> Tensor:
        """σ, shape (features, actions)."""
        std = self.log_std.exp()
        if self.use_expln:  # grows like a logarithm above 1
            above = torch.log1p(self.log_std.clamp_min(0.0) + self.epsilon) + 1.0
            std = torch.where(self.log_std > 0, above, std)
        return std.expand(-1, self.actions)

    def _slope(self) -> Tensor:
        """dσ / d log_std, shape (features, actions or 1)."""
        slope = self.log_std.exp()
        if self.use_expln:
            above = 1 / (1 + self.log_std.clamp_min(0.0) + self.epsilon)
            slope = torch.where(self.log_std > 0, above, slope)
        return slope
