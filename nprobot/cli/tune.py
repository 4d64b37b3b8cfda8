"""`nprobot tune`: search for good settings of an environment, an algorithm and rules."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nprobot.catalogue import rule_named
from nprobot.training.environments import check_spaces, find_spec, make, silence_mujoco
from nprobot.tuning.config import TuneConfig
from nprobot.tuning.study import Outcome, refuse_unwritable, require_optuna, search

from .console import facts, say
from .exit_codes import DONE, INTERRUPTED
from .options import parse

if TYPE_CHECKING:
    from nprobot.defaults import TunedDefaults

HELP = """\
Search for good settings: Optuna chooses them, beginning with the general
defaults; trials that fall behind are given up; the best is compared with the
general defaults on fresh seeds and written as a file that `nprobot train
--defaults FILE` takes. Ctrl-C ends a search; the same command goes on with it.

examples:
  nprobot tune --env Reacher-v5 --algo ppo --rule danp --samples 8 --trials 20
  nprobot tune --env Reacher-v5 --rule danp bp --steps 100000 --seeds 2
      a search for each of two rules, of equal budget
  nprobot tune --env Pendulum-v1 --algo sac --rule np bp --feedback
      NP with learned feedback, and backprop beside it
  nprobot train --env Reacher-v5 --defaults runs/tune/Reacher-v5-ppo-danp.toml
"""


@dataclass(frozen=True)
class Tune:
    """Options of the command."""

    tune: Annotated[TuneConfig, tyro.conf.arg(name="")] = field(default_factory=TuneConfig)
    out: Path | None = None
    """The folder of the search; one that is there is gone on with. Left out: runs/tune-ENV-ALGO."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(Tune, arguments, "tune", HELP)
    config = options.tune
    spec = find_spec(config.env)
    folder = options.out or Path("runs") / f"tune-{spec.id.replace('/', '_')}-{config.algo}"
    refuse_unwritable(folder)
    require_optuna()
    silence_mujoco()
    env = make(config.env)
    try:
        check_spaces(env, continuous=config.algo != "ppo")
    finally:
        env.close()

    # Everything above answers at once; torch takes seconds to load.
    import torch

    from nprobot.tuning.objective import TrainingObjective

    torch.set_num_threads(1)  # networks this small are slower on two threads than on one
    console = Console()
    command = shlex.join(("nprobot", "tune", *_without_out(arguments)))
    say(console, f"{config.env}, {config.algo.upper()}: {budget(config)}")
    say(console, f"folder {folder}; the same command goes on with a search that was cut off")
    with Display(console) as display:
        for rule in config.rule:
            own = folder / (rule + "-feedback" * config.with_feedback(rule))
            try:
                outcome = search(
                    config.of(rule), own, TrainingObjective(config.of(rule), own), display
                )
            except KeyboardInterrupt:
                say(console, f"Interrupted; go on: {command} --out {folder}")
                return INTERRUPTED
            show(console, config, outcome, folder, command)
    return DONE


def budget(config: TuneConfig) -> str:
    """What a search may take, in words."""
    runs = config.trials * config.seeds + 2 * config.fresh_seeds
    return (
        f"{', '.join(learner(config, rule) for rule in config.rule)}; for each at most "
        f"{config.trials} trials of {config.seeds} runs and {2 * config.fresh_seeds} runs on fresh "
        f"seeds, {config.steps:,} steps each: {runs * config.steps:,} environment steps"
    )


def learner(config: TuneConfig, rule: str) -> str:
    """A rule as people read it, such as ``NP + feedback``."""
    return rule_named(rule, feedback=config.with_feedback(rule)).title


def show(
    console: Console, config: TuneConfig, outcome: Outcome, folder: Path, command: str
) -> None:
    """Print what a search has found, and write it down."""
    from nprobot.defaults import save
    from nprobot.defaults.lookup import file_name

    tuned = as_defaults(config, outcome, command)
    file = save(
        tuned, folder / file_name(tuned.env, tuned.algo, tuned.rule, feedback=tuned.feedback)
    )
    console.print(
        facts(
            f"{config.env}: {config.algo.upper()} with {learner(config, outcome.rule)}",
            {
                "trials": f"{outcome.trials}, {outcome.pruned} of them given up early",
                "environment steps": f"{outcome.environment_steps:,}",
                **{
                    name: f"{value:g}" if isinstance(value, float) else str(value)
                    for name, value in outcome.settings.items()
                },
                "return, fresh seeds": str(tuned.score),
            },
        ),
        highlight=False,
    )
    if not outcome.better:
        say(console, "No better than the general defaults on fresh seeds: keep those.")
    say(console, f"Settings: {file}")
    say(
        console,
        f"Next: nprobot train --env {config.env} --algo {config.algo} --rule "
        f"{outcome.rule} --defaults {file}",
    )


def as_defaults(config: TuneConfig, outcome: Outcome, command: str) -> TunedDefaults:
    """What a search has found, as a file of the package holds it."""
    from nprobot.defaults import TunedDefaults
    from nprobot.defaults.files import Score
    from nprobot.runs.versions import versions
    from nprobot.training.config import EVALUATION_EPISODES
    from nprobot.tuning.config import FRESH

    samples = config.run(outcome.rule).samples
    settings = dict(outcome.settings)
    again = ["nprobot", "train", "--env", config.env, "--algo", config.algo]
    again += ["--rule", outcome.rule]
    if samples is not None:
        settings = {"samples": samples, **settings}
    if config.with_feedback(outcome.rule):
        settings |= {"feedback": True}
        again += ["--feedback"]
    again += ["--steps", str(config.steps), "--seed", str(FRESH)]
    return TunedDefaults(
        env=config.env,
        algo=config.algo,
        rule=outcome.rule,
        settings=settings,
        score=Score(
            steps=config.steps,
            episodes=EVALUATION_EPISODES,
            seeds=tuple(FRESH + i for i in range(config.fresh_seeds)),
            tuned=outcome.tuned,
            general=outcome.general,
            command=shlex.join(again),
        ),
        search={
            "command": command,
            "seeds": list(range(config.seeds)),
            "best_trial": outcome.best_trial,
            "trials": outcome.trials,
            "pruned": outcome.pruned,
            "steps": config.steps,
            "environment_steps": outcome.environment_steps,
            "return_in_search": outcome.value,
            "versions": {name: version for name, version in versions().items() if version},
        },
    )


def _without_out(arguments: Sequence[str]) -> list[str]:
    """The command line without the folder, which is nobody else's business."""
    words, kept = iter(arguments), []
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return kept


class Display:
    """A progress bar on a terminal, lines anywhere else."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f} of {task.total:.0f} runs"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, rule: str, done: int, total: int) -> None:
        """A bar for a search."""
        if done:
            self.message(f"{rule}: going on after {done} of {total} runs")
        self._task = self._bar.add_task(rule, total=total, completed=done)

    def ran(self, done: int, total: int) -> None:
        """Move the bar."""
        assert self._task is not None, "a search begins before it runs"
        self._bar.update(self._task, completed=done, total=total)

    def message(self, text: str) -> None:
        """A line."""
        say(self.console, text)
