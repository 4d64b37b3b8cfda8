"""Suites: data files that say which learners run on which tasks, with which seeds and budgets."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from nprobot.errors import ConfigError, UnknownNameError, near_matches

from .algorithms import ALGORITHMS, CHOICES, check_setting
from .spec import FIT, IDEAL, RunSpec

SHIPPED = ("smoke", "core", "full", "hardware", "regression")
"""Suites that come with nprobot, the smallest first."""

SUITE_KEYS = (
    *("name", "about", "seeds", "envs", "hidden", "episodes", "points", "point_episodes"),
    *("hardware", "tasks", "learners"),
)
TASK_KEYS = ("env", "steps", "hardware", "kwargs", "envs")
LEARNER_KEYS = (
    *("name", "algo", "rule", "samples", "settings", "source", "envs", "only", "where"),
    "seeds",
)
DEFAULTS: dict[str, Any] = {
    "envs": 8,
    "hidden": (64, 64),
    "episodes": 20,
    "points": 20,
    "point_episodes": 5,
}


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
        hardware: Sequence[str] = (),
        seeds: Sequence[int] = (),
        steps: int | None = None,
    ) -> Suite:
        """The part of the suite that was asked for; an empty filter lets everything through.

        Args:
            env: ids of environments; version and namespace may be left away.
            learner: names of learners.
            rule: learning rules; learners without a rule are left out by it.
            hardware: presets of the actuators.
            seeds: seeds, also such as the suite does not have.
            steps: budget in place of the suite's.

        Raises:
            UnknownNameError: the suite has no such name.
        """
        runs: Iterable[RunSpec] = self.runs
        _known("environment", env, set().union(*(_names(r.env) for r in self.runs)))
        _known("learner", learner, {run.learner for run in self.runs})
        _known("learning rule", rule, {run.rule for run in self.runs if run.rule})
        _known("hardware", hardware, {run.hardware for run in self.runs})
        runs = [
            run
            for run in runs
            if (not env or _names(run.env) & set(env))
            and (not learner or run.learner in learner)
            and (not rule or run.rule in rule)
            and (not hardware or run.hardware in hardware)
        ]
        if seeds:
            cells = {run.cell_key: run for run in runs}
            runs = [_with(run, seed=seed) for seed in seeds for run in cells.values()]
        if steps is not None:
            runs = [_with(run, steps=steps) for run in runs]
        return Suite(self.name, self.about, tuple(runs), self.sources)


def load(name: str) -> Suite:
    """A suite by name, or from a file.

    Args:
        name: one of `SHIPPED`, or the path of a ``.toml`` file.

    Raises:
        UnknownNameError: there is no such suite.
        ConfigError: the file cannot be read; says which key and what is allowed.
    """
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
    _keys(values, SUITE_KEYS, "")
    for key in ("tasks", "learners"):
        if not isinstance(values.get(key), list) or not values[key]:
            raise ConfigError(f"{key} is missing; a suite has one [[{key}]] or more")
    runs: list[RunSpec] = []
    sources: dict[str, str] = {}
    learners = [
        made
        for index, learner in enumerate(values["learners"], 1)
        for made in _learners(learner, f"learners[{index}].")
    ]
    names = [learner["name"] for learner in learners]
    for repeated in {n for n in names if names.count(n) > 1}:
        raise ConfigError(f"learners: two are called {repeated!r}; give each a name of its own")
    for learner in learners:
        sources[learner["name"]] = learner["source"]
    for index, task in enumerate(values["tasks"], 1):
        where = f"tasks[{index}]."
        _keys(task, TASK_KEYS, where)
        _require(isinstance(task.get("env"), str), f"{where}env", task.get("env"), "an id")
        _positive(task.get("steps"), f"{where}steps")
        for hardware in _hardware(task.get("hardware", values.get("hardware")), where):
            for learner in learners:
                runs += _runs(values, task, hardware, learner)
    unknown = {env for learner in learners for env in (*learner["only"], *learner["where"])}
    for env in unknown - {task["env"] for task in values["tasks"]}:
        raise ConfigError(f"learners: only and where name {env!r}, which no task has")
    order = sorted(runs, key=lambda run: run.seed)  # stable: tasks and learners keep their order
    return Suite(name, str(values.get("about", "")), tuple(order), sources)


def _runs(
    suite: dict[str, Any], task: dict[str, Any], hardware: str, learner: dict[str, Any]
) -> Iterator[RunSpec]:
    """The runs of one learner on one task."""
    env = task["env"]
    if learner["only"] and env not in learner["only"]:
        return
    regression = env.startswith(FIT)
    if learner["algo"] != "random" and regression != (learner["algo"] == "fit"):
        return  # a suite may hold both kinds
    common = {name: suite.get(name, default) for name, default in DEFAULTS.items()}
    common["hidden"] = tuple(common["hidden"])
    for name in ("envs", "episodes", "points", "point_episodes"):
        _positive(common[name], name)
    envs = learner["envs"] or task.get("envs")
    for seed in _seeds(learner["seeds"] or suite.get("seeds", 1)):
        yield RunSpec(
            env=env,
            hardware=hardware,
            steps=int(task["steps"]),
            learner=learner["name"],
            algo=learner["algo"],
            rule=learner["rule"],
            samples=learner["samples"],
            settings=learner["settings"] | learner["where"].get(env, {}),
            seed=seed,
            env_kwargs=task.get("kwargs", {}),
            **common | ({"envs": envs} if envs else {}),
        )


def _learners(values: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """The learners of one entry: the product of its rules and numbers of noisy passes."""
    _keys(values, LEARNER_KEYS, where)
    algo = values.get("algo")
    if algo not in ALGORITHMS:
        raise _unknown(f"{where}algo", algo, ALGORITHMS)
    known = ALGORITHMS[algo]
    if known.rules != ("rule" in values):
        wanted = "needs a rule" if known.rules else "takes no rule"
        raise ConfigError(f"{where}rule: algorithm {algo!r} {wanted}")
    settings = values.get("settings", {})
    per_env = values.get("where", {})
    for place, given in (("settings", settings), *((f"where.{e}", v) for e, v in per_env.items())):
        _require(isinstance(given, dict), f"{where}{place}", given, "a table")
        _keys(given, tuple(known.settings), f"{where}{place}.")
        for name, value in given.items():
            check_setting(algo, name, value, f"{where}{place}.{name}")
    rules = _list(values.get("rule")) if known.rules else [None]
    for rule in rules:
        if rule is not None and rule not in CHOICES["rule"]:
            raise _unknown(f"{where}rule", rule, CHOICES["rule"])
        counts = [None] if rule in (None, "bp", "dbp") else _list(values.get("samples", 1))
        for samples in counts:
            if samples is not None:
                _positive(samples, f"{where}samples")
            yield {
                "name": learner_name(values.get("name"), algo, rule, samples, rules, counts),
                "algo": algo,
                "rule": rule,
                "samples": samples,
                "settings": dict(settings),
                "where": per_env,
                "source": str(values.get("source", "not given")),
                "envs": values.get("envs"),
                "only": values.get("only", []),
                "seeds": values.get("seeds"),
            }


def learner_name(
    given: str | None,
    algo: str,
    rule: str | None,
    samples: int | None,
    rules: Sequence[object],
    counts: Sequence[object],
) -> str:
    """The given name, or one from what differs: ``DANP, K = 8``; the algorithm unless it is PPO."""
    if given is not None and len(rules) == 1 and len(counts) == 1:
        return given
    prefix = given or ("" if algo in ("ppo", "fit") else ALGORITHMS[algo].about.split(".")[-1])
    words = [prefix] if prefix else []
    if rule is not None:
        words.append(rule.upper())
    name = " ".join(words) or algo
    return f"{name}, K = {samples}" if samples is not None else name


def _hardware(given: object, where: str) -> list[str]:
    from nprobot.envs.actuators.presets import PRESETS

    presets = [IDEAL] if given is None else _list(given)
    for preset in presets:
        if preset not in PRESETS:
            raise _unknown(f"{where}hardware", preset, PRESETS)
    return presets


def _seeds(given: object) -> list[int]:
    seeds = list(range(given)) if isinstance(given, int) else given
    good = isinstance(seeds, list) and all(type(s) is int and s >= 0 for s in seeds) and seeds
    _require(bool(good), "seeds", given, "a number of seeds, or a list of whole numbers from 0")
    assert isinstance(seeds, list)
    return seeds


def _list(given: Any) -> list[Any]:  # noqa: ANN401
    return given if isinstance(given, list) else [given]


def _keys(values: object, allowed: Sequence[str], where: str) -> None:
    _require(isinstance(values, dict), where.rstrip("."), values, "a table")
    assert isinstance(values, dict)
    for key in values:
        if key not in allowed:
            raise _unknown(f"{where}{key}", key, allowed, "there is no such key")


def _unknown(where: str, given: object, known: Iterable[str], what: str = "") -> ConfigError:
    names = list(known)
    near = near_matches(str(given), names)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    said = what or f"there is no {given!r}"
    return ConfigError(f"{where}: {said}{hint} Allowed: {', '.join(names)}.")


def _positive(value: object, where: str) -> None:
    good = type(value) in (int, float) and value > 0  # type: ignore[operator]
    _require(good, where, value, "a whole number from 1")


def _require(met: bool, where: str, given: object, allowed: str) -> None:
    if not met:
        raise ConfigError(f"{where} must be {allowed}, got {given!r}")


def _known(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise UnknownNameError(kind, name, sorted(known))


def _names(env: str) -> set[str]:
    """What an environment may be called: with and without version, with and without namespace."""
    short = env.rpartition("-v")[0] or env
    return {env, short, short.rpartition("/")[2]}


def _with(run: RunSpec, **changes: Any) -> RunSpec:
    return RunSpec.from_dict(run.to_dict() | changes)
