"""A run on disk: the folder, its `config.json`, and where everything else in it lies."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nprobot.errors import DamagedFileError, ExistsError
from nprobot.runs.checkpoints import LAST, numbered
from nprobot.runs.description import CONFIG_FILE, new_session, read_description, untaken
from nprobot.runs.files import storing, write_whole

from .config import RunConfig

FORMAT = "nprobot-run"
VERSION = 1

Ending = Literal["complete", "solved", "interrupted"]
"""Why a session of a run ended: it took its steps, its evaluation was good enough, or Ctrl-C."""


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
    def create(
        cls, path: Path, config: RunConfig, command: str | None = None, device: str = "cpu"
    ) -> RunFolder:
        """Make the folder of a new run and write its `config.json`.

        Args:
            path: the folder; it may exist only if it is empty.
            config: with every default filled in.
            command: the command line that started the run.
            device: torch device.

        Raises:
            ExistsError: there is something at `path`.
            StorageError: the folder cannot be made.
        """
        refuse_existing(path)
        with storing(path):
            path.mkdir(parents=True, exist_ok=True)
        _write(
            path,
            {
                "format": FORMAT,
                "version": VERSION,
                "command": command,
                "config": config.to_dict(),
                "sessions": [new_session(from_step=0, device=device)],
            },
        )
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Find a run.

        Raises:
            NotFoundError: the folder has no `config.json`.
            DamagedFileError: that cannot be read.
            ForeignFileError: it was not written by this command.
            NewerFileError: it was written by a newer version of this software.
            UnknownNameError: it has an option that this version does not know.
        """
        description = _read(path)
        try:
            return cls(path, RunConfig.from_dict(description["config"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedFileError(f"{path / CONFIG_FILE} makes no sense: {error!r}") from error

    def begin_session(self, steps: int, device: str) -> None:
        """Write `config.json` anew for a run that goes on at some number of steps."""
        description = _read(self.path)
        description["config"] = self.config.to_dict()
        description["sessions"].append(new_session(from_step=steps, device=device))
        _write(self.path, description)

    def end_session(self, steps: int, ending: Ending) -> None:
        """Write down that all is done that a session has to do."""
        description = _read(self.path)
        description["sessions"][-1] |= {"to_step": steps, "ended": ending}
        _write(self.path, description)

    def last_session(self) -> dict[str, Any]:
        """What is written about the session before this one."""
        sessions = _read(self.path)["sessions"]
        return dict(sessions[-1]) if sessions else {}


def default_path(config: RunConfig, root: Path = Path("runs")) -> Path:
    """``runs/<env>-<algo>-<rule>-<seed>-<time>``, not yet taken."""
    env = config.env.replace("/", "_").replace(":", "_")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return untaken(root / f"{env}-{config.algo}-{config.rule}-{config.seed}-{stamp}")


def find_policy(path: Path) -> Path:
    """The folder of the policy file that a path means: of the newest checkpoint, for a run."""
    checkpoints = path / "checkpoints"
    if (checkpoints / LAST).exists():
        return checkpoints / LAST
    # A link that was lost, by copying a run for example.
    return next(iter(numbered(checkpoints)), path)


def refuse_existing(path: Path) -> None:
    """Raise `ExistsError` if there is anything but an empty folder at `path`."""
    unfinished = f".{CONFIG_FILE}.writing"  # of a run that was killed before it was one
    if path.exists() and not (path.is_dir() and {p.name for p in path.iterdir()} <= {unfinished}):
        raise ExistsError(
            f"{path} exists; a run is never written over another. Choose another --out, or go on "
            f"with the run that is there: nprobot train --resume {path}"
        )


def _read(path: Path) -> dict[str, Any]:
    return read_description(path, FORMAT, VERSION, "run")


def _write(path: Path, description: dict[str, Any]) -> None:
    text = json.dumps(description, indent=2, ensure_ascii=False)
    write_whole(path / CONFIG_FILE, f"{text}\n".encode())
