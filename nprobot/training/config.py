"""The configuration of a training run: what is trained, on what, how, and for how long.

An option that is None takes the default of the algorithm, the rule or the environment; the value
in use is what `config.json` records.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from nprobot.errors import ConfigError, UnknownNameError
from nprobot.policies.files.card import learner_name

LRSchedule = Literal["constant", "linear", "cosine"]
Normalise = Literal["on", "off", "observations", "rewards"]

RULES = ("np", "inp", "anp", "dnp", "dinp", "danp", "bp", "dbp")
FEEDBACK_RULES = ("np", "inp", "dnp", "dinp")
"""Those that can have learned feedback."""

ON_POLICY = ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "max_grad_norm")
OFF_POLICY = (
    *("learning_starts", "buffer_size", "batch_size", "train_freq", "gradient_steps"),
    *("tau", "gamma", "exploration_noise"),
)
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "ppo": (*ON_POLICY, "clip_range", "ent_coef", "vf_coef", "target_kl"),
    "nrl": (
        *("n_steps", "gamma", "gae_lambda", "max_grad_norm"),
        *("noise_source", "node_noise", "references", "baseline", "critic_epochs"),
    ),
    "sac": (*OFF_POLICY, "ent_coef", "ent_coef_start", "target_update_interval"),
    "td3": (*OFF_POLICY, "policy_delay", "target_policy_noise", "target_noise_clip"),
}
"""The algorithms, and which of `AlgorithmOptions` each of them has."""

ENVS = {"ppo": 8, "nrl": 8, "sac": 1, "td3": 1}
"""Environments side by side, unless told otherwise."""
NORMALISE: dict[str, Normalise] = {"ppo": "on", "nrl": "on", "sac": "off", "td3": "off"}
"""What is scaled by running statistics, unless told otherwise; SAC and TD3 as in SB3."""

ACTIVATIONS = ("tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "identity")

HARDWARE = ("ideal", "servo", "torque-motor", "worn-gearbox", "easy", "medium", "hard")

DEFAULT_STEPS = 500_000
EVALUATION_EPISODES = 20

SENSORS = ("current-sense",)

Options = TypeVar("Options", bound="_Options")


class _Options:
    """A frozen dataclass whose values are checked against `checks` when it is made."""

    @classmethod
    def from_dict(cls: type[Options], values: Mapping[str, Any], where: str = "") -> Options:
        """The options in a JSON object.

        Raises:
            UnknownNameError: a key is not the name of an option.
            ConfigError: a value is not allowed.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        arguments: dict[str, Any] = {}
        for key, value in values.items():
            if key not in fields:
                raise UnknownNameError("option", f"{where}{key}", [where + f for f in fields])
            group = fields[key].default_factory
            if isinstance(group, type) and issubclass(group, _Options):
                arguments[key] = group.from_dict(value, f"{where}{key}.")
            else:
                arguments[key] = tuple(value) if isinstance(value, list) else value
        return cls(**arguments)


@dataclass(frozen=True)
class LearningOptions(_Options):
    """How the rule learns; None means the default of rule and algorithm."""

    learning_rate: float | None = None
    """Step size of the optimiser (Adam) at the start."""
    lr_schedule: LRSchedule | None = None
    """How the step size goes from there: constant, or down to 0 at the last step."""
    sigma: float | None = None
    """Standard deviation of the node noise."""
    noise: Literal["gaussian", "rademacher", "orthogonal"] | None = None
    """Distribution of the node noise."""
    decorrelation_lr: float | None = None
    """Step size of the decorrelation matrices R."""
    feedback: bool | None = None
    """Learn a guess of the node errors on the side, which leaves little variance (np, inp, dnp,
    dinp): K = 1 will do then, and is the default."""
    alignment_every: int | None = None
    """Log the cosine to the backprop gradient in every so-manieth update; learning does not see
    it."""

    def __post_init__(self) -> None:
        _positive(self, "learning_rate", "sigma", "alignment_every")
        _within(self, 0, 1, "decorrelation_lr")
        _one_of(self, "lr_schedule", ("constant", "linear", "cosine"))
        _one_of(self, "noise", ("gaussian", "rademacher", "orthogonal"))


@dataclass(frozen=True)
class NetworkOptions(_Options):
    """The networks of actor and critic; None means the algorithm's default."""

    hidden: tuple[int, ...] | None = None
    """Units of the hidden layers."""
    activation: str | None = None
    """Nonlinearity of the hidden layers: tanh, relu, leaky_relu, elu, gelu, silu, sigmoid."""

    def __post_init__(self) -> None:
        for units in self.hidden or ():
            _require(units >= 1, "hidden", self.hidden, "numbers of units from 1")
        _one_of(self, "activation", ACTIVATIONS)


