"""The networks inside SB3's policies, each by itself, and critics that are run forward only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from stable_baselines3.common.policies import ActorCriticPolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import Actor as StochasticActor
from stable_baselines3.td3.policies import Actor as SB3DeterministicActor
from torch import Tensor, nn

from ..errors import ArchitectureError
from .gsde import StateDependentStd
from .layers import BiasHead, DecorrelatedLinear, is_decorrelated_layer

Observation = Tensor | dict[str, Tensor]
TensorFunction = Callable[[Tensor], Tensor]


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
        actor: the actor of a policy.
        critic: the critic of the same policy.
    """

    def __init__(self, actor: Actor, critic: Critic) -> None:
        super().__init__()
        self.actor = actor
        self.critic = critic

    def forward(self, observation: Observation) -> tuple[Tensor, ...]:
        """The actor's outputs, and after them the values, (B, 1)."""
        features = self.actor.features(observation)
        return (*self.actor.outputs(features), self.critic.outputs(features))


class GaussianActor(nn.Module):
    """From preprocessed observations to mean and log standard deviation before the squashing.

    Shares its modules with SAC's actor: training one trains the other. The log standard deviation
    depends on the state, so it is a layer of output nodes like the mean.

    Args:
        actor: the actor of an SB3 `SACPolicy`.
    """

    log_std: nn.Module

    def __init__(self, actor: StochasticActor) -> None:
        super().__init__()
        self.features = actor.features_extractor
        self.body = actor.latent_pi
        self.mean = actor.mu
        log_std: nn.Module | nn.Parameter = actor.log_std
        if isinstance(log_std, nn.Parameter):  # of gSDE
            log_std = StateDependentStd(log_std, actor.action_dist)
        self.log_std = log_std

    def forward(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, each (B, n); neither squashed nor clamped."""
        latent = self.body(self.features(observation))
        return self.mean(latent), self.log_std(latent)


class DeterministicActor(nn.Module):
    """From preprocessed observations to the action of TD3's actor before its last tanh.

    Shares its modules with the actor; see `GaussianActor`.

    Args:
        actor: the actor of an SB3 `TD3Policy`.

    Raises:
        ArchitectureError: its last layer is no tanh.
    """

    def __init__(self, actor: SB3DeterministicActor) -> None:
        super().__init__()
        if not isinstance(actor.mu[-1], nn.Tanh):
            raise ArchitectureError(
                f"the actor ends in {type(actor.mu[-1]).__name__}; SB3's TD3 squashes by Tanh"
            )
        self.features = actor.features_extractor
        self.body = actor.mu[:-1]

    def forward(self, observation: Observation) -> Tensor:
        """Actions before the tanh, shape (B, n)."""
        outputs: Tensor = self.body(self.features(observation))
        return outputs


class QNetwork(nn.Module):
    """From preprocessed observations and actions to the value that one of the critics gives them.

    Shares its modules with the critic; see `GaussianActor`. A features extractor that the critic
    shares with the actor learns from the actor's loss alone, as in SB3, so it is no part of this.

    Args:
        critic: the critic of an SB3 `SACPolicy` or `TD3Policy`.
        index: which of its networks.
    """

    def __init__(self, critic: ContinuousCritic, index: int) -> None:
        super().__init__()
        self.shared = critic.share_features_extractor
        self._extractor = (critic.features_extractor,)  # in a tuple it is no submodule
        if not self.shared:
            self.features = critic.features_extractor
        self.body = critic.q_networks[index]

    def forward(self, inputs: tuple[Observation, Tensor]) -> Tensor:
        """Values, shape (B, 1), of (observation, actions (B, n))."""
        observation, actions = inputs
        features: Tensor = self._extractor[0](observation)
        if self.shared:
            features = features.detach()
        values: Tensor = self.body(torch.cat([features, actions], dim=1))
        return values


class FrozenCritic:
    """Critics as they are now, to be run forward on many actions for the same observations.

    What depends on the observations alone is computed once, and R is multiplied into the weights.
    Their parameters get no gradient from here.

    Args:
        critic: SB3's critics, plain or decorrelated.
        observation: preprocessed, B samples.
        networks: how many of the critics, from the first; None for all.

    Attributes:
        passes: network passes of one sample so far, over all critics.
    """

    def __init__(
        self, critic: ContinuousCritic, observation: Observation, networks: int | None = None
    ) -> None:
        self._layers = [_layers(network) for network in critic.q_networks[:networks]]
        self.features: Tensor = critic.features_extractor(observation).detach()
        self._fed = [self._feed(layers) for layers in self._layers]
        self.passes = 0

    def __call__(self, actions: Tensor) -> Tensor:
        """Values, shape (networks, ..., B), of actions (..., B, n)."""
        self.passes += len(self._layers) * actions.shape[:-1].numel()
        values = []
        for layers, fed in zip(self._layers, self._fed, strict=True):
            if fed is None:
                features = self.features.expand(*actions.shape[:-1], -1)
                x = torch.cat([features, actions], dim=-1)
            else:
                from_features, weight = fed
                x = F.linear(actions, weight).add_(from_features)
                layers = layers[1:]
            for layer in layers:
                x = layer(x)
            values.append(x.squeeze(-1))
        return torch.stack(values)

    def slopes(self, actions: Tensor, step: float) -> Tensor:
        """How the least of the values changes with actions (B, n): by central differences, (B, n).

        Args:
            actions: B rows.
            step: how far each action is moved.
        """
        there = step * torch.eye(actions.shape[-1], dtype=actions.dtype).unsqueeze(1)
        up, down = self(torch.cat([actions + there, actions - there])).amin(0).chunk(2)
        return (up - down).mT / (2 * step)

    def _feed(self, layers: Sequence[TensorFunction]) -> tuple[Tensor, Tensor] | None:
        """What the first layer makes of the features, and its weights for the actions."""
        first = layers[0]
        if not isinstance(first, _Folded):
            return None
        size = self.features.shape[-1]
        from_features = F.linear(self.features, first.weight[:, :size], first.bias)
        return from_features, first.weight[:, size:]


class _Folded:
    """A linear layer as it is now, without gradients for its parameters."""

    def __init__(self, layer: nn.Linear) -> None:
        weight = layer.folded_weight() if isinstance(layer, DecorrelatedLinear) else layer.weight
        self.weight = weight.detach()
        self.bias = None if layer.bias is None else layer.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def _layers(network: nn.Module) -> list[TensorFunction]:
    modules = list(network) if isinstance(network, nn.Sequential) else [network]
    # Whatever a rectifier gets was made here, so it may be written over.
    return [
        _Folded(m) if _foldable(m) else torch.relu_ if type(m) is nn.ReLU else m for m in modules
    ]


def _foldable(module: nn.Module) -> TypeGuard[nn.Linear]:
    # By exact type: a subclass may compute something else.
    return type(module) in (nn.Linear, DecorrelatedLinear)


def effective_parameters(network: nn.Module) -> list[Tensor]:
    """The parameters of the plain network that computes the same, in their usual order.

    What a target network follows: an average of ``W R`` is an average of what the layers do, one of
    W and one of R by themselves is not.
    """
    effective: list[Tensor] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "weight" and is_decorrelated_layer(module):
                effective.append(module.folded_weight())
            else:
                effective.append(parameter)
    return effective


def chain_of_view(network: nn.Module) -> tuple[list[nn.Module], list[nn.Module], bool] | None:
    """Modules of one of the networks above, where they form one chain and take flat inputs.

    Returns:
        The modules in the order in which they run; the heads that take the last one's outputs side
        by side, if it does not end in one; whether it returns one tensor. None if there is no such
        chain.
    """
    kind = type(network)
    if kind not in (Actor, Critic, GaussianActor, DeterministicActor, QNetwork):
        return None
    features = network._extractor[0] if isinstance(network, QNetwork) else network.features
    if type(features) is not FlattenExtractor:
        return None
    body: list[Any] = [network.body]
    if isinstance(network, Actor):
        heads = [network.head] if network.log_std is None else [network.head, network.log_std]
        return body, heads, False
    if isinstance(network, GaussianActor):
        return body, [network.mean, network.log_std], False
    return body, [network.head] if isinstance(network, Critic) else [], True


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
