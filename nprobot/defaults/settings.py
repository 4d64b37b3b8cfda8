"""Tuned settings: tables that a person can read, found for a run, filled in where it is silent.

A table is a TOML file of one environment:

| table | holds |
|---|---|
| | `format`, `version`, `env` |
| `[ALGO.RULE.settings]` | options of `nprobot train` and their values |
| `[ALGO.RULE.score]` | returns on seeds that no search has seen, with these settings and without |
| `[ALGO.RULE.search]` | what found them: the command, trials, environment steps, versions |
"""

from __future__ import annotations

import json
import math
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nprobot.catalogue import FEEDBACK
from nprobot.errors import ConfigError, UnknownNameError
from nprobot.options import Count, Options, Seed
from nprobot.runs.atomic_files import write_whole
from nprobot.training.run_config import OPTIONS, RunConfig

FORMAT = "nprobot-defaults"
VERSION = 2
ROOT = Path(__file__).parent / "tuned"
"""Where the tables of the package lie."""

TUNED = "tuned"
GENERAL = "general"
PARALLEL = "parallel"
"""Settings for many environments; see `parallel_settings`."""
MANY = 1024
"""Environments of those, where a run leaves them open."""
_LOOKS_ON = "alignment_every"  # at learning, and changes nothing
TUNABLE = (
    *("samples", "envs", "normalise"),
    *(name for name, group in OPTIONS.items() if group and name != _LOOKS_ON),
)
"""Options that a table may set."""
INSTEAD = {"ent_coef_start": "ent_coef", "ent_coef": "ent_coef_start"}
"""Options of which a run can have one or the other."""
KINDS = ("settings", "score", "search")


@dataclass(frozen=True)
class TunedScore(Options):
    """What settings are worth: runs on separate seeds, nothing else different.

    Attributes:
        steps: environment steps of each run.
        episodes: deterministic episodes that each return is the mean of.
        seeds: the seeds of the runs.
        tuned: return of each run with the settings.
        general: return of each run with the general defaults of the time.
        command: the command line of the first run.
    """

    steps: Count
    episodes: Count
    seeds: tuple[Seed, ...]
    tuned: tuple[float, ...]
    general: tuple[float, ...]
    command: str

    def check(self) -> None:
        """Refuse returns that are not a number for each seed."""
        if not self.seeds or not len(self.seeds) == len(self.tuned) == len(self.general):
            raise ConfigError(
                f"a score has a tuned and a general return for each seed, got {len(self.seeds)} "
                f"seeds, {len(self.tuned)} and {len(self.general)} returns"
            )
        if not all(map(math.isfinite, (*self.tuned, *self.general))):
            raise ConfigError("a return of the score is not finite")

    @property
    def better(self) -> bool:
        """Whether the settings are better than the general defaults."""
        return statistics.fmean(self.tuned) > statistics.fmean(self.general)

    def __str__(self) -> str:
        return (
            f"{statistics.fmean(self.tuned):.1f} (general defaults "
            f"{statistics.fmean(self.general):.1f}; mean of {len(self.seeds)} seeds, "
            f"{self.steps:,} steps each)"
        )


@dataclass(frozen=True)
class TunedDefaults(Options):
    """Settings that a search has found for an environment, an algorithm and a rule.

    Attributes:
        env: environment id.
        algo: algorithm.
        rule: learning rule, such as ``"np+feedback"``.
        settings: options of `nprobot train`, by name.
        score: what they are worth.
        search: what found them; JSON values.

    Raises:
        ConfigError: a setting does not exist, cannot be tuned, or has a value that is not allowed.
    """

    env: str
    algo: str
    rule: str
    settings: dict[str, Any]
    score: TunedScore
    search: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse settings that no run can have."""
        for name in self.settings:
            if name not in TUNABLE:
                raise UnknownNameError("setting", name, TUNABLE)
        RunConfig(env=self.env, algo=self.algo, rule=self.rule).with_options(self.settings)


def load(path: Path) -> list[TunedDefaults]:
    """Read a table of tuned settings.

    Raises:
        ConfigError: there is none, or a part of it is missing or not allowed.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a readable file of settings: {error}") from error
    if content.pop("format", None) != FORMAT:
        raise ConfigError(f"{path} is not a file of tuned settings (no format {FORMAT!r})")
    version = content.pop("version", None)
    if version not in (1, VERSION):
        raise ConfigError(
            f"{path} has format version {version!r}; this nprobot reads up to {VERSION}. "
            "Tune again, or upgrade nprobot."
        )
    try:
        if version == 1:
            content = _upgraded(content)
        env = content.pop("env")
        return [
            TunedDefaults.from_dict({"env": env, "algo": algo, "rule": rule, **entry})
            for algo, rules in content.items()
            for rule, entry in rules.items()
        ]
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{path} cannot be used: {what}") from error


