"""`progress.csv`: the table of a run, carried on by a resumed one."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, filter_excluded_keys
from typing_extensions import override

from .files import (storing, sync, write_whole)

STEPS = "time/total_timesteps"

Row = Mapping[str, str]


class ProgressTable(KVWriter):
    """A CSV file with one row each time SB3's logger is dumped.

    Columns are sorted by name, the steps first. The file is whole at any time: a row is appended,
    and where a new column comes up the file is written anew beside the old one and renamed.

    Args:
        file: where the table is.
        keep: how many of the rows that are there stay; the others are of work that was lost. None
            for all.

    Raises:
        StorageError: (all methods) the disk is full, the folder read-only, ….
    """

    def __init__(self, file: Path, keep: int | None = None) -> None:
        self.file = file
        self.rows: list[Row] = read_table(file)[:keep]
        self.columns: list[str] = []
        if file.exists():
            self._rewrite()

    @override
    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        row = {name: str(value) for name, value in values.items()}
        self.rows.append(row)
        if row.keys() <= set(self.columns):
            with storing(self.file), self.file.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, self.columns).writerow(row)
        else:
            self._rewrite()

    def sync(self) -> None:
        """Make sure that the table is on the disk."""
        if self.rows:
            with storing(self.file):
                sync(self.file)

    @override
    def close(self) -> None:
        """Nothing: the file is closed after each row."""

    def _rewrite(self) -> None:
        names = {name for row in self.rows for name in row}
        self.columns = sorted(names, key=lambda name: (name != STEPS, name))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        if self.rows:
            writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.file, text.getvalue().encode())


def read_table(file: Path) -> list[Row]:
    """The rows of a table, each with the columns in which it has a value; none if there is no file.

    The last one is left out if it is torn: a row ends with a line break. What is not a table any
    more is left out too.
    """
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    rows: list[Row] = []
    try:
        for row in csv.DictReader(io.StringIO(whole, newline="")):
            if _is_number(row.get(STEPS)):
                rows.append({k: v for k, v in row.items() if v and isinstance(k, str)})  # noqa: PERF401
    except csv.Error:
        pass  # the rows before are good
    return rows


def column(rows: list[Row], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a column, where it has a value."""
    points = [(float(row[STEPS]), float(row[name])) for row in rows if _is_number(row.get(name))]
    return [step for step, _ in points], [value for _, value in points]


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True
