"""Files that are written whole or not at all, by one process at a time, with clear errors."""

from __future__ import annotations

import os
import shlex
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nprobot.errors import BusyError, ExistsError, NprobotError, RunFailedError, StorageError

ERRORS = "errors.log"
"""Where in a run the traceback of each failure is kept."""


@contextmanager
def reporting_storage(path: Path) -> Iterator[None]:
    """Turn whatever the operating system refuses here into a `StorageError` that names the path."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {path}: {reason[:1].lower()}{reason[1:]}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file: a reader sees the old one or the new, even if this process is killed.

    Raises:
        StorageError: the disk is full, the folder read-only, ….
    """
    temporary = path.with_name(f".{path.name}.writing")
    with reporting_storage(path):
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def quoted(path: Path) -> str:
    """A path as a shell takes it: in quotes if it has spaces."""
    return shlex.quote(str(path))


def free_name(path: Path) -> Path:
    """The path, or with a number after its stem if there is something: ``film-2.mp4``."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def refuse_file(path: Path, force: bool = False) -> None:
    """Refuse to write over a file, unless that was asked for.

    Raises:
        ExistsError: there is something, and `force` is off; the message offers a free name.
        StorageError: there is a folder.
    """
    if path.is_dir():
        raise StorageError(f"{path} is a folder; name a file")
    if path.exists() and not force:
        raise ExistsError(
            f"{path} is there already; --force replaces it, and {quoted(free_name(path))} is free"
        )


def sync(path: Path) -> None:
    """Make sure that a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def logged_failure(folder: Path) -> Iterator[None]:
    """Append the traceback of whatever ends a run too early to its `errors.log`."""
    try:
        yield
    except Exception as error:
        # What was asked for in a wrong way has its reason in the message.
        if isinstance(error, RunFailedError) or not isinstance(error, NprobotError):
            with suppress(OSError), (folder / ERRORS).open("a", encoding="utf-8") as log:
                log.write(time.strftime("%Y-%m-%d %H:%M:%S\n"))
                log.write("".join(traceback.format_exception(error)))
        raise


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run; a process that is killed releases it.

    Raises:
        BusyError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        with logged_failure(folder):
            yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"another process is at work on the run {folder}") from None
        except OSError:
            pass  # a file system without locks
        with logged_failure(folder):
            yield
    finally:
        os.close(descriptor)
