"""Suites: data files that say which learners run on which tasks, with which seeds and budgets."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from nprobot import catalogue
from nprobot.errors import ConfigError, RuleError, UnknownNameError
from nprobot.options import Count, Options, Seed

from .methods import FIT, IDEAL, RunSpec, renamed
from .peers import METHODS

SHIPPED = (
    *("smoke", "core", "peers", "long", "off_policy", "hidden"),
    *("actuators", "robots", "regression", "full"),
)
"""Suites that come with nprobot, the smallest first, the largest last."""
OLD_NAMES = {"hardware": "actuators"}
"""Suites of earlier versions, and what they are called now."""

Names = str | tuple[str, ...]
SuiteSeeds = Count | tuple[Seed, ...]
"""How many, from 0, or which."""


@dataclass(frozen=True)
class SuiteFile(Options):
    """What a suite says; the tables of tasks and learners are read by themselves."""

    renamed: ClassVar[Mapping[str, str]] = {"hardware": "actuators"}

    name: str = ""
    """Title for people; the benchmark itself uses the name of the file."""
    about: str = ""
    seeds: SuiteSeeds = 1
    envs: Count = 8
    hidden: tuple[Count, ...] = (64, 64)
    episodes: Count = 20
    points: Count = 20
    point_episodes: Count = 5
    actuators: Names = IDEAL
    tasks: tuple[dict[str, Any], ...] = ()
    learners: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class SuiteTask(Options):
    """What a suite says of a task; what it leaves out is the suite's."""

    renamed: ClassVar[Mapping[str, str]] = {"hardware": "actuators"}

    env: str
    steps: Count
    actuators: Names | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    envs: Count | None = None


