"""The tensorboard file of a run: one, carried on by a resumed run where its checkpoint was."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import KVWriter, filter_excluded_keys
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from typing_extensions import override

from .files import storing, sync

PATTERN = "events.out.tfevents.*"


class EventFile(KVWriter):
    """Scalars for tensorboard, each row on its way to the disk when `write` returns.

    SB3's own writer starts another file in each session and leaves the points of lost work where
    they are, so that tensorboard shows them twice.

    Args:
        folder: of the run.
        place: from `place`; what comes after it is cut off. None for a new file instead of any that
            is there.

    Raises:
        StorageError: (all methods) the disk is full, the folder read-only, ….
    """

    def __init__(self, folder: Path, place: Mapping[str, Any] | None = None) -> None:
        kept = None if place is None else folder / Path(str(place["file"])).name
        with storing(folder / PATTERN):
            for file in folder.glob(PATTERN):
                if file != kept:
                    file.unlink()
            if place is not None and kept is not None and _has(kept, place["bytes"]):
                self.file = kept
                os.truncate(kept, place["bytes"])
            else:
                # tensorboard wants the time in the name
                self.file = folder / f"events.out.tfevents.{int(time.time())}.nprobot"
                self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    @property
    def place(self) -> dict[str, Any]:
        """Where the file ends now."""
        with storing(self.file):
            return {"file": self.file.name, "bytes": self.file.stat().st_size}

    @override
    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        values = filter_excluded_keys(key_values, key_excluded, "tensorboard")
        scalars = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in sorted(values.items())
            if isinstance(value, int | float | np.number)
        ]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def sync(self) -> None:
        """Make sure that the file is on the disk."""
        with storing(self.file):
            sync(self.file)

    @override
    def close(self) -> None:
        """Nothing: the file is closed after each row."""

    def _append(self, event: Event) -> None:
        # Without a buffer: a row is there or not, whenever we are killed.
        with storing(self.file), self.file.open("ab", buffering=0) as stream:
            RecordWriter(stream).write(event.SerializeToString())


def _has(file: Path, size: int) -> bool:
    return file.exists() and file.stat().st_size >= size
