"""A user's own recordings: SARCOS `.mat`, `.npz`, CSV and Parquet files."""

from __future__ import annotations

import importlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, DataError, MissingPackageError
from .dataset import UNREADABLE, Dataset, Split, as_rows, as_targets
from .splitting import Fractions, How, Splits, split_rows, warn_duplicates

PathLike = str | os.PathLike[str]
Array = NDArray[Any]

_SARCOS_JOINTS = 7
_THREE = ("train", "validation", "test")


def import_optional(module: str, purpose: str) -> Any:  # noqa: ANN401 - a module
    """A module of the `data` extra, imported when a loader needs it.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPackageError(
            f"{purpose} needs {package}, which cannot be imported ({error}); install it with "
            "`pip install 'nprobot[data]'`."
        ) from error


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
        seed: of the draw of blocks.

    Raises:
        DataError: no such file, none that scipy can read, or no array of 28 columns.
        MissingPackageError: scipy is not installed.
    """
    table = _sarcos_table(train)
    inputs, targets = table[:, : 3 * _SARCOS_JOINTS], table[:, 3 * _SARCOS_JOINTS :]
    splits = split_rows(inputs, targets, fractions=fractions, how="blocks", seed=seed)
    files = [Path(train).name]
    if test is not None:
        other = _sarcos_table(test)
        official = _split(other[:, : 3 * _SARCOS_JOINTS], other[:, 3 * _SARCOS_JOINTS :])
        everything = _split(inputs, targets)
        official = warn_duplicates(everything, official, drop=drop_duplicates)
        # The file has its own test rows, so the third share goes back to training.
        learned = splits.train.joined(splits.test)
        splits = Splits(learned, splits.validation, official, f"{splits.how}; official test file")
        files.append(Path(test).name)
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
    )


def _sarcos_table(path: PathLike) -> Array:
    reader = import_optional("scipy.io", "Reading MATLAB files")
    _must_exist(path)
    try:
        content = reader.loadmat(path)
    # What a damaged file makes scipy raise is not documented: reading ends here either way.
    except Exception as error:
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}") from error
    shapes = {name: np.shape(v) for name, v in content.items() if not name.startswith("__")}
    wide = 4 * _SARCOS_JOINTS
    fitting = [name for name, shape in shapes.items() if len(shape) == 2 and shape[1] == wide]
    if len(fitting) != 1:
        raise DataError(
            f"{path} must hold one array of {wide} columns (21 inputs, 7 torques); it holds "
            f"{shapes}."
        )
    return as_rows(f"the rows of {Path(path).name}", content[fitting[0]])


