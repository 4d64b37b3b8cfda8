"""The description of a run or a fit, its `config.json`: where it is, and how it is read."""

from __future__ import annotations

from nprobot.errors import DamagedFileError, ForeignFileError, NewerFileError, NotFoundError
import json
import time
from pathlib import Path
from typing import Any


from .versions import (git_commit, versions)

CONFIG_FILE = "config.json"


def read_description(path: Path, form: str, version: int, what: str) -> dict[str, Any]:
    """Read the `config.json` of a folder.

    Args:
        path: the folder.
        form: the format that it must have.
        version: the newest version of the format that can be read.
        what: a word for it in errors, such as ``"run"``.

    Raises:
        NotFoundError: the folder has no `config.json`.
        DamagedFileError: that cannot be read.
        ForeignFileError: it has another format.
        NewerFileError: it was written by a newer version of this software.
    """
    file = path / CONFIG_FILE
    try:
        description: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found, its_version = description["format"], int(description["version"])
        if found != form:
            raise ForeignFileError(f"{file} has the format {found!r}; this command reads {form!r}")
        if its_version > version:
            raise NewerFileError(
                f"{file} has format version {its_version}; this nprobot reads up to {version}. "
                "Upgrade nprobot."
            )
        description["sessions"] = [dict(session) for session in description["sessions"]]
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"there is no {what} at {path}: it has no {CONFIG_FILE}") from None
    except (ForeignFileError, NewerFileError):
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFileError(f"{file} cannot be read: {error!r}") from error
    return description


def new_session(**begun: Any) -> dict[str, Any]:
    """What this process adds to the description.

    Args:
        **begun: where it begins and on what, such as ``from_step=512``.
    """
    return {
        **begun,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "git_commit": git_commit(),
    }


def untaken(path: Path) -> Path:
    """The path, or with a number after it if there is something."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
