"""What SAC and TD3 by a learning rule share: critics, actor and targets, each moved by the rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn
from typing_extensions import override

from nprobot.learning.activity import Tree
from nprobot.learning.alignment import alignment
from nprobot.learning.rule import LearningRule, Loss
from nprobot.policies.layers import decorrelate
from nprobot.policies.sb3_networks import (
    FrozenCritic,
    Observation,
    QNetwork,
    check_separate,
    effective_parameters,
)

from .base import Resumable


class NetworkLearner:
    """The networks of an off-policy algorithm, and how one rule moves them.

    Every Q network is perturbed by itself, with noise and a loss of its own, so nothing that the
    noise does to one blurs the credit of the other. The target networks are plain: they follow
    ``W R``, which is what the layers of a decorrelated network compute.

    Args:
        rule: any rule.
        actor: view of the actor, see `nprobot.policies.sb3_networks`.
        actor_optimizer: SB3's.
        critic: SB3's, with its optimiser.

    Raises:
        ArchitectureError: actor and critic share parameters.
    """

    def __init__(
        self,
        rule: LearningRule,
        actor: nn.Module,
        actor_optimizer: torch.optim.Optimizer,
        critic: ContinuousCritic,
    ) -> None:
        check_separate(actor, critic)
        self.rule = rule
        self.actor = actor
        self.critic = critic
        self.actor_optimizer = actor_optimizer
        self.critic_optimizer: torch.optim.Optimizer = critic.optimizer
        self.q_networks = [QNetwork(critic, i) for i in range(critic.n_critics)]
        self._last: dict[str, list[tuple[nn.Module, Tree, Loss]]] = {}

    def step_critics(
        self, observations: Observation, actions: Tensor, loss: Loss, scale: float
    ) -> float:
        """One step of all Q networks.

        Args:
            observations: preprocessed, B samples.
            actions: taken, scaled to ±1, shape (B, n).
            loss: of one Q network's outputs.
            scale: factor on η_R, see `LearningRule.decorrelate`.

        Returns:
            Mean loss over the batch, summed over the networks.
        """
        inputs = (observations, actions)
        self.critic_optimizer.zero_grad()
        losses = [self.rule.backward(network, inputs, loss) for network in self.q_networks]
        self.critic_optimizer.step()
        # In one call: an extractor that the networks share has one R, to be moved once.
        self.rule.decorrelate(self.critic, scale=scale)
        self._last["critic"] = [(network, inputs, loss) for network in self.q_networks]
        return float(torch.stack(losses).sum(0).mean())

    def step_actor(
        self, observations: Observation, loss: Loss, critic: FrozenCritic, scale: float
    ) -> float:
        """One step of the actor; arguments as of `step_critics`.

        Args:
            observations: preprocessed, B samples.
            loss: of the actor's outputs.
            critic: what the loss judges actions by; its passes are counted.
            scale: factor on η_R.
        """
        self.actor_optimizer.zero_grad()
        losses = self.rule.backward(self.actor, observations, loss)
        self.rule.forward_passes += critic.passes
        if self.rule.entry.plain_name == "bp":
            self.rule.backward_passes += critic.passes
        self.actor_optimizer.step()
        self.rule.decorrelate(self.actor, scale=scale)
        self._last["actor"] = [(self.actor, observations, loss)]
        return float(losses.mean())

    def alignment(self) -> dict[str, float]:
        """Cosine to backpropagation's gradient on the last batch; mean over the Q networks.

        Costs a backward pass, for show: learning does not see it.
        """
        cosines = {
            name: [alignment(self.rule, *step).cosine for step in steps]
            for name, steps in self._last.items()
        }
        return {f"alignment_{name}": sum(own) / len(own) for name, own in cosines.items()}

    def diagnostics(self) -> dict[str, float]:
        """Norms and correlations of the networks as they are."""
        values: dict[str, float] = {
            "node_noise": self.rule.sigma,
            "forward_passes": self.rule.forward_passes,
        }
        for name, network in (("actor", self.actor), ("critic", self.critic)):
            parameters = list(network.parameters())
            values[f"weight_norm_{name}"] = float(nn.utils.get_total_norm(parameters))
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                values[f"grad_norm_{name}"] = float(nn.utils.get_total_norm(gradients))
            if self.rule.decorrelated:
                values[f"decorrelation_loss_{name}"] = self.rule.decorrelation_loss(network)
        return values


class OffPolicyMemory(Resumable, OffPolicyAlgorithm):
    """What an off-policy algorithm keeps between two updates: the replay buffer, last gradients."""

    @override
    def _memory(self) -> dict[str, Any]:
        replay = self.replay_buffer
        assert replay is not None, "made with the model"
        filled = replay.buffer_size if replay.full else replay.pos
        kept = {name: getattr(replay, name)[:filled] for name in _REPLAY}
        # Gradients and inputs may be logged once more before the next update.
        named = self.policy.named_parameters()
        return super()._memory() | {
            "replay": {**kept, "pos": replay.pos, "full": replay.full},
            "gradients": {name: p.grad for name, p in named if p.grad is not None},
            "inputs": self.rule.remembered_inputs(self.policy),
        }

    @override
    def _restore_memory(self, memory: Mapping[str, Any]) -> None:
        super()._restore_memory(memory)
        replay: Any = self.replay_buffer
        saved = memory["replay"]
        pos, full = int(saved["pos"]), bool(saved["full"])
        filled = replay.buffer_size if full else pos
        if not 0 <= pos < replay.buffer_size:
            raise ValueError(f"{pos} is no place in a replay buffer of {replay.buffer_size}")
        for name in _REPLAY:
            present, values = getattr(replay, name), saved[name]
            if (values.shape, values.dtype) != ((filled, *present.shape[1:]), present.dtype):
                raise ValueError(f"the replay buffer's {name} have shape {values.shape}")
            present[:filled] = values
        replay.pos, replay.full = pos, full
        parameters = dict(self.policy.named_parameters())
        for name, gradient in memory["gradients"].items():
            parameters[name].grad = gradient.to(self.device)
        layers = dict(self.policy.named_modules())
        inputs = {layers[name]: x.to(self.device) for name, x in memory["inputs"].items()}
        self.rule.remember_inputs(inputs.items())


_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def follow(network: nn.Module, target: nn.Module, tau: float) -> None:
    """Polyak average: ``θ' ← (1 − τ) θ' + τ θ`` where θ are the effective parameters, ``W R``.

    Args:
        network: plain or decorrelated.
        target: plain, of the same layers.
        tau: τ.
    """
    with torch.no_grad():
        polyak_update(effective_parameters(network), target.parameters(), tau)


def prepare(rule: LearningRule, *networks: nn.Module) -> None:
    """Swap in decorrelated layers if the rule asks for them."""
    if rule.decorrelated:
        for network in networks:
            decorrelate(network)


def bootstrapped(batch: ReplayBufferSamples, values: Tensor, gamma: float) -> Tensor:
    """Regression targets of the critics: ``r + γ V(s')``, and ``r`` where the episode ended.

    Args:
        batch: B transitions.
        values: V(s'), shape (B,).
        gamma: γ, for a batch without discounts of its own, which transitions of n steps have.

    Returns:
        Targets, shape (B,).
    """
    discounts = gamma if batch.discounts is None else batch.discounts.flatten()
    targets: Tensor = batch.rewards.flatten() + (1 - batch.dones.flatten()) * discounts * values
    return targets


def append(terms: dict[str, list[float]], **values: float) -> None:
    """Add one value to each list of values."""
    for name, value in values.items():
        terms.setdefault(name, []).append(value)


def means(terms: Mapping[str, list[float]]) -> dict[str, float]:
    """The mean of each list of values."""
    return {name: float(np.mean(values)) for name, values in terms.items()}


def record(logger: Logger, values: Mapping[str, float]) -> None:
    """Log values of the training, each under ``train/``."""
    for name, value in values.items():
        logger.record(f"train/{name}", value)
