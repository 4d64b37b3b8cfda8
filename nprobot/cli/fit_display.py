"""How a fit looks to whoever started it: a bar on a terminal, short lines anywhere else."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from .console import SECONDS_BETWEEN_LINES, duration, say

if TYPE_CHECKING:
    from nprobot.regression import FitProgress, FitResult


def fit_display(console: Console) -> FitLines | FitBar:
    """The display that suits where the output goes."""
    return FitBar(console) if console.is_terminal else FitLines(console)


class FitLines:
    """A line every ten seconds, for log files and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stop_requested = False
        self._last_line = time.monotonic()

    def __enter__(self) -> FitLines:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def progress(self, progress: FitProgress) -> None:
        """A line, if the last one is some time ago."""
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self.message(f"epoch {progress.epoch} of {progress.epochs}: {figures(progress)}")

    def message(self, text: str) -> None:
        """A line."""
        self._last_line = time.monotonic()
        say(self.console, text)


class FitBar:
    """A progress bar that stays at the bottom, messages above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stop_requested = False
        self._bar = Bar(
            BarColumn(bar_width=30),
            TextColumn("epoch {task.fields[epoch]}"),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> FitBar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def progress(self, progress: FitProgress) -> None:
        """Move the bar."""
        fields: dict[str, Any] = {
            "epoch": f"{progress.epoch} of {progress.epochs}",
            "figures": figures(progress),
        }
        if self._task is None:
            self._task = self._bar.add_task("", total=progress.steps, **fields)
        self._bar.update(self._task, completed=progress.step, **fields)

    def message(self, text: str) -> None:
        """A line above the bar."""
        say(self.console, text)


def figures(progress: FitProgress) -> str:
    """Error, speed and time left of a fit."""
    parts = [f"validation {progress.best}"] if progress.best else []
    if not math.isnan(progress.steps_per_second):
        parts.append(f"{progress.steps_per_second:,.0f} steps/s")
    if not math.isnan(progress.seconds_left):
        parts.append(f"{duration(progress.seconds_left)} left")
    return ", ".join(parts)


def error_table(result: FitResult) -> Table:
    """The errors of the best model, a row a target, or a row a split for classification."""
    rows = result.rows()
    splits = list(result.scores)
    if "target" not in rows[0]:
        table = Table(*rows[0], box=box.SIMPLE_HEAD)
        for row in rows:
            table.add_row(row["split"], f"{row['accuracy']:.2%}", f"{row['cross_entropy']:.4f}")
        return table
    table = Table(
        *("target", "RMSE (test)", *splits),
        box=box.SIMPLE_HEAD,
        title="normalised mean squared error (nMSE: mean squared error / variance)",
        title_justify="left",
        title_style="bold",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    by_target: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_target.setdefault(row["target"], {})[row["split"]] = row
    for target, found in by_target.items():
        test = found["test"]
        error = f"{test['rmse']:.4g} {test['unit']}" if test["rmse"] != "" else ""
        table.add_row(target, error, *(f"{found[name]['nmse']:.4f}" for name in splits))
    return table