def _upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """A file of the first version, which held settings of one algorithm and rule."""
    entry = {kind: dict(content[kind]) for kind in KINDS}
    rule = content["rule"] + FEEDBACK * bool(entry["settings"].pop("feedback", False))
    return {"env": content["env"], content["algo"]: {rule: entry}}


def save(tuned: TunedDefaults, path: Path) -> Path:
    """Write settings into a table: a new one, or one of the same environment.

    Returns:
        The table.

    Raises:
        ConfigError: the file is no table, or of another environment.
        StorageError: the disk is full, the folder read-only, ….
    """
    there = load(path) if path.exists() else []
    if there and there[0].env != tuned.env:
        raise ConfigError(f"{path} is of {there[0].env}; write {tuned.env} into another file")
    entries = {(one.algo, one.rule): one for one in (*there, tuned)}
    parts = [_lines({"format": FORMAT, "version": VERSION, "env": tuned.env})]
    for (algo, rule), one in sorted(entries.items()):
        key = f"{algo}.{rule if rule.isalnum() else json.dumps(rule)}"
        values = one.to_dict()
        parts += [f"[{key}.{kind}]\n{_lines(values[kind])}" for kind in KINDS]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "\n".join(parts).encode())
    return path


def _lines(values: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


def _toml(value: Any) -> str:  # noqa: ANN401 - a JSON value
    """A value as TOML writes it, which for all that occurs here is as JSON does."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f'"{k}" = {_toml(v)}' for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def file_name(env: str) -> str:
    """The name of an environment's table, such as ``Reacher-v5.toml``."""
    return f"{env.rpartition(':')[2].replace('/', '_')}.toml"


def known(env: str | None = None) -> list[TunedDefaults]:
    """All settings of the package, or those of one environment; sorted."""
    files = sorted(ROOT.glob("*.toml")) if env is None else [ROOT / file_name(env)]
    return [tuned for file in files if file.exists() for tuned in load(file)]


def find(env: str, algo: str, rule: str) -> TunedDefaults | None:
    """The package's settings for an environment, an algorithm and a rule; None if there are none.

    Args:
        env: environment id, with or without the module that registers it.
        algo: algorithm.
        rule: learning rule.
    """
    return _entry(known(env), algo, rule)


def choose(name: str, config: RunConfig) -> dict[str, Any] | None:
    """The settings that a run asks for by name; None where there are none.

    Args:
        name: "tuned" for the package's, "general" for none, "parallel" for many environments, or
            the path of a table.
        config: the run.

    Raises:
        ConfigError: there is no such file, or nothing in it for the algorithm and the rule; or
            "parallel" is asked for an algorithm that has no such settings.
    """
    if name == GENERAL:
        return None
    if name == PARALLEL:
        if config.algo != "ppo":
            raise ConfigError(
                f"--defaults {PARALLEL} is for ppo; {config.algo} has no settings for many "
                "environments"
            )
        return {"envs": MANY, **parallel_settings(config.envs or MANY)}
    if name == TUNED:
        found = find(config.env, config.algo, config.rule)
        return None if found is None else found.settings
    entries = load(Path(name))
    tuned = _entry(entries, config.algo, config.rule)
    if tuned is None:
        there = ", ".join(f"{one.algo} with {one.rule}" for one in entries) or "nothing"
        raise ConfigError(
            f"{name} holds settings of {there}; this run is of {config.algo} with {config.rule}"
        )
    return tuned.settings


def _entry(entries: Sequence[TunedDefaults], algo: str, rule: str) -> TunedDefaults | None:
    return next((one for one in entries if (one.algo, one.rule) == (algo, rule)), None)


def parallel_settings(envs: int) -> dict[str, Any]:
    """Settings of PPO for many environments: few, large updates from short rollouts.

    They are those of rsl_rl (Schwarke et al., arXiv 2509.10771): 24 steps of each robot, five
    epochs of four minibatches, whatever the number of robots. With fewer than 86 the rollouts are
    longer, so that an update has 2,048 steps. rsl_rl's learning rate follows the divergence of the
    policies; here it stays.

    Args:
        envs: how many.
    """
    n_steps = max(24, -(-2048 // envs))
    return {
        **{"n_steps": n_steps, "batch_size": max(n_steps * envs // 4, 2), "n_epochs": 5},
        **{"learning_rate": 1e-3, "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.2},
        **{"ent_coef": 0.01, "vf_coef": 1.0, "max_grad_norm": 1.0},
    }


def fill(config: RunConfig, settings: Mapping[str, Any]) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration with settings where it leaves an option open.

    One that a given option rules out stays open: `ent_coef_start` where `ent_coef` is given.

    Returns:
        The configuration, and the settings that were filled in.
    """
    given = config.flat()
    missing = {
        name: value
        for name, value in settings.items()
        if given[name] is None and given.get(INSTEAD.get(name, "")) is None
    }
    filled = config.with_options(missing)
    return filled, {name: filled.flat()[name] for name in missing}
