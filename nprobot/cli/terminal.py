"""What commands share: exit codes, text that can be copied, and how long work looks."""

from __future__ import annotations

import math
import time
from typing import Generic, Self, TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from nprobot.runs.reporting import Progress

DONE = 0
FAILED = 1
"""The work was asked for rightly and failed."""
MISUSED = 2
"""Something was asked for that does not exist or cannot be."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + the signal, as in shells. SIGTERM: `interruption.exit_code`."""


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


def show_list(table: Table) -> None:
    """Print a list for people; where nobody looks, as plain text whose columns are no wider.

    Names are for copying: rather a line too long for the window than a name cut short.
    """
    console = Console(width=WIDEST)
    if console.is_terminal:
        console.print(table, highlight=False, markup=False)
        return
    rows = [[str(column.header) for column in table.columns]]
    rows += [list(map(str, cells)) for cells in zip(*(c.cells for c in table.columns), strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def say(console: Console, text: str) -> None:
    """Print a line as it is: neither wrapped nor coloured, so that paths can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


WIDEST = 200
"""Columns of text that no list here exceeds."""
SECONDS_BETWEEN_LINES = 10.0


Shown = TypeVar("Shown", Live, RichProgress)


class LiveDisplay(Generic[Shown]):
    """Shows something that changes, from entering to leaving, where there is a terminal.

    Args:
        console: where to.
        live: what is shown.
    """

    def __init__(self, console: Console, live: Shown) -> None:
        self.console = console
        self._live: Shown | None = live if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()


class Display(LiveDisplay[RichProgress]):
    """Shows the news of a run, a fit, a search or a benchmark; a `nprobot.runs.reporting.Reporter`.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        bar = RichProgress(
            BarColumn(bar_width=30),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        super().__init__(console, bar)
        self._last_line = time.monotonic()
        self._task: TaskID | None = None

    def progress(self, progress: Progress) -> None:
        """Move the bar; without a terminal a line, if the last one is some time ago."""
        shown = figures(progress)
        if self._live is None:
            if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
                place = f"{progress.done:,} of {progress.total:,} {progress.unit}"
                self.message(f"{place}: {shown}" if shown else place)
            return
        if self._task is None:
            self._task = self._live.add_task("", total=progress.total, unit="", figures="")
        self._live.update(
            self._task,
            completed=progress.done,
            total=progress.total,
            unit=progress.unit,
            figures=shown,
        )

    def message(self, text: str) -> None:
        """A line above the bar."""
        self._last_line = time.monotonic()
        say(self.console, text)


def figures(progress: Progress) -> str:
    """How well, how fast, how long."""
    parts = [progress.figures] if progress.figures else []
    if not math.isnan(progress.per_second):
        parts.append(f"{progress.per_second:,.0f} {progress.unit}/s")
    if not math.isnan(progress.seconds_left):
        parts.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(parts)
