"""rsl_rl's PPO with one more argument, the rule that estimates the gradients."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import rsl_rl.algorithms
import torch
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage
from torch import Tensor, nn
from typing_extensions import override

from nprobot import catalogue
from nprobot.errors import RuleError
from nprobot.learning.activity import Tree
from nprobot.learning.nodes import node_layers
from nprobot.learning.rules import learning_rule
from nprobot.policies.layers import decorrelate, fold

from .model_views import (
    BothViews,
    ModelView,
    RecurrentView,
    StepRows,
    TrajectoryRows,
    check_view,
    view_of,
)

Batch = Any
"""A minibatch of rsl_rl's `RolloutStorage`."""
_NORMALISES_LAST = (
    "update_normalization" in rsl_rl.algorithms.PPO.update.__code__.co_names  # from 5.5 on
)


class RunnerPPO(rsl_rl.algorithms.PPO):  # type: ignore[misc]
    """rsl_rl's PPO with a learning rule in place of backpropagation: ``nprobot.rsl_rl:PPO``.

    Everything else is rsl_rl's: models, runner, storage, adaptive learning rate, normalisers,
    symmetry, random network distillation, checkpoints, exported policies, several GPUs. With
    ``rule="bp"`` it *is* rsl_rl's PPO, weight for weight. Under the other rules actor and critic
    are two networks with noise of their own, unless they share encoders: then they are one. Each
    time step is a sample; a recurrent model's samples are trajectories, with noise on the gates at
    every step and the sum of the losses of its steps.

    Args:
        actor: of rsl_rl, as are all others but the last two.
        critic: likewise.
        storage: likewise.
        rule: by name; see `nprobot.learning_rule`.
        rule_cfg: settings of the rule. Left out, its `seed` is drawn from torch's generator, so
            ``torch.manual_seed`` is enough; every rank has noise of its own.
        **settings: of rsl_rl's PPO.

    Attributes:
        rule: what estimates the gradients.
        views: of actor and critic, as the rule sees them.

    Raises:
        RuleError: unknown rule, or a setting that does not fit: mixed precision, in which the
            change of a loss drowns, or a decorrelated rule on several GPUs.
        UnsupportedLayerError: a model has parameters in layers that the rule cannot reach.
        ArchitectureError: a model is not made as rsl_rl's are.
    """

    learning_rate: float

    def __init__(
        self,
        actor: MLPModel,
        critic: MLPModel,
        storage: RolloutStorage,
        *arguments: Any,
        rule: str = catalogue.DEFAULT_RULE,
        rule_cfg: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.rule = learning_rule(rule, **{"seed": _drawn_seed(settings)} | (rule_cfg or {}))
        if self.rule.decorrelated:
            decorrelate(actor)
            decorrelate(critic)
            for name in ("as_jit", "as_onnx"):  # what a robot runs has R in its weights
                setattr(actor, name, partial(_exported, actor, name))
        super().__init__(actor, critic, storage, *arguments, **settings)
        self._first_rate = self.learning_rate
        if self.rule.name == "bp":
            return
        if getattr(self, "use_mixed_precision", False):  # rsl_rl has it from 5.5 on
            raise RuleError(
                "use_mixed_precision=True computes losses in bfloat16, whose steps are larger than "
                f"what the noise of {self.rule.name!r} does to a loss; set it to False"
            )
        if self.rule.decorrelated and self.is_multi_gpu:
            raise RuleError(
                f"{self.rule.name!r} learns R from what one GPU has seen, so the networks of "
                f"several would differ; use {self.rule.name[1:]!r}"
            )
        self.views = {"actor": view_of(actor), "critic": view_of(critic)}
        own = {id(parameter) for parameter in actor.parameters()}
        shared = any(id(parameter) in own for parameter in critic.parameters())
        self._both = BothViews(*self.views.values()) if shared else None
        for view in self.views.values():
            node_layers(view)  # refuses what cannot learn
            check_view(view, storage.observations[0])
        if self.rnd is not None:
            node_layers(self.rnd.predictor)

    @override
    def update(self) -> dict[str, float]:
        if self.rule.name != "bp":
            return self._learn()
        losses: dict[str, float] = super().update()
        steps = self.num_learning_epochs * self.storage.num_envs
        passes = 2 * steps * self.storage.num_transitions_per_env
        self.rule.forward_passes += passes
        self.rule.backward_passes += passes
        return losses

    @torch.no_grad()
    def _learn(self) -> dict[str, float]:
        """Learn from the rollout, a minibatch at a time, in the order of rsl_rl's `update`."""
        sums: dict[str, float] = defaultdict(float)
        minibatches = self.storage.mini_batch_generator
        if self.actor.is_recurrent or self.critic.is_recurrent:
            minibatches = self.storage.recurrent_mini_batch_generator
        for batch in minibatches(self.num_mini_batches, self.num_learning_epochs):
            if self.normalize_advantage_per_mini_batch:
                spread = batch.advantages.std() + 1e-8
                batch.advantages = (batch.advantages - batch.advantages.mean()) / spread
            seen = batch.observations
            if self.symmetry is not None:
                self.symmetry.augment_batch(batch, len(seen))
            critic_loss = CriticLoss(self, batch)
            actor_loss = ActorLoss(self, batch, len(seen))
            self.optimizer.zero_grad()
            if self._both is not None:
                inputs = actor_loss.inputs, critic_loss.inputs
                self.rule.backward(self._both, inputs, SumOfLosses(actor_loss, critic_loss))
            else:
                self.rule.backward(self.views["actor"], actor_loss.inputs, actor_loss)
                self.rule.backward(self.views["critic"], critic_loss.inputs, critic_loss)
            actor_loss.leave_clean()
            self._adapt_rate(actor_loss.kl)
            if self.rnd is not None:
                sums["rnd"] += self._learn_novelty(seen)
            if self.is_multi_gpu:
                self.reduce_parameters()
            nn.utils.clip_grad_norm_(self._raw_actor.parameters(), self.max_grad_norm)
            nn.utils.clip_grad_norm_(self._raw_critic.parameters(), self.max_grad_norm)
            self.optimizer.step()
            if self.rnd is not None:
                self.rnd.optimizer.step()
            if self.rule.decorrelated:
                for view in self.views.values() if self._both is None else [self._both]:
                    self.rule.decorrelate(view, scale=self.learning_rate / self._first_rate)
            for name, value in (critic_loss.logged | actor_loss.logged).items():
                sums[name] += value
        updates = self.num_learning_epochs * self.num_mini_batches
        if _NORMALISES_LAST:
            seen = self.storage.observations.flatten(0, 1)
            for normalised in (self.actor, self.critic, self.rnd):
                if normalised is not None:
                    normalised.update_normalization(seen)
        self.storage.clear()
        return {name: total / updates for name, total in sums.items()}

    def _adapt_rate(self, kl: Tensor) -> None:
        """Let the learning rate fall where the policy has moved too far, and grow where hardly."""
        if self.desired_kl is None or self.schedule != "adaptive":
            return
        if self.is_multi_gpu:
            torch.distributed.all_reduce(kl)
            kl = kl / self.gpu_world_size
        distance = kl.item()  # the same number on every rank, so the same rate
        if distance > 2 * self.desired_kl:
            self.learning_rate = max(1e-5, self.learning_rate / 1.5)
        elif 0 < distance < self.desired_kl / 2:
            self.learning_rate = min(1e-2, self.learning_rate * 1.5)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate

    def _learn_novelty(self, observations: Any) -> float:  # noqa: ANN401
        """Fill the gradients of the network that predicts the random one; return its mean loss."""
        rnd: Any = self.rnd
        state = rnd.state_normalizer(rnd.get_rnd_state(observations)).flatten(0, -2)
        target: Tensor = rnd.target(state)
        rnd.optimizer.zero_grad()

        def error(predicted: Tensor) -> Tensor:
            return (predicted - target).square().mean(-1)

        return float(self.rule.backward(rnd.predictor, state, error).mean())

    @override
    def save(self) -> dict[str, Any]:
        """As rsl_rl's, with what the rule has learned and where its noise is."""
        return {**super().save(), "rule": self.rule.name, "rule_state_dict": self.rule.state_dict()}

    @override
    def load(
        self, loaded_dict: dict[str, Any], load_cfg: dict[str, Any] | None, strict: bool
    ) -> bool:
        """As rsl_rl's; a checkpoint of another rule, or of rsl_rl itself, will do.

        Where a rule decorrelates, weights of one that does not are taken with R as the identity.
        """
        for name, model in (("actor", self._raw_actor), ("critic", self._raw_critic)):
            weights = dict(loaded_dict.get(f"{name}_state_dict", {}))
            own = model.state_dict()
            for key in own.keys() - weights.keys() if weights else ():
                if key.endswith(".R"):
                    weights[key] = torch.eye(len(own[key])).to(own[key])
            loaded_dict = {**loaded_dict, f"{name}_state_dict": weights}
        continues = load_cfg is None or bool(load_cfg.get("optimizer"))
        if continues and loaded_dict.get("rule") == self.rule.name:
            self.rule.load_state_dict(loaded_dict["rule_state_dict"])
        loaded: bool = super().load(loaded_dict, load_cfg, strict)
        return loaded


class ActorLoss:
    """What the actor learns from a minibatch, for each sample; called with outputs of its view.

    The clipped surrogate of Schulman et al. 2017, equation 7, less the entropy. Where the policy is
    to be symmetric, also how far its mean is from the mirrored mean for mirrored observations.

    Args:
        algorithm: whose settings they are.
        batch: with the mirrored rows after the others, where they are learned from.
        originals: rows of it that are no mirror images, if its rows are steps.

    Attributes:
        inputs: of the view.
        kl: mean KL(old ‖ new) of the clean pass, once the loss has been evaluated on it.
        logged: means of the terms there, by rsl_rl's names.

    Raises:
        RuleError: shared encoders would have to see more rows for the actor than for the critic.
    """

    kl: Tensor

    def __init__(self, algorithm: RunnerPPO, batch: Batch, originals: int) -> None:
        self.algorithm = algorithm
        self.view = view = algorithm.views["actor"]
        self.steps = _steps(view, batch)
        self.originals = originals if batch.masks is None else None
        symmetry = algorithm.symmetry
        self.symmetry = symmetry if symmetry is not None and symmetry.use_mirror_loss else None
        observations = batch.observations
        self.logged: dict[str, float] = {}
        if symmetry is not None:
            loss = symmetry.compute_loss(algorithm._raw_actor, batch, originals)
            self.logged["symmetry"] = float(loss)
        if self.symmetry is not None:
            observations = batch.observations  # with mirrored ones, by what has just run
        self.inputs = view.inputs(observations, batch.masks, batch.hidden_states[0])
        fields = batch.actions, batch.old_actions_log_prob, batch.advantages
        if self.originals is not None and len(observations) > len(batch.actions):
            times = len(observations) // len(batch.actions)  # of which those behind have no weight
            fields = tuple(field.repeat(times, 1) for field in fields)
        self.actions, old, advantages = map(self.steps.arranged, fields)
        self.old_log_prob, self.advantages = old.squeeze(-1), advantages.squeeze(-1)
        self.old_parameters = [self.steps.arranged(p) for p in batch.old_distribution_params]
        self.learned_rows = len(batch.actions)
        self.mirrored: Tensor | None = None
        self.raw: Tensor | None = None

    def __call__(self, outputs: Tree) -> Tensor:
        """Losses, shape (..., B)."""
        algorithm, clip = self.algorithm, self.algorithm.clip_param
        with self.view.distributed(outputs) as distribution:
            log_prob = distribution.log_prob(self.actions)
            entropy = distribution.entropy
            if clean := self.raw is None:
                self.raw = outputs[0].detach().clone()
                new = [self._original(p) for p in distribution.params]
                kl = distribution.kl_divergence(self.old_parameters, new)
        ratio = (log_prob - self.old_log_prob).exp()
        clipped = ratio.clamp(1 - clip, 1 + clip)
        surrogate = torch.maximum(-self.advantages * ratio, -self.advantages * clipped)
        if clean:
            self.kl = self.steps.mean(kl)
            self.logged["surrogate"] = self.steps.mean(surrogate[: self.learned_rows]).item()
            self.logged["entropy"] = self.steps.mean(self._original(entropy)).item()
        if self.originals is None:
            return self.steps.losses(surrogate - algorithm.entropy_coef * entropy)
        loss: Tensor = _for_rows(surrogate, 0, self.learned_rows)
        loss = loss - algorithm.entropy_coef * _for_rows(entropy, 0, self.originals)
        if self.symmetry is not None:
            loss = loss + self.symmetry.mirror_loss_coeff * self._asymmetry(outputs[0])
        return loss

    def leave_clean(self) -> None:
        """Leave the distribution as the clean pass had it, for rsl_rl's log."""
        self.view.distribution.update(self.raw)

    def _original(self, values: Tensor) -> Tensor:
        """Rows that are no mirror images."""
        return values[: self.originals]

    def _asymmetry(self, raw: Tensor) -> Tensor:
        symmetry: Any = self.symmetry
        mean = self.view.distribution.deterministic_output(raw)
        if self.mirrored is None:  # the clean pass
            _, self.mirrored = symmetry.data_augmentation_func(
                env=symmetry.env, obs=None, actions=self._original(mean).detach()
            )
        error = (mean - self.mirrored).square().mean(-1)
        return _for_rows(error, self.originals or 0, error.shape[-1])


class CriticLoss:
    """What the critic learns from a minibatch, for each sample; called with outputs of its view.

    Args:
        algorithm: whose settings they are.
        batch: with the mirrored rows after the others.

    Attributes:
        inputs: of the view.
        logged: the mean squared error of the clean pass, once the loss has been evaluated on it.
    """

    def __init__(self, algorithm: RunnerPPO, batch: Batch) -> None:
        self.algorithm = algorithm
        self.view = view = algorithm.views["critic"]
        self.steps = _steps(view, batch)
        self.inputs = view.inputs(batch.observations, batch.masks, batch.hidden_states[1])
        self.old = self.steps.arranged(batch.values).squeeze(-1)
        self.returns = self.steps.arranged(batch.returns).squeeze(-1)
        self.logged: dict[str, float] = {}

    def __call__(self, outputs: Tensor) -> Tensor:
        """Losses, shape (..., B)."""
        algorithm, values = self.algorithm, outputs.squeeze(-1)
        error = (values - self.returns).square()
        if algorithm.use_clipped_value_loss:
            change = (values - self.old).clamp(-algorithm.clip_param, algorithm.clip_param)
            error = torch.maximum(error, (self.old + change - self.returns).square())
        if not self.logged:
            self.logged["value"] = self.steps.mean(error).item()
        return self.steps.losses(algorithm.value_loss_coef * error)


class SumOfLosses:
    """Of actor and critic in one network, from the outputs of `BothViews`.

    Args:
        actor_loss: of all outputs but the last.
        critic_loss: of the last.

    Raises:
        RuleError: actor and critic do not see the same rows.
    """

    def __init__(self, actor_loss: ActorLoss, critic_loss: CriticLoss) -> None:
        self.actor_loss, self.critic_loss = actor_loss, critic_loss
        if len(actor_loss.old_log_prob) != len(critic_loss.returns):
            raise RuleError(
                "use_mirror_loss shows the actor more observations than the critic, and the two "
                "share encoders; set use_data_augmentation=True, too, or let each have its own"
            )

    def __call__(self, outputs: Tree) -> Tensor:
        """Losses, shape (..., B)."""
        return self.actor_loss(outputs[:-1]) + self.critic_loss(outputs[-1])


def _steps(view: ModelView, batch: Batch) -> StepRows:
    return (TrajectoryRows if isinstance(view, RecurrentView) else StepRows)(batch.masks)


def _for_rows(losses: Tensor, start: int, stop: int) -> Tensor:
    """Losses of some rows, 0 for the others, so that the mean over all is the mean over those."""
    rows = losses.shape[-1]
    if (start, stop) == (0, rows):
        return losses
    kept = torch.zeros_like(losses)
    kept[..., start:stop] = losses[..., start:stop] * (rows / (stop - start))
    return kept


def _exported(actor: MLPModel, name: str, *arguments: Any, **options: Any) -> nn.Module:
    plain = fold(actor)
    made: nn.Module = getattr(type(plain), name)(plain, *arguments, **options)
    return made


def _drawn_seed(settings: dict[str, Any]) -> int:
    """What `torch.manual_seed` says, and another one on every rank."""
    rank = (settings.get("multi_gpu_cfg") or {}).get("global_rank", 0)
    generator = torch.Generator()
    generator.set_state(torch.get_rng_state())  # which goes on as if nothing had been drawn
    return int(torch.randint(2**31, (), generator=generator)) + int(rank)