def load_npz(
    path: PathLike,
    *,
    inputs: str | None = None,
    targets: str | None = None,
    trajectory: str | None = None,
    fractions: Fractions = (0.7, 0.15, 0.15),
    how: How = "auto",
    seed: int = 0,
    drop_duplicates: bool = False,
) -> Dataset:
    """Regression or classification from an `.npz` file.

    Three layouts are read:

    - what `Dataset.save` wrote;
    - one table: arrays `inputs` and `targets` (or `x` and `y`, `X` and `y`), with `trajectory` if
      it is there;
    - ready splits: the same names with `_train` and `_test`, and `_validation` if it is there.

    Inputs of more than two dimensions (images) are flattened; 8-bit ones are scaled to [0, 1].
    Targets that are integers in one dimension are class labels.

    Args:
        path: the file; nothing pickled is read.
        inputs: name of the array of inputs, where it is another.
        targets: name of the array of targets, where it is another.
        trajectory: name of the array of trajectory labels, where it is not `trajectory`.
        fractions: shares of the splits, where the file holds one table.
        how: how to split one table; see `split_rows`.
        seed: of the draw.
        drop_duplicates: with ready splits, drop test rows that are also training rows.

    Raises:
        DataError: no such file, a damaged one, or one without the arrays.
    """
    _must_exist(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds one bare array; save an .npz with named arrays.")
        with loaded as file:
            arrays = {name: file[name] for name in file.files}
    except (*UNREADABLE, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as an .npz of plain arrays: {error}") from error
    if "format" in arrays and "header" in arrays:
        return Dataset.load(path)

    x, y = _pair(path, arrays, inputs, targets)
    if f"{x}_train" in arrays:
        splits = _ready(path, arrays, x, y, fractions, seed, drop_duplicates)
    else:
        label = trajectory or "trajectory"
        if trajectory is not None and label not in arrays:
            raise DataError(f"{path} has no array {label!r}; it has {sorted(arrays)}.")
        splits = split_rows(
            _flat(arrays[x]),
            _column(arrays[y]),
            arrays.get(label),
            fractions=fractions,
            how=how,
            seed=seed,
        )
    width = splits.train.inputs.shape[1]
    labelled = splits.train.targets.ndim == 1
    out = ["label"] if labelled else _numbered(y, splits.train.targets.shape[1])
    return splits.as_dataset(Path(path).stem, _numbered(x, width), out, files=[Path(path).name])


def _pair(
    path: PathLike, arrays: dict[str, Array], inputs: str | None, targets: str | None
) -> tuple[str, str]:
    known = [("inputs", "targets"), ("x", "y"), ("X", "y"), ("X", "Y")]
    candidates = [(inputs or x, targets or y) for x, y in known]
    for x, y in candidates:
        if {x, y} <= set(arrays) or {f"{x}_train", f"{y}_train"} <= set(arrays):
            return x, y
    raise DataError(
        f"{path} holds {sorted(arrays)}; inputs and targets were looked for as "
        f"{' or '.join(f'{x!r} and {y!r}' for x, y in dict.fromkeys(candidates))}, also with "
        "_train, _validation and _test. Name them with inputs=… and targets=…"
    )


def _ready(
    path: PathLike,
    arrays: dict[str, Array],
    x: str,
    y: str,
    fractions: Fractions,
    seed: int,
    drop: bool,
) -> Splits:
    missing = [f"{name}_test" for name in (x, y) if f"{name}_test" not in arrays]
    if missing:
        raise DataError(f"{path} has training arrays but no {' and '.join(missing)}.")
    parts = {
        part: _split(_flat(arrays[f"{x}_{part}"]), _column(arrays[f"{y}_{part}"]))
        for part in _THREE
        if f"{x}_{part}" in arrays and f"{y}_{part}" in arrays
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


def load_table(
    path: PathLike,
    *,
    inputs: Sequence[str],
    targets: Sequence[str],
    trajectory: str | None = None,
    units: dict[str, str] | None = None,
    fractions: Fractions = (0.7, 0.15, 0.15),
    how: How = "auto",
    seed: int = 0,
) -> Dataset:
    """Regression from named columns of a CSV or Parquet file.

    Args:
        path: a `.csv` (also `.csv.gz`) or `.parquet` file.
        inputs: names of the input columns, in order.
        targets: names of the target columns, in order.
        trajectory: the column that says which recording a row belongs to.
        units: unit of each column, where it has one.
        fractions: shares of the splits.
        how: how to split; see `split_rows`.
        seed: of the draw.

    Raises:
        DataError: no such file, one that pandas cannot read, or one without the columns; a column
            does not hold numbers.
        ConfigError: no columns are named, or one twice.
        MissingPackageError: pandas is not installed.
    """
    pandas = import_optional("pandas", "Reading tables")
    _must_exist(path)
    if not inputs or not targets:
        raise ConfigError("Name at least one input column and one target column.")
    both = sorted(set(inputs) & set(targets))
    if both or len(set(inputs)) < len(inputs) or len(set(targets)) < len(targets):
        raise ConfigError(
            f"Each column can be named once, as input or target; inputs {list(inputs)}, targets "
            f"{list(targets)}."
        )
    name = Path(path).name.lower()
    try:
        if name.endswith((".csv", ".csv.gz")):
            table = pandas.read_csv(path)
        elif name.endswith((".parquet", ".pq")):
            table = pandas.read_parquet(path)
        else:
            raise DataError(f"load_table reads .csv, .csv.gz and .parquet files; got {path}.")
    # Readers raise what their back ends do: ParserError, ArrowInvalid, UnicodeDecodeError, …
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read: {error}") from error
    wanted = [*inputs, *targets, *([trajectory] if trajectory else [])]
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, table.columns))}."
        )
    for column in [*inputs, *targets]:
        if table[column].dtype.kind not in "fiub":
            raise DataError(
                f"Column {column!r} of {path} holds {table[column].dtype}, not numbers; a cell "
                "with text makes the whole column text."
            )
    splits = split_rows(
        table[list(inputs)].to_numpy(dtype=np.float64),
        table[list(targets)].to_numpy(dtype=np.float64),
        table[trajectory].to_numpy() if trajectory else None,
        fractions=fractions,
        how=how,
        seed=seed,
    )
    units = units or {}
    return splits.as_dataset(
        Path(path).stem,
        inputs,
        targets,
        input_units=[units.get(column, "") for column in inputs],
        target_units=[units.get(column, "") for column in targets],
        files=[Path(path).name],
    )


def _must_exist(path: PathLike) -> None:
    if not Path(path).is_file():
        raise DataError(f"There is no file {path}.")


def _split(inputs: Array, targets: Array) -> Split:
    x, y = as_rows("inputs", inputs), as_targets(targets)
    return Split(x, y, np.zeros(len(x), dtype=np.int64))


def _flat(inputs: Array) -> Array:
    if inputs.ndim < 2:
        raise DataError(f"inputs must have the shape (rows, columns); got {inputs.shape}.")
    flat = inputs.reshape(len(inputs), -1)
    return (flat / np.float32(255)).astype(np.float32) if flat.dtype == np.uint8 else flat


def _column(targets: Array) -> Array:
    """One column of real targets may be written without its second axis."""
    return targets[:, None] if targets.ndim == 1 and targets.dtype.kind == "f" else targets


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}{i}" for i in range(count)]
