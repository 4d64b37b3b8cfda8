"""The learner of an adaptation: NRL that starts from a policy file, and gives one back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor, nn
from typing_extensions import override

from nprobot.algorithms.nrl import NRL
from nprobot.envs import NoisyActuators
from nprobot.envs.actuators import ActuatorModel
from nprobot.errors import ArchitectureError, RuleError
from nprobot.policies.chip.crossbar import off_chip_copy
from nprobot.policies.direct_policy import DirectPolicy
from nprobot.policies.files.policy import BoxAction, Operation, Policy
from nprobot.policies.layers import fold
from nprobot.training.environments import CHUNK, Env
from nprobot.training.from_policy import (
    hidden_activations,
    network_arguments,
    write_network,
    write_policy,
)

from .adaptation_config import AdaptationConfig

MakeRobot = Callable[[], Env]
"""Makes the robot that the policy was trained for, without faults."""

SENSOR = "current-sense"


def make_learner(
    policy: Policy, make_robot: MakeRobot, models: Sequence[ActuatorModel], config: AdaptationConfig
) -> RobotLearner:
    """A learner that acts as the policy does, on its robots.

    Args:
        policy: what it starts from.
        make_robot: makes one robot.
        models: the models of its actuators, faults included.
        config: how it learns.

    Raises:
        RuleError: NRL cannot train the policy.
    """
    policy = check_trainable(policy)

    def make(seed: np.random.SeedSequence) -> Callable[[], Env]:
        sensor = None if config.actuators is None else SENSOR
        return lambda: Monitor(NoisyActuators(make_robot(), models, sensor=sensor, seed=seed))

    seeds = np.random.SeedSequence(config.seed).spawn(config.robots)
    env = VecNormalize(
        DummyVecEnv([make(seed) for seed in seeds]),
        norm_obs=policy.normaliser is not None,
        gamma=config.gamma,
    )
    learner = RobotLearner(
        "MlpPolicy",
        env,
        config.learning_rate,
        noise_source=config.noise_source,
        node_noise=config.chip or config.dying_chip(settled=False) or config.node_noise,
        device_seed=int(policy.provenance.get("device_seed", 0)),
        rule=config.rule,
        critic_epochs=1 if config.frozen else config.critic_epochs,
        n_steps=max(config.batch // config.robots, 1),
        gamma=config.gamma,
        policy_kwargs=network_arguments(policy),
        seed=config.seed,
        device="cpu",
        calibration=config.calibration,
        hold=config.frozen,
    )
    write_policy(learner, policy)
    if policy.normaliser is not None:
        fixed = FixedStatistics(shape=policy.normaliser.mean.shape)
        fixed.mean, fixed.var = policy.normaliser.mean.copy(), policy.normaliser.var.copy()
        env.obs_rms = fixed  # type: ignore[assignment]  # SB3's type is that of dicts
    learner.remember()
    return learner


class RobotLearner(NRL):
    """NRL whose actor waits while the critic learns, and that averages what the actor learned.

    Steps in a noisy direction circle around what is best; their mean is nearer to it than the last
    of them (Polyak & Juditsky 1992). The robot is driven by the last, the mean is what is kept.

    Args:
        arguments: of `NRL`.
        calibration: steps in which the actor waits.
        hold: whether it waits for ever.
        keywords: arguments of `NRL`.
    """

    CRITIC_RATE = 3e-3
    MEAN_RATE = 0.02
    """Weight of the newest actor in the mean."""

    def __init__(
        self, *arguments: Any, calibration: int = 0, hold: bool = False, **keywords: Any
    ) -> None:
        self.calibration = calibration
        self.hold = hold
        super().__init__(*arguments, **keywords)
        self.remember()

    @override
    def train(self) -> None:
        super().train()
        if not self.waits:
            for mean, now in zip(self.mean, self._actor_state(), strict=True):
                mean.lerp_(now, self.MEAN_RATE)

    @property
    def waits(self) -> bool:
        """Whether the actor stays as it is."""
        return self.hold or self.num_timesteps <= self.calibration

    def settle(self) -> None:
        """Make the actor the mean of what it has been."""
        with torch.no_grad():
            for mean, now in zip(self.mean, self._actor_state(), strict=True):
                now.copy_(mean)

    def forget(self, policy: Policy) -> None:
        """Undo what the actor has learned: it acts as `policy` does; the critic stays as it is."""
        write_network(self, policy)
        self.policy.optimizer.state.clear()
        self.traces.clear()
        self.remember()

    def remember(self) -> None:
        """Begin the mean with the actor as it is."""
        self.mean = [parameter.detach().clone() for parameter in self._actor_state()]

    def _actor_state(self) -> list[Tensor]:
        return list(self.policy.actor.parameters())

    @override
    def _update_learning_rate(self, optimizers: Any) -> None:
        super()._update_learning_rate(optimizers)
        # At a rate of 0 the optimiser still finds out how large its steps will have to be.
        rates = {self.policy.critic_optimizer: self.CRITIC_RATE}
        if self.waits:
            rates[self.policy.optimizer] = 0.0
        for optimizer, rate in rates.items():
            for group in optimizer.param_groups:
                group["lr"] = rate


class FixedStatistics(RunningMeanStd):
    """Statistics of observations that stay what they were at the end of training."""

    @override
    def update(self, arr: Any) -> None:
        pass


def check_trainable(policy: Any) -> Policy:  # noqa: ANN401 - whatever deployment can run
    """The policy, if NRL can train it.

    Raises:
        RuleError: it is an ONNX file, has discrete or unbounded actions or gives several at once,
            or has another network than linear layers with one kind of activation between them.
    """
    if not isinstance(policy, Policy):
        raise RuleError(
            "an ONNX policy cannot learn: give the policy folder (policy.json and "
            "policy.safetensors), with backend numpy"
        )
    if not isinstance(policy.action, BoxAction):
        raise RuleError(
            "NRL learns by perturbing continuous actions; this policy chooses between "
            f"{' × '.join(map(str, policy.action.choices))} discrete ones"
        )
    if not (np.isfinite(policy.action.low).all() and np.isfinite(policy.action.high).all()):
        raise RuleError(
            "NRL needs bounds of all actions, as noise is in shares of their range; this policy "
            "has none for some"
        )
    if not (policy.action.low < policy.action.high).all():
        raise RuleError("an action whose bounds are equal cannot be perturbed")
    if policy.task is not None and policy.task.kwargs.get(CHUNK, 1) != 1:
        raise RuleError(
            "NRL credits an action with what follows it; this policy gives chunks of actions. "
            "Clone it with --execute 1"
        )
    try:
        hidden_activations(policy)
    except ArchitectureError as error:
        raise RuleError(f"NRL cannot train it: {error}") from error
    if policy.operations[-1].name != "linear":
        raise RuleError(
            "NRL trains linear layers with activations between them; this policy ends with "
            f"{policy.operations[-1].name}"
        )
    return policy


def read_network(source: DirectPolicy, policy: Policy) -> Policy:
    """A policy like the one given, with what NRL has learned; noise and chip left behind."""
    assert isinstance(policy.action, BoxAction)
    with torch.random.fork_rng(devices=[]):
        plain = fold(off_chip_copy(source.actor))
    layers = iter([module for module in plain if isinstance(module, nn.Linear)])
    operations = []
    for operation in policy.operations:
        if operation.name != "linear":
            operations.append(operation)
            continue
        layer = next(layers)
        arrays = {"weight": layer.weight.detach().numpy(), "bias": layer.bias.detach().numpy()}
        operations.append(Operation("linear", {k: v.copy() for k, v in arrays.items()}))
    action = replace(policy.action, mapping="rescale")
    return replace(policy, operations=tuple(operations), action=action)
