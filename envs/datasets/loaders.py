"""A user's own recordings: tables of text, Parquet, `.npz`, MATLAB files, SARCOS."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, DataError, UnknownNameError
from .arrays import read_mat, read_npz
from .columns import Fields, import_optional, listed
from .data_checks import check_time, look_over, time_column, warn
from .dataset import Dataset, Split, as_rows, as_targets
from .splitting import Fractions, How, Splits, split_rows, warn_duplicates
from .tables import SUFFIXES, plain, read_text_table

PathLike = str | os.PathLike[str]
Names = str | Sequence[str]
Array = NDArray[Any]

_SARCOS_JOINTS = 7
_THREE = ("train", "validation", "test")
_ORDER = 2
"""Order of the polynomial that smoothed differentiation fits."""
_LEAST_WINDOW = 5


def load(
    path: PathLike | Sequence[PathLike],
    *,
    inputs: Names = (),
    targets: Names = (),
    trajectory: str | None = None,
    time: str | None = None,
    rate: float | None = None,
    derivatives: Names = (),
    smoothing: float = 0.1,
    missing: Literal["refuse", "drop"] = "refuse",
    test: PathLike | Sequence[PathLike] = (),
    units: Mapping[str, str] | None = None,
    fractions: Fractions = (0.7, 0.15, 0.15),
    how: How = "auto",
    seed: int = 0,
    drop_duplicates: bool = False,
) -> Dataset:
    """Regression or classification from a user's own files; several are a trajectory each.

    - `.csv`, `.tsv`, `.txt`, `.dat` (also `.gz`): a table of text; separator, decimal comma,
      comments, units and more are found out (`tables.read_text_table`). `.parquet`: a table.
    - `.npz`: named arrays; with none named, `inputs` and `targets` (or `x` and `y`, `X` and `y`),
      and `trajectory` if it is there; or ready splits, the same names with `_train` and `_test`,
      and `_validation` if it is there; or what `Dataset.save` wrote.
    - `.mat`: named arrays, `struct.field` for those in structures; a structure array or a cell
      array is a trajectory an element. One array of 28 columns is SARCOS (`load_sarcos`).

    Columns of an array `q` are `q0`, `q1`, …. Inputs of more than two dimensions (images) are
    flattened; 8-bit ones are scaled to [0, 1]. A single target of integers in one dimension that is
    not in a table holds class labels. How files were read is in `meta["read"]` and `summary()`.

    Args:
        path: files, or patterns such as ``"runs/*.csv"``; nothing pickled is read.
        inputs: names of columns or arrays, or patterns such as ``"vel_*"``, in order.
        targets: the same of the targets.
        trajectory: the column that says which recording a row belongs to.
        time: the column of times, in s if it has no other unit. One that is called `time`, `t` or
            `timestamp` is found.
        rate: rows a second, Hz, where there is no such column.
        derivatives: columns whose derivative in time is one more input, such as velocities for
            accelerations: by a Savitzky-Golay filter of second order (Savitzky & Golay 1964).
        smoothing: length of that filter, s; five rows at least.
        missing: "refuse" rows with NaN among the columns in use, or "drop" them.
        test: files with the test rows; those of `path` are for training and validation then.
        units: the units of columns, where the file has none or others.
        fractions: shares of the splits.
        how: how to split; see `split_rows`.
        seed: the seed of the draw.
        drop_duplicates: drop test rows that are also training rows, where `test` has them.

    Raises:
        DataError: no such file or column, a damaged file, values that are no numbers, NaN.
        ConfigError: options that contradict each other or do not belong to the format.
        MissingPackageError: the package for the format is not installed.
    """
    files, tests = find_files(path), find_files(test) if test else []
    inputs, targets = _names(inputs), _names(targets)
    plan = _Plan(
        inputs,
        targets,
        trajectory,
        time,
        rate,
        _names(derivatives),
        smoothing,
        missing,
        units or {},
    )
    first, kind = files[0], _kind(files[0])
    if other := next((file for file in (*files, *tests) if _kind(file) != kind), None):
        raise ConfigError(f"Files of one format belong together; {other} is not as {first}.")
    given = plan.given() | {"a split": how != "auto", "test data": bool(tests)}
    if kind == ".mat" and not (inputs or targets) and len(read_mat(first)[0].arrays) == 1:
        _refuse(f"{first} holds one array, which is read as SARCOS", given, ("test data",))
        if len(files) > 1 or len(tests) > 1:
            raise ConfigError(f"{first} is read as SARCOS; give one file, and one to test.")
        return load_sarcos(
            *(first, *tests), drop_duplicates=drop_duplicates, fractions=fractions, seed=seed
        )
    if kind == ".npz":
        arrays = read_npz(first)
        if "format" in arrays and "header" in arrays:
            given |= {"other files": len(files) > 1, "dropping duplicates": drop_duplicates}
            _refuse(f"{first} is a data set of nprobot, ready to use", given)
            return Dataset.load(first)
        inputs, targets = _pair(first, arrays, inputs, targets)
        if f"{inputs[0]}_train" in arrays:
            given["other files"] = len(files) > 1
            _refuse(f"{first} holds ready splits", given, ("inputs", "targets"))
            made = _ready(first, arrays, inputs[0], targets[0], fractions, seed, drop_duplicates)
            names = _columns_of(inputs[0], made.train.inputs)
            outputs = _columns_of(targets[0], made.train.targets)
            return _described(made, names, outputs, {}, files, {})
        plan = plan.naming(inputs, targets, "trajectory" if "trajectory" in arrays else None)
    if not (inputs and targets):
        known = listed(list(_read(first)[0].arrays))
        raise ConfigError(
            f"Name at least one input column and one target column; {first} has {known}. A "
            "pattern such as 'vel_*' names several."
        )
    rows = plan.rows(files)
    with_labels = rows.labels if plan.trajectory or rows.recordings > 1 else None
    splits = split_rows(
        rows.inputs, rows.targets, with_labels, fractions=fractions, how=how, seed=seed
    )
    told = rows.told
    if tests:
        held = plan.rows(tests)
        if (held.input_names, held.target_names) != (rows.input_names, rows.target_names):
            raise DataError(f"{tests[0]} has other columns than {first}.")
        others = held.split(first=int(rows.labels.max()) + 1)
        official = warn_duplicates(rows.split(), others, drop=drop_duplicates)
        words = f"{splits.how}; test rows from other files"
        splits = Splits(splits.train.joined(splits.test), splits.validation, official, words)
        told = told | {"read": list(dict.fromkeys([*told["read"], *held.told["read"]]))}
    elif drop_duplicates:
        raise ConfigError(
            "Duplicates can only be dropped from test rows in other files; name test files."
        )
    return _described(
        splits, rows.input_names, rows.target_names, rows.units, [*files, *tests], told
    )


load_table = load_npz = load
"""Names of `load` in earlier versions."""


def _described(
    splits: Splits,
    inputs: Sequence[str],
    targets: Sequence[str],
    units: Mapping[str, str],
    files: Sequence[Path],
    told: Mapping[str, Any],
) -> Dataset:
    labelled = splits.train.targets.ndim == 1
    several = f"{len(files)} files in {files[0].parent.resolve().name}"
    data = splits.as_dataset(
        files[0].stem if len(files) == 1 else several,
        inputs,
        ["label"] if labelled else targets,
        input_units=[units.get(column, "") for column in inputs],
        target_units=[""] if labelled else [units.get(column, "") for column in targets],
        files=[file.name for file in files],
        **told,
    )
    look_over(data)
    return data


# -- files -------------------------------------------------------------------------------------


def find_files(path: PathLike | Sequence[PathLike]) -> list[Path]:
    """The files that paths and patterns name, each once; those of a pattern in natural order.

    Raises:
        DataError: there is none.
    """
    found: dict[Path, None] = {}
    for given in [path] if isinstance(path, str | os.PathLike) else path:
        here = Path(given)
        if here.is_dir():
            raise DataError(
                f"{here} is a folder, and no Minari data set; name the files in it, such as "
                f"'{here}/*.csv'."
            )
        matches = [here] if here.is_file() else map(Path, glob.glob(str(given)))
        files = sorted((match for match in matches if match.is_file()), key=_natural)
        if not files:
            pattern = any(c in str(given) for c in "*?[")
            raise DataError(f"No file matches {given}." if pattern else f"There is no file {here}.")
        found |= dict.fromkeys(files)
    return list(found)


def _natural(path: Path) -> list[tuple[int, str]]:
    """For sorting: run2 comes before run10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _kind(path: Path) -> str:
    name = path.name.lower()
    if name.removesuffix(".gz").endswith(SUFFIXES):
        return "text"
    for kind in (".parquet", ".npz", ".mat"):
        if name.endswith(kind):
            return kind
    if name.endswith(".pq"):
        return ".parquet"
    raise DataError(
        f"{path} has no ending that can be read: {', '.join(SUFFIXES)} (also .gz), .parquet, .npz "
        "or .mat."
    )


