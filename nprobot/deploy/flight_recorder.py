"""The flight recorder: the last steps of a controller, their files without pickle, and replays."""

from __future__ import annotations

import io
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
import numpy.typing as npt

from nprobot.errors import (
    DamagedFileError,
    DeployError,
    FileError,
    ForeignFileError,
    NewerFileError,
    NotFoundError,
)
from nprobot.policies.files.policy import Array
from nprobot.policies.files.policy_file import read_control_rate
from nprobot.policies.files.reading import check_texts, memory_limit, read_file
from nprobot.training.evaluation import DeployablePolicy

from .safety import EXTERNAL_KINDS, FaultKind, Safety

FORMAT = "nprobot-flight"
VERSION = 1
LARGEST = 2**28
"""Bytes of the arrays of a record."""
MOST_ARRAYS = 32
ROW = 64
"""Bytes of a step, at most, beside observation and actions."""
_KINDS = list(FaultKind)
_HEADER = "header"
_ACTIONS = ("previous", "commanded", "action")
_SCALARS: Mapping[str, npt.DTypeLike] = {
    **dict.fromkeys(("age", "seconds"), np.float64),
    **dict.fromkeys(("usable", "asked", "begins", "cleared"), np.bool_),
    **dict.fromkeys(("repeats", "missed"), np.int64),
    "fault": np.int8,
}
"""Arrays with one number a step; see `FlightRecord`."""


@dataclass(frozen=True)
class RecordedStep:
    """One step of a controller.

    Attributes:
        observation: as it came in, float64; None if it was unusable.
        age: the age of the observation, s.
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
            "commanded", "asked", "action" (n, *action), "fault" (n,) (-1: none), "seconds",
            "begins", "cleared", "repeats", "missed"; see `RecordedStep`.
    """

    first: int
    about: Mapping[str, Any]
    arrays: Mapping[str, Array] = field(repr=False)

    def __len__(self) -> int:
        return len(self.arrays["fault"])

    def __getitem__(self, index: int) -> RecordedStep:
        row: dict[str, Any] = {name: array[index] for name, array in self.arrays.items()}
        row |= {name: row[name].item() for name in _SCALARS}
        if not row.pop("usable"):
            row["observation"] = None
        if not row.pop("asked"):
            row["commanded"] = None
        row["fault"] = None if row["fault"] < 0 else _KINDS[row["fault"]]
        return RecordedStep(**row)

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
            NotFoundError: there is no such file.
            FileError: it is not a whole flight record, or of another version.
        """
        file = Path(path)
        try:
            with memory_limit(2 * LARGEST):
                arrays = _unpacked(read_file(file, LARGEST))
            header = json.loads(arrays.pop(_HEADER).tobytes())
            check_texts(header)
            kind, version = header["format"], int(header["version"])
            if kind == FORMAT and version <= VERSION:
                _check(arrays, header["faults"])
                return cls(int(header["first"]), _about(header["about"]), arrays)
        except FileNotFoundError:
            raise NotFoundError(f"there is no flight record at {file}") from None
        except FileError:
            raise
        except _UNREADABLE as error:
            raise DamagedFileError(f"{file} is not a readable flight record: {error}") from None
        if kind != FORMAT:
            raise ForeignFileError(f"{file} has the format {kind!r}, not {FORMAT!r}")
        raise NewerFileError(f"{file} has format version {version}; this nprobot reads {VERSION}")


_UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, MemoryError),
    *(OverflowError, SyntaxError, tokenize.TokenError),
)
"""What numpy and zipfile raise for a file that is not what it should be."""


def _unpacked(data: bytes) -> dict[str, Array]:
    """The arrays of an ``.npz``: each no larger than the archive says, and all in bounds.

    Raises:
        ValueError: they are larger, or something else than arrays of numbers.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
        if len(parts) > MOST_ARRAYS or sum(part.file_size for part in parts) > LARGEST:
            raise ValueError(f"it unpacks to more than {LARGEST:,} bytes or {MOST_ARRAYS} arrays")
        arrays = {}
        for part in parts:
            with archive.open(part) as stream:
                version = np.lib.format.read_magic(stream)
                if version != (1, 0):
                    raise ValueError(f"{part.filename} has the version {version}")
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
                if math.prod(shape) * dtype.itemsize + stream.tell() != part.file_size:
                    raise ValueError(f"{part.filename} declares {shape} numbers and has others")
                stream.seek(0)
                array = np.lib.format.read_array(stream, allow_pickle=False)
            arrays[part.filename.removesuffix(".npy")] = array
    return arrays


