"""A fit on disk: `config.json`, `progress.csv`, checkpoints, scores, and the figure.

| in ``runs/<task>-<rule>-<seed>-<time>/`` | |
|---|---|
| `config.json` | settings, data, network, versions: everything needed to do it again |
| `progress.csv` | one row an epoch |
| `checkpoints/step_000002580/` | written whole and renamed; `last` points at the newest |
| … `model.json`, `.safetensors` | the best model so far, by validation error |
| … `policy.json`, `.safetensors` | the same, for deployment without torch |
| … `training.json`, `.safetensors` | where learning goes on, and the table up to there |
| … `checkpoint.json` | checksums of these files |
| `scores.csv` | error of every target in every split, at the end |
| `curve.png` | error over epochs |
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nprobot.errors import DamagedFileError, ExistsError
from nprobot.runs.description import CONFIG_FILE, new_session, read_description, untaken
from nprobot.runs.files import reporting_storage, sync, write_whole

from .config import FitConfig

FORMAT = "nprobot-fit"
VERSION = 1

Row = Mapping[str, float]


@dataclass(frozen=True)
class FitFolder:
    """The folder of a fit.

    Attributes:
        path: the folder.
        config: what the fit does, every default filled in.
        source: how to make the data again, JSON values; empty for data made in Python.
    """

    path: Path
    config: FitConfig
    source: Mapping[str, Any]

    @property
    def progress(self) -> Path:
        """Table with one row an epoch."""
        return self.path / "progress.csv"

    @property
    def scores(self) -> Path:
        """Table of errors by split and target."""
        return self.path / "scores.csv"

    @property
    def curve(self) -> Path:
        """Figure of the error over the epochs."""
        return self.path / "curve.png"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @classmethod
    def create(
        cls,
        path: Path,
        config: FitConfig,
        *,
        source: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
        command: str | None = None,
        begin: Callable[[FitFolder], None] = lambda folder: None,
    ) -> FitFolder:
        """Make the folder of a new fit, `config.json` and all that `begin` writes, or nothing.

        Args:
            path: the folder; it may exist only if it is empty.
            config: with every default filled in.
            source: how to make the data again.
            about: data and network, for a reader.
            command: the command line that started the fit.
            begin: writes the first checkpoint, so that there always is one to go on from.

        Raises:
            ExistsError: there is something at `path`.
            StorageError: the folder cannot be made.
        """
        refuse_existing(path)
        folder = cls(path, config, dict(source or {}))
        unfinished = cls(path.with_name(f".{path.name}.writing"), config, folder.source)
        with reporting_storage(path):
            shutil.rmtree(unfinished.path, ignore_errors=True)  # left by a fit that was killed
            unfinished.path.mkdir(parents=True)
        unfinished._write(
            {
                "format": FORMAT,
                "version": VERSION,
                "command": command,
                "config": config.to_dict(),
                "source": dict(folder.source),
                "about": dict(about or {}),
                "sessions": [new_session(after_epoch=0)],
            }
        )
        begin(unfinished)
        with reporting_storage(path):
            os.rename(unfinished.path, path)
            sync(path.parent)
        return folder

    @classmethod
    def open(cls, path: Path) -> FitFolder:
        """Find a fit.

        Raises:
            NotFoundError: the folder has no `config.json`.
            DamagedFileError: that cannot be read.
            ForeignFileError: it is that of another kind of run.
            NewerFileError: it was written by a newer version of this software.
        """
        description = _read(path)
        try:
            return cls(path, FitConfig.from_dict(description["config"]), description["source"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedFileError(f"{path / CONFIG_FILE} makes no sense: {error!r}") from error

    def begin_session(self, epochs: int) -> None:
        """Write `config.json` anew for a fit that goes on after some number of epochs."""
        description = _read(self.path)
        description["config"] = self.config.to_dict()
        description["sessions"].append(new_session(after_epoch=epochs))
        self._write(description)

    def end_session(self, epochs: int, ending: str) -> None:
        """Write down that all is done that a session has to do."""
        description = _read(self.path)
        description["sessions"][-1] |= {"to_epoch": epochs, "ended": ending}
        self._write(description)

    def last_session(self) -> dict[str, Any]:
        """What is known of the session that went on with the fit last."""
        sessions = _read(self.path)["sessions"]
        return dict(sessions[-1]) if sessions else {}

    def write_progress(self, rows: Sequence[Row]) -> None:
        """Write `progress.csv` whole."""
        write_table(self.progress, rows)

    def read_progress(self, epochs: int) -> list[dict[str, float]]:
        """The rows of the first so many epochs."""
        if not self.progress.exists():
            return []
        with self.progress.open(newline="", encoding="utf-8") as stream:
            rows = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(stream)]
        return [row for row in rows if row["epoch"] <= epochs]

    def _write(self, description: Mapping[str, Any]) -> None:
        """Write `config.json` whole or not at all."""
        text = json.dumps(description, indent=2, ensure_ascii=False, default=str)
        write_whole(self.path / CONFIG_FILE, f"{text}\n".encode())


def default_path(task: str, config: FitConfig, root: Path = Path("runs")) -> Path:
    """``runs/<task>-<rule>-<seed>-<time>``, not yet taken."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in task)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return untaken(root / f"{plain}-{config.rule}-{config.seed}-{stamp}")


def refuse_existing(path: Path) -> None:
    """Raise `ExistsError` if there is anything but an empty folder at `path`."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ExistsError(
            f"{path} exists; a run is never written over another. Choose another --out, or go on "
            f"with the fit that is there: nprobot fit --resume {path}"
        )


def write_table(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file whole or not at all; the first row names the columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, text.getvalue().encode())


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


def _read(path: Path) -> dict[str, Any]:
    return read_description(path, FORMAT, VERSION, "fit")
