"""`progress.csv`: the table of a run, carried on by a resumed one."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    Logger,
    TensorBoardOutputFormat,
)

STEPS = "time/total_timesteps"


def make_logger(folder: Path, steps: int = 0) -> Logger:
    """SB3's logger for a run: the table and tensorboard files.

    Args:
        folder: of the run.
        steps: where the run goes on; later rows, of work that was lost, are left out.
    """
    return Logger(str(folder), [table(folder, steps), TensorBoardOutputFormat(str(folder))])


def table(folder: Path, steps: int = 0) -> CSVOutputFormat:
    """The table, with the rows that are there up to some number of steps."""
    file = folder / "progress.csv"
    kept = [row for row in read_table(file) if float(row.get(STEPS) or "inf") <= steps]
    # Written beside the old one and renamed: nothing is lost if this is interrupted.
    writing = folder / ".progress.csv.writing"
    output = CSVOutputFormat(str(writing))
    for row in kept:
        output.write({key: float(value) for key, value in row.items() if value}, {})
    os.replace(writing, file)
    return output


def read_table(file: Path) -> list[dict[str, str]]:
    """The rows of a table; none if there is no file."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def column(rows: list[dict[str, str]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a column, where it has a value."""
    points = [(float(row[STEPS]), float(row[name])) for row in rows if row.get(name)]
    return [step for step, _ in points], [value for _, value in points]
