"""The configuration of a training run: what is trained, on what, how, and for how long.

An option that is None takes the default of the algorithm, the rule or the environment; the value
in use is what `config.json` records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from nprobot import catalogue
from nprobot.catalogue import Activation, LRSchedule, Noise, NoiseSource, Normalise
from nprobot.errors import ConfigError, UnknownNameError
from nprobot.options import Count, NotNegative, Options, Positive, Seed, Share

DEFAULT_STEPS = 500_000
EVALUATION_EPISODES = 20
SOLVING_EVALUATION = 10_000
"""Steps between the evaluations of a run that an evaluation can stop."""
ROLLOUT = 2048
"""PPO's transitions between two updates, all environments together, as in SB3 with one."""


@dataclass(frozen=True)
class LearningOptions(Options):
    """How the rule learns; None means the default of rule and algorithm."""

    learning_rate: Positive | None = None
    """Step size of the optimiser (Adam) at the start."""
    lr_schedule: LRSchedule | None = None
    """How the step size changes: constant, or falling to 0 at the last step."""
    weight_decay: NotNegative | None = None
    """Share of the weights, times the step size, that each step takes away (AdamW). Left out: 0."""
    sigma: Positive | None = None
    """Standard deviation of the node noise."""
    noise: Noise | None = None
    """Distribution of the node noise."""
    decorrelation_lr: Annotated[float, Meta(ge=0, lt=1)] | None = None
    """Step size of the decorrelation matrices R."""
    whitening: Share | None = None
    """Share of R's step that drives variances to 1. Left out: 0, as in the paper."""
    keep_function: bool | None = None
    """Let the weights follow R, so that its steps leave the outputs alone. Left out: off, as in the
    paper."""
    decorrelation_interval: Count | None = None
    """Update R in every n-th step. Left out: in every one."""
    alignment_every: Count | None = None
    """Log the cosine to the backprop gradient in every n-th update; learning does not see it."""


@dataclass(frozen=True)
class NetworkOptions(Options):
    """The networks of actor and critic; None means the algorithm's default."""

    hidden: tuple[Count, ...] | None = None
    """Units of the hidden layers."""
    activation: Activation | None = None
    """Nonlinearity of the hidden layers."""
    log_std_init: float | None = None
    """Log standard deviation of the actions at the start (ppo, sac). Left out: 0, with use_sde
    -3 for sac."""
    ortho_init: bool | None = None
    """Orthogonal weights at the start (ppo). Left out: on."""


