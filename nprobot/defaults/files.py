"""A file of tuned settings: TOML that a person can read, checked when it is read or made.

| table | holds |
|---|---|
| | `format`, `version`, `env`, `algo`, `rule` |
| `[settings]` | options of `nprobot train` and their values |
| `[score]` | returns on seeds that the search has not seen, with these settings and without |
| `[search]` | what found them: the command, trials, environment steps, versions |
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nprobot.errors import ConfigError, UnknownNameError
from nprobot.training.config import (
    AlgorithmOptions,
    LearningOptions,
    NetworkOptions,
    RunConfig,
)

FORMAT = "nprobot-defaults"
VERSION = 1

GROUPS = {"learning": LearningOptions, "network": NetworkOptions, "algorithm": AlgorithmOptions}
PLAIN = ("samples", "envs", "normalise")
SETTINGS: dict[str, str] = {name: "" for name in PLAIN} | {
    option.name: group
    for group, options in GROUPS.items()
    for option in dataclasses.fields(options)
    if option.name != "alignment_every"  # it looks at learning and changes nothing
}
"""Options that can be tuned, and the group of the configuration that each belongs to."""


@dataclass(frozen=True)
class Score:
    """What settings are worth: runs on seeds of their own, nothing else different.

    Attributes:
        steps: environment steps of each run.
        episodes: deterministic episodes that each return is the mean of.
        seeds: of the runs.
        tuned: return of each run with the settings.
        general: return of each run with the general defaults.
        command: the command line of the first run.
    """

    steps: int
    episodes: int
    seeds: tuple[int, ...]
    tuned: tuple[float, ...]
    general: tuple[float, ...]
    command: str

    def __post_init__(self) -> None:
        if not self.seeds or not len(self.seeds) == len(self.tuned) == len(self.general):
            raise ConfigError(
                f"a score has a tuned and a general return for each seed, got {len(self.seeds)} "
                f"seeds, {len(self.tuned)} and {len(self.general)} returns"
            )
        if not all(map(math.isfinite, (*self.tuned, *self.general))):
            raise ConfigError("a return of the score is not finite")

    def __str__(self) -> str:
        return (
            f"{statistics.fmean(self.tuned):.1f} (general defaults "
            f"{statistics.fmean(self.general):.1f}; mean of {len(self.seeds)} seeds, "
            f"{self.steps:,} steps each)"
        )


@dataclass(frozen=True)
class TunedDefaults:
    """Settings that a search has found for an environment, an algorithm and a rule.

    Attributes:
        env: environment id.
        algo: algorithm.
        rule: learning rule.
        settings: options of `nprobot train`, by name.
        score: what they are worth.
        search: what found them; JSON values.

    Raises:
        ConfigError: a setting does not exist, cannot be tuned, or has a value that is not allowed.
    """

    env: str
    algo: str
    rule: str
    settings: Mapping[str, Any]
    score: Score
    search: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.settings:
            if name not in SETTINGS:
                raise UnknownNameError("setting", name, SETTINGS)
        with_settings(RunConfig(env=self.env, algo=self.algo, rule=self.rule), self.settings)

    @property
    def feedback(self) -> bool:
        """Whether they are for the rule with learned feedback."""
        return bool(self.settings.get("feedback"))


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """A configuration with options set, by name, whatever they were.

    Raises:
        ConfigError: a value is not allowed.
    """
    plain: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        value = tuple(value) if isinstance(value, list) else value
        group = SETTINGS[name]
        (groups.setdefault(group, {}) if group else plain)[name] = value
    try:
        for group, values in groups.items():
            plain[group] = dataclasses.replace(getattr(config, group), **values)
        return dataclasses.replace(config, **plain)
    except TypeError as error:  # such as text where a number belongs
        raise ConfigError(f"settings of the wrong type: {error}") from error


def load(path: Path) -> TunedDefaults:
    """Read a file of tuned settings.

    Raises:
        ConfigError: there is none, or it is none, or it makes no sense.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a readable file of settings: {error}") from error
    if content.get("format") != FORMAT:
        raise ConfigError(f"{path} is not a file of tuned settings (no format {FORMAT!r})")
    version = content.get("version")
    if version != VERSION:
        raise ConfigError(
            f"{path} has format version {version!r}; this nprobot reads {VERSION}. "
            "Tune again, or upgrade nprobot."
        )
    try:
        score: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content["score"].items()
        }
        return TunedDefaults(
            env=str(content["env"]),
            algo=content["algo"],
            rule=content["rule"],
            settings=dict(content["settings"]),
            score=Score(**score),
            search=dict(content["search"]),
        )
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{path} makes no sense: {what}") from error


def save(tuned: TunedDefaults, path: Path) -> Path:
    """Write a file of tuned settings, whole or not at all.

    Returns:
        The file.
    """
    head = {"format": FORMAT, "version": VERSION}
    head |= {"env": tuned.env, "algo": tuned.algo, "rule": tuned.rule}
    tables = {
        "settings": tuned.settings,
        "score": dataclasses.asdict(tuned.score),
        "search": tuned.search,
    }
    parts = [_lines(head)]
    parts += [f"[{name}]\n{_lines(values)}" for name, values in tables.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f".{path.name}.writing")
    writing.write_text("\n".join(parts), encoding="utf-8")
    os.replace(writing, path)
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
