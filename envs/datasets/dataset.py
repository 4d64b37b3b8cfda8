"""The data set of a regression or classification task: splits, names, units, and its file."""

from __future__ import annotations

import json
import os
import secrets
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, DataWarning

Array = NDArray[Any]

FORMAT = "nprobot-dataset-1"
SPLITS = ("train", "validation", "test", "shifted")
_PARTS = ("inputs", "targets", "trajectory")
_COLUMNS = ("input_names", "input_units", "target_names", "target_units")
#: What reading a damaged or foreign `.npz` raises, from zipfile, numpy and json. numpy reads the
#: header of an array as Python source: hence the errors of a parser.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, NotImplementedError),
    *(SyntaxError, tokenize.TokenError),
)


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one split. Arrays are read-only.

    Attributes:
        inputs: `(rows, inputs)`, float32 or float64.
        targets: `(rows, targets)`, float32 or float64; for classification `(rows,)`, int64 labels.
        trajectory: `(rows,)`, int64: which recording a row belongs to.
    """

    inputs: Array
    targets: Array
    trajectory: NDArray[np.int64]

    def __post_init__(self) -> None:
        inputs, targets = as_rows("inputs", self.inputs), as_targets(self.targets)
        trajectory = np.asarray(self.trajectory, dtype=np.int64)
        if not (len(inputs) == len(targets) == len(trajectory)) or trajectory.ndim != 1:
            raise DataError(
                f"A split needs as many targets and trajectory labels as inputs; got "
                f"{inputs.shape}, {targets.shape} and {trajectory.shape}."
            )
        if len(inputs) == 0:
            raise DataError("A split needs at least one row; got none.")
        for name, value in zip(_PARTS, (inputs, targets, trajectory), strict=True):
            value = value.view()
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.inputs)

    def joined(self, other: Self) -> Self:
        """These rows, then those of another split."""
        return type(self)(
            *(np.concatenate([getattr(self, part), getattr(other, part)]) for part in _PARTS)
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A task's data, split by trajectory.

    Columns that never change in the training rows are kept, with a `DataWarning`: give them a scale
    of 1 when standardising, as `nprobot.envs.datasets.moments` does.

    Attributes:
        train: what to learn from.
        validation: what to choose settings and checkpoints by.
        test: what to report.
        shifted: the same task on a changed robot (load, friction or tool), or None.
        input_names: one name an input column.
        input_units: their units, SI; "" where there is none.
        target_names: one name a target column; for classification one name, of the label.
        target_units: their units.
        meta: where the data came from: task, robot, settings and their hash, versions; what JSON
            can hold.
    """

    train: Split
    validation: Split
    test: Split
    shifted: Split | None
    input_names: tuple[str, ...]
    input_units: tuple[str, ...]
    target_names: tuple[str, ...]
    target_units: tuple[str, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inputs, targets = self.train.inputs.shape[1], self.train.targets.shape[1:]
        for name, split in self.splits.items():
            if split.inputs.shape[1] != inputs or split.targets.shape[1:] != targets:
                raise DataError(
                    f"Split {name!r} has rows of {split.inputs.shape[1:]} → "
                    f"{split.targets.shape[1:]}, the training split of ({inputs},) → {targets}."
                )
            if (split.targets.dtype.kind == "i") != self.is_classification:
                raise DataError(
                    f"Split {name!r} has {split.targets.dtype} targets, the training split "
                    f"{self.train.targets.dtype}: either all are labels or none."
                )
        width = targets[0] if targets else 1
        for name, count in (("input", inputs), ("target", width)):
            for part in ("names", "units"):
                given = getattr(self, f"{name}_{part}")
                if len(given) != count:
                    raise DataError(
                        f"{name}_{part} has {len(given)} entries for {count} columns: {given}."
                    )
        if not self.is_classification:  # Every picture has black corners.
            self._warn_constant()

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        every = {name: getattr(self, name) for name in SPLITS}
        return {name: split for name, split in every.items() if split is not None}

    @property
    def input_size(self) -> int:
        """Number of input columns."""
        return int(self.train.inputs.shape[1])

    @property
    def target_size(self) -> int:
        """Number of target columns, or of classes: the width of a network's output."""
        return self.classes or int(self.train.targets.shape[1])

    @property
    def is_classification(self) -> bool:
        """Whether targets are integer labels."""
        return self.train.targets.ndim == 1

    @property
    def classes(self) -> int | None:
        """Number of classes, labels being 0 … classes − 1; None for regression."""
        if not self.is_classification:
            return None
        return 1 + max(int(split.targets.max()) for split in self.splits.values())

    def _warn_constant(self) -> None:
        for kind, values, names, told in (
            (
                "input",
                self.train.inputs,
                self.input_names,
                "scaled by 1 where data is standardised",
            ),
            ("target", self.train.targets, self.target_names, "and have nothing to learn, no nMSE"),
        ):
            still = is_constant(values)
            constant = [
                f"{name} (always {value:.4g})"
                for name, is_still, value in zip(names, still, values[0], strict=True)
                if is_still
            ]
            if constant:
                shown = ", ".join(constant[:8]) + (", …" if len(constant) > 8 else "")
                warnings.warn(
                    f"{len(constant)} {kind} column(s) never change in the training rows: {shown}. "
                    f"They are kept, {told}; leave them away if that is a mistake.",
                    DataWarning,
                    stacklevel=4,
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one `.npz` without pickled objects: whole under another name, then renamed."""
        header = {name: getattr(self, name) for name in _COLUMNS} | {"meta": dict(self.meta)}
        text = json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
        arrays = {
            f"{name}.{part}": getattr(split, part)
            for name, split in self.splits.items()
            for part in _PARTS
        }
        arrays["header"] = np.frombuffer(text, dtype=np.uint8)
        arrays["format"] = np.array(FORMAT)
        # Typed loosely by numpy: keyword arrays next to its own keywords.
        write: Callable[..., None] = np.savez
        _write_whole(Path(path), lambda file: write(file, **arrays))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing, damaged, or of another kind.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                if "format" not in file or str(file["format"]) != FORMAT:
                    raise DataError(
                        f"{path} is not a data set written by nprobot (format {FORMAT}); read your "
                        "own arrays with nprobot.envs.datasets.load."
                    )
                header = json.loads(file["header"].tobytes())
                splits: dict[str, Any] = {
                    name: Split(*(file[f"{name}.{part}"] for part in _PARTS))
                    for name in SPLITS
                    if name != "shifted" or "shifted.inputs" in file
                }
                columns: dict[str, Any] = {name: tuple(header[name]) for name in _COLUMNS}
                return cls(**{"shifted": None, **splits}, **columns, meta=header["meta"])
        except FileNotFoundError as error:
            raise DataError(f"There is no file {path}.") from error
        except DataError:
            raise
        except (*UNREADABLE, TypeError, OSError) as error:
            raise DataError(
                f"{path} is damaged or not a data set of nprobot ({error}); make it again."
            ) from error

    def summary(self) -> str:
        """A few lines for a person: rows, columns, source."""
        kind = "classes" if self.is_classification else "targets"
        lines = [
            f"{self.meta.get('task', 'data')}: {self.input_size} inputs, {self.target_size} {kind}"
        ]
        lines += [
            f"  {name:<10} {len(split):>8,} rows, {len(np.unique(split.trajectory)):,} trajectories"
            for name, split in self.splits.items()
        ]
        if read := self.meta.get("read"):
            lines.append(f"  read as {', '.join(read)}")
        if isinstance(rate := self.meta.get("rate"), float | int):
            lines.append(f"  {rate:.4g} rows a second")
        return "\n".join(lines)


def as_rows(name: str, values: object) -> Array:
    """A float array `(rows, columns)` of finite numbers, or a `DataError` that names `name`."""
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.dtype.kind != "f" or array.dtype.itemsize not in (2, 4, 8):
        raise DataError(f"{name} must be real numbers; got an array of {array.dtype}.")
    if array.dtype.itemsize == 2:
        array = array.astype(np.float32)
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(
            f"{name} must have the shape (rows, columns); got {array.shape}. Reshape a single "
            "column to (rows, 1)."
        )
    finite = np.isfinite(array)
    if not finite.all():
        bad = np.argwhere(~finite)
        raise DataError(
            f"{name} hold {len(bad)} NaN or infinite values in {len(np.unique(bad[:, 0]))} of "
            f"{len(array)} rows; the first in row {bad[0, 0]}, column {bad[0, 1]}. Drop or repair "
            "those rows first."
        )
    return array


def as_targets(values: object) -> Array:
    """Regression targets `(rows, columns)`, or int64 labels `(rows,)`."""
    array = np.asarray(values)
    if array.ndim == 1 and array.dtype.kind in "iu":
        labels = array.astype(np.int64)
        if len(labels) and labels.min() < 0:
            raise DataError(f"Labels run from 0 up; got {labels.min()}.")
        return labels
    return as_rows("targets", array)


def is_constant(values: Array) -> NDArray[np.bool_]:
    """Which columns of `values` (rows, columns) never change, but for rounding: `(columns,)`.

    A planar robot's coordinate out of its plane is not 0 but 1e-17 or so: standardising that would
    make noise of it.
    """
    spread = values.max(axis=0).astype(np.float64) - values.min(axis=0)
    return np.asarray(spread <= 1e-12 + 1e-9 * np.abs(values).max(axis=0))


def _write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file that is complete under its name or not there, also with several writers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