def _read(path: Path) -> list[Fields]:
    """The recordings in a file."""
    kind = _kind(path)
    if kind == "text":
        return [read_text_table(path)]
    if kind == ".mat":
        return read_mat(path)
    if kind == ".npz":
        return [Fields(path.name, read_npz(path), is_table=False)]
    pandas = import_optional("pandas", "Reading tables")
    try:
        table = pandas.read_parquet(path)
    # Back ends raise what they like: ArrowInvalid, OSError, …
    except Exception as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    columns = {str(name): plain(table[name]) for name in table.columns}
    return [Fields(path.name, columns, is_table=True)]


def _names(given: Names) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _refuse(what: str, given: Mapping[str, bool], keep: Sequence[str] = ()) -> None:
    """Refuse options that a format cannot honour.

    Raises:
        ConfigError: such an option was given.
    """
    if bad := [name for name, is_given in given.items() if is_given and name not in keep]:
        raise ConfigError(f"{what}: leave {', '.join(bad)} away")


# -- rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Rows of all recordings, one after the other."""

    inputs: Array
    targets: Array
    labels: NDArray[np.int64]
    recordings: int
    input_names: list[str]
    target_names: list[str]
    units: dict[str, str]
    told: dict[str, Any]

    def split(self, first: int = 0) -> Split:
        inputs, targets = as_rows("inputs", self.inputs), as_targets(self.targets)
        return Split(inputs, targets, self.labels + first)


