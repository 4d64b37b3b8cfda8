"""`nprobot tune`: search for good settings of an environment, an algorithm and rules."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from nprobot import catalogue
from nprobot.runs.atomic_files import quoted
from nprobot.training.environments import check_spaces, find_spec, make, silence_mujoco
from nprobot.tuning import study
from nprobot.tuning.tune_config import TuneConfig

from .arguments import parse
from .terminal import DONE, INTERRUPTED, Display, facts, say

if TYPE_CHECKING:
    from nprobot.defaults import TunedDefaults

HELP = """\
Search for good settings: Optuna chooses them, beginning with the general
defaults; trials that fall behind are given up; the best is compared with the
general defaults on fresh seeds and written into a table that `nprobot train
--defaults FILE` takes. Ctrl-C ends a search; the same command continues it.

examples:
  nprobot tune --env Reacher-v5 --algo ppo --rule danp --samples 8 --trials 20
  nprobot tune --env Reacher-v5 --rule danp bp --steps 100000 --seeds 2
      a search for each of two rules, of equal budget
  nprobot tune --env Pendulum-v1 --algo sac --rule np+feedback bp
      NP with learned feedback, and backprop beside it
  nprobot train --env Reacher-v5 --rule danp --defaults runs/tune/Reacher-v5.toml
"""


@dataclass(frozen=True)
class Tune:
    """Options of the command."""

    tune: Annotated[TuneConfig, tyro.conf.arg(name="")] = field(default_factory=TuneConfig)
    out: Path | None = None
    """The folder of the search; one that is there is continued. Left out: runs/tune-ENV-ALGO."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(Tune, arguments, "tune", HELP)
    config = options.tune
    spec = find_spec(config.env)
    folder = options.out or Path("runs") / f"tune-{spec.id.replace('/', '_')}-{config.algo}"
    study.refuse_unwritable(folder)
    study.require_optuna()
    silence_mujoco()
    env = make(config.env)
    try:
        check_spaces(env, continuous=catalogue.ALGORITHMS[config.algo].continuous)
    finally:
        env.close()

    # Everything above answers at once; torch takes seconds to load.
    import torch

    torch.set_num_threads(1)  # networks this small are slower on two threads than on one
    console = Console()
    command = shlex.join(("nprobot", "tune", *_without_out(arguments)))
    say(console, f"{config.env}, {config.algo.upper()}: {budget(config)}")
    say(console, f"folder {folder}; the same command continues a search that was cut off")
    with Display(console) as display:
        for rule in config.rule:
            own = config.of(rule)
            runs = study.TrainingRuns(own, folder / rule)
            try:
                tuned = study.search(own, folder / rule, runs, display, command)
            except KeyboardInterrupt:
                say(console, f"Interrupted; continue: {command} --out {quoted(folder)}")
                return INTERRUPTED
            show(console, tuned, folder)
    return DONE


def budget(config: TuneConfig) -> str:
    """What a search may take, in words."""
    runs = config.trials * config.seeds + 2 * config.fresh_seeds
    return (
        f"{', '.join(map(catalogue.learner_title, config.rule))}; for each at most "
        f"{config.trials} trials of {config.seeds} runs and {2 * config.fresh_seeds} runs on fresh "
        f"seeds, {config.steps:,} steps each: {runs * config.steps:,} environment steps"
    )


def show(console: Console, tuned: TunedDefaults, folder: Path) -> None:
    """Print what a search has found, and write it down."""
    from nprobot.defaults import file_name, save

    file = save(tuned, folder / file_name(tuned.env))
    found = tuned.search
    console.print(
        facts(
            f"{tuned.env}: {tuned.algo.upper()} with {catalogue.learner_title(tuned.rule)}",
            {
                "trials": f"{found['trials']}, {found['pruned']} of them given up early",
                "environment steps": f"{found['environment_steps']:,}",
                **{
                    name: f"{value:g}" if isinstance(value, float) else str(value)
                    for name, value in tuned.settings.items()
                },
                "return, fresh seeds": str(tuned.score),
            },
        ),
        highlight=False,
    )
    if not tuned.score.better:
        say(console, "No better than the general defaults on fresh seeds: keep those.")
    say(console, f"Settings: {file}")
    again = f"--env {tuned.env} --algo {tuned.algo} --rule {tuned.rule} --defaults {quoted(file)}"
    say(console, f"Next: nprobot train {again}")


def _without_out(arguments: Sequence[str]) -> list[str]:
    """The command line without the folder, which concerns nobody but the user."""
    words, kept = iter(arguments), []
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return kept
