"""How a run looks to whoever started it: a bar on a terminal, short lines anywhere else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn

from .console import duration, say
from .displays import Bars, Lines

if TYPE_CHECKING:
    from nprobot.runs.reporting import Progress
    from nprobot.training.folder import RunFolder


def display(console: Console) -> RunLines | RunBar:
    """The display that suits where the output goes."""
    return RunBar(console) if console.is_terminal else RunLines(console)


class RunLines(Lines):
    """A line every ten seconds, for log files and pipes."""

    def begin(self, folder: RunFolder) -> None:
        """Say what is trained and where it goes."""
        say(self.console, introduction(folder))

    def progress(self, progress: Progress) -> None:
        """A line, if the last one is some time ago."""
        self.now_and_then(f"step {progress.steps:,} of {progress.total:,}: {figures(progress)}")


class RunBar(Bars):
    """A progress bar that stays at the bottom, messages above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            console,
            BarColumn(bar_width=30),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} steps"),
            TextColumn("{task.fields[figures]}"),
        )

    def begin(self, folder: RunFolder) -> None:
        """Say what is trained and where it goes."""
        say(self.console, introduction(folder))

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        self.move(progress.steps, progress.total, figures=figures(progress))


def introduction(folder: RunFolder) -> str:
    """What a run is about to do."""
    config = folder.config
    until = "" if config.stop_at is None else f", until the return reaches {config.stop_at:g}"
    return (
        f"{title(folder)}\nat most {config.steps:,} steps{until}, {config.envs} environments\n"
        f"run folder {folder.path}"
    )


def title(folder: RunFolder) -> str:
    """A run in a few words."""
    config = folder.config
    return f"{config.env}: {config.learner}, seed {config.seed}"


def figures(progress: Progress) -> str:
    """Return, speed and time left of a run."""
    parts = []
    if not math.isnan(progress.mean_return):
        parts.append(f"return {progress.mean_return:.1f}")
    if not math.isnan(progress.steps_per_second):
        parts.append(f"{progress.steps_per_second:,.0f} steps/s")
    if not math.isnan(progress.seconds_left):
        parts.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(parts)