@dataclass(frozen=True)
class SuiteLearner(Options):
    """What a suite says of a learner, or of several: its rules times its numbers of noisy passes.

    Attributes:
        algo: a key of `METHODS`.
        rule: learning rules.
        samples: numbers of noisy passes.
        name: left out: made of what differs.
        settings: hyperparameters; with `hidden`, its own hidden layers.
        where: others for some environments.
        source: where they come from.
        envs: environments side by side; None for the suite's.
        only: the environments to run on; empty for all.
        seeds: None for the suite's.
    """

    algo: str
    rule: Names = ()
    samples: Count | tuple[Count, ...] = 1
    name: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    where: dict[str, dict[str, Any]] = field(default_factory=dict)
    source: str = "not given"
    envs: Count | None = None
    only: tuple[str, ...] = ()
    seeds: SuiteSeeds | None = None

    def check(self) -> None:
        """Refuse an algorithm that does not exist, and a rule where none belongs."""
        if self.algo not in METHODS:
            raise UnknownNameError("algo", self.algo, METHODS, f"Known: {', '.join(METHODS)}.")
        if METHODS[self.algo].has_rule != bool(self.rule):
            wanted = "needs a rule" if METHODS[self.algo].has_rule else "takes no rule"
            raise ConfigError(f"algorithm {self.algo!r} {wanted}")
        for rule in listed(self.rule):
            try:
                catalogue.rule_named(rule)
            except RuleError as error:
                raise ConfigError(str(error)) from None

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object as this version would have written it."""
        upgraded = dict(values)
        for name in ("settings", "where"):
            if not isinstance(upgraded.get(name, {}), dict):
                raise ConfigError(f"{name} must be a table, got {upgraded[name]!r}")
        settings = renamed(upgraded.get("settings", {}))
        if settings.pop("feedback", False):
            rules = listed(upgraded.get("rule", ()))
            upgraded["rule"] = [f"{rule}{catalogue.FEEDBACK}" for rule in rules]
        where = {env: renamed(own) for env, own in upgraded.get("where", {}).items()}
        return upgraded | {"settings": settings, "where": where}

    def variants(self) -> Iterator[tuple[str, str | None, int | None]]:
        """Name, rule and number of noisy passes of each learner."""
        rules, counts = listed(self.rule) or [None], listed(self.samples)
        alone = len(rules) == len(counts) == 1
        for rule in rules:
            perturbs = rule is not None and catalogue.rule_named(rule).perturbs
            for samples in counts if perturbs else [None]:
                own = self.name if self.name and alone else self._name(rule, samples)
                yield own, rule, samples

    def _name(self, rule: str | None, samples: int | None) -> str:
        """A name made from what differs: ``DANP, K = 8``; with the algorithm unless it is PPO."""
        ours = catalogue.ALGORITHMS.get(self.algo)
        prefix = self.name or ("" if ours is None or self.algo == "ppo" else ours.title)
        title = "" if rule is None else catalogue.learner_title(rule, samples)
        return " ".join(filter(None, (prefix, title))) or self.algo


@dataclass(frozen=True)
class Suite:
    """A benchmark: runs in the order in which they are to be done.

    Attributes:
        name: what it is called; a shipped suite's name, or the file.
        about: what it is for.
        runs: seeds outermost, so that every cell of the table gets one seed before any gets two.
        sources: learner → where its hyperparameters come from.
    """

    name: str
    about: str
    runs: tuple[RunSpec, ...]
    sources: Mapping[str, str]

    def select(
        self,
        *,
        env: Sequence[str] = (),
        learner: Sequence[str] = (),
        rule: Sequence[str] = (),
        actuators: Sequence[str] = (),
        seeds: Sequence[int] = (),
        steps: int | None = None,
    ) -> Suite:
        """The part of the suite that was asked for; an empty filter lets everything through.

        Args:
            env: ids of environments; version and namespace may be left away.
            learner: names of learners.
            rule: learning rules; learners without a rule are left out by it.
            actuators: presets of noisy actuators.
            seeds: seeds, also such as the suite does not have.
            steps: budget in place of the suite's.

        Raises:
            UnknownNameError: the suite has no such name.
        """
        runs: Iterable[RunSpec] = self.runs
        _known("environment", env, set().union(*(_names(r.env) for r in self.runs)))
        _known("learner", learner, {run.learner for run in self.runs})
        _known("learning rule", rule, {run.rule for run in self.runs if run.rule})
        _known("actuators", actuators, {run.actuators for run in self.runs})
        runs = [
            run
            for run in runs
            if (not env or _names(run.env) & set(env))
            and (not learner or run.learner in learner)
            and (not rule or run.rule in rule)
            and (not actuators or run.actuators in actuators)
        ]
        if seeds:
            cells = {run.cell_key: run for run in runs}
            runs = [run.replace(seed=seed) for seed in seeds for run in cells.values()]
        if steps is not None:
            runs = [run.replace(steps=steps) for run in runs]
        return Suite(self.name, self.about, tuple(runs), self.sources)


def load(name: str) -> Suite:
    """A suite by name, or from a file.

    Args:
        name: one of `SHIPPED`, or the path of a ``.toml`` file.

    Raises:
        UnknownNameError: there is no such suite.
        ConfigError: the file cannot be read; says which key and what is allowed.
    """
    name = OLD_NAMES.get(name, name)
    if name in SHIPPED:
        text = resources.files(__package__).joinpath(f"suites/{name}.toml").read_text("utf-8")
        return parse(text, name)
    path = Path(name)
    if not path.is_file():
        hint = f"Shipped: {', '.join(SHIPPED)}; or the path of a .toml file."
        raise UnknownNameError("suite", name, SHIPPED, hint)
    # Its name alone: rows are given away, and where a file lay is nobody's business.
    return parse(path.read_text("utf-8"), path.name)


def parse(text: str, name: str) -> Suite:
    """A suite from the text of its file.

    Raises:
        ConfigError: says which key and what is allowed.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"suite {name}: not a TOML file: {error}") from error
    try:
        return _suite(values, name)
    except ConfigError as error:
        raise ConfigError(f"suite {name}: {error}") from None


