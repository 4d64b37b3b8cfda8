"""`progress.csv`: the table of a run, carried on by a resumed one."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import (
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    filter_excluded_keys,
)
from typing_extensions import override

STEPS = "time/total_timesteps"

Row = Mapping[str, str]


def make_logger(folder: Path, steps: int = 0) -> Logger:
    """SB3's logger for a run: the table and tensorboard files.

    Args:
        folder: of the run.
        steps: where the run goes on; later rows, of work that was lost, are left out.
    """
    table = ProgressTable(folder / "progress.csv", steps)
    return Logger(str(folder), [table, TensorBoardOutputFormat(str(folder))])


class ProgressTable(KVWriter):
    """A CSV file with one row each time SB3's logger is dumped.

    Columns are sorted by name, the steps first. The file is whole at any time: a row is appended,
    and where a new column comes up the file is written anew beside the old one and renamed.

    Args:
        file: where the table is; rows that are there are kept up to `steps`.
        steps: where the run goes on.
    """

    def __init__(self, file: Path, steps: int = 0) -> None:
        self.file = file
        self.rows: list[Row] = [r for r in read_table(file) if float(r[STEPS]) <= steps]
        self.columns: list[str] = []
        if self.rows:
            self._rewrite()

    @override
    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        row = {key: str(value) for key, value in values.items()}
        self.rows.append(row)
        if row.keys() <= set(self.columns):
            with self.file.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, self.columns).writerow(row)
        else:
            self._rewrite()

    @override
    def close(self) -> None:
        """Nothing: the file is closed after each row."""

    def _rewrite(self) -> None:
        names = {name for row in self.rows for name in row}
        self.columns = sorted(names, key=lambda name: (name != STEPS, name))
        writing = self.file.with_name(f".{self.file.name}.writing")
        with writing.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(writing, self.file)


def read_table(file: Path) -> list[Row]:
    """The rows of a table that have a step; none if there is no file."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row.get(STEPS)]


def column(rows: list[Row], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a column, where it has a value."""
    points = [(float(row[STEPS]), float(row[name])) for row in rows if row.get(name)]
    return [step for step, _ in points], [value for _, value in points]
