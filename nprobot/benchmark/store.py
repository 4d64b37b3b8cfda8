"""The rows of a benchmark on disk: appended whole, one writer at a time, safe from a kill.

`rows.jsonl` holds a JSON object a line, a run each, its curve in it. A line is written by one call
and synced, so a kill at any moment leaves whole lines and perhaps a part of a last one, which the
next writer cuts off: that run is done again, none is lost or doubled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from nprobot.errors import BusyError, DamagedFileError

try:
    import fcntl
except ImportError:  # not on Windows; there a second writer is not refused
    fcntl = None  # type: ignore[assignment]

ROWS = "rows.jsonl"
LOCK = ".lock"

Row = dict[str, Any]


class Store:
    """A folder of results, open for writing; use it in a ``with`` statement.

    Args:
        folder: made if it is not there.

    Attributes:
        rows: all rows, the newest of each run, in the order of their first line.

    Raises:
        BusyError: another process has it open.
        DamagedFileError: a line in the middle cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / LOCK).open("a")
        if fcntl is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._lock.close()
                raise BusyError(
                    f"another `nprobot bench` is writing into {folder}; wait for it, or choose "
                    "another --out"
                ) from None
        path = folder / ROWS
        rows, whole = parse(path) if path.exists() else ([], 0)
        self.rows: dict[str, Row] = {}
        for row in rows:
            self._know(row)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, whole)  # what a kill left of the last line

    def append(self, row: Row) -> None:
        """Add a row; when this returns it is on the disk."""
        line = json.dumps(row, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        written = 0
        while written < len(line):
            written += os.write(self._file, line[written:])
        os.fsync(self._file)
        self._know(row)

    def close(self) -> None:
        """Let others write."""
        os.close(self._file)
        self._lock.close()

    def _know(self, row: Row) -> None:
        self.rows[row["key"]] = row

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read(folder: Path) -> list[Row]:
    """The rows of a benchmark, the newest of each run; works while it is being written.

    Raises:
        DamagedFileError: there are none, or they cannot be read.
    """
    path = folder / ROWS
    if not path.is_file():
        raise DamagedFileError(
            f"{folder} holds no results ({ROWS}); `nprobot bench SUITE --out {folder}` makes some"
        )
    rows, _ = parse(path)
    return list(latest(rows).values())


def latest(rows: Iterable[Row]) -> dict[str, Row]:
    """The newest row of each run."""
    return {row["key"]: row for row in rows}


def parse(path: Path) -> tuple[list[Row], int]:
    """Rows of a file, and how many bytes of it are whole lines.

    Raises:
        DamagedFileError: a line that is not the last cannot be read.
    """
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    rows = []
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            row = json.loads(line)
            row["key"]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFileError(
                f"line {number} of {path} is not a row of a benchmark ({error}); take it out to go "
                "on without that run"
            ) from error
        rows.append(row)
    return rows, whole