@dataclass(frozen=True)
class AlgorithmOptions(_Options):
    """Settings with stable-baselines3's names and meaning; None means the algorithm's default."""

    n_steps: int | None = None
    """Steps in each environment between updates. Left out: for ppo 2048, shared among the
    environments; for nrl 32."""
    batch_size: int | None = None
    """Transitions in a minibatch (ppo, sac, td3)."""
    n_epochs: int | None = None
    """Passes over the transitions of one update (ppo)."""
    gamma: float | None = None
    """Discount factor."""
    gae_lambda: float | None = None
    """Trade-off of bias and variance in the advantage (ppo, nrl)."""
    clip_range: float | None = None
    """How far the new policy's probability ratio may go from 1 (ppo)."""
    ent_coef: float | None = None
    """Weight of the entropy bonus (ppo); for sac the temperature. Left out: sac learns it."""
    ent_coef_start: float | None = None
    """Temperature from which sac begins to learn its own. Left out: 1, which is much where rewards
    are normalised."""
    vf_coef: float | None = None
    """Weight of the critic's loss (ppo)."""
    max_grad_norm: float | None = None
    """Bound of the gradient's norm (ppo, nrl)."""
    target_kl: float | None = None
    """End an update early beyond this divergence from the old policy (ppo)."""
    learning_starts: int | None = None
    """Steps with random actions before learning begins (sac, td3)."""
    buffer_size: int | None = None
    """Transitions that are remembered (sac, td3)."""
    train_freq: int | None = None
    """Steps in each environment between updates (sac, td3)."""
    gradient_steps: int | None = None
    """Steps of the optimiser in an update; -1 for as many as environment steps (sac, td3)."""
    tau: float | None = None
    """How fast the target networks follow (sac, td3)."""
    exploration_noise: float | None = None
    """Standard deviation of noise on the actions, as a share of half their range. Left out: for
    td3 0.1, for sac none but its own."""
    target_update_interval: int | None = None
    """Steps of the optimiser between those of the target networks (sac)."""
    policy_delay: int | None = None
    """Steps of the critics for one of the actor (td3)."""
    target_policy_noise: float | None = None
    """Standard deviation of the noise on the target's actions (td3)."""
    target_noise_clip: float | None = None
    """Bound of that noise (td3)."""
    noise_source: Literal["network", "actuators", "injected"] | None = None
    """Where the noise comes from that nrl learns from: a noisy chip under the actor, which nobody
    can read; the actuators, as their --sensor tells; or the learner, who knows it."""
    node_noise: float | None = None
    """Standard deviation of the chip's or the injected noise (nrl). A policy file has the weights
    alone: it is evaluated without that noise."""
    references: int | None = None
    """Passes that the acting one is compared with (nrl)."""
    baseline: Literal["critic", "running-mean"] | None = None
    """What predicts the reward (nrl)."""
    critic_epochs: int | None = None
    """Steps of the critic between two updates (nrl)."""

    def __post_init__(self) -> None:
        _positive(self, "n_steps", "batch_size", "n_epochs", "clip_range", "max_grad_norm")
        _positive(self, "target_kl", "buffer_size", "train_freq", "target_update_interval")
        _positive(self, "policy_delay", "references", "critic_epochs", "ent_coef_start")
        _within(self, 0, 1, "gamma", "gae_lambda", "tau")
        _within(self, 0, math.inf, "ent_coef", "vf_coef", "learning_starts", "node_noise")
        _within(self, 0, math.inf, "exploration_noise", "target_policy_noise", "target_noise_clip")
        _one_of(self, "noise_source", ("network", "actuators", "injected"))
        _one_of(self, "baseline", ("critic", "running-mean"))
        if self.gradient_steps is not None:
            _require(
                self.gradient_steps >= 1 or self.gradient_steps == -1,
                *("gradient_steps", self.gradient_steps, "1 or more, or -1"),
            )


