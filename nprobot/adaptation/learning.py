"""Going on learning on the robot: a trained policy meets hardware that it was not trained on.

NRL (`nprobot.NRL`) starts from a policy file, acts on the robot and learns from what it is rewarded
for, by forward passes only. A policy file has no critic; so for the first steps, the *calibration*,
the policy stays as it is, and only the critic learns what this policy can expect on this robot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from typing_extensions import override

from nprobot.algorithms.nrl import NOISE, one_of
from nprobot.envs import NoisyActuators
from nprobot.envs.actuators import ActuatorModel
from nprobot.envs.actuators.presets import resolve
from nprobot.errors import ActuatorError, ConfigError
from nprobot.policies.files.policy import Policy
from nprobot.training.environments import Env
from nprobot.training.evaluation import Evaluation, evaluate

from .faults import Fault, check_actuators
from .learner import FixedStatistics, RobotLearner
from .networks import architecture, check_trainable, read_network, write_network
from .result import Adapted, LearningEpisode, recovery

MakeRobot = Callable[[], Env]
"""Makes the robot that the policy was trained for, without faults."""

SENSOR = "current-sense"


@dataclass(frozen=True)
class AdaptationConfig:
    """How a policy goes on learning.

    Attributes:
        steps: control steps in all, of all robots together, calibration included.
        calibration: the first of them, in which only the critic learns; the faults strike at
            their end.
        robots: identical robots side by side, which learn together.
        noise: where perturbations come from; see `nprobot.NRL`.
        node_noise: standard deviation of the node noise, in half ranges of an action.
        hardware: actuators, a preset of `nprobot.envs.NoisyActuators`; None for ideal ones.
        learning_rate: of the actor; the critic's is `CRITIC_RATE`.
        batch: control steps between two updates, of all robots together.
        critic_epochs: steps of the critic on the transitions between two updates.
        gamma: discount factor.
        seed: of everything random.
        learn: whether the actor learns at all; False for the frozen policy to compare with.

    Raises:
        ConfigError: the numbers make no sense, or do not fit each other.
    """

    steps: int = 100_000
    calibration: int = 20_000
    robots: int = 8
    noise: str = "network"
    node_noise: float = 0.05
    hardware: str | None = None
    learning_rate: float = 3e-4
    batch: int = 512
    critic_epochs: int = 4
    gamma: float = 0.99
    seed: int = 0
    learn: bool = True

    def __post_init__(self) -> None:
        for name in ("robots", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not 0 <= self.calibration < self.steps:
            raise ConfigError(
                f"calibration takes the first {self.calibration} of {self.steps} steps; some "
                "must be left for learning"
            )
        for name in ("node_noise", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name):g}")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {self.seed}")
        one_of("noise", self.noise, NOISE)
        if self.hardware is not None:
            try:
                resolve(self.hardware)
            except ActuatorError as error:
                raise ConfigError(f"hardware: {error}") from error
        if self.noise == "actuators" and self.hardware is None:
            raise ConfigError(
                "noise 'actuators' learns from noisy actuators, and these are ideal; name a "
                "preset as hardware, such as torque-motor"
            )


class _Notes(BaseCallback):
    """Keeps the episodes, tells of progress, and ends learning on time."""

    def __init__(self, observer: Observer | None, steps: int) -> None:
        super().__init__()
        self.observer = observer
        self.steps = steps
        self.episodes: list[LearningEpisode] = []

    @override
    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                total, length = float(info["episode"]["r"]), int(info["episode"]["l"])
                self.episodes.append(LearningEpisode(self.num_timesteps, total, length))
        if self.observer is not None:
            self.observer(self.num_timesteps, self.episodes)
        return self.num_timesteps < self.steps


Observer = Callable[[int, Sequence[LearningEpisode]], None]
"""Is told after every step how many there were, and all episodes so far."""


def make_learner(
    policy: Policy, make_robot: MakeRobot, models: Sequence[ActuatorModel], config: AdaptationConfig
) -> RobotLearner:
    """A learner that acts as the policy does, on its robots.

    Args:
        policy: what it starts from.
        make_robot: makes one robot.
        models: of its actuators, faults included.
        config: how it learns.

    Raises:
        RuleError: NRL cannot go on training the policy.
    """
    policy = check_trainable(policy)
    entropy = np.random.SeedSequence(config.seed)

    def make(seed: np.random.SeedSequence) -> Callable[[], Env]:
        sensor = None if config.hardware is None else SENSOR
        return lambda: Monitor(NoisyActuators(make_robot(), models, sensor=sensor, seed=seed))

    env = VecNormalize(
        DummyVecEnv([make(child) for child in entropy.spawn(config.robots)]),
        norm_obs=policy.normaliser is not None,
        gamma=config.gamma,
    )
    if policy.normaliser is not None:
        known = policy.normaliser
        statistics = FixedStatistics(shape=known.mean.shape)
        statistics.mean, statistics.var = known.mean.copy(), known.var.copy()
        env.obs_rms = statistics  # type: ignore[assignment]  # SB3's type is that of dicts
        env.epsilon, env.clip_obs = known.epsilon, known.clip
    learner = RobotLearner(
        "MlpPolicy",
        env,
        config.learning_rate,
        noise=config.noise,
        node_noise=config.node_noise,
        rule="anp",  # R would change, step by step, what the policy does
        critic_epochs=config.critic_epochs if config.learn else 1,
        n_steps=max(config.batch // config.robots, 1),
        gamma=config.gamma,
        policy_kwargs=architecture(policy),
        seed=config.seed,
        device="cpu",
        calibration=config.calibration,
        hold=not config.learn,
    )
    write_network(policy, learner.policy)
    learner.remember()
    return learner


def adapt(
    policy: Policy,
    make_robot: MakeRobot,
    faults: Iterable[Fault] = (),
    config: AdaptationConfig = AdaptationConfig(),
    *,
    observer: Observer | None = None,
    evaluation_episodes: int = 40,
) -> Adapted:
    """Let a policy go on learning on a robot whose actuators become faulty.

    Args:
        policy: what it starts from; from `nprobot.policies.load`.
        make_robot: makes one robot, ideal, as it was in training.
        faults: what happens to its actuators at the end of the calibration.
        config: how it learns.
        observer: is told of progress.
        evaluation_episodes: deterministic episodes for each of the three evaluations.

    Raises:
        RuleError: NRL cannot go on training the policy.
        ConfigError: a fault is of an actuator that the robot does not have.
    """
    policy = check_trainable(policy)
    faults = tuple(faults)
    robot = make_robot()
    period = control_period(robot)
    check_actuators(faults, int(np.prod(robot.action_space.shape or (1,))))
    robot.close()
    hardware = () if config.hardware is None else (config.hardware,)
    struck = math.ceil(config.calibration / config.robots) * period
    models = [*hardware, *(fault.model(struck) for fault in faults)]
    settled = [*hardware, *(fault.model(0.0, settled=True) for fault in faults)]

    def measure(measured: Policy, actuators: Sequence[Any]) -> Evaluation:
        return evaluate_on(measured, make_robot, actuators, evaluation_episodes, config.seed)

    healthy = measure(policy, hardware)
    before = measure(policy, settled) if faults else healthy
    learner = make_learner(policy, make_robot, models, config)
    notes = _Notes(observer, config.steps)
    interrupted = False
    try:
        learner.learn(config.steps, notes)
    except KeyboardInterrupt:
        interrupted = True  # what was learned so far is worth keeping
    finally:
        assert learner.env is not None
        learner.env.close()
    learner.settle()
    adapted = read_network(learner.policy, policy)
    return Adapted(
        adapted,
        tuple(notes.episodes),
        config.calibration,
        healthy,
        before,
        measure(adapted, settled),
        recovery(notes.episodes, config.calibration, healthy.mean, before.mean),
        learner.num_timesteps,
        learner.rule.forward_passes,
        interrupted,
    )


def control_period(robot: Env) -> float:
    """Seconds that an action lasts, as `NoisyActuators` counts them."""
    inner = robot.unwrapped
    step = getattr(inner, "dt", None)
    if step is None:
        rate = inner.metadata.get("render_fps")
        step = 1 / rate if rate else None
    if not step:
        raise ConfigError(f"{inner} does not say how long a step is (dt), so no fault can be timed")
    return float(step)


def evaluate_on(
    policy: Policy, make_robot: MakeRobot, actuators: Sequence[Any], episodes: int, seed: int
) -> Evaluation:
    """Deterministic episodes of a policy on robots with these actuators."""

    def make(number: int) -> Env:
        return NoisyActuators(make_robot(), actuators, seed=np.random.SeedSequence((seed, number)))

    name = policy.task.id if policy.task else "robot"
    return evaluate(policy, name, make=make, episodes=episodes, seed=seed)
