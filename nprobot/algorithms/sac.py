"""Soft actor-critic whose actor and critics learn by node perturbation."""

from __future__ import annotations

from typing import Any, ClassVar

import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN, SACPolicy
from torch import Tensor, nn
from typing_extensions import override

from nprobot.policies.sb3_networks import FrozenCritic, GaussianActor, Observation

from .losses import SoftActionValue, SquaredTemporalDifference, squashed_gaussian
from .off_policy import (
    OffPolicyRule,
    append,
    bootstrapped,
    follow,
    means,
    record,
)


class SAC(OffPolicyRule, stable_baselines3.SAC):
    """SB3's SAC with one more argument, the rule that estimates the gradients.

    Everything else is SB3's: policies by name, replay buffers, action noise, `train_freq`,
    `gradient_steps`, callbacks, `save`, `load`, `VecNormalize`. With ``rule="bp"`` it *is* SB3's
    SAC, weight for weight. Under the perturbation rules no backward pass runs:

    - each Q network learns from what noise on its nodes does to its own squared temporal
      difference of every transition;
    - the actor learns from what noise on its nodes does to ``α log π − min Q``, for which the
      critics are run forward on the K perturbed actions. The draw that makes an action of mean and
      standard deviation is one a sample, the same in all passes;
    - the state-dependent log standard deviation is a layer of output nodes like the mean;
    - the entropy temperature needs no rule: its loss is linear in log α, so the derivative is the
      mean of ``−(log π + target entropy)``, a number that the actor's clean pass leaves behind;
    - target networks are plain and follow ``W R`` (`nprobot.algorithms.off_policy.follow`).

    Under gSDE a node of the standard deviation has a matrix (`nprobot.policies.gsde`). A features
    extractor that actor and critics share learns from the actor's loss alone, as in SB3.

    Arguments, in the order of SB3's, are those of `nprobot.algorithms.base.RuleAlgorithm`. Where
    one is left out its default is SB3's; under rules without feedback some are others, `unguided`
    in `nprobot.catalogue.ALGORITHMS`. Rewards should be of the order of 1 (`VecNormalize`): the
    noise of an estimate grows with the values.
    """

    policy: SACPolicy

    name: ClassVar[str] = "sac"
    plain: ClassVar[type[BaseAlgorithm]] = stable_baselines3.SAC

    @override
    def _chain(self) -> nn.Module:
        return self.policy.actor.latent_pi  # the heads come of one layer, side by side

    @override
    def _view(self) -> GaussianActor:
        return GaussianActor(self.policy.actor)

    @override
    def _said(
        self,
        observations: Any,
        inputs: Observation,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        mean, log_std = self.learner.actor(inputs)
        if not self.use_sde:
            log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        actor = self.policy.actor
        *parameters, more = actor.get_action_dist_params(observations)
        gaussian = actor.action_dist.proba_distribution(*parameters, **more).distribution
        ours = {
            "mean": mean,
            "standard deviation": log_std.exp(),
            "action": torch.tanh(mean),
        }
        theirs = {
            "mean": gaussian.mean,
            "standard deviation": gaussian.stddev,
            "action": actor(observations, deterministic=True),
        }
        return ours, theirs

    @override
    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        if self.rule.name == "bp":
            super().train(gradient_steps, batch_size)
            samples, critics = gradient_steps * batch_size, self.critic.n_critics
            # Actor: here and at the next state. Critics: target, regression, judging the actor.
            self.rule.forward_passes += samples * (2 + 3 * critics)
            self.rule.backward_passes += samples * (1 + 2 * critics)
        else:
            self._train(gradient_steps, batch_size)

    def _train(self, gradient_steps: int, batch_size: int) -> None:
        """Steps of critics, actor, temperature and targets, each on a fresh batch."""
        assert self.replay_buffer is not None, "set up with the model"
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        scale = self._share_of_rate()
        terms: dict[str, list[float]] = {}
        for step in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            self._compare_first(batch)
            observations = self._preprocess(batch.observations)
            noise = torch.randn_like(batch.actions)
            temperature = self._temperature()

            td_error = SquaredTemporalDifference(self._targets(batch, temperature), 0.5)
            critic_loss = self.learner.step_critics(observations, batch.actions, td_error, scale)

            critic = FrozenCritic(self.critic, observations)
            soft_value = SoftActionValue(critic, noise, temperature, limited=not self.use_sde)
            actor_loss = self.learner.step_actor(observations, soft_value, critic, scale)

            assert soft_value.log_prob is not None, "the actor has had its clean pass"
            self._step_temperature(soft_value.log_prob, terms)
            if step % self.target_update_interval == 0:
                follow(self.critic, self.critic_target, self.tau)
            append(
                terms,
                ent_coef=float(temperature),
                critic_loss=critic_loss,
                actor_loss=actor_loss,
            )
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        record(self.logger, means(terms))
        if self.alignment_interval and self._n_updates % self.alignment_interval < gradient_steps:
            record(self.logger, self.learner.alignment())

    @torch.no_grad()
    def _targets(self, batch: ReplayBufferSamples, temperature: Tensor) -> Tensor:
        """``r + γ (min_i Q'_i(s', a') − α log π(a'|s'))`` with a' drawn, shape (B,)."""
        outputs = self.learner.actor(self._preprocess(batch.next_observations))
        noise = torch.randn_like(batch.actions)
        actions, log_prob = squashed_gaussian(outputs, noise, limited=not self.use_sde)
        values = torch.cat(self.critic_target(batch.next_observations, actions), dim=1)
        self.rule.forward_passes += len(actions) * (1 + self.critic.n_critics)
        return bootstrapped(batch, values.amin(1) - temperature * log_prob, self.gamma)

    def _temperature(self) -> Tensor:
        """α, shape (1,) or ()."""
        if self.log_ent_coef is None:
            return self.ent_coef_tensor
        return self.log_ent_coef.detach().exp()

    @torch.no_grad()
    def _step_temperature(self, log_prob: Tensor, terms: dict[str, list[float]]) -> None:
        """One step of log α, whose loss ``−log α · mean(log π + target)`` is linear in it."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            return
        assert isinstance(self.target_entropy, float), "SB3 has put a number in place of 'auto'"
        derivative = -(log_prob + self.target_entropy).mean()
        append(terms, ent_coef_loss=float(self.log_ent_coef * derivative))
        self.log_ent_coef.grad = derivative.expand_as(self.log_ent_coef).clone()
        self.ent_coef_optimizer.step()
