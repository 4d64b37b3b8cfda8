"""The networks inside an SB3 actor-critic policy, each as a module by itself."""

from __future__ import annotations

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from ..errors import ArchitectureError
from .gsde import StateDependentStd
from .layers import BiasHead

Observation = Tensor | dict[str, Tensor]


class Actor(nn.Module):
    """From preprocessed observations to the raw outputs of the action distribution.

    Shares its modules with the policy: training one trains the other.

    Args:
        policy: an SB3 actor-critic policy.

    Raises:
        ArchitectureError: the policy is of another make.
    """

    log_std: BiasHead | StateDependentStd | None

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        _check(policy)
        self.features = policy.pi_features_extractor
        self.body = policy.mlp_extractor.policy_net
        self.head = policy.action_net
        self.log_std = None
        if policy.use_sde:
            self.log_std = StateDependentStd(policy.log_std, policy.action_dist)  # type: ignore[arg-type]
        elif (log_std := getattr(policy, "log_std", None)) is not None:
            self.log_std = BiasHead(log_std)

    def forward(self, observation: Observation) -> tuple[Tensor, ...]:
        """Mean and log std of a Gaussian, (B, n) each; or the logits, (B, n), alone."""
        return self.outputs(self.features(observation))

    def outputs(self, features: Tensor) -> tuple[Tensor, ...]:
        """What `forward` returns, from what the features extractor makes of the observations."""
        latent = self.body(features)
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
        return self.outputs(self.features(observation))

    def outputs(self, features: Tensor) -> Tensor:
        """What `forward` returns, from what the features extractor makes of the observations."""
        values: Tensor = self.head(self.body(features))
        return values


class SharedActorCritic(nn.Module):
    """Actor and critic on one features extractor, which runs once and learns from both.

    Args:
        actor: of a policy.
        critic: of the same policy.
    """

    def __init__(self, actor: Actor, critic: Critic) -> None:
        super().__init__()
        self.actor = actor
        self.critic = critic

    def forward(self, observation: Observation) -> tuple[Tensor, ...]:
        """The actor's outputs, and after them the values, (B, 1)."""
        features = self.actor.features(observation)
        return (*self.actor.outputs(features), self.critic.outputs(features))


def shares_parameters(policy: ActorCriticPolicy) -> bool:
    """Whether actor and critic have a features extractor with parameters in common."""
    shared = {id(p) for p in policy.pi_features_extractor.parameters()}
    return any(id(p) in shared for p in policy.vf_features_extractor.parameters())


def _check(policy: ActorCriticPolicy) -> None:
    if hasattr(policy, "lstm_actor"):
        raise ArchitectureError(
            f"{type(policy).__name__} is recurrent; PPO here learns policies without memory. "
            "sb3_contrib's RecurrentPPO learns this one, by backpropagation"
        )
    extractor = policy.mlp_extractor
    if not hasattr(extractor, "policy_net") or not hasattr(extractor, "value_net"):
        raise ArchitectureError(
            f"{type(extractor).__name__} has no policy_net and value_net; node perturbation needs "
            "actor and critic as two networks, as SB3's MlpExtractor has them"
        )