@dataclass(frozen=True)
class RunConfig(_Options):
    """A training run.

    Raises:
        ConfigError: a value is not allowed.
        UnknownNameError: there is no such rule or algorithm.
    """

    env: str = "InvertedPendulum-v5"
    """Environment id; `nprobot envs` lists them."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Arguments of the environment, as name value pairs."""
    hardware: str | None = None
    """Noisy actuators before the robot: servo, torque-motor, worn-gearbox, easy, medium, hard."""
    sensor: str | None = None
    """What is told of what the noisy actuators did: current-sense. nrl learns from it."""
    algo: str = "ppo"
    """Algorithm: ppo, nrl, sac, td3."""
    rule: str = "danp"
    """Learning rule: np, inp, anp, with decorrelation dnp, dinp, danp; bp and dbp to compare."""
    samples: int | None = None
    """Noisy passes that each gradient averages (K)."""
    steps: int | None = None
    """Environment steps. Left out: until the environment is solved, at most 500000."""
    stop_at: float | None = None
    """Stop when an evaluation reaches this return. Left out together with --steps: the return at
    which the environment counts as solved."""
    seed: int = 0
    """Where all randomness of the run comes from."""
    envs: int | None = None
    """Environments that run side by side. Left out: 8, for sac and td3 1."""
    workers: int = 0
    """Processes to spread the environments over; 0 runs them all in this one. The results are the
    same; it pays for environments that take a millisecond or more a step."""
    env_timeout: float = 300.0
    """Seconds after which an environment that does not return is given up."""
    normalise: Normalise | None = None
    """Scale observations and rewards by their running statistics. Left out: on, for sac and td3
    off."""
    checkpoint_every: int | None = None
    """Steps between checkpoints. Left out: a tenth of --steps."""
    checkpoint_episodes: Literal["keep", "restart"] | None = None
    """What a checkpoint does with the running episodes: keeps them, or begins new ones. Left out:
    keep, if the environment's state can be saved exactly; this is tried out first."""
    evaluate_every: int | None = None
    """Steps between evaluations (20 episodes). Left out: 10000 if an evaluation can stop the run,
    otherwise only one at the end."""
    learning: LearningOptions = field(default_factory=LearningOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    algorithm: AlgorithmOptions = field(default_factory=AlgorithmOptions)

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UnknownNameError("learning rule", self.rule, RULES, f"Known: {', '.join(RULES)}.")
        if self.algo not in ALGORITHMS:
            raise UnknownNameError("algorithm", self.algo, ALGORITHMS)
        _positive(self, "samples", "steps", "envs", "checkpoint_every", "evaluate_every")
        _positive(self, "env_timeout")
        _within(self, 0, self.env_count, "workers")
        _one_of(self, "hardware", HARDWARE)
        _one_of(self, "sensor", SENSORS)
        if self.sensor is not None and self.hardware is None:
            raise ConfigError("sensor reads noisy actuators, and there are none; give hardware")
        self._check_algorithm()
        _one_of(self, "checkpoint_episodes", ("keep", "restart"))
        _within(self, 0, 2**63, "seed")
        _one_of(self, "normalise", ("on", "off", "observations", "rewards"))
        if self.stop_at is not None:
            _require(math.isfinite(self.stop_at), "stop_at", self.stop_at, "a finite return")

    def _check_algorithm(self) -> None:
        own = ALGORITHMS[self.algo]
        for option in dataclasses.fields(self.algorithm):
            if getattr(self.algorithm, option.name) is not None and option.name not in own:
                raise ConfigError(
                    f"{self.algo} has no option {option.name}; it has {', '.join(sorted(own))}"
                )
        if None not in (self.algorithm.ent_coef, self.algorithm.ent_coef_start):
            raise ConfigError(
                "ent_coef fixes the temperature and ent_coef_start is where sac begins to learn "
                "it; give one of them"
            )
        if self.algo == "nrl" and self.learning.alignment_every is not None:
            raise ConfigError("nrl has no option alignment_every; ppo, sac and td3 have it")

    @property
    def env_count(self) -> int:
        """Environments side by side."""
        return self.envs or ENVS[self.algo]

    @property
    def normalise_observations(self) -> bool:
        """Whether observations are scaled."""
        return (self.normalise or NORMALISE[self.algo]) in ("on", "observations")

    @property
    def normalise_rewards(self) -> bool:
        """Whether rewards are scaled."""
        return (self.normalise or NORMALISE[self.algo]) in ("on", "rewards")

    @property
    def learner(self) -> str:
        """What learns, in a few words, such as ``PPO with NP + feedback, K = 1``."""
        feedback = bool(self.learning.feedback)
        name = learner_name(self.rule, feedback=feedback, samples=self.samples)
        return f"{self.algo.upper()} with {name}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        return dataclasses.asdict(self)

    def flat(self) -> dict[str, Any]:
        """All options in one dict, those of the groups among the others."""
        values = self.to_dict()
        for group in ("learning", "network", "algorithm"):
            values |= values.pop(group)
        return values


def _positive(options: object, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None:
            _require(math.isfinite(value) and value > 0, name, value, "above 0")


def _within(options: object, low: float, high: float, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is not None:
            bounds = f"from {low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"
            _require(math.isfinite(value) and low <= value <= high, name, value, bounds)


def _one_of(options: object, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(options, name)
    if value is not None and value not in allowed:
        raise UnknownNameError(name, value, allowed, f"Known: {', '.join(allowed)}.")


def _require(met: bool, name: str, value: object, allowed: str) -> None:
    if not met:
        raise ConfigError(f"{name} must be {allowed}, got {value!r}")
