"""A run on disk, whatever makes it: the folder, its `config.json`, what each session of it did."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from nprobot.catalogue import import_trusted
from nprobot.errors import (
    DamagedFileError,
    ExistsError,
    ForeignFileError,
    NewerFileError,
    NotFoundError,
)
from nprobot.options import Options
from nprobot.policies.files.reading import read_file

from .atomic_files import free_name, new_folder, quoted, write_whole
from .checkpoints import LAST, numbered
from .versions import git_commit, versions

CONFIG_FILE = "config.json"
LARGEST = 2**24
"""Bytes of it."""


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
            BusyError: another process is making it.
            StorageError: the folder cannot be made.
        """
        cls.refuse_existing(path)
        folder = cls(path, config, dict(source or {}))
        description = {
            "format": cls.form,
            "version": cls.version,
            "command": command,
            "config": config.to_dict(),
            **({"source": dict(folder.source)} if source is not None else {}),
            **({"about": dict(about)} if about is not None else {}),
            "sessions": [cls._session(0, **session)],
        }
        with new_folder(path) as place:
            unfinished = cls(place, config, folder.source)
            unfinished._write(description)
            begin(unfinished)
        return folder

    @classmethod
    def open(cls, path: Path, *, trust: bool = False) -> Self:
        """Find a run.

        Args:
            path: its folder.
            trust: whether modules that it names may be imported; see `catalogue.import_trusted`.

        Raises:
            ConfigError: it names a module that has not been imported.
            NotFoundError: the folder has no `config.json`.
            DamagedFileError: that cannot be read.
            ForeignFileError: it is that of another kind of run.
            NewerFileError: it was written by a newer version of this software.
            UnknownNameError: it has an option that this version does not know.
        """
        description = cls._read(path)
        try:
            for name in ("env", "rule"):
                given = str(description["config"].get(name) or "")
                own = dict(description["config"].get("env_kwargs") or {}) if name == "env" else {}
                import_trusted(given, f"the {cls.what} {path}", trust, own)
            config = cls.options.from_dict(description["config"])
            return cls(path, config, description.get("source", {}))
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedFileError(f"{path / CONFIG_FILE} is damaged: {error!r}") from error

    @classmethod
    def refuse_existing(cls, path: Path) -> None:
        """Raise `ExistsError` if there is anything but an empty folder at `path`."""
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ExistsError(
                f"{path} exists; a run is never written over another. Choose another --out, such "
                f"as {quoted(free_name(path))}, or continue the {cls.what} that is there: "
                f"{cls.resume_command} {quoted(path)}"
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

    def history(self) -> list[dict[str, Any]]:
        """The commands of all sessions, with what each began and ended at."""
        description = self._read(self.path)
        sessions = [dict(session) for session in description["sessions"]]
        if sessions:
            sessions[0].setdefault("command", description.get("command"))
        names = ("command", f"from_{self.unit}", f"to_{self.unit}", "ended")
        return [{n: session[n] for n in names if n in session} for session in sessions]

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
            description: dict[str, Any] = json.loads(read_file(file, LARGEST).decode())
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
        except FileNotFoundError:
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
    return free_name(root / plain)


def find_policy(path: Path) -> Path:
    """The folder of the policy file that a path means: of the newest checkpoint, for a run."""
    checkpoints = path / "checkpoints"
    if (checkpoints / LAST).exists():
        return checkpoints / LAST
    # A link that was lost, by copying a run for example.
    return next(iter(numbered(checkpoints)), path)
