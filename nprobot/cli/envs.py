"""`nprobot envs`: list the environments to train on."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import gymnasium
import tyro
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from rich import box
from rich.console import Console
from rich.table import Table

from nprobot.defaults import known
from nprobot.errors import EnvironmentUnavailableError
from nprobot.training.environments import (
    check_spaces,
    control_rate,
    find_spec,
    make,
    newest_versions,
    silence_mujoco,
)

from .arguments import parse
from .terminal import DONE, say, show_list

FAMILIES = ("nprobot.", "gymnasium.envs.mujoco.", "gymnasium.envs.classic_control.")
"""Modules whose environments are control problems."""
OPTIONAL_FAMILIES = {
    "nprobot.envs.gymnasium_robotics": "nprobot[robots]",
    "gymnasium.envs.box2d.bipedal_walker": "gymnasium[box2d]",
    "gymnasium.envs.box2d.lunar_lander": "gymnasium[box2d]",
}
"""The same, with what has to be installed for them."""


HELP = """\
List the environments with continuous or discrete control, the newest version
of each.

You can train on any other environment that is registered with gymnasium, as long
as its observations are vectors of real numbers; MODULE:ID imports the module
that registers it.

The column "tuned" says for which algorithms and rules there are settings that
`nprobot train` takes by default; --json shows them and what they are worth.

examples:
  nprobot envs
  nprobot envs pendulum
  nprobot envs Reacher --json
  nprobot train --env my_package:MyEnv-v0
"""


@dataclass(frozen=True)
class Envs:
    """Options of the command."""

    pattern: Annotated[str, tyro.conf.Positional] = ""
    """Only those whose id contains this."""
    json: bool = False
    """Print one JSON array instead of a table."""


@dataclass(frozen=True)
class EnvironmentSummary:
    """An environment in one line.

    Attributes:
        id: for `--env`.
        control: "continuous" or "discrete".
        inputs: numbers in an observation.
        actions: numbers in an action, or choices.
        control_rate: actions a second of simulated time, Hz.
        episode: steps of the longest episode.
        solved_at: return at which it counts as solved.
        missing: what to install first; None if nothing.
        tuned: for each algorithm and rule with tuned settings, what they are, and their mean
            return beside that of the general defaults.
    """

    id: str
    control: str | None = None
    inputs: int | None = None
    actions: int | None = None
    control_rate: float | None = None
    episode: int | None = None
    solved_at: float | None = None
    missing: str | None = None
    tuned: tuple[dict[str, Any], ...] = ()


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(Envs, arguments, "envs", HELP)
    silence_mujoco()
    chosen = [spec for spec in control_environments() if options.pattern.lower() in spec.id.lower()]
    if not chosen:
        find_spec(options.pattern)  # says what it could have been
    listed = [description for spec in chosen if (description := describe(spec))]
    if options.json:
        print(json.dumps([asdict(description) for description in listed], indent=1))
        return DONE
    console = Console()
    table = Table(
        *("environment", "control", "inputs", "actions", "Hz", "steps", "solved at", "tuned"),
        "missing",
        box=box.SIMPLE_HEAD,
    )
    for column in table.columns[2:7]:
        column.justify = "right"
    for row in listed:
        table.add_row(
            *(row.id, row.control or "", _text(row.inputs), _text(row.actions)),
            *(_text(row.control_rate), _text(row.episode), _text(row.solved_at)),
            *(tuned_for(row), row.missing or ""),
        )
    show_list(table)
    missing = sorted({row.missing for row in listed if row.missing})
    if missing:
        say(console, f"Install what is missing: pip install {' '.join(map(repr, missing))}")
    say(console, "Train on one: nprobot train --env ID")
    return DONE


def control_environments() -> list[EnvSpec]:
    """Registrations of control environments, each in its newest version, ours first."""
    families = (*FAMILIES, *OPTIONAL_FAMILIES)
    chosen = [spec for spec in newest_versions() if _module(spec).startswith(families)]
    return sorted(chosen, key=lambda spec: (spec.namespace != "nprobot", spec.id))


def describe(spec: EnvSpec) -> EnvironmentSummary | None:
    """Make an environment and look at it; None if no policy here can control it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            env = make(spec.id)
        except EnvironmentUnavailableError:
            return EnvironmentSummary(spec.id, missing=_package(spec))
    try:
        check_spaces(env)
        return EnvironmentSummary(
            spec.id,
            control="continuous" if isinstance(env.action_space, spaces.Box) else "discrete",
            inputs=spaces.flatdim(env.observation_space),
            actions=_size(env.action_space),
            control_rate=control_rate(env),
            episode=spec.max_episode_steps,
            solved_at=spec.reward_threshold,
            tuned=tuple(_tuned(spec.id)),
        )
    except EnvironmentUnavailableError:
        return None
    finally:
        env.close()


def tuned_for(row: EnvironmentSummary) -> str:
    """The learners that have tuned settings, such as ``ppo: bp, danp; td3: np+feedback``."""
    rules: dict[str, list[str]] = {}
    for entry in row.tuned:
        rules.setdefault(entry["algo"], []).append(entry["rule"])
    return "; ".join(f"{algo}: {', '.join(names)}" for algo, names in rules.items())


def _tuned(env: str) -> Iterator[dict[str, Any]]:
    for tuned in known(env):
        yield {
            "algo": tuned.algo,
            "rule": tuned.rule,
            "settings": tuned.settings,
            "steps": tuned.score.steps,
            "return_mean": statistics.fmean(tuned.score.tuned),
            "general_return_mean": statistics.fmean(tuned.score.general),
            "command": tuned.score.command,
            "found_by": tuned.search.get("command"),
        }


def _size(space: gymnasium.Space[Any]) -> int:
    return int(space.n) if isinstance(space, spaces.Discrete) else spaces.flatdim(space)


def _module(spec: EnvSpec) -> str:
    return spec.entry_point if isinstance(spec.entry_point, str) else ""


def _package(spec: EnvSpec) -> str:
    for family, package in OPTIONAL_FAMILIES.items():
        if _module(spec).startswith(family):
            return package
    return "gymnasium[mujoco]"


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
