"""How a fit looks to whoever started it: a bar on a terminal, short lines anywhere else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.table import Table

from .console import duration
from .displays import Bars, Lines

if TYPE_CHECKING:
    from nprobot.regression import FitProgress, FitResult


def fit_display(console: Console) -> FitLines | FitBar:
    """The display that suits where the output goes."""
    return FitBar(console) if console.is_terminal else FitLines(console)


class FitLines(Lines):
    """A line every ten seconds, for log files and pipes."""

    stop_requested = False

    def progress(self, progress: FitProgress) -> None:
        """A line, if the last one is some time ago."""
        self.now_and_then(f"epoch {progress.epoch} of {progress.epochs}: {figures(progress)}")


class FitBar(Bars):
    """A progress bar that stays at the bottom, messages above it."""

    stop_requested = False

    def __init__(self, console: Console) -> None:
        super().__init__(
            console,
            BarColumn(bar_width=30),
            TextColumn("epoch {task.fields[epoch]}"),
            TextColumn("{task.fields[figures]}"),
        )

    def progress(self, progress: FitProgress) -> None:
        """Move the bar."""
        epoch = f"{progress.epoch} of {progress.epochs}"
        self.move(progress.step, progress.steps, epoch=epoch, figures=figures(progress))


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