@dataclass(frozen=True)
class AlgorithmOptions(Options):
    """Settings with stable-baselines3's names and meaning; None means the algorithm's default."""

    n_steps: Count | None = None
    """Steps in each environment between updates. Left out: for ppo 2048, shared among the
    environments; for nrl 32."""
    batch_size: Count | None = None
    """Transitions in a minibatch (ppo, sac, td3)."""
    n_epochs: Count | None = None
    """Passes over the transitions of one update (ppo)."""
    gamma: Share | None = None
    """Discount factor."""
    gae_lambda: Share | None = None
    """Trade-off of bias and variance in the advantage (ppo, nrl)."""
    clip_range: Positive | None = None
    """How far the new policy's probability ratio may go from 1 (ppo)."""
    ent_coef: NotNegative | None = None
    """Weight of the entropy bonus (ppo); for sac the temperature. Left out: sac learns it."""
    ent_coef_start: Positive | None = None
    """Temperature from which sac begins to learn its own. Left out: 1, which is large where rewards
    are normalised."""
    vf_coef: NotNegative | None = None
    """Weight of the critic's loss (ppo)."""
    max_grad_norm: Positive | None = None
    """Bound of the gradient's norm (ppo, nrl)."""
    target_kl: Positive | None = None
    """End an update early beyond this divergence from the old policy (ppo). Left out: never, and
    with --from 0.03."""
    critic_warmup: Annotated[int, Meta(ge=0)] | None = None
    """Steps at the start from which the critic alone learns (ppo). Left out: 0, and with --from ten
    rollouts."""
    learning_starts: Annotated[int, Meta(ge=0)] | None = None
    """Steps with random actions before learning begins (sac, td3)."""
    buffer_size: Count | None = None
    """Transitions that are remembered (sac, td3)."""
    train_freq: Count | None = None
    """Steps in each environment between updates (sac, td3)."""
    gradient_steps: Annotated[int, Meta(ge=-1)] | None = None
    """Steps of the optimiser in an update; -1 for as many as environment steps (sac, td3)."""
    tau: Share | None = None
    """How fast the target networks follow (sac, td3)."""
    exploration_noise: NotNegative | None = None
    """Standard deviation of noise on the actions, as a share of half their range. Left out: for
    td3 0.1, for sac no more than its policy has."""
    hindsight: Share | None = None
    """Share of the transitions that learn from a goal that was reached later instead of the one
    that was missed, in environments with goals (sac, td3). Left out: 0; the paper has 0.8."""
    target_update_interval: Count | None = None
    """Steps of the optimiser between those of the target networks (sac)."""
    use_sde: bool | None = None
    """Exploration that depends on the state and lasts, gSDE (ppo, sac). Left out: off."""
    sde_sample_freq: Annotated[int, Meta(ge=-1)] | None = None
    """Steps for which it stays the same; -1 for a rollout (ppo, sac)."""
    policy_delay: Count | None = None
    """Steps of the critics for one of the actor (td3)."""
    target_policy_noise: NotNegative | None = None
    """Standard deviation of the noise on the target's actions (td3)."""
    target_noise_clip: NotNegative | None = None
    """Bound of that noise (td3)."""
    noise_source: NoiseSource | None = None
    """Source of the noise that nrl learns from: a noisy chip under the actor, which nobody
    can read; the actuators, as their --sensor tells; or the learner, who knows it."""
    node_noise: NotNegative | None = None
    """Standard deviation of the chip's or the injected noise (nrl). A policy file has the weights
    alone: it is evaluated without that noise."""
    references: Count | None = None
    """Passes that the acting one is compared with (nrl)."""
    baseline: Literal["critic", "running-mean"] | None = None
    """What predicts the reward (nrl)."""
    critic_epochs: Count | None = None
    """Steps of the critic between two updates (nrl)."""

    def check(self) -> None:
        """Refuse what contradicts itself."""
        if self.gradient_steps == 0:
            raise ConfigError("gradient_steps must be 1 or more, or -1, got 0")
        if None not in (self.ent_coef, self.ent_coef_start):
            raise ConfigError(
                "ent_coef fixes the temperature and ent_coef_start is where sac begins to learn "
                "it; give one of them"
            )


