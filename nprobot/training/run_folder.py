"""A run on disk: the folder, its `config.json`, and where everything else in it lies."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import RunConfig
from .errors import DamagedRunError, RunExistsError, RunNotFoundError
from .versions import git_commit, versions

CONFIG_FILE = "config.json"
FORMAT = "nprobot-run"
VERSION = 1


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Attributes:
        path: the folder.
        config: what the run does, every default filled in.
    """

    path: Path
    config: RunConfig

    @property
    def progress(self) -> Path:
        """Table of the run, one row a log interval, with SB3's names."""
        return self.path / "progress.csv"

    @property
    def curve(self) -> Path:
        """Figure of the return over steps."""
        return self.path / "curve.png"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @classmethod
    def create(cls, path: Path, config: RunConfig, command: str | None = None) -> RunFolder:
        """Make the folder of a new run and write its `config.json`.

        Args:
            path: the folder; it may exist only if it is empty.
            config: with every default filled in.
            command: the command line that started the run.

        Raises:
            RunExistsError: there is something at `path`.
        """
        refuse_existing(path)
        path.mkdir(parents=True, exist_ok=True)
        _write(
            path,
            {
                "format": FORMAT,
                "version": VERSION,
                "command": command,
                "config": config.to_dict(),
                "sessions": [_session(0)],
            },
        )
        return cls(path, config)

    def update(self, steps: int) -> None:
        """Write `config.json` anew for a run that goes on at some number of steps."""
        description = _read(self.path)
        description["config"] = self.config.to_dict()
        description["sessions"].append(_session(steps))
        _write(self.path, description)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Find a run.

        Raises:
            RunNotFoundError: the folder has no `config.json`.
            DamagedRunError: that cannot be read.
            UnknownNameError: it has an option that this version does not know.
        """
        description = _read(path)
        try:
            return cls(path, RunConfig.from_dict(description["config"]))
        except (TypeError, AttributeError) as error:
            raise DamagedRunError(f"{path / CONFIG_FILE} makes no sense: {error}") from error


def default_path(config: RunConfig, root: Path = Path("runs")) -> Path:
    """``runs/<env>-<algo>-<rule>-<seed>-<time>``, not yet taken."""
    env = config.env.replace("/", "_").replace(":", "_")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = root / f"{env}-{config.algo}-{config.rule}-{config.seed}-{stamp}"
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def find_policy(path: Path) -> Path:
    """The folder of the policy file that a path means: of the newest checkpoint, for a run."""
    last = path / "checkpoints" / "last"
    return last if last.exists() else path


def refuse_existing(path: Path) -> None:
    """Raise `RunExistsError` if there is anything but an empty folder at `path`."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise RunExistsError(
            f"{path} exists; a run is never written over another. Choose another --out, or go on "
            f"with the run that is there: nprobot train --resume {path}"
        )


def _session(steps: int) -> dict[str, Any]:
    """What this process adds to the run, from some number of steps on."""
    return {
        "from_step": steps,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
        "git_commit": git_commit(),
    }


def _read(path: Path) -> dict[str, Any]:
    file = path / CONFIG_FILE
    try:
        description: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind, version = description["format"], description["version"]
        if kind != FORMAT or version > VERSION:
            raise DamagedRunError(
                f"{file} has the format {kind!r}, version {version}; this nprobot reads "
                f"{FORMAT!r} up to version {VERSION}"
            )
    except (FileNotFoundError, NotADirectoryError):
        raise RunNotFoundError(f"there is no run at {path}: it has no {CONFIG_FILE}") from None
    except DamagedRunError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedRunError(f"{file} cannot be read: {error!r}") from error
    return description


def _write(path: Path, description: dict[str, Any]) -> None:
    """Write `config.json` whole or not at all."""
    writing = path / f".{CONFIG_FILE}.writing"
    writing.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    os.replace(writing, path / CONFIG_FILE)
