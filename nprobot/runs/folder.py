"""A run on disk, whatever makes it: the folder, its `config.json`, what each session of it did."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from nprobot.errors import (
    DamagedFileError,
    ExistsError,
    ForeignFileError,
    NewerFileError,
    NotFoundError,
)
from nprobot.options import Options

from .atomic_files import reporting_storage, sync, write_whole
from .checkpoints import LAST, numbered
from .versions import git_commit, versions

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Folder:
    """The folder of a run; subclasses say what kind of run it is.

    Attributes:
        path: the folder.
        config: what the run does, every default filled in.
        source: where its data come from, JSON values; empty if nowhere.
    """

    form: ClassVar[str]
    """Format of `config.json`."""
    version: ClassVar[int] = 1
    what: ClassVar[str]
    """A word for such a run."""
    resume_command: ClassVar[str]
    """What continues it, before the path."""
    unit: ClassVar[str]
    """What its sessions count."""
    options: ClassVar[type[Options]]
    """Class of the configuration."""

    path: Path
    config: Any
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def progress(self) -> Path:
        """Table of the run."""
        return self.path / "progress.csv"

    @property
    def curve(self) -> Path:
        """Figure of the table."""
        return self.path / "curve.png"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @classmethod
    def create(
        cls,
        path: Path,
        config: Options,
        *,
        command: str | None = None,
        source: Mapping[str, Any] | None = None,
        begin: Callable[[Self], object] = lambda folder: None,
        about: Mapping[str, Any] | None = None,
        **session: Any,
    ) -> Self:
        """Make the folder of a new run, `config.json` and all that `begin` writes, or nothing.

        Args:
            path: the folder; it may exist only if it is empty.
            config: with every default filled in.
            command: the command line that started the run.
            source: how to make its data again.
            begin: writes what has to be there from the start.
            about: more for a reader of `config.json`.
            session: on what it begins, such as ``device="cpu"``.

        Raises:
            ExistsError: there is something at `path`.
            StorageError: the folder cannot be made.
        """
        cls.refuse_existing(path)
        folder = cls(path, config, dict(source or {}))
        unfinished = cls(path.with_name(f".{path.name}.writing"), config, folder.source)
        with reporting_storage(path):
            shutil.rmtree(unfinished.path, ignore_errors=True)  # left by a run that was killed
            unfinished.path.mkdir(parents=True)
        description = {
            "format": cls.form,
            "version": cls.version,
            "command": command,
            "config": config.to_dict(),
            **({"source": dict(folder.source)} if source is not None else {}),
            **({"about": dict(about)} if about is not None else {}),
            "sessions": [cls._session(0, **session)],
        }
        unfinished._write(description)
        begin(unfinished)
        with reporting_storage(path):
            os.rename(unfinished.path, path)
            sync(path.parent)
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """Find a run.

        Raises:
            NotFoundError: the folder has no `config.json`.
            DamagedFileError: that cannot be read.
            ForeignFileError: it is that of another kind of run.
            NewerFileError: it was written by a newer version of this software.
            UnknownNameError: it has an option that this version does not know.
        """
        description = cls._read(path)
        try:
            config = cls.options.from_dict(description["config"])
            return cls(path, config, description.get("source", {}))
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedFileError(f"{path / CONFIG_FILE} is damaged: {error!r}") from error

    @classmethod
    def refuse_existing(cls, path: Path) -> None:
        """Raise `ExistsError` if there is anything but an empty folder at `path`."""
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ExistsError(
                f"{path} exists; a run is never written over another. Choose another --out, or "
                f"continue the {cls.what} that is there: {cls.resume_command} {path}"
            )

    def begin_session(self, at: int, **session: Any) -> None:
        """Write `config.json` anew for a run that continues.

        Args:
            at: steps or epochs behind it.
            session: on what it continues, such as ``device="cpu"``.
        """
        description = self._read(self.path)
        description["config"] = self.config.to_dict()
        description["sessions"].append(self._session(at, **session))
        self._write(description)

    def end_session(self, at: int, ending: str) -> None:
        """Write down that all is done that a session has to do, and why it ended."""
        description = self._read(self.path)
        description["sessions"][-1] |= {f"to_{self.unit}": at, "ended": ending}
        self._write(description)

    def last_session(self) -> dict[str, Any]:
        """What is written about the session before this one."""
        sessions = self._read(self.path)["sessions"]
        return dict(sessions[-1]) if sessions else {}

    @classmethod
    def _session(cls, at: int, **begun: Any) -> dict[str, Any]:
        return {
            f"from_{cls.unit}": at,
            **begun,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": versions(),
            "git_commit": git_commit(),
        }

    @classmethod
    def _read(cls, path: Path) -> dict[str, Any]:
        file = path / CONFIG_FILE
        try:
            description: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            found, version = description["format"], int(description["version"])
            if found != cls.form:
                raise ForeignFileError(
                    f"{file} has the format {found!r}; this command reads {cls.form!r}"
                )
            if version > cls.version:
                raise NewerFileError(
                    f"{file} has format version {version}; this nprobot reads up to "
                    f"{cls.version}. Upgrade nprobot."
                )
            description["sessions"] = [dict(session) for session in description["sessions"]]
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(
                f"there is no {cls.what} at {path}: it has no {CONFIG_FILE}"
            ) from None
        except (ForeignFileError, NewerFileError):
            raise
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedFileError(f"{file} cannot be read: {error!r}") from error
        return description

    def _write(self, description: Mapping[str, Any]) -> None:
        text = json.dumps(description, indent=2, ensure_ascii=False, default=str)
        write_whole(self.path / CONFIG_FILE, f"{text}\n".encode())


def default_path(*parts: object, root: Path = Path("runs")) -> Path:
    """``runs/<part>-<part>-…-<time>``, not yet taken."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = "-".join(map(str, (*parts, stamp)))
    plain = "".join(c if c.isalnum() or c in "-_.+" else "_" for c in name)
    return unique_path(root / plain)


def unique_path(path: Path) -> Path:
    """The path, or with a number after it if there is something."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def find_policy(path: Path) -> Path:
    """The folder of the policy file that a path means: of the newest checkpoint, for a run."""
    checkpoints = path / "checkpoints"
    if (checkpoints / LAST).exists():
        return checkpoints / LAST
    # A link that was lost, by copying a run for example.
    return next(iter(numbered(checkpoints)), path)
