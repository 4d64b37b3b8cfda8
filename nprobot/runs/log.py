"""What a run logs: SB3's logger with a table and a tensorboard file that survive a kill.

`progress.csv` is the table; a resumed run carries it on.
"""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import KVWriter, Logger, filter_excluded_keys
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from typing_extensions import override

from nprobot.policies.files.reading import read_file

from .atomic_files import reporting_storage, sync, write_whole

STEPS = "time/total_timesteps"
EVALUATION = "eval/"
"""How the columns of evaluations begin."""

LogRow = Mapping[str, str]

LARGEST_TABLE = 2**30
"""Bytes."""

PATTERN = "events.out.tfevents.*"


class RunLog(Logger):
    """SB3's logger for a run.

    A resumed run continues in the same files with the same columns as if it had never stopped:
    ``time/iterations``, ``time/time_elapsed`` and ``time/fps`` count all of its sessions.

    Args:
        folder: the folder of the run.
        elapsed: tells how long the run has taken, all sessions together, s.
        saved: from `state`: what is there beyond that is of work that was lost, and is dropped.
            None for a new run, or one that starts again.
        every: of the rows that come with ``time/iterations``, only every n-th is written. SB3's
            own interval begins anew in every session.
        at: the step of the checkpoint.

    Attributes:
        lost: what is missing of what was logged before, in words; empty if nothing is.

    Raises:
        StorageError: (all methods) the disk is full, the folder read-only, ….
    """

    def __init__(
        self,
        folder: Path,
        elapsed: Callable[[], float] = float,
        saved: Mapping[str, Any] | None = None,
        every: int = 1,
        at: float = -1,
    ) -> None:
        rows = 0 if saved is None else int(saved["rows"])
        self.table = ProgressTable(folder / "progress.csv", rows, -1 if saved is None else at)
        self.events = EventFile(folder, None if saved is None else saved["events"])
        for row in self.table.kept:
            values = {name: float(value) for name, value in row.items() if name != STEPS}
            self.events.write(values, {name: () for name in values}, int(float(row[STEPS])))
        super().__init__(str(folder), [self.table, self.events])
        self._elapsed = elapsed
        self._every = every
        self._iterations_before = self.iterations = 0
        self.lost = ""
        if saved is not None:
            if (missing := rows + len(self.table.kept) - self.table.count) > 0:
                self.lost = f"{missing} rows of progress.csv"
            elif self.events.file.name != saved["events"]["file"]:
                self.lost = "the tensorboard file up to here"
            self._iterations_before = self.iterations = int(saved["iterations"])
            pending = saved["pending"]
            self.name_to_value.update(pending["values"])
            self.name_to_count.update(pending["counts"])
            self.name_to_excluded.update(pending["excluded"])

    def state(self) -> dict[str, Any]:
        """Where the files end, and what has been recorded but not written yet."""
        self.table.sync()
        self.events.sync()
        return {
            "rows": self.table.count,
            "events": self.events.place,
            "iterations": self.iterations,
            "pending": {
                "values": dict(self.name_to_value),
                "counts": dict(self.name_to_count),
                "excluded": dict(self.name_to_excluded),
            },
        }

    @override
    def record(self, key: str, value: object, exclude: str | tuple[str, ...] | None = None) -> None:
        # Python's numbers, of the same digits: they survive a checkpoint as they are.
        if isinstance(value, np.floating):
            value = float(str(value))
        elif isinstance(value, np.integer):
            value = int(value)
        super().record(key, value, exclude)

    @override
    def dump(self, step: int = 0) -> None:
        if "time/iterations" in self.name_to_value:
            self.iterations = self._iterations_before + int(self.name_to_value["time/iterations"])
            self.name_to_value["time/iterations"] = self.iterations
            if self.iterations % self._every:
                for name in ("time/iterations", "time/time_elapsed", "time/fps"):
                    self.name_to_value.pop(name, None)
                return
        if "time/time_elapsed" in self.name_to_value:
            elapsed = self._elapsed()
            self.name_to_value["time/time_elapsed"] = int(elapsed)
            self.name_to_value["time/fps"] = int(step / elapsed) if elapsed else 0
        super().dump(step)

    def write_row(self, values: Mapping[str, Any], step: int) -> None:
        """Write a separate row, beside what is being recorded."""
        row = {**values, STEPS: step}
        if {name: str(value) for name, value in row.items()} in self.table.kept:
            return  # a run that was cut off at its end does that again
        excluded: dict[str, tuple[str, ...]] = {name: () for name in values}
        excluded[STEPS] = ("tensorboard",)
        for output in (self.table, self.events):
            output.write(row, excluded, step)


