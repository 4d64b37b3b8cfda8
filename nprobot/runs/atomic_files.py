"""Files that are written whole or not at all, by one process at a time, with clear errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nprobot.errors import BusyError, StorageError


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


def sync(path: Path) -> None:
    """Make sure that a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run; a process that is killed releases it.

    Raises:
        BusyError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
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
        yield
    finally:
        os.close(descriptor)
