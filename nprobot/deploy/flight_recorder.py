"""The flight recorder: the last steps of a controller, in constant memory; files without pickle.

The file is an ``.npz`` of plain arrays; `replaying.replay` runs a controller over it again.
"""

from __future__ import annotations

import json
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nprobot.errors import DeployError
from nprobot.policies.files.policy import Array

from .faults import FaultKind

FORMAT = "nprobot-flight"
VERSION = 1
_KINDS = list(FaultKind)
_HEADER = "header"


@dataclass(frozen=True)
class Step:
    """One step of a controller.

    Attributes:
        observation: as it came in, float64; None if it was unusable.
        age: of the observation, s.
        previous: the action before.
        commanded: what the policy wanted; None if it was not asked or failed.
        action: what the robot was told.
        fault: kind of the fault that is latched.
        seconds: from observation to action.
        begins: whether an episode begins here.
        cleared: whether a fault was cleared before this step.
        repeats: how often in a row this observation has come.
        missed: how many deadlines in a row were missed.
    """

    observation: Array | None
    age: float
    previous: Array
    commanded: Array | None
    action: Array
    fault: FaultKind | None
    seconds: float
    begins: bool
    cleared: bool
    repeats: int
    missed: int


@dataclass(frozen=True)
class FlightRecord:
    """The steps that a recorder kept, oldest first; n steps.

    Attributes:
        first: number of the first step since the controller was made.
        about: rate, safety settings and environment of the controller; JSON values.
        arrays: "observation" (n, *observation) float64, "usable" (n,), "age", "previous",
            "commanded", "action" (n, *action), "fault" (n,) (-1: none), "seconds", "begins",
            "cleared", "repeats", "missed"; see `Step`.
    """

    first: int
    about: Mapping[str, Any]
    arrays: Mapping[str, Array] = field(repr=False)

    def __len__(self) -> int:
        return len(self.arrays["fault"])

    def __getitem__(self, index: int) -> Step:
        row = {name: array[index] for name, array in self.arrays.items()}
        fault = int(row["fault"])
        return Step(
            observation=row["observation"] if row["usable"] else None,
            age=float(row["age"]),
            previous=row["previous"],
            commanded=row["commanded"] if row["asked"] else None,
            action=row["action"],
            fault=None if fault < 0 else _KINDS[fault],
            seconds=float(row["seconds"]),
            begins=bool(row["begins"]),
            cleared=bool(row["cleared"]),
            repeats=int(row["repeats"]),
            missed=int(row["missed"]),
        )

    def save(self, path: str | Path) -> Path:
        """Write the record, whole or not at all.

        Args:
            path: the ``.npz`` file.
        """
        file = Path(path)
        header = {
            "format": FORMAT,
            "version": VERSION,
            "first": self.first,
            "about": dict(self.about),
            "faults": _KINDS,
        }
        text = np.frombuffer(json.dumps(header).encode(), np.uint8)
        file.parent.mkdir(parents=True, exist_ok=True)
        writing = file.with_name(f".{file.name}.writing")
        with writing.open("wb") as stream:
            arrays: dict[str, Any] = {_HEADER: text, **self.arrays}
            np.savez_compressed(stream, **arrays)
        os.replace(writing, file)
        return file

    @classmethod
    def load(cls, path: str | Path) -> FlightRecord:
        """Read a record; nothing in the file is executed.

        Raises:
            DeployError: there is no such file, or it is not a whole flight record.
        """
        file = Path(path)
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            header = json.loads(arrays.pop(_HEADER).tobytes())
            if header["format"] != FORMAT or header["version"] != VERSION:
                raise DeployError(
                    f"{file} has the format {header['format']!r}, version {header['version']}; "
                    f"this nprobot reads {FORMAT!r}, version {VERSION}"
                )
            _check(arrays, header)
            return cls(int(header["first"]), dict(header["about"]), arrays)
        except DeployError:
            raise
        except _UNREADABLE as error:
            raise DeployError(f"{file} is not a readable flight record: {error}") from None


_UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, MemoryError),
    *(OverflowError, SyntaxError, tokenize.TokenError),
)
"""What numpy and zipfile raise for a file that is not what it should be."""


class FlightRecorder:
    """A ring of the last steps; its memory is taken at the start.

    After a fault it keeps half of its room for what came before: a robot that goes on in its safe
    action for hours does not write over the moment that matters.

    Args:
        capacity: steps that are kept.
        observation_shape: of one observation.
        rest: an action, for its shape and number type.
        about: the controller; JSON values.
    """

    def __init__(
        self,
        capacity: int,
        observation_shape: tuple[int, ...],
        rest: Array,
        about: Mapping[str, Any],
    ) -> None:
        self.capacity = capacity
        self.about = about
        self._first = 0
        self._count = 0
        self._in_fault = 0
        self._left_out = 0
        self._arrays: dict[str, Array] = {
            "observation": np.empty((capacity, *observation_shape)),
            **{
                name: np.empty((capacity, *rest.shape), rest.dtype)
                for name in ("previous", "commanded", "action")
            },
            **{name: np.empty(capacity) for name in ("age", "seconds")},
            **{name: np.empty(capacity, bool) for name in ("usable", "asked", "begins", "cleared")},
            "fault": np.empty(capacity, np.int8),
            **{name: np.empty(capacity, np.int64) for name in ("repeats", "missed")},
        }
        for array in self._arrays.values():
            array.fill(0)  # the system hands out a page when it is first written to: now

    def __len__(self) -> int:
        return min(self._count, self.capacity)

    def add(self, step: Step) -> None:
        """Keep a step, in place of the oldest if there is no room."""
        self._in_fault = 0 if step.fault is None else self._in_fault + 1
        if self._in_fault > max(self.capacity // 2, 1):
            self._left_out += 1
            return
        if self._left_out:  # the fault has been cleared; a record has no gaps, so it begins anew
            self._first += self._count + self._left_out
            self._count = self._left_out = 0
        i, arrays = self._count % self.capacity, self._arrays
        arrays["observation"][i] = math.nan if step.observation is None else step.observation
        arrays["usable"][i] = step.observation is not None
        arrays["commanded"][i] = 0 if step.commanded is None else step.commanded
        arrays["asked"][i] = step.commanded is not None
        arrays["fault"][i] = -1 if step.fault is None else _KINDS.index(step.fault)
        for name in ("age", "previous", "action", "seconds", "begins", "cleared", "repeats"):
            arrays[name][i] = getattr(step, name)
        arrays["missed"][i] = step.missed
        self._count += 1

    def record(self) -> FlightRecord:
        """A copy of the steps that are kept, oldest first."""
        oldest = self._count - len(self)
        order = np.arange(oldest, self._count) % self.capacity
        arrays = {name: array[order] for name, array in self._arrays.items()}
        return FlightRecord(self._first + oldest, self.about, arrays)


def _check(arrays: Mapping[str, Array], header: Mapping[str, Any]) -> None:
    """Raise `DeployError` if the arrays are not those of a recorder."""
    expected = {
        **dict.fromkeys(("observation", "age", "seconds", "previous", "commanded", "action"), "fi"),
        **dict.fromkeys(("usable", "asked", "begins", "cleared"), "b"),
        **dict.fromkeys(("fault", "repeats", "missed"), "i"),
    }
    if set(arrays) != set(expected) or header["faults"] != _KINDS:
        raise DeployError("the flight record lacks arrays, or has others")
    n = arrays["fault"].shape[0]
    shape = arrays["action"].shape
    for name, array in arrays.items():
        if array.dtype.kind not in expected[name] or array.shape[:1] != (n,):
            raise DeployError(f"{name} of the flight record is {array.dtype} {array.shape}")
        flat = name not in ("observation", "previous", "commanded", "action")
        if (flat and array.ndim != 1) or (
            name in ("previous", "commanded") and array.shape != shape
        ):
            raise DeployError(f"{name} of the flight record has the shape {array.shape}")
    if n and not (arrays["fault"].min() >= -1 and arrays["fault"].max() < len(_KINDS)):
        raise DeployError("the flight record names a fault that does not exist")
