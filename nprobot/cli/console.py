"""How a run looks to whoever started it: a bar on a terminal, short lines anywhere else."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

if TYPE_CHECKING:
    from nprobot.training.reporting import Progress
    from nprobot.training.run_folder import RunFolder

SECONDS_BETWEEN_LINES = 10.0


def display(console: Console) -> LineDisplay | BarDisplay:
    """The display that suits where the output goes."""
    return BarDisplay(console) if console.is_terminal else LineDisplay(console)


class LineDisplay:
    """A line every ten seconds, for log files and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._last_line = time.monotonic()

    def __enter__(self) -> LineDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def begin(self, folder: RunFolder) -> None:
        """Say what is trained and where it goes."""
        say(self.console, introduction(folder))

    def progress(self, progress: Progress) -> None:
        """A line, if the last one is some time ago."""
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self.message(f"step {progress.steps:,} of {progress.total:,}: {figures(progress)}")

    def message(self, text: str) -> None:
        """A line."""
        self._last_line = time.monotonic()
        say(self.console, text)


class BarDisplay:
    """A progress bar that stays at the bottom, messages above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar = Bar(
            BarColumn(bar_width=30),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} steps"),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> BarDisplay:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, folder: RunFolder) -> None:
        """Say what is trained and where it goes."""
        say(self.console, introduction(folder))

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        if self._task is None:
            self._task = self._bar.add_task("", total=progress.total, figures="")
        self._bar.update(self._task, completed=progress.steps, figures=figures(progress))

    def message(self, text: str) -> None:
        """A line above the bar."""
        say(self.console, text)


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
    plain = config.rule in ("bp", "dbp")
    samples = "" if plain else f", K = {config.samples}"
    return (
        f"{config.env}: {config.algo.upper()} with {config.rule.upper()}{samples}, "
        f"seed {config.seed}"
    )


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


def duration(seconds: float) -> str:
    """A time as people say it: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def facts(heading: str, rows: dict[str, str]) -> Table:
    """A table of names and values."""
    table = Table(title=heading, title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def say(console: Console, text: str) -> None:
    """Print a line as it is: neither wrapped nor coloured, so that paths can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
