"""A policy whose critic sees more than its actor: what a simulation knows and no sensor tells."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor
from typing_extensions import override

from ..errors import ConfigError


class SensedExtractor(FlattenExtractor):
    """Observations with the numbers at their end set to 0, so that no weight learns from them.

    Args:
        observation_space: a Box with one axis.
        privileged: how many.

    Raises:
        ConfigError: nothing would be left.
    """

    def __init__(self, observation_space: spaces.Box, privileged: int) -> None:
        super().__init__(observation_space)
        if not 0 < privileged < self.features_dim:
            raise ConfigError(
                f"an actor must see something: {privileged} of {self.features_dim} are privileged"
            )
        self.privileged = privileged

    @override
    def forward(self, observations: Tensor) -> Tensor:
        """Features, shape (B, n)."""
        features = super().forward(observations).clone()
        features[..., -self.privileged :] = 0.0
        return features


class AsymmetricPolicy(ActorCriticPolicy):
    """stable-baselines3's actor-critic policy with observations that the actor does not see.

    Args:
        *arguments: of `ActorCriticPolicy`.
        privileged: how many numbers at the end of an observation are the critic's alone.
        **settings: arguments of `ActorCriticPolicy`.
    """

    def __init__(self, *arguments: Any, privileged: int, **settings: Any) -> None:
        super().__init__(*arguments, **settings | {"share_features_extractor": False})
        assert isinstance(self.observation_space, spaces.Box)
        self.privileged = privileged
        # It has no parameters, so nothing else needs to know.
        self.features_extractor = SensedExtractor(self.observation_space, privileged)
        self.pi_features_extractor = self.features_extractor

    @override
    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "privileged": self.privileged}
