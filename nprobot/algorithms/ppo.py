"""Proximal policy optimisation whose actor and critic learn by node perturbation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import GymEnv, RolloutBufferSamples, Schedule
from stable_baselines3.common.utils import explained_variance
from torch import Tensor, nn
from typing_extensions import override

from nprobot.learning.alignment import alignment
from nprobot.learning.rule import LearningRule, Loss
from nprobot.policies.distributions import action_distribution
from nprobot.policies.layers import decorrelate
from nprobot.policies.sb3_networks import Actor, Critic, Observation

from .base import Resumable, make_rule, sb3_arguments
from .losses import ClippedSurrogate, SquaredValueError


class PPO(Resumable, stable_baselines3.PPO):
    """SB3's PPO with one more argument, the rule that estimates the gradients.

    Everything else is SB3's: policies by name, callbacks, `learn`, `predict`, `save`, `load`,
    loggers, `VecNormalize`. With ``rule="bp"`` it *is* SB3's PPO, weight for weight. Under the
    perturbation rules no backward pass runs: the actor learns from what noise on its nodes does to
    the clipped surrogate of every transition, the critic from what noise does to its squared error.
    They are separate networks with noise of their own; the log standard deviation of a Gaussian
    policy is a layer of nodes that have only a bias.

    Args:
        policy: as in SB3, ``"MlpPolicy"`` for example. Under perturbation rules
            ``share_features_extractor`` is False.
        env: as in SB3.
        rule: a name for `nprobot.learning_rule`, or a rule. Left out: NP with learned feedback.
        rule_kwargs: settings for a rule given by name (its own where silent), such
            as ``{"samples": 1}``. Its seed comes from `seed`.
        alignment_interval: compare the estimate with backpropagation's gradient in every n-th
            update and log the cosines, ``train/alignment_actor`` and ``train/alignment_critic``; 0
            for never. Costs a backward pass then, for show: learning does not see it.
        learning_rate: as in SB3, a number or a schedule.
        batch_size: as in SB3.
        max_grad_norm: as in SB3; under perturbation rules it clips the actor and the critic each.
            Infinity turns clipping off, which is the default of those without feedback.
        kwargs: every other argument of SB3's PPO, with its meaning and default.

    Where an argument is None its default is SB3's, also for rules with learned feedback: their
    estimate lies along the gradient, so what is known for backpropagation carries over. For the
    other rules it is in `nprobot.catalogue.ALGORITHMS`, `unguided`.

    Raises:
        RuleError: unknown rule.
        ArchitectureError: the policy does not keep actor and critic apart, or uses gSDE.
        UnsupportedLayerError: the policy has parameters that perturbation cannot reach.
    """

    rule: LearningRule
    actor: Actor
    critic: Critic

    _OURS: ClassVar[list[str]] = ["actor", "critic"]

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule | None = None,
        *,
        rule: str | LearningRule | None = None,
        rule_kwargs: dict[str, Any] | None = None,
        alignment_interval: int = 0,
        batch_size: int | None = None,
        max_grad_norm: float | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        self.rule = make_rule(rule, rule_kwargs, seed)
        self.alignment_interval = alignment_interval
        given = {
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "max_grad_norm": max_grad_norm,
        }
        arguments = sb3_arguments("ppo", self.rule, given)
        if self.rule.name != "bp":
            policy_kwargs = {"share_features_extractor": False} | (policy_kwargs or {})
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            policy_kwargs=policy_kwargs,
            seed=seed,
            _init_setup_model=_init_setup_model,
            **arguments,
            **kwargs,
        )

    @override
    def _setup_model(self) -> None:
        super()._setup_model()
        if self.rule.name == "bp":
            return
        if self.rule.decorrelated:
            decorrelate(self.policy)
        self.actor = Actor(self.policy)
        self.critic = Critic(self.policy)
        self.distribution = action_distribution(self.action_space)
        _fuse(self.policy.optimizer)

    @override
    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *self._OURS]

    @override
    def train(self) -> None:
        if self.rule.name == "bp":
            super().train()
            passes = 2 * self.n_epochs * self.rollout_buffer.buffer_size * self.n_envs
            self.rule.forward_passes += passes
            self.rule.backward_passes += passes
            self._log_norms()
        else:
            self._train()

    def _train(self) -> None:
        """`n_epochs` passes over the rollout, one step of both networks for every minibatch."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        clip_range = self.clip_range(progress)  # type: ignore[operator]
        clip_range_vf = None if self.clip_range_vf is None else self.clip_range_vf(progress)  # type: ignore[operator]
        # R follows the schedule of the weights, or it would go on moving under weights at rest.
        decay = self.lr_schedule(progress) / self.lr_schedule(1.0)
        # Once an update: listing parameters takes as long as clipping them.
        learned = [list(network.parameters()) for network in (self.actor, self.critic)]
        terms: dict[str, list[float]] = {}
        kl: list[float] = []
        go_on = True
        for _ in range(self.n_epochs):
            kl.clear()
            for batch in minibatches(self.rollout_buffer, self.batch_size):
                observations = self._preprocess(batch)
                surrogate = ClippedSurrogate(
                    self.distribution,
                    batch.actions,
                    batch.old_log_prob,
                    self._advantages(batch),
                    clip_range,
                    self.ent_coef,
                )
                value_error = SquaredValueError(
                    batch.returns, batch.old_values, clip_range_vf, self.vf_coef
                )
                for parameter in chain(*learned):
                    parameter.grad = None
                actor_loss = self.rule.backward(self.actor, observations, surrogate)
                kl.append(surrogate.approximate_kl())
                if self.target_kl is not None and kl[-1] > 1.5 * self.target_kl:
                    go_on = False
                    break
                critic_loss = self.rule.backward(self.critic, observations, value_error)
                norms = self._clip(learned)
                self.policy.optimizer.step()
                self.rule.decorrelate(self.actor, scale=decay)
                self.rule.decorrelate(self.critic, scale=decay)
                _append(
                    terms,
                    policy_gradient_loss=float(actor_loss.mean()),
                    value_loss=float(critic_loss.mean()) / self.vf_coef,
                    clip_fraction=surrogate.clip_fraction(),
                    grad_norm_actor=norms[0],
                    grad_norm_critic=norms[1],
                )
            self._n_updates += 1
            if not go_on:
                break
        for name, values in terms.items():
            self.logger.record(f"train/{name}", np.mean(values))
        self.logger.record("train/approx_kl", np.mean(kl))
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)
        self._log_state()
        update = self._n_updates // self.n_epochs
        if self.alignment_interval and update % self.alignment_interval == 0:
            self._log_alignment(observations, {"actor": surrogate, "critic": value_error})

    def _preprocess(self, batch: RolloutBufferSamples) -> Observation:
        observations = preprocess_obs(
            batch.observations, self.observation_space, self.policy.normalize_images
        )
        return observations

    def _advantages(self, batch: RolloutBufferSamples) -> Tensor:
        advantages = batch.advantages
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        return advantages

    def _clip(self, networks: Iterable[Iterable[nn.Parameter]]) -> list[float]:
        """Clip the gradient of each network and return their norms before that.

        As `clip_grad_norm_` does, in a quarter of its time, which showed: a twentieth of an update.
        """
        norms = []
        for parameters in networks:
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = 0.0
            if gradients:
                norm = float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients])))
            if self.max_grad_norm is not None and norm > self.max_grad_norm:
                torch._foreach_mul_(gradients, self.max_grad_norm / (norm + 1e-6))
            norms.append(norm)
        return norms

    def _log_state(self) -> None:
        """What the networks and the rollout look like after the update."""
        buffer = self.rollout_buffer
        variance = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", variance)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if isinstance(self.action_space, spaces.Box):
            std = torch.exp(self.policy.log_std.detach()).mean()
            self.logger.record("train/std", float(std))
        self.logger.record("train/node_noise", self.rule.sigma)
        if self.rule.decorrelated:
            for name, network in (("actor", self.actor), ("critic", self.critic)):
                loss = self.rule.decorrelation_loss(network)
                self.logger.record(f"train/decorrelation_loss_{name}", loss)
        self._log_norms()

    def _log_norms(self) -> None:
        norm = nn.utils.get_total_norm(list(self.policy.parameters()))
        self.logger.record("train/weight_norm", float(norm))
        self.logger.record("train/forward_passes", self.rule.forward_passes, exclude="tensorboard")

    def _log_alignment(self, observations: Observation, losses: dict[str, Loss]) -> None:
        for name, loss in losses.items():
            result = alignment(self.rule, getattr(self, name), observations, loss)
            self.logger.record(f"train/alignment_{name}", result.cosine)


