"""What SAC and TD3 by a learning rule share: critics, actor and targets, each moved by the rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
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
    effective_parameters,
)

from .base import RuleAlgorithm, fuse, same_modules
from .checks import ViewChecks, check_optimizer, sample
from .hindsight import HindsightBuffer


class NetworkLearner:
    """The networks of an off-policy algorithm, and how one rule moves them.

    Every Q network is perturbed by itself, with its own noise and loss, so nothing that the
    noise does to one blurs the credit of the other. The target networks are plain: they follow
    ``W R``, which is what the layers of a decorrelated network compute.

    Args:
        rule: any rule.
        actor: view of the actor, see `nprobot.policies.sb3_networks`.
        policy: SB3's, with the actor, the critics and their optimisers.
    """

    def __init__(self, rule: LearningRule, actor: nn.Module, policy: SACPolicy | TD3Policy) -> None:
        self.rule = rule
        self.policy = policy
        self.actor = actor
        self.critic: ContinuousCritic = policy.critic
        self.q_networks = [QNetwork(self.critic, i) for i in range(self.critic.n_critics)]
        # A shared features extractor learns and decorrelates with the actor.
        self._critics = (
            self.critic
            if not self.critic.share_features_extractor
            else nn.ModuleList(self.q_networks)
        )
        self._last: dict[str, list[tuple[nn.Module, Tree, Loss]]] = {}

    @property
    def views(self) -> dict[str, nn.Module]:
        """The networks that learn, by name."""
        critics = {f"critic {i}": network for i, network in enumerate(self.q_networks)}
        return {"actor": self.actor, **critics}

    @property
    def actor_optimizer(self) -> torch.optim.Optimizer:
        """SB3's, as it is now."""
        return self.policy.actor.optimizer

    @property
    def critic_optimizer(self) -> torch.optim.Optimizer:
        """SB3's, as it is now."""
        return self.policy.critic.optimizer

    def step_critics(
        self, observations: Observation, actions: Tensor, loss: Loss, scale: float
    ) -> float:
        """One step of all Q networks.

        Args:
            observations: preprocessed, B samples.
            actions: taken, scaled to ±1, shape (B, n).
            loss: the loss of one Q network's outputs.
            scale: factor on η_R, see `LearningRule.decorrelate`.

        Returns:
            Mean loss over the batch, summed over the networks.
        """
        inputs = (observations, actions)
        self.critic_optimizer.zero_grad()
        losses = [self.rule.backward(network, inputs, loss) for network in self.q_networks]
        self.critic_optimizer.step()
        # In one call: an extractor that the networks share has one R, to be moved once.
        self.rule.decorrelate(self._critics, scale=scale)
        self._last["critic"] = [(network, inputs, loss) for network in self.q_networks]
        return float(torch.stack(losses).sum(0).mean())

    def step_actor(
        self, observations: Observation, loss: Loss, critic: FrozenCritic, scale: float
    ) -> float:
        """One step of the actor; arguments as of `step_critics`.

        Args:
            observations: preprocessed, B samples.
            loss: the loss of the actor's outputs.
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


class OffPolicyRule(RuleAlgorithm, OffPolicyAlgorithm):
    """What SAC and TD3 by a rule share beside their networks; see `RuleAlgorithm`.

    A checkpoint holds, too, the replay buffer and the last gradients.
    """

    policy: SACPolicy | TD3Policy
    learner: NetworkLearner
    _unseen: ViewChecks | None = None
    """What the next update compares on its first batch."""

    def _view(self) -> nn.Module:
        """The actor as a network that learns."""
        raise NotImplementedError

    def _said(
        self,
        observations: Any,  # noqa: ANN401 - SB3's own types
        inputs: Observation,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the view of the actor says, and what SB3's actor says, by the same names."""
        raise NotImplementedError

    @override
    def _look_at_policy(self) -> None:
        self._create_aliases()  # type: ignore[attr-defined]  # the policy may be another
        if self.rule.decorrelated:
            for network in (self.policy.actor, self.policy.critic):
                decorrelate(network)
        learner = NetworkLearner(self.rule, self._view(), self.policy)
        optimizers = [learner.actor_optimizer, learner.critic_optimizer]
        for optimizer in optimizers:
            check_optimizer(optimizer)
            fuse(optimizer)
        before: NetworkLearner | None = getattr(self, "learner", None)
        new = before is None or not same_modules(before.views.values(), learner.views.values())
        if new:
            if before is not None:
                self.rule.forget()
            self.learner = learner
        checks = ViewChecks(self.policy, self.learner.views, optimizers)
        if new:
            observations = sample(self.observation_space, 3, self.device)
            actions = sample(self.action_space, 3, self.device).reshape(3, -1).float().clamp(-1, 1)
            self._compare(checks, observations, actions)
            checks.separate_samples(self._inputs(self._preprocess(observations), actions))
        self._unseen = checks

    def _compare_first(self, batch: ReplayBufferSamples) -> None:
        """See, on the first batch, that the views compute what the policy does."""
        if self._unseen is not None:
            self._compare(self._unseen, batch.observations, batch.actions)
            self._unseen = None

    def _compare(self, checks: ViewChecks, observations: Any, actions: Tensor) -> None:  # noqa: ANN401
        inputs = self._preprocess(observations)
        networks = self.learner.q_networks

        def ours() -> dict[str, Tensor]:
            said = self._said(observations, inputs)[0]
            values = {f"value of critic {i}": q((inputs, actions)) for i, q in enumerate(networks)}
            return said | values

        def theirs() -> dict[str, Tensor]:
            said = self._said(observations, inputs)[1]
            values = self.policy.critic(observations, actions)
            return said | {f"value of critic {i}": q for i, q in enumerate(values)}

        checks.compare(self._inputs(inputs, actions), ours, theirs)

    def _inputs(self, observations: Observation, actions: Tensor) -> dict[str, Tree]:
        """The inputs of every view."""
        views = self.learner.views
        return {
            name: observations if name == "actor" else (observations, actions) for name in views
        }

    def _preprocess(self, observations: Any) -> Observation:  # noqa: ANN401 - SB3's own types
        return preprocess_obs(observations, self.observation_space, self.policy.normalize_images)

    @override
    def _on_device(self) -> list[nn.Module]:
        return [self.policy.actor]

    @override
    def steps_of_an_update(self) -> int:
        return self.n_envs

    @override
    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "learner", "_unseen"]

    @override
    def dump_logs(self) -> None:
        if self.rule.name != "bp" and self._n_updates:
            record(self.logger, self.learner.diagnostics())
        super().dump_logs()

    @override
    def restart_episodes(self) -> np.ndarray[Any, Any]:
        if isinstance(self.replay_buffer, HindsightBuffer):
            self.replay_buffer.break_episodes()
        return super().restart_episodes()

    @override
    def _memory(self) -> dict[str, Any]:
        replay = self.replay_buffer
        assert replay is not None, "made with the model"
        filled = replay.buffer_size if replay.full else replay.pos
        kept = {name: getattr(replay, name)[:filled] for name in _REPLAY}
        if isinstance(replay, HindsightBuffer):
            kept |= replay.episodes(filled)
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
        if isinstance(replay, HindsightBuffer):
            replay.restore_episodes(saved)
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


def bootstrapped(batch: ReplayBufferSamples, values: Tensor, gamma: float) -> Tensor:
    """Regression targets of the critics: ``r + γ V(s')``, and ``r`` where the episode ended.

    Args:
        batch: B transitions.
        values: V(s'), shape (B,).
        gamma: γ, for a batch without its own discounts, which transitions of n steps have.

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