@dataclass(frozen=True)
class _Plan:
    """Which columns are used, and how; see `load`."""

    inputs: Sequence[str]
    targets: Sequence[str]
    trajectory: str | None
    time: str | None
    rate: float | None
    derivatives: Sequence[str]
    smoothing: float
    missing: str
    units: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.missing not in ("refuse", "drop"):
            raise UnknownNameError("way with missing values", self.missing, ("refuse", "drop"))
        for name, value in (("rate", self.rate), ("smoothing", self.smoothing)):
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a number above 0, got {value}")

    def given(self) -> dict[str, bool]:
        """Which options differ from their defaults."""
        names = ("inputs", "targets", "trajectory", "time", "rate", "derivatives", "units")
        return {name: bool(getattr(self, name)) for name in names} | {
            "missing values": self.missing != "refuse"
        }

    def naming(
        self, inputs: Sequence[str], targets: Sequence[str], trajectory: str | None
    ) -> _Plan:
        """The same plan with what a file says by itself."""
        rest = (self.time, self.rate, self.derivatives, self.smoothing, self.missing, self.units)
        return _Plan(inputs, targets, self.trajectory or trajectory, *rest)

    def rows(self, files: Sequence[Path]) -> _Rows:
        """The rows of all files."""
        recordings = [fields for file in files for fields in _read(file)]
        first = recordings[0]
        x, y = first.matching(self.inputs, "inputs"), first.matching(self.targets, "targets")
        both = [*x, *y]
        if twice := sorted({name for name in both if both.count(name) > 1}):
            raise ConfigError(
                f"Each column can be named once, as input or target: {listed(twice)} is in the "
                f"inputs {' '.join(self.inputs)} and the targets {' '.join(self.targets)} twice."
            )
        slopes = first.matching(self.derivatives, "derivatives") if self.derivatives else []
        time = self.time or time_column(first, [*both, *slopes])
        for text in dict.fromkeys(text for fields in recordings for text in fields.guesses):
            warn(f"{first.source} was read with {text}.")
        parts = [self._recording(fields, x, y, slopes, time) for fields in recordings]
        shapes = {(part.inputs.shape[1], part.targets.shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise DataError(f"The columns of the files differ in width: {sorted(shapes)}.")
        return self._joined(recordings, parts, x, y, slopes)

    def _joined(
        self,
        recordings: Sequence[Fields],
        parts: Sequence[_Part],
        x: Sequence[str],
        y: Sequence[str],
        slopes: Sequence[str],
    ) -> _Rows:
        first = recordings[0]
        notes = [note for fields in recordings for note in fields.notes]
        if dropped := sum(part.dropped for part in parts):
            notes.append(f"{dropped:,} rows without numbers dropped")
        periods = [part.period for part in parts if part.period is not None]
        told: dict[str, Any] = {"read": notes}
        if periods:
            told["rate"] = 1 / float(np.median(periods))
            if max(periods) > 1.01 * min(periods):
                warn(
                    f"The recordings have different rates: {1 / max(periods):.4g} to "
                    f"{1 / min(periods):.4g} Hz."
                )
        if slopes:
            window = self._window(periods[0])
            notes.append(
                f"derivatives of {listed(slopes, 3)} by a Savitzky-Golay filter of order {_ORDER} "
                f"over {window} rows ({window * periods[0]:.3g} s)"
            )
        told["read"] = list(dict.fromkeys(notes))
        columns = [column for name in x for column in first.column_names(name)]
        extra = [f"{column}.derivative" for name in slopes for column in first.column_names(name)]
        targets = [column for name in y for column in first.column_names(name)]
        per = {f"{n}.derivative": _per_second(first.units.get(n, "")) for n in slopes}
        units = {**first.units, **per, **self.units}
        if strange := sorted(set(self.units) - {*columns, *extra, *targets}):
            raise ConfigError(f"Units are given for {listed(strange)}: no input or target.")
        return _Rows(
            np.concatenate([part.inputs for part in parts]),
            np.concatenate([part.targets for part in parts]),
            _labels([part.labels for part in parts]),
            len(recordings),
            [*columns, *extra],
            targets,
            units,
            told,
        )

    def _recording(
        self,
        fields: Fields,
        x: Sequence[str],
        y: Sequence[str],
        slopes: Sequence[str],
        time: str | None,
    ) -> _Part:
        inputs = fields.numbers(x)
        single = fields.values(y[0])
        labelled = single.ndim == 1 and single.dtype.kind in "iu" and not fields.is_table
        targets = single if labelled and len(y) == 1 else fields.numbers(y)
        speeds = fields.numbers(slopes) if slopes else np.empty((len(inputs), 0))
        labels = fields.values(self.trajectory) if self.trajectory else np.zeros(len(inputs))
        lengths = {"inputs": len(inputs), "targets": len(targets), "derivatives": len(speeds)}
        if len(set(lengths.values())) > 1 or labels.shape != (len(inputs),):
            raise DataError(
                f"{fields.source} has {len(inputs)} rows of inputs and {len(targets)} of targets"
                + (f", {self.trajectory!r} the shape {labels.shape}." if self.trajectory else ".")
            )
        good = np.isfinite(inputs).all(axis=1) & np.isfinite(speeds).all(axis=1)
        if targets.ndim == 2:
            good &= np.isfinite(targets).all(axis=1)
        good &= np.array([bool(label == label) and label is not None for label in labels.tolist()])
        if not good.all() and self.missing == "refuse":
            names = [*x, *y, *slopes]
            raise DataError(_missing(fields, names, good))
        period = self._period(fields, time, labels)
        if slopes:
            if period is None:
                raise ConfigError(
                    "Derivatives need the rate of the rows: give a rate in Hz, or name the column "
                    "of times."
                )
            slope, whole = self._differentiated(fields, speeds, good, labels, period)
            inputs, good = np.hstack([inputs, slope]), good & whole
        if not good.any():
            raise DataError(f"{fields.source} has no row without missing values.")
        dropped = int((~good).sum())
        return _Part(inputs[good], targets[good], labels[good], dropped, period)

    def _period(self, fields: Fields, time: str | None, labels: Array) -> float | None:
        """Seconds between two rows; None if nobody says so."""
        found = None
        if time is not None:
            found = check_time(fields, time, labels, strict=self.time is not None)
        if self.rate is None:
            return found
        if found is not None and abs(found * self.rate - 1) > 0.01:
            raise ConfigError(
                f"The rate is {self.rate:g} Hz, and column {time!r} of {fields.source} says "
                f"{1 / found:.4g} Hz."
            )
        return 1 / self.rate

    def _window(self, period: float) -> int:
        return max(2 * round(self.smoothing / period / 2) + 1, _LEAST_WINDOW)

    def _differentiated(
        self,
        fields: Fields,
        values: Array,
        good: NDArray[np.bool_],
        labels: Array,
        period: float,
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Derivatives (rows, columns), and which rows have one: those of pieces long enough."""
        signal = import_optional("scipy.signal", "Smoothed differentiation")
        window = self._window(period)
        slope, whole = np.zeros(values.shape), np.zeros(len(values), np.bool_)
        borders = (labels[1:] != labels[:-1]) | (good[1:] != good[:-1])
        for piece in np.split(np.arange(len(values)), np.flatnonzero(borders) + 1):
            if good[piece[0]] and len(piece) >= window:
                slope[piece] = signal.savgol_filter(
                    values[piece], window, _ORDER, deriv=1, delta=period, axis=0
                )
                whole[piece] = True
        if not whole.any():
            raise DataError(
                f"{fields.source} has no {window} rows in a row, which smoothed derivatives need; "
                "shorten the smoothing."
            )
        return slope, whole


@dataclass(frozen=True)
class _Part:
    """Rows of one recording: inputs, targets, labels, rows dropped, seconds between two rows."""

    inputs: Array
    targets: Array
    labels: Array
    dropped: int
    period: float | None


def _missing(fields: Fields, names: Sequence[str], good: NDArray[np.bool_]) -> str:
    """What to say of rows with NaN."""
    counts = {}
    for name in names:
        values = fields.values(name)
        if values.dtype.kind == "f" and (count := int((~np.isfinite(values)).sum())):
            counts[name] = count
    where = ", ".join(f"{name!r} ({count:,})" for name, count in list(counts.items())[:8])
    return (
        f"{(~good).sum():,} of {len(good):,} rows of {fields.source} hold NaN or infinite values, "
        f"in {where or 'the column of trajectories'}; the first is row {int(np.argmin(good))}. "
        'Repair them, or drop such rows: missing="drop".'
    )


def _labels(parts: Sequence[Array]) -> NDArray[np.int64]:
    """Numbers of trajectories: of the labels within each recording, 0 … all in all."""
    found, first = [], 0
    for part in parts:
        names, groups = np.unique(
            part.astype(str) if part.dtype.kind == "O" else part, return_inverse=True
        )
        found.append(first + groups.astype(np.int64))
        first += len(names)
    return np.concatenate(found)


def _per_second(unit: str) -> str:
    if not unit:
        return ""
    return f"{unit}²" if unit.endswith("/s") else f"{unit}/s"


# -- npz with ready splits -----------------------------------------------------------------------


def _pair(
    path: Path, arrays: Mapping[str, Array], inputs: Sequence[str], targets: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """The names of inputs and targets: those given, else what they are usually called."""
    if inputs and targets:
        return inputs, targets
    known = [("inputs", "targets"), ("x", "y"), ("X", "y"), ("X", "Y")]
    candidates = [(inputs or (x,), targets or (y,)) for x, y in known]
    for x, y in candidates:
        both = {*x, *y}
        if both <= set(arrays) or {f"{name}_train" for name in both} <= set(arrays):
            return x, y
    looked = dict.fromkeys(f"{' '.join(x)!r} and {' '.join(y)!r}" for x, y in candidates)
    raise DataError(
        f"{path} holds {sorted(arrays)}; inputs and targets were looked for as "
        f"{' or '.join(looked)}, also with _train, _validation and _test. Name the inputs and the "
        "targets."
    )


def _ready(
    path: Path,
    arrays: Mapping[str, Array],
    x: str,
    y: str,
    fractions: Fractions,
    seed: int,
    drop: bool,
) -> Splits:
    missing = [f"{name}_test" for name in (x, y) if f"{name}_test" not in arrays]
    if missing:
        raise DataError(f"{path} has training arrays but no {' and '.join(missing)}.")
    fields = Fields(path.name, dict(arrays), is_table=False)

    def part(name: str) -> Split:
        targets = fields.values(f"{y}_{name}")
        labelled = targets.ndim == 1 and targets.dtype.kind in "iu"
        made = targets if labelled else fields.numbers([f"{y}_{name}"])
        return _split(fields.numbers([f"{x}_{name}"]), made)

    parts = {
        name: part(name) for name in _THREE if f"{x}_{name}" in arrays and f"{y}_{name}" in arrays
    }
    test = warn_duplicates(parts["train"], parts["test"], drop=drop)
    if "validation" in parts:
        return Splits(parts["train"], parts["validation"], test, "as the file has it")
    given = parts["train"]
    drawn = split_rows(
        given.inputs,
        given.targets,
        fractions=fractions,
        how="rows" if given.targets.ndim == 1 else "blocks",
        seed=seed,
    )
    train = drawn.train.joined(drawn.test)
    words = f"test as the file has it; validation from the training rows, {drawn.how}"
    return Splits(train, drawn.validation, test, words)


def _columns_of(name: str, values: Array) -> list[str]:
    return [f"{name}{i}" for i in range(values.shape[1])] if values.ndim == 2 else [name]


def _split(inputs: Array, targets: Array) -> Split:
    x, y = as_rows("inputs", inputs), as_targets(targets)
    return Split(x, y, np.zeros(len(x), dtype=np.int64))


# -- SARCOS --------------------------------------------------------------------------------------


def load_sarcos(
    train: PathLike,
    test: PathLike | None = None,
    *,
    drop_duplicates: bool = False,
    fractions: Fractions = (0.7, 0.15, 0.15),
    seed: int = 0,
) -> Dataset:
    """Inverse dynamics of the SARCOS arm, from `sarcos_inv.mat` (and `sarcos_inv_test.mat`).

    21 inputs (7 joint positions, velocities, accelerations) and 7 torques. The official test file
    largely repeats rows of the training file (OpenML data set 44976 notes it too): with both files
    the overlap is counted and a `DataWarning` given. Without the test file the training file is
    split in contiguous blocks.

    Args:
        train: the training file, or any `.mat` file with one array of 28 columns.
        test: the official test file; validation rows then come from the training file alone.
        drop_duplicates: drop test rows that are also training rows.
        fractions: shares of training, validation and test rows; of the first two with a test file.
        seed: the seed of the draw of blocks.

    Raises:
        DataError: no such file, none that can be read, or no array of 28 columns.
        ConfigError: duplicates cannot be dropped without a test file.
        MissingPackageError: scipy is not installed.
    """
    table = _sarcos_table(train)
    inputs, targets = table[:, : 3 * _SARCOS_JOINTS], table[:, 3 * _SARCOS_JOINTS :]
    splits = split_rows(inputs, targets, fractions=fractions, how="blocks", seed=seed)
    files = [Path(train).name]
    if test is not None:
        other = _sarcos_table(test)
        official = _split(other[:, : 3 * _SARCOS_JOINTS], other[:, 3 * _SARCOS_JOINTS :])
        official = warn_duplicates(_split(inputs, targets), official, drop=drop_duplicates)
        # The file has its own test rows, so the third share goes back to training.
        learned = splits.train.joined(splits.test)
        splits = Splits(learned, splits.validation, official, f"{splits.how}; official test file")
        files.append(Path(test).name)
    elif drop_duplicates:
        raise ConfigError(
            "Duplicates can only be dropped from test rows in another file; name a test file."
        )
    joints = range(1, _SARCOS_JOINTS + 1)
    names = [f"joint{j}{s}" for s in ("", ".velocity", ".acceleration") for j in joints]
    units = [unit for unit in ("rad", "rad/s", "rad/s²") for _ in joints]
    return splits.as_dataset(
        "sarcos",
        names,
        [f"joint{j}.torque" for j in joints],
        input_units=units,
        target_units=["N·m"] * _SARCOS_JOINTS,
        files=files,
        robot="sarcos",
    )


def _sarcos_table(path: PathLike) -> Array:
    (file,) = find_files(path)
    arrays = read_mat(file)[0].arrays
    wide = 4 * _SARCOS_JOINTS
    fitting = [name for name, a in arrays.items() if a.ndim == 2 and a.shape[1] == wide]
    if len(fitting) != 1:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise DataError(
            f"{path} must hold one array of {wide} columns (21 inputs, 7 torques) to be read as "
            f"SARCOS; it holds {shapes}. Name the inputs and the targets to read it otherwise."
        )
    return as_rows(f"the rows of {file.name}", arrays[fitting[0]])
