"""A policy whose network's outputs are the actions: what there is to explore with is its noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    FlattenExtractor,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn
from typing_extensions import override

from ..errors import ArchitectureError
from .chip.contract import Chip
from .chip.crossbar import put_on_chip
from .chip.nonidealities import ChipSpec
from .layers import DecorrelatedLinear, decorrelate
from .networks import mlp


class DirectPolicy(BasePolicy):
    """Actor and critic, two networks; the actor's outputs are the actions, with nothing sampled.

    The actor says ±1 for the bounds of an action, so its noise is in units of half the action
    range; what is beyond is cut off. On a chip it is noisy whenever it runs, also in evaluation.

    Args:
        observation_space: anything that SB3 preprocesses.
        action_space: a bounded `Box` of floats.
        lr_schedule: learning rate over the share of the run that remains.
        net_arch: sizes of the hidden layers of actor and critic.
        activation_fn: between the layers, a module class or a name that `mlp` knows.
        decorrelated: whether the layers decorrelate their inputs.
        node_noise: puts the actor on a chip with this noise; see `nprobot.NoisyNetwork`.
        noise_seed: the seed of the chip's noise; None draws one from torch's generator.
        device_seed: which chip it is.
        features_extractor_class: before both networks; flattens by default.
        features_extractor_kwargs: its arguments.
        optimizer_class: the optimizer class of both networks.
        optimizer_kwargs: its arguments.
        normalize_images: as in SB3.

    Attributes:
        actor: from preprocessed observations to outputs (B, actions).
        critic: from preprocessed observations to values (B, 1).
        optimizer: the optimizer of the actor.
        critic_optimizer: the optimizer of the critic.

    Raises:
        ArchitectureError: the action space is another one.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: Sequence[int] = (64, 64),
        activation_fn: str | Callable[[], nn.Module] = nn.Tanh,
        *,
        decorrelated: bool = True,
        node_noise: ChipSpec | Chip | None = None,
        noise_seed: int | None = None,
        device_seed: int | None = 0,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
        )
        if not isinstance(action_space, spaces.Box) or not action_space.is_bounded():
            raise ArchitectureError(
                f"outputs that are actions need a bounded Box as action space, got {action_space}"
            )
        self.net_arch = list(net_arch)
        self.activation_fn = activation_fn
        actions = math.prod(action_space.shape)
        self.actor = self._network(actions, decorrelated)
        self.critic = self._network(1, decorrelated)
        with torch.no_grad():  # so that the first actions are the middle of their range, and noise
            head: nn.Linear = self.actor[-1]  # type: ignore[assignment]
            head.weight.mul_(0.01)
            head.bias.zero_()
        if node_noise is not None:
            seed = int(torch.randint(2**31, ())) if noise_seed is None else noise_seed
            put_on_chip(self.actor, node_noise, seed=seed, device_seed=device_seed)
        rate = lr_schedule(1.0)
        settings = {"lr": rate, **self.optimizer_kwargs}
        self.optimizer = optimizer_class(self.actor.parameters(), **settings)
        self.critic_optimizer = optimizer_class(self.critic.parameters(), **settings)

    def preprocess(self, observation: PyTorchObs) -> PyTorchObs:
        """Observations as tensors to what the networks take."""
        return preprocess_obs(observation, self.observation_space, self.normalize_images)

    def values(self, observation: PyTorchObs) -> Tensor:
        """Values of preprocessed observations, shape (B,)."""
        values: Tensor = self.critic(observation)
        return values.squeeze(-1)

    def actions(self, outputs: Tensor) -> npt.NDArray[Any]:
        """Actions in their own units, shape (B, *action shape), for outputs of the actor."""
        return self.unscale_action(self._commands(outputs).cpu().numpy())

    def outputs_for(self, actions: npt.NDArray[Any]) -> Tensor:
        """The reverse of `actions`: outputs, shape (B, actions)."""
        scaled = torch.as_tensor(self.scale_action(actions), dtype=torch.float32)
        return scaled.flatten(1).to(self.device)

    @torch.no_grad()
    def adopt(self, policy: ActorCriticPolicy) -> None:
        """Take over what another policy has learned, to continue to learn from there.

        Args:
            policy: an SB3 actor-critic policy (of PPO, say) for the same spaces, with hidden layers
                of the same sizes and activations. Its outputs are actions in their own units; the
                last layer is rescaled.

        Raises:
            ArchitectureError: the networks differ.
        """
        body = policy.mlp_extractor
        _copy([*body.policy_net, policy.action_net], list(self.actor)[1:])
        _copy([*body.value_net, policy.value_net], list(self.critic)[1:])
        low, high = (
            torch.as_tensor(bound, dtype=torch.float32, device=self.device).flatten()
            for bound in (self.action_space.low, self.action_space.high)  # type: ignore[attr-defined]
        )
        head: nn.Linear = self.actor[-1]  # type: ignore[assignment]
        half = (high - low) / 2
        head.weight.div_(half[:, None])
        head.bias.sub_((high + low) / 2).div_(half)

    @override
    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Actions from −1 to 1."""
        return self._predict(observation, deterministic)

    @override
    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        # There is no other randomness than the chip's, and that cannot be switched off.
        return self._commands(self.actor(self.preprocess(observation)))

    def _commands(self, outputs: Tensor) -> Tensor:
        shape = self.action_space.shape
        assert shape is not None
        return outputs.clamp(-1.0, 1.0).view(-1, *shape)

    def _network(self, outputs: int, decorrelated: bool) -> nn.Sequential:
        features = self.make_features_extractor()
        sizes = [features.features_dim, *self.net_arch, outputs]
        network = nn.Sequential(features, *mlp(sizes, self.activation_fn))
        return decorrelate(network) if decorrelated else network


def _copy(sources: Sequence[nn.Module], targets: Sequence[nn.Module]) -> None:
    """Copy the parameters of layers into others like them, R included or multiplied in."""
    if [_kind(source) for source in sources] != [_kind(target) for target in targets]:
        raise ArchitectureError(
            f"the networks differ: {[_kind(s) for s in sources]} cannot become "
            f"{[_kind(t) for t in targets]}; give the policy the same net_arch and activation_fn"
        )
    for source, target in zip(sources, targets, strict=True):
        if not isinstance(source, nn.Linear) or not isinstance(target, nn.Linear):
            continue
        weight, R = source.weight, torch.eye(source.in_features)
        if isinstance(source, DecorrelatedLinear):
            both = isinstance(target, DecorrelatedLinear)
            weight, R = (weight, source.R) if both else (source.folded_weight(), R)
        target.weight.copy_(weight)
        target.bias.copy_(source.bias)
        if isinstance(target, DecorrelatedLinear):
            target.R.copy_(R)


def _kind(layer: nn.Module) -> str:
    """What a layer computes, whether it decorrelates or is on a chip or not."""
    if isinstance(layer, nn.Linear):
        return f"Linear({layer.in_features}, {layer.out_features})"
    return repr(layer)