def _suite(values: dict[str, Any], name: str) -> Suite:
    suite = _read(SuiteFile, values, "")
    for kind in ("tasks", "learners"):
        if not getattr(suite, kind):
            raise ConfigError(f"{kind} is missing; a suite has one [[{kind}]] or more")
    tasks = [_read(SuiteTask, t, f"tasks[{i}]: ") for i, t in enumerate(suite.tasks, 1)]
    learners = [
        (f"learners[{i}]: ", _read(SuiteLearner, values, f"learners[{i}]: "))
        for i, values in enumerate(suite.learners, 1)
    ]
    names = [name for _, learner in learners for name, _, _ in learner.variants()]
    for repeated in {n for n in names if names.count(n) > 1}:
        raise ConfigError(f"learners: two are called {repeated!r}; give each another name")
    unknown = {env for _, learner in learners for env in (*learner.only, *learner.where)}
    for env in unknown - {task.env for task in tasks}:
        raise ConfigError(f"learners: only and where name {env!r}, which no task has")
    runs: list[RunSpec] = []
    for task in tasks:
        for preset in listed(task.actuators or suite.actuators):
            if preset not in catalogue.actuator_presets():
                known = catalogue.actuator_presets()
                raise UnknownNameError("actuators", preset, known, f"Known: {', '.join(known)}.")
            for where, learner in learners:
                try:
                    runs += _runs(suite, task, preset, learner)
                except ConfigError as error:
                    raise ConfigError(f"{where}{error}") from None
    order = sorted(runs, key=lambda run: run.seed)  # stable: tasks and learners keep their order
    sources = {name: one.source for _, one in learners for name, _, _ in one.variants()}
    return Suite(name, suite.about, tuple(order), sources)


def _runs(
    suite: SuiteFile, task: SuiteTask, actuators: str, learner: SuiteLearner
) -> Iterator[RunSpec]:
    """The runs of a learner on one task."""
    regression = task.env.startswith(FIT)
    if learner.only and task.env not in learner.only:
        return
    if learner.algo != "random" and regression != (learner.algo == "fit"):
        return  # a suite may hold both kinds
    seeds = learner.seeds or suite.seeds
    settings = learner.settings | learner.where.get(task.env, {})
    hidden = tuple(listed(settings.pop("hidden", suite.hidden)))
    for name, rule, samples in learner.variants():
        run = RunSpec(
            env=task.env,
            steps=task.steps,
            learner=name,
            algo=learner.algo,
            rule=rule,
            samples=samples,
            settings=settings,
            actuators=actuators,
            env_kwargs=task.kwargs,
            envs=learner.envs or task.envs or suite.envs,
            hidden=hidden,
            episodes=suite.episodes,
            points=suite.points,
            point_episodes=suite.point_episodes,
        )
        METHODS[run.algo].configure(run)
        for seed in range(seeds) if isinstance(seeds, int) else seeds:
            yield run.replace(seed=seed)


SuitePart = TypeVar("SuitePart", bound=Options)


def _read(kind: type[SuitePart], values: Mapping[str, Any], where: str) -> SuitePart:
    """A table of a suite; what is said of it if it is wrong begins with `where`."""
    try:
        for option in dataclasses.fields(kind):  # type: ignore[arg-type]
            required = option.default is option.default_factory is dataclasses.MISSING
            if required and option.name not in values:
                raise ConfigError(f"{option.name} is missing")
        return kind.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None


def listed(given: Any) -> list[Any]:  # noqa: ANN401
    """One or several, as a list."""
    return list(given) if isinstance(given, list | tuple) else [given]


def _known(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise UnknownNameError(kind, name, sorted(known))


def _names(env: str) -> set[str]:
    """What an environment may be called: with and without version, with and without namespace."""
    short = env.rpartition("-v")[0] or env
    return {env, short, short.rpartition("/")[2]}
