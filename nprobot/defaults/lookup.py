"""Finds the tuned settings for a run, and fills them in where the run leaves an option open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nprobot.errors import ConfigError
from nprobot.training.config import RunConfig

from .files import TunedDefaults, load, with_settings

ROOT = Path(__file__).parent / "tuned"
"""Where the files of the package lie."""

TUNED = "tuned"
GENERAL = "general"
INSTEAD = {"ent_coef_start": "ent_coef", "ent_coef": "ent_coef_start"}
"""Options of which a run can have one or the other."""


def file_name(env: str, algo: str, rule: str, *, feedback: bool = False) -> str:
    """The name of a file of settings, such as ``Reacher-v5-ppo-danp.toml``."""
    plain = env.rpartition(":")[2].replace("/", "_")
    return f"{plain}-{algo}-{rule}{'-feedback' * feedback}.toml"


def find(env: str, algo: str, rule: str, *, feedback: bool = False) -> TunedDefaults | None:
    """The package's settings for an environment, an algorithm and a rule; None if there are none.

    Args:
        env: environment id, with or without the module that registers it.
        algo: algorithm.
        rule: learning rule.
        feedback: whether it learns with learned feedback; without, it wants other settings.
    """
    file = ROOT / file_name(env, algo, rule, feedback=feedback)
    return load(file) if file.exists() else None


def known(env: str | None = None) -> list[TunedDefaults]:
    """All settings of the package, or those of one environment; sorted."""
    found = [load(file) for file in sorted(ROOT.glob("*.toml"))]
    return [tuned for tuned in found if env is None or tuned.env == env]


def choose(name: str, config: RunConfig) -> TunedDefaults | None:
    """The settings that a run asks for by name.

    Args:
        name: "tuned" for the package's, "general" for none, or the path of a file.
        config: the run.

    Raises:
        ConfigError: there is no such file, or it is of another algorithm or rule.
    """
    if name == GENERAL:
        return None
    if name == TUNED:
        feedback = bool(config.learning.feedback)
        return find(config.env, config.algo, config.rule, feedback=feedback)
    tuned = load(Path(name))
    if (tuned.algo, tuned.rule) != (config.algo, config.rule):
        raise ConfigError(
            f"{name} holds settings of {tuned.algo} with {tuned.rule}; this run is of "
            f"{config.algo} with {config.rule}"
        )
    return tuned


def fill(config: RunConfig, tuned: TunedDefaults) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration with tuned settings where it leaves an option open.

    One that a given option rules out stays open: `ent_coef_start` where `ent_coef` is given.

    Returns:
        The configuration, and the settings that were filled in.
    """
    given = config.flat()
    missing = {
        name: value
        for name, value in tuned.settings.items()
        if given[name] is None and given.get(INSTEAD.get(name, "")) is None
    }
    return with_settings(config, missing), missing
