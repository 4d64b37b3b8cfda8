"""Reading files that strangers may have made: looked at before they are opened, in bounds."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from ...errors import ForeignFileError


def read_file(path: str | Path, most: int) -> bytes:
    """The content of a regular file that is not too large.

    A named pipe or a device would never end, and a sparse file of terabytes fits on any disk.

    Args:
        path: the file; links are followed.
        most: bytes that it may have.

    Raises:
        FileNotFoundError: there is no such file.
        ForeignFileError: it is something else than a file, is larger, or cannot be read.
    """
    with open_file(path) as stream:
        if os.fstat(stream.fileno()).st_size <= most:
            data = stream.read(most + 1)
            if len(data) <= most:
                return data
    raise ForeignFileError(f"{path} is larger than any such file, {most:,} bytes")


@contextmanager
def open_file(path: str | Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading; what goes wrong until it is closed is of the file, too.

    Raises:
        FileNotFoundError: there is no such file.
        ForeignFileError: it is something else than a file, or cannot be read.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
            raise ForeignFileError(f"{path} is {kind}; a file is needed")
        with open(path, "rb", opener=_at_once) as stream:
            yield stream
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise ForeignFileError(f"{path} cannot be read: {error.strerror}") from None


def _at_once(path: str, flags: int) -> int:
    # What has become a pipe since we looked does not block.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Limit how many more bytes the process can take; does nothing where that cannot be set.

    What asks for more fails: Python with a `MemoryError`, C++ with its own exception. The limit
    holds for all threads of the process meanwhile.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limits = resource.getrlimit(resource.RLIMIT_AS)
        most = pages * resource.getpagesize() + more
        if limits[0] != resource.RLIM_INFINITY:
            most = min(most, limits[0])
        resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    except (ImportError, OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def check_texts(description: Any) -> None:  # noqa: ANN401 - JSON
    """Refuse texts in a JSON value that a terminal would obey.

    Raises:
        ValueError: there is a control character in one of them.
    """
    waiting = [description]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and _CONTROL.search(value):
            raise ValueError(f"a control character in {value!r:.60}")


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but the tabulator and the end of a line."""