def _fuse(optimizer: torch.optim.Optimizer) -> None:
    """Let Adam step in one kernel, unless something else was asked for: half of its time.

    Its dozen small operations for every parameter took as long as a noisy pass.
    """
    if type(optimizer) is torch.optim.Adam:
        for group in optimizer.param_groups:
            if group["fused"] is None and group["foreach"] is None:
                group["fused"] = True


def minibatches(buffer: RolloutBuffer, size: int) -> Iterator[RolloutBufferSamples]:
    """What ``buffer.get(size)`` yields, number for number, as parts of one shuffled rollout.

    Seven tensors copied for every minibatch took as long as the matrix products of a noisy pass.
    """
    (rollout,) = buffer.get(None)
    fields = [_split(field, size) for field in rollout]
    for parts in zip(*fields, strict=True):
        yield type(rollout)(*parts)


def _split(field: Observation, size: int) -> list[Observation]:
    """A tensor, or a dict of tensors, in parts of so many rows."""
    if isinstance(field, Tensor):
        return list(torch.split(field, size))
    parts = [torch.split(part, size) for part in field.values()]
    return [dict(zip(field, values, strict=True)) for values in zip(*parts, strict=True)]


def _append(terms: dict[str, list[float]], **values: float) -> None:
    for name, value in values.items():
        terms.setdefault(name, []).append(value)