@dataclass(frozen=True)
class RunConfig(Options):
    """A training run.

    Raises:
        ConfigError: a value is not allowed.
        UnknownNameError: there is no such rule or algorithm.
    """

    renamed: ClassVar[Mapping[str, str]] = {"hardware": "actuators"}

    env: str = "InvertedPendulum-v5"
    """Environment id; `nprobot envs` lists them."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Arguments of the environment, as name value pairs."""
    actuators: str | None = None
    """Noisy actuators before the robot: servo, torque-motor, worn-gearbox, easy, medium, hard."""
    sensor: str | None = None
    """Sensor that reports what the noisy actuators did: current-sense. nrl learns from it."""
    chip: str | None = None
    """Noisy chip that the networks run on, in learning and evaluation, its noise hidden from the
    learner: analog, spintronic, a standard deviation of node noise such as 0.06, or models such as
    TelegraphNodeNoise:amplitude=0.06, with commas between. Or a device, whose weights are written
    by pulses: reram-om, pcm, ecram, capacitor, or the address of a chip, tcp://127.0.0.1:5858. For
    sac and td3 the actor is on it, as for all algorithms on a device; for nrl it takes the place of
    --node-noise."""
    algo: str = "ppo"
    """Algorithm: ppo, nrl, sac, td3."""
    rule: str = ""
    """Learning rule: np, inp, anp; np+feedback, inp+feedback with learned feedback; a d in front
    for decorrelation; bp and dbp to compare. Left out: np+feedback, for nrl danp."""
    samples: Count | None = None
    """Noisy passes that each gradient averages (K). Left out: 1 with feedback, else 8."""
    steps: Count | None = None
    """Environment steps. Left out: until the environment is solved, at most 500000."""
    stop_at: float | None = None
    """Stop when an evaluation reaches this return. Left out together with --steps: the return at
    which the environment counts as solved."""
    seed: Seed = 0
    """Seed of everything random in the run."""
    envs: Count | None = None
    """Environments that run side by side. Left out: 8, for sac and td3 1."""
    workers: Annotated[int, Meta(ge=0)] = 0
    """Processes to spread the environments over; 0 runs them all in this one. The results are the
    same; it pays for environments that take a millisecond or more a step."""
    envpool: bool = False
    """Simulate gymnasium's robots by envpool, faster and at once; its random numbers are its own.
    Needs pip install 'nprobot[envpool]'."""
    env_timeout: Positive = 300.0
    """Seconds after which an environment that does not return is given up."""
    normalise: Normalise | None = None
    """Scale observations and rewards by their running statistics. Left out: on, for sac and td3
    off."""
    checkpoint_every: Count | None = None
    """Steps between checkpoints. Left out: a tenth of --steps. A checkpoint ends the running
    episodes; new ones begin."""
    evaluate_every: Count | None = None
    """Steps between evaluations (20 episodes). Left out: 10000 if an evaluation can stop the run,
    otherwise only one at the end."""
    learning: LearningOptions = field(default_factory=LearningOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    algorithm: AlgorithmOptions = field(default_factory=AlgorithmOptions)

    def check(self) -> None:
        """Fill in the rule, and refuse what does not exist or contradicts itself."""
        if self.algo not in catalogue.ALGORITHMS:
            raise UnknownNameError("algorithm", self.algo, catalogue.ALGORITHMS)
        if not self.rule:
            object.__setattr__(self, "rule", self.about.rule)
        elif ":" not in self.rule and self.rule not in catalogue.rules():
            names = catalogue.rules()
            raise UnknownNameError("learning rule", self.rule, names, f"Known: {', '.join(names)}.")
        _one_of("actuators", self.actuators, catalogue.actuator_presets)
        _one_of("sensor", self.sensor, catalogue.sensors)
        if self.sensor is not None and self.actuators is None:
            raise ConfigError("sensor reads noisy actuators, and there are none; give actuators")
        if self.chip is not None:
            self._check_chip(self.chip)
        if self.envpool and (self.actuators is not None or "wrapper" in self.env_kwargs):
            raise ConfigError(
                "envpool's robots have neither noisy actuators nor wrappers; leave envpool away"
            )
        if self.workers > self.env_count:
            raise ConfigError(
                f"workers must be from 0 to {self.env_count}, the number of environments, got "
                f"{self.workers}"
            )
        if self.algo == "ppo":
            if self.algorithm.batch_size == 1:
                raise ConfigError("batch_size must be 2 or more for ppo, which scales advantages")
            if self.algorithm.n_steps == 1 and self.env_count == 1:
                raise ConfigError("n_steps must be 2 or more with one environment (ppo)")
        for name, where in (("log_std_init", ("ppo", "sac")), ("ortho_init", ("ppo",))):
            if getattr(self.network, name) is not None and self.algo not in where:
                raise ConfigError(
                    f"{self.algo} has no option {name}; {' and '.join(where)} have it"
                )
        own = self.about.options
        for name, value in self.algorithm.to_dict().items():
            if value is not None and name not in own:
                raise ConfigError(
                    f"{self.algo} has no option {name}; it has {', '.join(sorted(own))}"
                )
        if self.learning.alignment_every is not None and not self.about.compares:
            others = ", ".join(a.name for a in catalogue.ALGORITHMS.values() if a.compares)
            raise ConfigError(f"{self.algo} has no option alignment_every; {others} have it")

    def _check_chip(self, chip: str) -> None:
        """Refuse a chip that does not exist, or that cannot be learned on."""
        from nprobot.policies.chip.crossbar import is_device  # torch takes a second to load

        is_device(chip)  # resolves what is no address
        own = self.algorithm
        if own.node_noise is not None or own.noise_source not in (None, "network"):
            raise ConfigError(
                "chip says what is wrong with the network that nrl perturbs; leave node_noise "
                "away, and noise_source at network"
            )
        if ":" not in self.rule:
            catalogue.rule_named(self.rule).check_on_chip()

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object as this version would have written it."""
        upgraded = super().upgraded(values)
        upgraded.pop("checkpoint_episodes", None)  # there is one way now
        learning = dict(upgraded.get("learning", {}))
        if learning.pop("feedback", None):
            upgraded["rule"] = f"{upgraded['rule']}{catalogue.FEEDBACK}"
        return upgraded | ({"learning": learning} if "learning" in upgraded else {})

    @property
    def about(self) -> catalogue.Algorithm:
        """What the catalogue knows of the algorithm."""
        return catalogue.ALGORITHMS[self.algo]

    @property
    def env_count(self) -> int:
        """Environments side by side."""
        return self.envs or self.about.envs

    @property
    def normalise_observations(self) -> bool:
        """Whether observations are scaled."""
        return (self.normalise or self.about.normalise) in ("on", "observations")

    @property
    def normalise_rewards(self) -> bool:
        """Whether rewards are scaled."""
        return (self.normalise or self.about.normalise) in ("on", "rewards")

    @property
    def environment(self) -> str:
        """The environment in a few words; of a robot from a file, which, and what it does."""
        return catalogue.environment_title(self.env, self.env_kwargs)

    @property
    def learner(self) -> str:
        """What learns, in a few words, such as ``PPO with NP + feedback, K = 1``."""
        rule = catalogue.learner_title(self.rule, self.samples)
        return f"{self.about.title} with {rule}"

    def flat(self) -> dict[str, Any]:
        """All options in one dict, those of the groups among the others."""
        values = self.to_dict()
        for group in ("learning", "network", "algorithm"):
            values |= values.pop(group)
        return values

    def with_options(self, options: Mapping[str, Any]) -> RunConfig:
        """The configuration with some options set, by name, whichever group they belong to.

        Raises:
            UnknownNameError: there is no such option.
            ConfigError: a value is not allowed.
        """
        plain: dict[str, Any] = {}
        groups: dict[str, dict[str, Any]] = {}
        for name, value in options.items():
            group = OPTIONS.get(name)
            if group is None:
                raise UnknownNameError("option", name, OPTIONS)
            (groups.setdefault(group, {}) if group else plain)[name] = value
        for group, values in groups.items():
            plain[group] = getattr(self, group).replace(**values)
        return self.replace(**plain)

    def resolved(self, reward_threshold: float | None = None) -> RunConfig:
        """The same configuration with every default that is in use filled in.

        Args:
            reward_threshold: return at which the environment counts as solved.
        """
        rule = catalogue.rule_named(self.rule)
        defaults: dict[str, Any] = {**rule.settings, **self.about.settings(rule)}
        defaults |= {
            **{"weight_decay": 0.0, "whitening": 0.0},
            **{"keep_function": False, "decorrelation_interval": 1},
            "envs": self.about.envs,
            "normalise": self.about.normalise,
        }
        if self.algo == "ppo":
            defaults["n_steps"] = max(ROLLOUT // self.env_count, 1)
        if self.algorithm.ent_coef is not None:
            defaults["ent_coef_start"] = None
        if self.chip is not None:
            defaults.pop("node_noise", None)
        steps = self.steps or DEFAULT_STEPS
        stop_at = self.stop_at
        if self.steps is None and stop_at is None:
            stop_at = reward_threshold
        defaults |= {
            "steps": steps,
            "stop_at": stop_at,
            "checkpoint_every": max(steps // 10, 1),
            "evaluate_every": None if stop_at is None else SOLVING_EVALUATION,
        }
        given = self.flat()
        missing = {
            name: value
            for name, value in defaults.items()
            if given[name] is None and (OPTIONS[name] != "algorithm" or name in self.about.options)
        }
        return self.with_options(missing)


GROUPS: Mapping[str, type[Options]] = {
    "learning": LearningOptions,
    "network": NetworkOptions,
    "algorithm": AlgorithmOptions,
}
OPTIONS: Mapping[str, str] = {
    **{option.name: "" for option in dataclasses.fields(RunConfig) if option.name not in GROUPS},
    **{o.name: group for group, options in GROUPS.items() for o in dataclasses.fields(options)},  # type: ignore[arg-type]
}
"""Every option of a run, and the group that it belongs to; empty for none."""


def _one_of(name: str, value: str | None, known: Callable[[], tuple[str, ...]]) -> None:
    if value is not None and value not in known():
        raise UnknownNameError(name, value, known(), f"Known: {', '.join(known())}.")
