"""What a run of a benchmark is, and how nprobot's own algorithms and fits do one.

They go through the configuration and the builder of `nprobot train` and of `nprobot.fit`. What is
not ours is in `nprobot.benchmark.peers`. Nothing heavy is imported before something runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from nprobot import catalogue
from nprobot.errors import UnknownNameError
from nprobot.options import Count, Options, Seed
from nprobot.runs.reporting import Progress, Silent
from nprobot.training.run_config import OPTIONS, NetworkOptions, RunConfig

if TYPE_CHECKING:
    from nprobot.regression import FitConfig

    from .execution import Recorder
    from .ledger import Ledger

IDEAL = "ideal"
"""Actuators that do what they are told."""
FIT = "fit:"
"""Before the name of a regression task, where an environment id would stand."""
BATCH = 256
"""Rows of a step of a fit where the suite does not say."""

RENAMED = {"action_noise": "exploration_noise", "noise_from": "noise_source"}
"""Settings of earlier versions, and what they are called now."""


@dataclass(frozen=True)
class RunSpec(Options):
    """One run: everything that decides its result, and the key it is known by.

    Attributes:
        env: id of the environment, or ``fit:TASK`` for a regression task.
        steps: budget: environment steps, or epochs of a regression task.
        learner: name that reports know the learner by.
        algo: a key of `nprobot.benchmark.peers.METHODS`.
        rule: learning rule; None where the algorithm has none.
        samples: K, noisy passes of a rule; None where it takes none.
        settings: hyperparameters by name.
        actuators: preset of noisy actuators.
        seed: where all randomness of the run comes from.
        env_kwargs: arguments of the environment or task.
        envs: environments side by side.
        hidden: units of the hidden layers.
        episodes: that measure the finished policy.
        points: the points of the curve, besides the one at 0.
        point_episodes: that make one point of the curve.
    """

    renamed: ClassVar[Mapping[str, str]] = {"hardware": "actuators"}

    env: str
    steps: Count
    learner: str
    algo: str
    rule: str | None = None
    samples: Count | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    actuators: str = IDEAL
    seed: Seed = 0
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    envs: Count = 8
    hidden: tuple[Count, ...] = (64, 64)
    episodes: Count = 20
    points: Count = 20
    point_episodes: Count = 5

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object as this version would have written it."""
        upgraded = super().upgraded(values)
        settings = dict(upgraded.get("settings", {}))
        if settings.pop("feedback", False):
            upgraded["rule"] += catalogue.FEEDBACK
        return upgraded | {"settings": renamed(settings)}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> RunSpec:
        """The run that a row is of; what else the row says is left aside."""
        names = {option.name for option in dataclasses.fields(cls)}
        return cls.from_dict({k: v for k, v in cls.upgraded(row).items() if k in names})

    @property
    def preset(self) -> str | None:
        """Preset of the noisy actuators; None for none."""
        return None if self.actuators == IDEAL else self.actuators

    @property
    def cell(self) -> tuple[str, str, int, str]:
        """What differs between two learners or tasks, and not between two seeds."""
        return self.env, self.actuators, self.steps, self.learner

    @property
    def key(self) -> str:
        """A short name for this run and no other; the same in every process."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def cell_key(self) -> str:
        """The same for the run whatever its seed."""
        return self.replace(seed=0).key

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads."""
        return super().to_dict() | {"hidden": list(self.hidden)}

    def command(self, suite: str) -> str:
        """The command line that repeats this run alone."""
        words = ["nprobot", "bench", suite, "--env", self.env, "--learner", self.learner]
        words += ["--actuators", self.actuators, "--seeds", str(self.seed)]
        return shlex.join([*words, "--steps", str(self.steps)])

    def __str__(self) -> str:
        actuators = "" if self.actuators == IDEAL else f" ({self.actuators})"
        return f"{self.env}{actuators} {self.learner}, seed {self.seed}"


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names that they have now."""
    return {RENAMED.get(name, name): value for name, value in settings.items()}


@dataclass(frozen=True)
class Method:
    """A way to learn that a benchmark can run.

    Attributes:
        about: what it is.
        configure: checks the settings of a run and completes them; raises a `ConfigError`.
        run: trains and measures; returns what the run has spent.
        has_rule: whether it takes a learning rule.
        package: to be installed for it, beside nprobot's own dependencies.
        extra: of nprobot that installs it.
        microseconds: rough CPU time of one environment step at K = 1, for estimates.
        noisy_microseconds: the same for each further noisy pass.
        gradient_free: whether it learns from returns alone.
        network: what it trains, where that is not the hidden layers of the suite.
        colour: in figures, where it has no rule.
        marker: likewise, as matplotlib names it.
    """

    about: str
    configure: Callable[[RunSpec], Options]
    run: Callable[[RunSpec, Recorder], Ledger]
    has_rule: bool = False
    package: str | None = None
    extra: str = "bench"
    microseconds: float = 0.0
    noisy_microseconds: float = 0.0
    gradient_free: bool = False
    network: str | None = None
    colour: str = "#4d4d4d"
    marker: str = "o"


SETTINGS = (
    *("normalise", "sensor", "chip"),
    *(name for name, group in OPTIONS.items() if group and name != "hidden"),
)
"""Options of `nprobot train` that a suite may set for a learner; it has others besides."""


def training_config(spec: RunSpec) -> RunConfig:
    """The run as `nprobot train` would be told.

    Raises:
        UnknownNameError: there is no such algorithm, rule or setting.
        ConfigError: the algorithm has no such setting, or not with that value.
    """
    for name in spec.settings:
        if name not in SETTINGS:
            raise UnknownNameError("setting", name, SETTINGS)
    return RunConfig(
        env=spec.env,
        env_kwargs=spec.env_kwargs,
        actuators=spec.preset,
        algo=spec.algo,
        rule=spec.rule or "",
        samples=spec.samples,
        steps=spec.steps,
        seed=spec.seed,
        envs=spec.envs,
        network=NetworkOptions(hidden=spec.hidden),
    ).with_options(spec.settings)


def train(spec: RunSpec, recorder: Recorder) -> Ledger:
    """Train by one of nprobot's algorithms, and measure."""
    from nprobot.training.build import build_model
    from nprobot.training.vector import make_vector

    from .ledger import acting_passes, learn

    config = training_config(spec)
    with closing(make_vector(config)) as env:
        model = build_model(config, env)

        def passes() -> tuple[int, int]:
            return model.forward_passes + acting_passes(model), model.backward_passes

        return learn(model, env, spec.steps, recorder, passes)


