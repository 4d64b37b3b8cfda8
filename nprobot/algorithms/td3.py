"""Twin delayed DDPG whose actor and critics learn by node perturbation."""

from __future__ import annotations

from typing import Any, ClassVar

import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor
from typing_extensions import override

from nprobot.policies.sb3_networks import DeterministicActor, FrozenCritic, Observation

from .losses import ActionValue, SquaredTemporalDifference
from .off_policy import (
    OffPolicyRule,
    append,
    bootstrapped,
    follow,
    means,
    record,
)


class TD3(OffPolicyRule, stable_baselines3.TD3):
    """SB3's TD3 with one more argument, the rule that estimates the gradients.

    Everything else is SB3's: policies by name, replay buffers, action noise, `train_freq`,
    `gradient_steps`, `policy_delay`, callbacks, `save`, `load`, `VecNormalize`. With ``rule="bp"``
    it *is* SB3's TD3, weight for weight. Under the perturbation rules no backward pass runs:

    - each Q network learns from what noise on its nodes does to its own squared temporal
      difference of every transition;
    - the actor learns from what noise on its nodes does to ``−Q_1(s, π(s))``, for which the first
      critic is run forward on the K perturbed actions; its outputs are perturbed before the tanh;
    - target networks, the actor's too, are plain and follow ``W R``
      (`nprobot.algorithms.off_policy.follow`).

    A features extractor that actor and critics share learns from the actor's loss alone, as in SB3.

    Arguments, in the order of SB3's, are those of `nprobot.algorithms.base.RuleAlgorithm`. Where
    one is left out its default is SB3's; under rules without feedback some are others, `unguided`
    in `nprobot.catalogue.ALGORITHMS`. Rewards should be of the order of 1 (`VecNormalize`): the
    noise of an estimate grows with the values.
    """

    policy: TD3Policy

    name: ClassVar[str] = "td3"
    plain: ClassVar[type[BaseAlgorithm]] = stable_baselines3.TD3

    @override
    def _view(self) -> DeterministicActor:
        return DeterministicActor(self.policy.actor)

    @override
    def _said(
        self,
        observations: Any,
        inputs: Observation,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        ours = torch.tanh(self.learner.actor(inputs))
        return {"action": ours}, {"action": self.policy.actor(observations)}

    @override
    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        if self.rule.name == "bp":
            before = self._n_updates // self.policy_delay
            super().train(gradient_steps, batch_size)
            actor_steps = self._n_updates // self.policy_delay - before
            critics = self.critic.n_critics
            # Next state: actor and targets. Critics: regression. Actor: itself and one critic.
            forward = gradient_steps * (1 + 2 * critics) + 2 * actor_steps
            self.rule.forward_passes += batch_size * forward
            self.rule.backward_passes += batch_size * (gradient_steps * critics + 2 * actor_steps)
        else:
            self._train(gradient_steps, batch_size)

    def _train(self, gradient_steps: int, batch_size: int) -> None:
        """Steps of the critics and, less often, of actor and targets, each on a new batch."""
        assert self.replay_buffer is not None, "set up with the model"
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        scale = self._share_of_rate()
        terms: dict[str, list[float]] = {}
        for _ in range(gradient_steps):
            self._n_updates += 1
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            self._compare_first(batch)
            observations = self._preprocess(batch.observations)

            td_error = SquaredTemporalDifference(self._targets(batch), 1.0)
            critic_loss = self.learner.step_critics(observations, batch.actions, td_error, scale)
            append(terms, critic_loss=critic_loss)

            if self._n_updates % self.policy_delay == 0:
                critic = FrozenCritic(self.critic, observations, networks=1)
                actor_loss = self.learner.step_actor(
                    observations, ActionValue(critic), critic, scale
                )
                append(terms, actor_loss=actor_loss)
                follow(self.critic, self.critic_target, self.tau)
                follow(self.actor, self.actor_target, self.tau)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        record(self.logger, means(terms))
        if self.alignment_interval and self._n_updates % self.alignment_interval < gradient_steps:
            record(self.logger, self.learner.alignment())

    @torch.no_grad()
    def _targets(self, batch: ReplayBufferSamples) -> Tensor:
        """``r + γ min_i Q'_i(s', π'(s') + clipped noise)``, shape (B,)."""
        noise = torch.empty_like(batch.actions).normal_(0, self.target_policy_noise)
        noise.clamp_(-self.target_noise_clip, self.target_noise_clip)
        actions = (self.actor_target(batch.next_observations) + noise).clamp(-1, 1)
        values = torch.cat(self.critic_target(batch.next_observations, actions), dim=1)
        self.rule.forward_passes += len(actions) * (1 + self.critic.n_critics)
        return bootstrapped(batch, values.amin(1), self.gamma)