class EventFile(KVWriter):
    """Scalars for tensorboard, each row on its way to the disk when `write` returns.

    SB3's own writer starts another file in each session and leaves the points of lost work where
    they are, so that tensorboard shows them twice.

    Args:
        folder: the folder of the run.
        place: from `place`; what comes after it is cut off. None for a new file instead of any that
            is there.

    Raises:
        StorageError: (all methods) the disk is full, the folder read-only, ….
    """

    def __init__(self, folder: Path, place: Mapping[str, Any] | None = None) -> None:
        kept = None if place is None else folder / Path(str(place["file"])).name
        with reporting_storage(folder / PATTERN):
            for file in folder.glob(PATTERN):
                if file != kept:
                    file.unlink()
            if place is not None and kept is not None and _has(kept, place["bytes"]):
                self.file = kept
                os.truncate(kept, place["bytes"])
            else:
                # tensorboard wants the time in the name
                self.file = folder / f"events.out.tfevents.{int(time.time())}.nprobot"
                self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    @property
    def place(self) -> dict[str, Any]:
        """Where the file ends now."""
        with reporting_storage(self.file):
            return {"file": self.file.name, "bytes": self.file.stat().st_size}

    @override
    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        values = filter_excluded_keys(key_values, key_excluded, "tensorboard")
        scalars = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in sorted(values.items())
            if isinstance(value, int | float | np.number)
        ]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def sync(self) -> None:
        """Make sure that the file is on the disk."""
        with reporting_storage(self.file):
            sync(self.file)

    @override
    def close(self) -> None:
        """Nothing: the file is closed after each row."""

    def _append(self, event: Event) -> None:
        # Without a buffer: a row is there or not, whenever we are killed.
        with reporting_storage(self.file), self.file.open("ab", buffering=0) as stream:
            RecordWriter(stream).write(event.SerializeToString())


def _has(file: Path, size: int) -> bool:
    return file.exists() and file.stat().st_size >= size


class ProgressTable(KVWriter):
    """A CSV file with one row each time SB3's logger is dumped.

    Columns are sorted by name, the steps first. The file is whole at any time: a row is appended,
    and where a new column comes up the file is written anew beside the old one and renamed.

    Args:
        file: where the table is.
        keep: how many of the rows that are there stay; the others are of work that was lost. None
            for all.
        at: the step of the checkpoint; what was evaluated up to there stays in any case.

    Raises:
        StorageError: (all methods) the disk is full, the folder read-only, ….
    """

    def __init__(self, file: Path, keep: int | None = None, at: float = -1) -> None:
        self.file = file
        found = read_table(file)
        #: Evaluations after the last checkpoint, of the policy that is in it.
        self.kept = [] if keep is None else _evaluations(found[keep:], at)
        # How many there are; they are on the disk alone, as a run may last for days.
        self.count = 0
        self.columns: list[str] = []
        if file.exists():
            self._rewrite(found[:keep] + self.kept)

    @override
    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        row = {name: str(value) for name, value in values.items()}
        if row.keys() <= set(self.columns):
            with (
                reporting_storage(self.file),
                self.file.open("a", newline="", encoding="utf-8") as stream,
            ):
                csv.DictWriter(stream, self.columns).writerow(row)
            self.count += 1
        else:
            self._rewrite([*read_table(self.file), row])

    def sync(self) -> None:
        """Make sure that the table is on the disk."""
        if self.count:
            with reporting_storage(self.file):
                sync(self.file)

    @override
    def close(self) -> None:
        """Nothing: the file is closed after each row."""

    def _rewrite(self, rows: list[LogRow]) -> None:
        names = {name for row in rows for name in row}
        self.columns = sorted(names, key=lambda name: (name != STEPS, name))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        if rows:
            writer.writeheader()
        writer.writerows(rows)
        write_whole(self.file, text.getvalue().encode())
        self.count = len(rows)


def read_table(file: Path) -> list[LogRow]:
    """The rows of a table, each with the columns in which it has a value; none if there is no file.

    The last one is left out if it is torn: a row ends with a line break. What is not a table any
    more is left out too.

    Raises:
        ForeignFileError: it is no file, or larger than the table of any run.
    """
    try:
        text = read_file(file, LARGEST_TABLE).decode(errors="replace")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    rows: list[LogRow] = []
    try:
        for row in csv.DictReader(io.StringIO(whole, newline="")):
            if _is_number(row.get(STEPS)):
                rows.append({k: v for k, v in row.items() if v and isinstance(k, str)})  # noqa: PERF401
    except csv.Error:
        pass  # the rows before are good
    return rows


def _evaluations(rows: list[LogRow], at: float) -> list[LogRow]:
    """The evaluations among rows after the last checkpoint that are of the policy in it."""
    return [
        row
        for row in rows
        if float(row[STEPS]) <= at and any(name.startswith(EVALUATION) for name in row)
    ]


def column(rows: list[LogRow], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a column, where it has a value."""
    points = [(float(row[STEPS]), float(row[name])) for row in rows if _is_number(row.get(name))]
    return [step for step, _ in points], [value for _, value in points]


def _is_number(text: object) -> bool:
    try:
        return math.isfinite(float(str(text)))
    except ValueError:
        return False
