"""The rows of a benchmark, one for each run, and the file that they are kept in.

`rows.jsonl` holds a JSON object a line, a run each, its curve in it. A line is written by one call
and synced, so a kill at any moment leaves whole lines and perhaps a part of a last one, which the
next writer cuts off: that run is done again, none is lost or doubled.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from nprobot.errors import ConfigError, DamagedFileError
from nprobot.runs.atomic_files import lock_run, quoted, reporting_storage
from nprobot.runs.versions import git_commit, versions

from .methods import RunSpec

Row = dict[str, Any]

ROWS = "rows.jsonl"
FORMAT = 2
"""Version of a row. In the first one, seeds were spread over the parts of a run in another way,
rules with feedback were a setting, and actuators were called hardware."""

DONE, FAILED, DIVERGED = "done", "failed", "diverged"
"""What may become of a run. Diverged: its numbers became NaN or infinite; that is a result."""

PEERS = ("sb3-contrib", "cma", "evosax")
"""Packages whose version matters to a row, beside those of every nprobot run."""

NO_DENSITY = "Expected parameter"
"""How torch's message begins when a distribution was given NaN."""


def blank(spec: RunSpec) -> Row:
    """The row of a run about to start."""
    row = {"format": FORMAT, **spec.to_dict(), "key": spec.key, "started": now()}
    found = dict(versions())
    for package in PEERS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return row | {"versions": found, "commit": git_commit(), "machine": machine()}


def failure(error: BaseException) -> Row:
    """What a row says about a run that failed."""
    diverged = isinstance(error, ArithmeticError) or str(error).startswith(NO_DENSITY)
    lines = traceback.format_exception(error)
    return {
        "status": DIVERGED if diverged else FAILED,
        "error": f"{type(error).__name__}: {error}".partition("\n")[0],
        "traceback": "".join(lines[-3:]),
        "ended": now(),
    }


def machine() -> str:
    """Processor and system in words; not the machine's name, which is nobody's business."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line for line in file if line.startswith("model name")]
    except OSError:
        models = []
    if models:
        name = models[0].partition(":")[2].strip()
    return f"{name}, {platform.system()} {platform.machine()}"


def now() -> str:
    """The time, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class RowStore:
    """A folder of results that is open for writing; made by `open_rows`.

    Attributes:
        rows: all rows, the newest of each run, in the order of their first line.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / ROWS
        rows, whole = parse_rows(path) if path.exists() else ([], 0)
        self.rows = latest(rows)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, whole)  # what a kill left of the last line

    def append(self, row: Row) -> None:
        """Add a row; when this returns it is on the disk."""
        line = json.dumps(row, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        written = 0
        while written < len(line):
            written += os.write(self._file, line[written:])
        os.fsync(self._file)
        self.rows[row["key"]] = row

    def close(self) -> None:
        """No more rows."""
        os.close(self._file)


@contextmanager
def open_rows(folder: Path) -> Iterator[RowStore]:
    """Open a folder of results for writing, by one process at a time.

    Args:
        folder: made if it is not there.

    Raises:
        BusyError: another process has it open.
        DamagedFileError: a line in the middle cannot be read.
        StorageError: the disk is full, the folder read-only, ….
    """
    with reporting_storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock_run(folder), reporting_storage(folder / ROWS), closing(RowStore(folder)) as store:
        yield store


def read(path: Path) -> list[Row]:
    """The rows of a benchmark, the newest of each run; works while it is being written.

    Args:
        path: folder of the benchmark, or a file of rows.

    Raises:
        DamagedFileError: there are none, or they cannot be read.
    """
    file = path / ROWS if path.is_dir() else path
    if not file.is_file():
        raise DamagedFileError(
            f"{path} holds no results ({ROWS}); `nprobot bench SUITE --out {quoted(path)}` makes "
            "some"
        )
    return list(latest(parse_rows(file)[0]).values())


def latest(rows: Iterable[Row]) -> dict[str, Row]:
    """The newest row of each run, by its key."""
    return {row["key"]: row for row in rows}


def parse_rows(path: Path) -> tuple[list[Row], int]:
    """Rows of a file, and how many bytes of it are whole lines.

    Raises:
        DamagedFileError: a line that is not the last cannot be read.
    """
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    rows = []
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            rows.append(upgraded(json.loads(line)))
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise DamagedFileError(
                f"line {number} of {path} is not a row of a benchmark ({error}); take it out to "
                "continue without that run"
            ) from error
    return rows, whole


def upgraded(row: Mapping[str, Any]) -> Row:
    """A row as this version would have written it, but for its `format`, which says who did."""
    if row.get("format", 1) == FORMAT:
        row["key"]
        return dict(row)
    spec = RunSpec.of_row(row)
    others = {name: value for name, value in row.items() if name not in RunSpec.renamed}
    return {"format": 1, **others, **spec.to_dict(), "key": spec.key}