def _about(about: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """What a header says about the controller.

    Raises:
        ValueError: it is not what a controller says.
    """
    read_control_rate(about.get("rate"))
    if not isinstance(about.get("safety"), dict | None):
        raise ValueError("its safety settings are none")
    return dict(about)


class FlightRecorder:
    """A ring of the last steps; its memory is taken at the start.

    After a fault it keeps half of its room for what came before: a robot that stays in its safe
    action for hours does not write over the moment that matters.

    Args:
        capacity: steps that are kept; fewer where observations are so large that a record would
            have more than `LARGEST` bytes.
        observation_shape: the shape of one observation.
        rest: an action, for its shape and number type.
        about: the controller; JSON values.
        first: number of the first step that it will be given.
    """

    def __init__(
        self,
        capacity: int,
        observation_shape: tuple[int, ...],
        rest: Array,
        about: Mapping[str, Any],
        first: int = 0,
    ) -> None:
        row = 8 * math.prod(observation_shape) + 3 * rest.nbytes + ROW
        self.capacity = max(min(capacity, LARGEST // row), 1)
        self.about = about
        self._first = first
        self._count = 0
        self._in_fault = 0
        self._left_out = 0
        kinds: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
            "observation": (observation_shape, np.float64),
            **dict.fromkeys(_ACTIONS, (rest.shape, rest.dtype)),
            **{name: ((), dtype) for name, dtype in _SCALARS.items()},
        }
        # The system hands out a page of memory when it is first written to: `full` writes now.
        self._arrays: dict[str, Array] = {
            name: np.full((self.capacity, *shape), 0, dtype)
            for name, (shape, dtype) in kinds.items()
        }

    def __len__(self) -> int:
        return min(self._count, self.capacity)

    def add(self, step: RecordedStep) -> None:
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
        for name in _AS_IT_IS:
            arrays[name][i] = getattr(step, name)
        self._count += 1

    def record(self) -> FlightRecord:
        """A copy of the steps that are kept, oldest first."""
        oldest = self._count - len(self)
        order = np.arange(oldest, self._count) % self.capacity
        arrays = {name: array[order] for name, array in self._arrays.items()}
        return FlightRecord(self._first + oldest, self.about, arrays)


_AS_IT_IS = ("age", "previous", "action", "seconds", "begins", "cleared", "repeats", "missed")


def _check(arrays: Mapping[str, Array], faults: object) -> None:
    """Raise `ValueError` if the arrays are not those of a recorder."""
    if set(arrays) != {"observation", *_ACTIONS, *_SCALARS} or faults != _KINDS:
        raise ValueError("it lacks arrays, or has others")
    n, shape = len(arrays["fault"]), arrays["action"].shape
    for name, array in arrays.items():
        if name in _SCALARS:
            fits = array.dtype == _SCALARS[name] and array.shape == (n,)
        else:
            same = name == "observation" or array.shape == shape
            fits = array.dtype.kind in "fi" and array.shape[:1] == (n,) and same
        if not fits:
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
    if n and not -1 <= arrays["fault"].min() <= arrays["fault"].max() < len(_KINDS):
        raise ValueError("it names a fault that does not exist")


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    Attributes:
        steps: how many were compared.
        largest_difference: of an action, in its units; 0 if all are the same to the last bit.
        first_difference: number of the first step that differs; None if none does.
        faults_agree: whether every step has the same fault, or none, as then.
    """

    steps: int
    largest_difference: float
    first_difference: int | None
    faults_agree: bool

    @property
    def identical(self) -> bool:
        """Whether every action and every fault is the same."""
        return self.first_difference is None and self.faults_agree

    def __str__(self) -> str:
        if self.identical:
            return f"{self.steps:,} steps replayed, every action the same to the last bit"
        if self.first_difference is None:
            return f"{self.steps:,} steps replayed, the actions agree but the faults do not"
        faults = "" if self.faults_agree else "; the faults differ too"
        return (
            f"{self.steps:,} steps replayed, actions differ by up to "
            f"{self.largest_difference:.2g}, first at step {self.first_difference:,}{faults}"
        )


def replay(record: FlightRecord, policy: DeployablePolicy) -> Replay:
    """Run a policy over the observations of a flight, with its safety settings and its times.

    A recorder that was full has lost the start; then the first step that is left only sets the
    state, and is not compared.

    Args:
        record: the flight.
        policy: the policy that flew, or another one to compare with it.

    Raises:
        DeployError: the policy takes other observations, or gives other actions.
    """
    from .controller import Controller  # which records with this module

    times: list[float] = []  # what the clock says next: 0, and how long the step took
    controller = Controller(
        policy,
        rate=record.about.get("rate"),
        safety=Safety.from_dict(record.about.get("safety") or {}),
        record=1,
        clock=times.pop,
    )
    for name, takes in (
        ("observation", policy.observation_shape),
        ("action", controller.previous_action.shape),
    ):
        if (flew := record.arrays[name].shape[1:]) != takes:
            raise DeployError(f"the flight has the {name} shape {flew}, the policy has {takes}")
    start = 0
    if record.first > 0 and len(record) > 0:
        controller.resume(record[0])
        start = 1
    largest, first, agree = 0.0, None, True
    for index in range(start, len(record)):
        then = record[index]
        times[:] = then.seconds, 0.0
        if then.cleared:
            controller.clear_fault()
        if then.begins:
            controller.reset(then.previous)
        if then.fault in EXTERNAL_KINDS and controller.fault is None:
            controller.trip("as recorded", then.fault)
        action = controller.step(then.observation, age=then.age)
        difference = np.abs(np.subtract(action, then.action, dtype=float)).max(initial=0)
        if difference > 0 and first is None:
            first = record.first + index
        largest = max(largest, float(difference))
        agree &= (controller.fault and controller.fault.kind) == then.fault
    return Replay(len(record) - start, largest, first, agree)
