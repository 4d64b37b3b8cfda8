"""The two networks inside an SB3 actor-critic policy, each as a module of its own."""

from __future__ import annotations

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from ..errors import ArchitectureError
from .layers import BiasHead

Observation = Tensor | dict[str, Tensor]


class Actor(nn.Module):
    """From preprocessed observations to the raw outputs of the action distribution.

    Shares its modules with the policy: training one trains the other.

    Args:
        policy: an SB3 actor-critic policy.

    Raises:
        ArchitectureError: actor and critic share parameters, or the policy is of another make.
    """

    log_std: BiasHead | None

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        _check(policy)
        self.features = policy.pi_features_extractor
        self.body = policy.mlp_extractor.policy_net
        self.head = policy.action_net
        log_std = getattr(policy, "log_std", None)
        self.log_std = BiasHead(log_std) if log_std is not None else None

    def forward(self, observation: Observation) -> tuple[Tensor, ...]:
        """Mean and log std of a Gaussian, (B, n) each; or the logits, (B, n), alone."""
        latent = self.body(self.features(observation))
        outputs = self.head(latent)
        return (outputs,) if self.log_std is None else (outputs, self.log_std(latent))


class Critic(nn.Module):
    """From preprocessed observations to the value of the state; see `Actor`."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        _check(policy)
        self.features = policy.vf_features_extractor
        self.body = policy.mlp_extractor.value_net
        self.head = policy.value_net

    def forward(self, observation: Observation) -> Tensor:
        """State values, shape (B, 1)."""
        values: Tensor = self.head(self.body(self.features(observation)))
        return values


def _check(policy: ActorCriticPolicy) -> None:
    if policy.use_sde:
        raise ArchitectureError(
            "use_sde=True makes the exploration noise depend on the features through a matrix that "
            "node perturbation cannot reach; use the default use_sde=False, or rule='bp'"
        )
    extractor = policy.mlp_extractor
    if not hasattr(extractor, "policy_net") or not hasattr(extractor, "value_net"):
        raise ArchitectureError(
            f"{type(extractor).__name__} has no policy_net and value_net; node perturbation needs "
            "actor and critic as two networks, as SB3's MlpExtractor has them"
        )
    shared = {id(p) for p in policy.pi_features_extractor.parameters()}
    if any(id(p) in shared for p in policy.vf_features_extractor.parameters()):
        raise ArchitectureError(
            "actor and critic share a features extractor with parameters, so the noise of one "
            "would blur the credit of the other; pass "
            "policy_kwargs=dict(share_features_extractor=False)"
        )
