"""Files that are written whole or not at all, by one process at a time, with clear errors."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
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
    except NprobotError:
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


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to be filled, which is renamed to `path` at the end: that appears whole, or never.

    Args:
        path: what there is not yet, or an empty folder.
        replace: whether a folder that is there is replaced.

    Raises:
        BusyError: another process is making it.
        ExistsError: another process has just made it.
        StorageError: the disk is full, the folder read-only, ….
    """
    unfinished = path.with_name(f".{path.name}.writing")
    with reporting_storage(path):
        unfinished.mkdir(parents=True, exist_ok=True)
        with lock_run(unfinished):
            for left in unfinished.iterdir():  # by a process that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            try:
                yield unfinished
                if replace:
                    shutil.rmtree(path, ignore_errors=True)
                os.rename(unfinished, path)
            except BaseException as error:
                shutil.rmtree(unfinished, ignore_errors=True)
                if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    raise ExistsError(f"{path} has just been made by another process") from None
                raise
        sync(path.parent)


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
    """Keep other processes out of a folder; a process that is killed releases it.

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
            raise BusyError(f"another process is at work in {folder}") from None
        except OSError:
            pass  # a file system without locks
        with logged_failure(folder):
            yield
    finally:
        os.close(descriptor)
