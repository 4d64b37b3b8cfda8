"""Files that are written whole or not at all, by one process at a time, with clear errors."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nprobot.errors import BusyError, ExistsError, NprobotError, StorageError


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


def sync(path: Path) -> None:
    """Make sure that a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; a process that is killed releases it.

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
            raise BusyError(f"another process is at work in {folder}") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)
