"""Proximal policy optimisation whose actor and critic learn by node perturbation."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import GymEnv, RolloutBufferSamples
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from typing_extensions import override

from nprobot.errors import ConfigError
from nprobot.learning.activity import tensors
from nprobot.learning.alignment import alignment
from nprobot.learning.perceptrons import NoShortForm
from nprobot.learning.rule import Loss, PerturbationRule
from nprobot.policies.distributions import action_distribution
from nprobot.policies.layers import decorrelate
from nprobot.policies.sb3_networks import (
    Actor,
    Critic,
    Observation,
    SharedActorCritic,
    shares_parameters,
)

from .base import RuleAlgorithm, accepts, fuse, same_modules
from .checks import ViewChecks, check_optimizer, sample
from .graph_free.short_rollout import ShortRollout
from .graph_free.short_update import ShortUpdate
from .losses import ClippedSurrogate, SharedLoss, SquaredValueError


class PPO(RuleAlgorithm, stable_baselines3.PPO):
    """SB3's PPO with one more argument, the rule that estimates the gradients.

    Everything else is SB3's: policies by name, callbacks, `learn`, `predict`, `save`, `load`,
    loggers, `VecNormalize`. With ``rule="bp"`` it *is* SB3's PPO, weight for weight. Under the
    perturbation rules no backward pass runs: the actor learns from what noise on its nodes does to
    the clipped surrogate of every transition, the critic from what noise does to its squared error.
    They are separate networks with separate noise, unless they share a features extractor with
    parameters: then they are one network, which learns from the sum of both losses. The log
    standard deviation of a Gaussian policy is a layer of nodes that have only a bias; under gSDE it
    is one of nodes that have a matrix (`nprobot.policies.gsde`).

    Arguments, in the order of SB3's, are those of `RuleAlgorithm`, and by name `critic_warmup`:
    environment steps at the start from which the critic alone learns, so that an actor that knows
    something already is not led astray by a critic that knows nothing. Under perturbation rules
    ``share_features_extractor`` is False unless you ask for it, and `max_grad_norm` clips the actor
    and the critic each; None turns clipping off, which is the default of those without feedback.

    Where an argument is left out its default is SB3's, also for rules with learned feedback: their
    estimate lies along the gradient, so what is known for backpropagation carries over. For the
    other rules it is in `nprobot.catalogue.ALGORITHMS`, `unguided`.

    Attributes:
        actor: view of the policy's actor.
        critic: view of its critic.
        networks: what is perturbed, by name: these two, or both as one.
    """

    policy: ActorCriticPolicy
    actor: Actor
    critic: Critic
    networks: dict[str, nn.Module]

    name: ClassVar[str] = "ppo"
    plain: ClassVar[type[BaseAlgorithm]] = stable_baselines3.PPO
    continuous: ClassVar[bool] = False

    _OURS: ClassVar[list[str]] = [
        *("actor", "critic", "networks", "distribution", "_unseen", "_update", "_rollout"),
    ]
    critic_warmup: int = 0
    _unseen: ViewChecks | None = None
    """What the next update compares on a first batch."""
    _update: ShortUpdate | str = "no policy is there"
    """The update in numpy; or why there is none."""
    _rollout: ShortRollout | str = "no policy is there"
    """The same of rollouts."""

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *args: Any,
        critic_warmup: int = 0,
        **kwargs: Any,
    ) -> None:
        if critic_warmup < 0:
            raise ConfigError(f"critic_warmup must be 0 or more steps, got {critic_warmup}")
        self.critic_warmup = critic_warmup
        super().__init__(policy, env, *args, **kwargs)

    @override
    def _setup_model(self) -> None:
        super()._setup_model()
        if self.critic_warmup and shares_parameters(self.policy):
            raise ConfigError(
                "critic_warmup needs an actor and a critic that are networks of their own; these "
                "share a features extractor (share_features_extractor=False parts them)"
            )

    @property
    def warming_up(self) -> bool:
        """Whether the critic alone learns from the present rollout."""
        return self.num_timesteps <= self.critic_warmup

    @override
    def _adapted(self, policy: str | type[BasePolicy], arguments: dict[str, Any]) -> dict[str, Any]:
        kind = self._get_policy_from_name(policy) if isinstance(policy, str) else policy
        if self.rule.name == "bp" or not accepts(kind, "share_features_extractor"):
            return arguments
        settings = {"share_features_extractor": False} | (arguments.get("policy_kwargs") or {})
        return arguments | {"policy_kwargs": settings}

    @override
    def _look_at_policy(self) -> None:
        if self.rule.decorrelated:
            decorrelate(self.policy)
        if self.max_grad_norm is None:  # of a file from an earlier version
            self.max_grad_norm = float("inf")
        check_optimizer(self.policy.optimizer)
        fuse(self.policy.optimizer)
        actor, critic = Actor(self.policy), Critic(self.policy)
        networks: dict[str, nn.Module] = {"actor": actor, "critic": critic}
        if shares_parameters(self.policy):
            networks = {"actor_critic": SharedActorCritic(actor, critic)}
        before: dict[str, nn.Module] = getattr(self, "networks", {})
        new = not same_modules(before.values(), networks.values())
        if new:
            if before:
                self.rule.forget()
            self.actor, self.critic, self.networks = actor, critic, networks
            self.distribution = action_distribution(
                self.action_space, squashed=self.policy.squash_output
            )
        checks = ViewChecks(self.policy, self.networks, [self.policy.optimizer])
        if new:
            observations = sample(self.observation_space, 3, self.device)
            actions = sample(self.action_space, 3, self.device).reshape(3, -1).float()
            self._compare(checks, observations, actions)
            inputs = self.preprocess(observations)
            checks.separate_samples(dict.fromkeys(self.networks, inputs))
        self._unseen = checks
        self._find_short_forms()

    def _find_short_forms(self) -> None:
        """See whether the networks are such as learn and act in numpy, and say so in the log."""
        before = self.paths
        self._update = self._rollout = "actor and critic are one network"
        if self.chip is not None:
            self._update = self._rollout = "the networks are on a chip"
        elif isinstance(self.rule, PerturbationRule) and "actor" in self.networks:
            try:
                self._update = ShortUpdate(self)
                self._rollout = ShortRollout(self, self._update)
            except NoShortForm as reason:
                self._rollout = str(reason)
                if not isinstance(self._update, ShortUpdate):
                    self._update = str(reason)
        elif not isinstance(self.rule, PerturbationRule):
            self._update = self._rollout = "the rule perturbs nothing"
        if self.paths != before:
            logging.getLogger(__name__).info("%s", self.paths)

    @property
    def paths(self) -> str:
        """Whether it learns and acts in numpy, in words; if not, why."""
        update = self._update if isinstance(self._update, str) else ""
        rollout = self._rollout if isinstance(self._rollout, str) else ""
        return (
            f"updates: {f'the general engine, as {update}' if update else 'numpy'}; "
            f"rollouts: {f'stable-baselines3, as {rollout}' if rollout else 'numpy'}"
        )

    @override
    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        if isinstance(self._update, ShortUpdate) and not self._update.fits(self):
            self._find_short_forms()
        if isinstance(self._rollout, ShortRollout) and rollout_buffer is self.rollout_buffer:
            return self._rollout.collect(self, env, callback, rollout_buffer, n_rollout_steps)
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def _compare(self, checks: ViewChecks, observations: Any, actions: Tensor) -> None:  # noqa: ANN401
        """See that the views compute what the policy does."""
        inputs = self.preprocess(observations)

        def ours() -> dict[str, Tensor]:
            *outputs, value = tensors(tuple(view(inputs) for view in self.networks.values()))
            said = {
                "log-probability": self.distribution.log_prob(tuple(outputs), actions),
                "value": value,
            }
            entropy = self.distribution.entropy(tuple(outputs))
            return said if entropy is None else said | {"entropy": entropy}

        def theirs() -> dict[str, Tensor]:
            discrete = isinstance(self.action_space, spaces.Discrete)
            value, log_prob, entropy = self.policy.evaluate_actions(
                observations, actions.long().flatten() if discrete else actions
            )
            said = {"log-probability": log_prob, "value": value}
            return said if entropy is None else said | {"entropy": entropy}

        checks.compare(dict.fromkeys(self.networks, inputs), ours, theirs)

    @override
    def _on_device(self) -> list[nn.Module]:
        policy = self.policy
        acts = [policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net]
        return [nn.ModuleList(acts), policy]

    @override
    def steps_of_an_update(self) -> int:
        return self.n_steps * self.n_envs

    @override
    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *self._OURS]

    @override
    def train(self) -> None:
        if self.rule.name == "bp":
            with self._holding_actor():
                super().train()
            passes = 2 * self.n_epochs * self.rollout_buffer.buffer_size * self.n_envs
            self.rule.forward_passes += passes
            self.rule.backward_passes += passes
            self._log_norms()
        else:
            self._train()

    @contextmanager
    def _holding_actor(self) -> Iterator[None]:
        """Leave the actor out of what backpropagation learns, while the critic warms up."""
        held = list(Actor(self.policy).parameters()) if self.warming_up else []
        for parameter in held:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in held:
                parameter.requires_grad_(True)

    def _train(self) -> None:
        """`n_epochs` passes over the rollout, one step of both networks for every minibatch."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        clip_range = self.clip_range(progress)  # type: ignore[operator]
        clip_range_vf = None if self.clip_range_vf is None else self.clip_range_vf(progress)  # type: ignore[operator]
        if self._unseen is not None:
            batch = self._peek()
            self._compare(self._unseen, batch.observations, batch.actions)
            self._unseen = None
        if isinstance(self._update, ShortUpdate) and not self._update.fits(self):
            self._find_short_forms()
        short = self._update if not self.warming_up else None
        learn = short if isinstance(short, ShortUpdate) else PPO._learn
        terms, kl = learn(self, clip_range, clip_range_vf, self._share_of_rate())
        for name, values in terms.items():
            self.logger.record(f"train/{name}", np.mean(values))
        if terms:
            last = {name: values[-1] for name, values in terms.items()}
            total = last["policy_gradient_loss"] + self.ent_coef * last["entropy_loss"]
            self.logger.record("train/loss", total + self.vf_coef * last["value_loss"])
        self.logger.record("train/approx_kl", np.mean(kl))
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)
        self._log_state()
        update = self._n_updates // self.n_epochs
        if self.alignment_interval and update % self.alignment_interval == 0:
            self._log_alignment(clip_range, clip_range_vf)

    @torch.no_grad()
    def _learn(
        self, clip_range: float, clip_range_vf: float | None, share_of_rate: float
    ) -> tuple[dict[str, list[float]], list[float]]:
        """`n_epochs` passes over the rollout, one step of both networks for every minibatch.

        Returns:
            What is logged, by name, of every minibatch; the KL divergences of the last epoch's.
        """
        # Once an update: listing parameters takes as long as clipping them.
        learned = {name: list(network.parameters()) for name, network in self.networks.items()}
        held = learned["actor"] if self.warming_up else []
        terms: dict[str, list[float]] = {}
        kl: list[float] = []
        for epoch in range(self.n_epochs):
            kl.clear()
            for batch in minibatches(self.rollout_buffer, self.batch_size):
                observations = self.preprocess(batch.observations)
                surrogate, value_error = self._losses_of(batch, clip_range, clip_range_vf)
                for parameter in chain(*learned.values()):
                    parameter.grad = None
                for name, loss in self._losses(surrogate, value_error).items():
                    self.rule.backward(self.networks[name], observations, loss)
                for parameter in held:
                    parameter.grad = None  # feedback has learned from the passes, and stays
                kl.append(surrogate.approximate_kl())
                if self.stops(epoch, kl[-1]):
                    break
                norms = self._clip(learned)
                self.policy.optimizer.step()
                for name, network in self.networks.items():
                    if not (held and name == "actor"):
                        self.rule.decorrelate(network, scale=share_of_rate)
                gain, entropy_loss = surrogate.terms()
                _append(
                    terms,
                    policy_gradient_loss=gain,
                    entropy_loss=entropy_loss,
                    value_loss=value_error.mean(),
                    clip_fraction=surrogate.clip_fraction(),
                    **norms,
                )
            self._n_updates += 1
            if kl and self._too_far(kl[-1]):
                break
        return terms, kl

    def _too_far(self, kl: float) -> bool:
        return self.target_kl is not None and bool(kl > 1.5 * self.target_kl)

    def stops(self, epoch: int, kl: float) -> bool:
        """Whether the policy is so far from the rollout's that the update ends; says so."""
        stop = self._too_far(kl)
        if stop and self.verbose >= 1:
            print(f"Early stopping at step {epoch}: KL divergence {kl:.2f}")
        return stop

    def _peek(self) -> RolloutBufferSamples:
        """Some minibatch, without any notice by the generator."""
        state = np.random.get_state()  # noqa: NPY002 - SB3's buffers draw from it
        batch = next(minibatches(self.rollout_buffer, self.batch_size))
        np.random.set_state(state)  # noqa: NPY002
        return batch

    def _losses_of(
        self, batch: RolloutBufferSamples, clip_range: float, clip_range_vf: float | None
    ) -> tuple[ClippedSurrogate, SquaredValueError]:
        surrogate = ClippedSurrogate(
            self.distribution,
            batch.actions,
            batch.old_log_prob,
            self._advantages(batch),
            clip_range,
            self.ent_coef,
        )
        return surrogate, SquaredValueError(
            batch.returns, batch.old_values, clip_range_vf, self.vf_coef
        )

    def _losses(
        self, surrogate: ClippedSurrogate, value_error: SquaredValueError
    ) -> dict[str, Loss]:
        """The loss of each network, by its name."""
        if "actor" in self.networks:
            return {"actor": surrogate, "critic": value_error}
        return {"actor_critic": SharedLoss(surrogate, value_error)}

    def preprocess(self, observations: Any) -> Observation:  # noqa: ANN401 - SB3's own types
        """Observations of a rollout as the networks take them."""
        return preprocess_obs(observations, self.observation_space, self.policy.normalize_images)

    def _advantages(self, batch: RolloutBufferSamples) -> Tensor:
        advantages = batch.advantages
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        return advantages

    def _clip(self, networks: Mapping[str, Iterable[nn.Parameter]]) -> dict[str, float]:
        """Clip the gradient of each network and return their norms before that, by name.

        As `clip_grad_norm_` does, in a quarter of its time, which showed: a twentieth of an update.
        """
        norms = {}
        for name, parameters in networks.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = 0.0
            if gradients:
                norm = float(torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients])))
            if norm > self.max_grad_norm:
                torch._foreach_mul_(gradients, self.max_grad_norm / (norm + 1e-6))
            norms[f"grad_norm_{name}"] = norm
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
            for name, network in self.networks.items():
                loss = self.rule.decorrelation_loss(network)
                self.logger.record(f"train/decorrelation_loss_{name}", loss)
        self._log_norms()

    def _log_norms(self) -> None:
        norm = nn.utils.get_total_norm(list(self.policy.parameters()))
        self.logger.record("train/weight_norm", float(norm))
        self.logger.record("train/forward_passes", self.rule.forward_passes, exclude="tensorboard")

    def _log_alignment(self, clip_range: float, clip_range_vf: float | None) -> None:
        batch = self._peek()
        observations = self.preprocess(batch.observations)
        losses = self._losses(*self._losses_of(batch, clip_range, clip_range_vf))
        for name, loss in losses.items():
            result = alignment(self.rule, self.networks[name], observations, loss)
            self.logger.record(f"train/alignment_{name}", result.cosine)


def minibatches(buffer: RolloutBuffer, size: int) -> Iterator[RolloutBufferSamples]:
    """What ``buffer.get(size)`` yields, number for number, as parts of one shuffled rollout.

    Seven tensors copied for every minibatch took as long as the matrix products of a noisy pass.
    """
    (rollout,) = buffer.get(None)
    fields = [_split(field, size) for field in rollout]
    for parts in zip(*fields, strict=True):
        yield type(rollout)(*parts)


def _split(field: Observation, size: int) -> list[Observation]:
    """A tensor, or a dict of tensors, in parts with this number of rows."""
    if isinstance(field, Tensor):
        return list(torch.split(field, size))
    parts = [torch.split(part, size) for part in field.values()]
    return [dict(zip(field, values, strict=True)) for values in zip(*parts, strict=True)]


def _append(terms: dict[str, list[float]], **values: float) -> None:
    for name, value in values.items():
        terms.setdefault(name, []).append(value)
