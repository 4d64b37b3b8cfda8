"""Noise-based reward-modulated learning: on-line, by forward passes, from noise nobody reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs
from torch import Tensor, nn
from typing_extensions import override

from nprobot import catalogue
from nprobot.envs.actuators import READING
from nprobot.errors import RuleError, did_you_mean
from nprobot.learning.activity import Call, Tree
from nprobot.learning.rule import LearningRule
from nprobot.learning.rules import FeedbackNodePerturbation
from nprobot.policies.chip.contract import Chip
from nprobot.policies.chip.nonidealities import ChipSpec
from nprobot.policies.direct_policy import DirectPolicy

from .base import Resumable, make_rule
from .checks import check_device
from .nrl_exploration import (
    ActuatorNoise,
    Exploration,
    GuidedNoise,
    HiddenNoise,
    InjectedNoise,
)
from .nrl_prediction import Prediction, RunningMeanPrediction, Transition, ValuePrediction

NOISE_SOURCES: tuple[str, ...] = get_args(catalogue.NoiseSource)
"""Where the perturbation may come from."""

BASELINES = ("critic", "running-mean")
"""What may predict the reward."""


class NRL(Resumable, OnPolicyAlgorithm):
    """Noise-based reward-modulated learning (Fernández, Ahmad & van Gerven, arXiv 2503.23972).

    At every control step the actor runs with noise, the robot does what comes out, and a trace at
    every weight keeps what the noise did there. A reward better than predicted reinforces the
    trace. There is no backward pass and no replay: one robot (or several side by side), forward
    passes, and one scalar that everybody hears. Where the noise is the hardware's own, nobody has
    to know it: the actor runs twice on the same observation, and the difference of the two
    activities takes the noise's place. Under ``"np+feedback"`` it is the difference of the outputs
    alone, and what the hidden nodes had to do with it passes down as an error would.

    The actor's outputs *are* the actions (`nprobot.policies.direct_policy.DirectPolicy`): ±1 for
    the bounds of an action, so noise is in units of half the range. Rewards should be of the order
    of 1 for a critic to follow: wrap the environment in `VecNormalize`, as for PPO.

    Args:
        policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, or a subclass of `DirectPolicy`.
        env: with a bounded `Box` as action space; vectorised or not.
        learning_rate: the learning rate of actor and critic; a number or a schedule.
        noise_source: where the perturbation comes from. ``"network"``: from the actor's chip,
            hidden; if the actuators have a sensor, from them, too. ``"actuators"``: from them
            alone, as far as their sensor tells. ``"injected"``: added by the learner, who knows
            it; for comparison.
        node_noise: for ``"network"`` what is wrong with the chip that the actor is put on (see
            `nprobot.NoisyNetwork`), for ``"injected"`` a standard deviation.
        references: passes that the acting one is compared with under ``"network"``.
        device_seed: which chip it is.
        baseline: what predicts the reward: ``"critic"``, trained by `rule`, or ``"running-mean"``,
            the published form.
        baseline_rate: weight of the newest step in the running mean.
        critic_epochs: steps of the critic on the transitions between two updates.
        rule: a name for `nprobot.learning_rule`, or a rule: how the critic learns, whether layers
            decorrelate, and how credit reaches the hidden layers: by learned feedback, or, under
            ``"network"`` and a rule without, by what each node's own difference was.
        rule_kwargs: settings for a rule given by name (those of `nprobot.PPO` where silent).
        n_steps: control steps between two updates; 1 is on-line in the strict sense.
        gamma: discount factor γ.
        gae_lambda: λ; traces decay by γλ a step.
        max_grad_norm: limit of the norm of the actor's update; None for none.
        policy_kwargs: of `DirectPolicy`, such as ``{"net_arch": [32, 32]}``.
        stats_window_size: as in SB3.
        tensorboard_log: as in SB3.
        verbose: as in SB3.
        seed: the seed of everything random but the environment's hardware.
        device: torch device.

    Raises:
        RuleError: an argument is unknown, or does not fit the others.
        ArchitectureError: the action space is not a bounded `Box`.
    """

    policy: DirectPolicy  # type: ignore[assignment]
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": DirectPolicy,
        "MultiInputPolicy": DirectPolicy,
    }
    exploration: Exploration
    prediction: Prediction
    traces: EligibilityTraces

    def __init__(
        self,
        policy: str | type[DirectPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-3,
        *,
        noise_source: str = "network",
        node_noise: ChipSpec | Chip | None = 0.1,
        references: int = 1,
        device_seed: int | None = 0,
        baseline: str = "critic",
        baseline_rate: float = 0.01,
        critic_epochs: int = 4,
        rule: str | LearningRule | None = None,
        rule_kwargs: dict[str, Any] | None = None,
        n_steps: int = 32,
        gamma: float = 0.99,
        gae_lambda: float = 0.9,
        max_grad_norm: float | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        check_device(device)
        one_of("noise_source", noise_source, NOISE_SOURCES)
        one_of("baseline", baseline, BASELINES)
        self.rule = make_rule(rule, rule_kwargs, seed, catalogue.ALGORITHMS["nrl"].rule)
        self.noise_source = noise_source
        self.node_noise = node_noise
        self.references = references
        self.device_seed = device_seed
        self.baseline = baseline
        self.baseline_rate = baseline_rate
        self.critic_epochs = critic_epochs
        super().__init__(
            policy,  # type: ignore[arg-type]
            env,  # type: ignore[arg-type]
            learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=0.0,
            vf_coef=1.0,
            max_grad_norm=float("inf") if max_grad_norm is None else max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            supported_action_spaces=(spaces.Box,),
            _init_setup_model=False,
        )
        if _init_setup_model:
            self._setup_model()

    @override
    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        settings = {"decorrelated": self.rule.decorrelated, **self.policy_kwargs}
        if self.noise_source == "network":
            settings = {"node_noise": self.node_noise, "device_seed": self.device_seed} | settings
        if isinstance(self.observation_space, spaces.Dict):
            settings.setdefault("features_extractor_class", CombinedExtractor)
        policy_class: Any = self.policy_class
        self.policy = policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **settings
        ).to(self.device)
        decay = self.gamma * self.gae_lambda
        self.traces = EligibilityTraces(decay)
        self.exploration = self._make_exploration()
        self.prediction = (
            ValuePrediction(self.policy, self.rule, self.gamma, decay, self.critic_epochs)
            if self.baseline == "critic"
            else RunningMeanPrediction(self.baseline_rate)
        )
        self.rollout_buffer = None  # type: ignore[assignment]  # traces take its place
        self._fed: list[list[tuple[nn.Module, Tensor]]] = []

    def _make_exploration(self) -> Exploration:
        if self.noise_source == "network":
            rule = self.rule
            if isinstance(rule, FeedbackNodePerturbation) and rule.feedback.kind == "layerwise":
                return GuidedNoise(self.references, rule)
            return HiddenNoise(self.references)
        if self.noise_source == "actuators":
            return ActuatorNoise(self.rule)
        if not isinstance(self.node_noise, int | float):
            raise RuleError(
                "noise_source='injected' takes a standard deviation as node_noise, "
                f"got {self.node_noise!r}"
            )
        return InjectedNoise(self.node_noise, self.seed)

    @override
    @torch.no_grad()
    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: object, n_rollout_steps: int
    ) -> bool:
        """Some control steps of all robots, each of which reinforces the traces."""
        self.policy.set_training_mode(False)
        if np.all(self._last_episode_starts):
            self.traces.clear()  # the robots were all reset, perhaps from outside
        callback.on_rollout_start()
        for _ in range(n_rollout_steps):
            observations = self._preprocess(self._last_obs)
            trial = self.exploration.act(self.policy.actor, observations)
            actions = self.policy.actions(trial.outputs)
            new_obs, rewards, dones, infos = env.step(actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False

            transition = self._transition(observations, new_obs, rewards, dones, infos)
            eligibility = self.exploration.eligibility(trial, self._sensed(infos))
            self.traces.mark(trial.calls, eligibility, trial.inputs)
            prediction_error = self.prediction.error(transition)
            self.traces.reinforce(prediction_error, 1 / (env.num_envs * n_rollout_steps))
            self.traces.cut(transition.ended > 0)

            self._fed.append(trial.layer_inputs())
            self.rule.forward_passes += trial.forward_passes * env.num_envs
            self._update_info_buffer(infos, dones)
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    @override
    @torch.no_grad()
    def train(self) -> None:
        """Step the actor the way that its traces were reinforced; improve the prediction."""
        self.policy.set_training_mode(True)
        actor, optimizer = self.policy.actor, self.policy.optimizer
        self.exploration.learn()
        self._update_learning_rate([optimizer, self.policy.critic_optimizer])
        norm = nn.utils.clip_grad_norm_(actor.parameters(), self.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        calls = zip(*self._fed, strict=True)
        self.rule.remember_inputs((c[0][0], torch.cat([x for _, x in c])) for c in calls)
        self.rule.decorrelate(actor)
        self._fed.clear()
        terms = self.prediction.learn()
        self._n_updates += 1

        terms |= {
            "grad_norm_actor": float(norm),
            "weight_norm": float(nn.utils.get_total_norm(list(actor.parameters()))),
            "forward_passes": self.rule.forward_passes,
            "n_updates": self._n_updates,
        }
        if self.rule.decorrelated:
            terms["decorrelation_loss_actor"] = self.rule.decorrelation_loss(actor)
        for name, value in terms.items():
            self.logger.record(f"train/{name}", value)

    @override
    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str = "NRL",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn, or continue to learn; arguments as in SB3."""
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )

    @override
    def steps_of_an_update(self) -> int:
        return self.n_steps * self.n_envs

    @override
    def _memory(self) -> dict[str, Any]:
        traces = self.traces.traces
        named = self.policy.actor.named_parameters()
        memory = super()._memory()
        memory["traces"] = {name: traces[p] for name, p in named if p in traces}
        return memory

    @override
    def _restore_memory(self, memory: Mapping[str, Any]) -> None:
        super()._restore_memory(memory)
        parameters = dict(self.policy.actor.named_parameters())
        self.traces.traces = {
            parameters[name]: trace.to(self.device) for name, trace in memory["traces"].items()
        }

    @override
    def restart_episodes(self) -> npt.NDArray[Any]:
        self.traces.clear()
        return super().restart_episodes()

    @override
    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        saved = ["policy", "policy.optimizer", "policy.critic_optimizer"]
        return [*saved, "exploration", "prediction"], []

    @override
    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "traces", "_fed"]

    def _preprocess(self, observations: Any) -> Tree:  # noqa: ANN401 - SB3's own types
        return self.policy.preprocess(obs_as_tensor(observations, self.device))

    def _transition(
        self,
        observations: Tree,
        new_obs: VecEnvObs,
        rewards: npt.NDArray[Any],
        dones: npt.NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> Transition:
        stopped = [bool(info.get("TimeLimit.truncated")) for info in infos]
        return Transition(
            observations,
            self._tensor(rewards),
            self._preprocess(with_last_observations(new_obs, dones, infos)),
            terminated=self._tensor(dones & ~np.array(stopped)),
            ended=self._tensor(dones),
        )

    def _sensed(self, infos: list[dict[str, Any]]) -> Tensor | None:
        """What the actuators' sensors read, in the units of the actor's outputs."""
        if not all(READING in info for info in infos):
            return None
        return self.policy.outputs_for(np.stack([info[READING] for info in infos]))

    def _tensor(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)


def with_last_observations(
    observations: VecEnvObs, dones: npt.NDArray[Any], infos: list[dict[str, Any]]
) -> VecEnvObs:
    """What every robot saw after its step: of an episode that ended, the last of that episode."""
    if not dones.any():
        return observations
    if isinstance(observations, dict):
        seen = {key: value.copy() for key, value in observations.items()}
        for i in np.flatnonzero(dones):
            for key, value in infos[i]["terminal_observation"].items():
                seen[key][i] = value
        return seen
    assert isinstance(observations, np.ndarray)
    last = observations.copy()
    for i in np.flatnonzero(dones):
        last[i] = infos[i]["terminal_observation"]
    return last


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is not among the known ones.

    Raises:
        RuleError: it is not; the message has the nearest.
    """
    if value not in known:
        hint = did_you_mean(value, known)
        raise RuleError(f"unknown {name} {value!r}{hint}. Known: {', '.join(known)}")


class EligibilityTraces:
    """One trace a parameter and robot: ``e ← γλ e + eligibility ⊗ x*``.

    With the reward prediction error δ, ``Σ_t δ_t e_t`` is the policy gradient with generalised
    advantage estimates (Schulman et al. 2016, arXiv 1506.02438), summed in the order of time: no
    observation, action or activity has to be remembered.

    Args:
        decay: γλ, from one control step to the next.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.traces: dict[Tensor, Tensor] = {}

    def mark(self, calls: Sequence[Call], eligibility: Tensor, inputs: Sequence[Tensor]) -> None:
        """Let the traces decay and add a step.

        Args:
            calls: the layers.
            eligibility: the eligibility of every node, shape (B, N).
            inputs: what each layer was fed, shape (B, ...).
        """
        marks: dict[Tensor, Tensor] = {}
        for call, x in zip(calls, inputs, strict=True):
            units = call.pre_activation.shape[1:]
            own = eligibility[:, call.nodes].reshape(-1, *units)
            for parameter, mark in call.layer.outer(own, x):
                before = marks.get(parameter)
                marks[parameter] = mark if before is None else before + mark
        for parameter, mark in marks.items():
            trace = self.traces.get(parameter)
            if trace is not None:
                mark = mark + self.decay * trace
            self.traces[parameter] = mark

    def reinforce(self, prediction_error: Tensor, share: float) -> None:
        """Add ``−share · Σ_robots δ e`` to the parameters' `.grad`: its descent makes δ larger.

        Args:
            prediction_error: δ of every robot, shape (B,).
            share: weight of the step.
        """
        for parameter, trace in self.traces.items():
            gradient = torch.tensordot(prediction_error, trace, dims=1).mul_(-share)
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient

    def cut(self, ended: Tensor) -> None:
        """Forget what robots did whose episode has ended, shape (B,), booleans."""
        if ended.any():
            for trace in self.traces.values():
                trace[ended] = 0.0

    def clear(self) -> None:
        """Forget everything."""
        self.traces.clear()