def fit_config(spec: RunSpec) -> FitConfig:
    """The run as `nprobot fit` would be told.

    Raises:
        ConfigError: a setting does not exist, or not with that value.
    """
    from nprobot.regression import FitConfig

    values: dict[str, Any] = {"batch_size": BATCH, **spec.settings}
    if spec.samples is not None:
        values["samples"] = spec.samples
    values |= {"rule": spec.rule, "epochs": spec.steps, "seed": spec.seed}
    return FitConfig.from_dict(values)


def fit(spec: RunSpec, recorder: Recorder) -> Ledger:
    """Fit a regression task, and measure the error on unseen data.

    The return is −nMSE on the test split: 0 is perfect, −1 what predicting the mean gets. Steps are
    epochs, and the ledger counts rows seen where another counts environment steps.
    """
    import torch

    import nprobot
    from nprobot.envs import datasets

    from .ledger import Ledger

    class Told(Silent):
        def progress(self, progress: Progress) -> None:
            recorder.tell(progress.done * spec.steps // progress.total)

    config = fit_config(spec)
    data = datasets.make(spec.env.removeprefix(FIT), **spec.env_kwargs)
    torch.manual_seed(spec.seed)
    started, cpu = time.perf_counter(), time.process_time()
    result = nprobot.fit(list(spec.hidden), data, reporter=Told(), **config.to_dict())
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    per_row = step_cost(spec, data.input_size, data.target_size) / BATCH
    for row in result.history:
        rows = int(row["step"]) * config.batch_size
        ledger = Ledger(
            env_steps=rows,
            forward_passes=int(row["forward_passes"]),
            backward_passes=int(row["backward_passes"]),
            multiply_adds=int(rows * per_row),
            wall_seconds=row["seconds"],
            cpu_seconds=cpu * row["seconds"] / wall,
        )
        recorder.add(ledger, [-row["validation/nmse"]])
    recorder.returns = [-float(result.scores["test"].error)]
    recorder.add(ledger, recorder.returns)
    return ledger


def step_cost(spec: RunSpec, inputs: int, targets: int) -> int:
    """Multiply-adds of a step of a fit on `BATCH` rows, decorrelation included."""
    import torch

    import nprobot

    from .ledger import multiply_adds

    rule = nprobot.learning_rule(spec.rule or "bp", samples=spec.samples or 1, seed=0)
    sizes = [inputs, *spec.hidden, targets]
    network = nprobot.policies.mlp(sizes, decorrelated=rule.decorrelated)
    x, target = torch.zeros(BATCH, inputs), torch.ones(BATCH, targets)

    def step() -> None:
        rule.backward(network, x, lambda y: ((y - target) ** 2).mean(-1))
        rule.decorrelate(network)

    step()  # the first one also checks the network
    return multiply_adds(step)


OURS: Mapping[str, Method] = {
    **{
        algorithm.name: Method(
            f"nprobot.{algorithm.title}: {algorithm.about}",
            *(training_config, train),
            has_rule=True,
            microseconds=400.0 if algorithm.on_policy else 6000.0,
            noisy_microseconds=25.0 if algorithm.on_policy else 300.0,
        )
        for algorithm in catalogue.ALGORITHMS.values()
    },
    "fit": Method("nprobot.fit", fit_config, fit, True, microseconds=8e6, noisy_microseconds=1e6),
}
"""The methods by the name that suites use; the microseconds of a fit are for an epoch."""
