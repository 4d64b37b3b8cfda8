"""Twin delayed DDPG whose actor and critics learn by node perturbation."""

from __future__ import annotations

from typing import Any

import stable_baselines3
import torch
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples, Schedule
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor
from typing_extensions import override

from nprobot.learning.rule import LearningRule
from nprobot.policies.sb3_networks import DeterministicActor, FrozenCritic

from .base import make_rule, sb3_arguments
from .losses import ActionValue, SquaredTemporalDifference
from .off_policy import (
    NetworkLearner,
    OffPolicyMemory,
    append,
    bootstrapped,
    follow,
    means,
    prepare,
    record,
)


class TD3(OffPolicyMemory, stable_baselines3.TD3):
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

    Args:
        policy: as in SB3, ``"MlpPolicy"`` for example.
        env: as in SB3.
        learning_rate: as in SB3, a number or a schedule. Follows to both optimisers and, as a
            factor on η_R, to the decorrelation.
        rule: a name for `nprobot.learning_rule`, or a rule. Left out: NP with learned feedback.
        rule_kwargs: settings for a rule given by name, such as ``{"samples": 1}``
            (`nprobot.algorithms.base` where silent). Its seed comes from
            `seed`.
        alignment_interval: compare the estimates with backpropagation's gradient in every
            so-manieth call of `train` and log the cosines; 0 for never.
        policy_kwargs: as in SB3.
        seed: as in SB3.
        kwargs: every other argument of SB3's TD3, with its meaning and default.

    Where an argument is None its default is SB3's; under rules without feedback some are others,
    `unguided` in `nprobot.catalogue.ALGORITHMS`. Rewards should be of the order of 1
    (`VecNormalize`): the noise of an estimate grows with the values.

    Raises:
        RuleError: unknown rule.
        ArchitectureError: actor and critics share parameters.
        UnsupportedLayerError: the policy has parameters that perturbation cannot reach.
    """

    rule: LearningRule
    learner: NetworkLearner

    def __init__(
        self,
        policy: str | type[TD3Policy],
        env: GymEnv | str,
        learning_rate: float | Schedule | None = None,
        *,
        rule: str | LearningRule | None = None,
        rule_kwargs: dict[str, Any] | None = None,
        alignment_interval: int = 0,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        self.rule = make_rule(rule, rule_kwargs, seed)
        self.alignment_interval = alignment_interval
        given = {"learning_rate": learning_rate, "policy_kwargs": policy_kwargs, **kwargs}
        super().__init__(
            policy,
            env,
            seed=seed,
            _init_setup_model=_init_setup_model,
            **sb3_arguments("td3", self.rule, given),
        )

    @override
    def _setup_model(self) -> None:
        super()._setup_model()
        if self.rule.name == "bp":
            return
        # The optimisers hold the parameters, and these stay the same objects.
        prepare(self.rule, self.actor, self.critic)
        actor = DeterministicActor(self.actor)
        self.learner = NetworkLearner(self.rule, actor, self.actor.optimizer, self.critic)

    @override
    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "learner"]

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
        # R follows the schedule of the weights, or it would go on moving under weights at rest.
        scale = self.lr_schedule(self._current_progress_remaining) / self.lr_schedule(1.0)
        terms: dict[str, list[float]] = {}
        for _ in range(gradient_steps):
            self._n_updates += 1
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
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

    def _preprocess(self, observations: Any) -> Any:  # noqa: ANN401 - SB3's own types
        return preprocess_obs(observations, self.observation_space, self.policy.normalize_images)

    @override
    def dump_logs(self) -> None:
        if self.rule.name != "bp" and self._n_updates:
            record(self.logger, self.learner.diagnostics())
        super().dump_logs()
