"""Demonstrations in a folder of LeRobot's dataset format, versions 2 and 3: numbers, no pictures.

``meta/info.json`` says what there is; ``data/**/*.parquet`` holds a row a step, with vectors as
lists. Version 2 has a file an episode, version 3 several episodes in a file; the column
``episode_index`` tells them apart in both. Films are not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, did_you_mean
from .columns import import_optional, listed
from .demonstrations import Demonstration, Demonstrations

Array = NDArray[Any]

INFO = Path("meta", "info.json")
ACTION, OBSERVATION = "action", "observation."
EPISODE, FRAME = "episode_index", "frame_index"
VERSIONS = ("v2", "v3")
_PICTURES = ("video", "image")
LARGEST = 2**24
"""Bytes of `info.json`."""


def is_lerobot(folder: Path) -> bool:
    """Whether a folder holds a data set of LeRobot."""
    return (folder / INFO).is_file()


def read_lerobot(
    folder: Path, *, inputs: Sequence[str] = (), targets: Sequence[str] = ()
) -> Demonstrations:
    """The demonstrations in a folder.

    Args:
        folder: that holds ``meta`` and ``data``.
        inputs: features that make the observation, in order; by default all with numbers whose name
            begins with ``observation.``, in the order of `info.json`.
        targets: features that make the action; by default ``action``.

    Returns:
        Episodes in the order of their numbers. The data do not name an environment.

    Raises:
        DataError: it is not such a folder, is damaged, or lacks a feature.
        MissingPackageError: pyarrow is not installed.
    """
    info = _info(folder)
    features = info["features"]
    numbers = {
        name: about
        for name, about in features.items()
        if about.get("dtype") not in (*_PICTURES, "string")
    }
    seen = list(inputs) or [name for name in numbers if name.startswith(OBSERVATION)]
    told = list(targets) or [ACTION]
    for name in (*seen, *told):
        if name in numbers:
            continue
        kind = features.get(name, {}).get("dtype")
        what = "no feature" if kind is None else f"no numbers but a {kind}"
        raise DataError(
            f"{folder} has {what} {name!r}{did_you_mean(name, numbers)}; features with numbers: "
            f"{listed(list(numbers), 40)}."
        )
    if not seen:
        raise DataError(
            f"{folder} has no observation of numbers (observation.state, …), only "
            f"{listed(list(features), 40)}; pictures cannot be cloned from here."
        )
    table = _table(folder, [*seen, *told, EPISODE, FRAME])
    observations = np.concatenate([_column(table, name, folder) for name in seen], axis=1)
    actions = np.concatenate([_column(table, name, folder) for name in told], axis=1)
    episode, frame = (_column(table, name, folder)[:, 0].astype(int) for name in (EPISODE, FRAME))
    order = np.lexsort((frame, episode))
    begins = np.flatnonzero(np.diff(episode[order], prepend=-1))
    parts = []
    for rows in np.split(order, begins[1:]):
        steps = frame[rows]
        if (np.diff(steps) != 1).any():
            raise DataError(
                f"Episode {episode[rows[0]]} of {folder} lacks steps: its {FRAME} is not 0, 1, 2, "
                "…; copy the whole data set."
            )
        parts.append(Demonstration(observations[rows], actions[rows], whole=bool(steps[0] == 0)))
    left = [name for name, about in features.items() if about.get("dtype") in _PICTURES]
    notes = [f"LeRobot {info['codebase_version']}"]
    notes += [f"without the pictures {', '.join(left)}"] if left else []
    return Demonstrations(
        folder.resolve().name,
        parts,
        rate=float(info["fps"]) if info.get("fps") else None,
        observation_names=[name for feature in seen for name in _names(feature, features[feature])],
        action_names=[name for feature in told for name in _names(feature, features[feature])],
        notes=notes,
    )


def _info(folder: Path) -> dict[str, Any]:
    file = folder / INFO
    try:
        if file.stat().st_size > LARGEST:
            raise DataError(
                f"{file} is larger than {LARGEST:,} bytes, no description of LeRobot's."
            )
        info = json.loads(file.read_text(encoding="utf-8"))
        version, features = info["codebase_version"], info["features"]
        is_one = isinstance(version, str) and all(isinstance(f, dict) for f in features.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file} is not readable as LeRobot's description: {error!r}.") from error
    if not is_one or not version.startswith(VERSIONS):
        raise DataError(
            f"{file} has the version {version!s:.40}; {' and '.join(VERSIONS)} are read. LeRobot "
            "converts older data sets."
        )
    return dict(info)


def _table(folder: Path, columns: Sequence[str]) -> Any:  # noqa: ANN401 - a table of pyarrow
    """The rows of all files, those columns alone."""
    parquet = import_optional("pyarrow.parquet", "Reading LeRobot data sets")
    arrow = import_optional("pyarrow", "Reading LeRobot data sets")
    files = sorted((folder / "data").rglob("*.parquet"))
    if not files:
        raise DataError(
            f"There is no .parquet file under {folder / 'data'}; copy the whole folder."
        )
    tables = []
    for file in files:
        try:
            tables.append(parquet.read_table(file, columns=list(columns)))
        # pyarrow raises ArrowInvalid, OSError, KeyError, …
        except Exception as error:
            raise DataError(f"{file} cannot be read: {error}.") from error
        lacking = set(columns) - set(tables[-1].column_names)
        if lacking:
            raise DataError(f"{file} has no column {', '.join(sorted(lacking))}.")
    try:
        return arrow.concat_tables(tables, promote_options="permissive")
    except Exception as error:
        raise DataError(
            f"The files under {folder / 'data'} do not fit together: {error}."
        ) from error


def _column(table: Any, name: str, folder: Path) -> Array:  # noqa: ANN401 - a table of pyarrow
    """A column of numbers, or of lists of as many numbers each, as `(rows, numbers)`."""
    column = table.column(name).combine_chunks()
    rows = len(column)
    try:
        if column.null_count:
            raise ValueError(f"{column.null_count} rows are empty")
        while hasattr(column, "flatten") and hasattr(column.type, "value_type"):
            column = column.flatten()
        values = np.asarray(column.to_numpy(zero_copy_only=False))
        if values.dtype.kind not in "iufb":
            raise ValueError(f"its values are {column.type}")
        return values.reshape(rows, -1 if rows else 1)
    except ValueError as error:
        raise DataError(
            f"{name!r} of {folder} is not a vector of the same length in every row: {error}."
        ) from error


def _names(feature: str, about: Mapping[str, Any]) -> list[str]:
    """Names of a feature's numbers: those that it has, with its own before them."""
    names, size = about.get("names"), int(np.prod(about.get("shape") or [1]))
    if isinstance(names, dict):  # {"motors": [...]}
        names = next(iter(names.values()), None)
    if not isinstance(names, list) or len(names) != size:
        return [feature if size == 1 else f"{feature}{i}" for i in range(size)]
    return [f"{feature}.{name}" for name in names]
