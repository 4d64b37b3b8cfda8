"""What rows mean: a time step that is not constant, targets that are inputs, labels that are none.

Nothing here changes data; what looks like a mistake is said before anything learns from it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, DataWarning
from .columns import Fields, import_optional, listed
from .dataset import Dataset, is_constant

Array = NDArray[Any]

_TIME_NAMES = ("time", "t", "timestamp", "time_s", "time_ms", "stamp", "seconds")
_SECONDS = {"": 1.0, "s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_UNEVEN = 0.1
"""Share by which a time step may differ from the median."""
_PLAUSIBLE = (2.0, 20_000.0)
"""Rates of recordings of robots, Hz."""
_COPY = 0.9999
"""Correlation from which on a target counts as a copy of an input."""
_ROWS = 20_000
_PER_CLASS = 5
_LOPSIDED = 100


def warn(text: str) -> None:
    """Say what should be known about data that can be used."""
    warnings.warn(text, DataWarning, stacklevel=2)


def time_column(fields: Fields, used: Sequence[str]) -> str | None:
    """A column that by its name holds times, and is not used otherwise."""
    for name, array in fields.arrays.items():
        known = name.lower() in _TIME_NAMES and name not in used
        if known and array.ndim == 1 and array.dtype.kind in "iuf":
            return name
    return None


def check_time(fields: Fields, name: str, labels: Array, *, strict: bool) -> float | None:
    """Seconds between two rows, by the column of times.

    Args:
        fields: the recording.
        name: the name of the column.
        labels: the labels of trajectories, `(rows,)`; time begins anew in each.
        strict: whether the user has named the column; else doubts end in None.

    Raises:
        DataError: it holds no times, or they do not grow.
    """

    def doubt(text: str) -> None:
        if strict:
            raise DataError(text)
        warn(text)

    values = fields.values(name)
    unit = fields.units.get(name, "ms" if name.lower().endswith("_ms") else "")
    if values.ndim != 1 or len(values) != len(labels):
        if strict:
            raise DataError(f"Column {name!r} of {fields.source} has the shape {values.shape}.")
        return None
    if values.dtype.kind == "O":
        pandas = import_optional("pandas", "Reading times")
        try:
            values = pandas.to_datetime(values).to_numpy("datetime64[ns]").astype(np.int64)
        except (ValueError, TypeError) as error:
            raise DataError(f"Column {name!r} of {fields.source} holds no times: {error}") from None
        unit = "ns"
    if unit.lower() not in _SECONDS:
        known = ", ".join(filter(None, _SECONDS))
        doubt(f"Column {name!r} of {fields.source} is in {unit!r}; times are in {known}.")
        return None
    steps = np.diff(values.astype(np.float64))[labels[1:] == labels[:-1]] * _SECONDS[unit.lower()]
    steps = steps[np.isfinite(steps)]
    if not len(steps):
        return None
    if (steps <= 0).any():
        doubt(
            f"Column {name!r} of {fields.source} does not grow at {(steps <= 0).sum():,} of "
            f"{len(steps):,} steps: rows are out of order, or recordings follow each other. Sort "
            "them, or name the column that tells recordings apart."
        )
        return None
    period = float(np.median(steps))
    if uneven := int((np.abs(steps - period) > _UNEVEN * period).sum()):
        warn(
            f"The time step of {fields.source} is not constant: {period:.4g} s in the middle, from "
            f"{steps.min():.4g} to {steps.max():.4g} s; {uneven:,} of {len(steps):,} steps differ "
            f"by more than {_UNEVEN:.0%}."
        )
    if not _PLAUSIBLE[0] <= 1 / period <= _PLAUSIBLE[1]:
        warn(
            f"Column {name!r} of {fields.source} says {1 / period:.4g} rows a second. If its unit "
            f"is not s, put it behind the name: {name} [ms]."
        )
    return period


def look_over(data: Dataset) -> None:
    """Say what looks like a mistake in the labels or targets of a user's own data."""
    if data.is_classification:
        _check_labels(data)
        return
    step = -(-len(data.train) // _ROWS)
    inputs = data.train.inputs[::step].astype(np.float64)
    targets = data.train.targets[::step].astype(np.float64)
    if len(inputs) < 10:
        return
    moving = ~is_constant(inputs)
    x = _standardised(inputs[:, moving])
    names = [name for name, moves in zip(data.input_names, moving, strict=True) if moves]
    copies = []
    for name, column, still in zip(data.target_names, targets.T, is_constant(targets), strict=True):
        if still or not names:
            continue
        correlation = np.abs(_standardised(column[:, None])[:, 0] @ x) / len(x)
        best = int(correlation.argmax())
        if correlation[best] > _COPY:
            copies.append(f"{name} of {names[best]}")
    if copies:
        warn(
            f"Targets are copies of inputs, but for scale: {listed(copies, 6)}. What is learned "
            "from them is worth nothing; leave one of the two away."
        )


def _standardised(values: Array) -> Array:
    centred = values - values.mean(axis=0)
    return np.asarray(centred / np.maximum(centred.std(axis=0), np.finfo(np.float64).tiny))


def _check_labels(data: Dataset) -> None:
    here, counts = np.unique(data.train.targets, return_counts=True)
    classes, rows = data.classes or 0, len(data.train)
    empty = sorted(set(range(classes)) - set(here.tolist()))
    if classes > max(10, rows // _PER_CLASS) or (classes > 50 and len(empty) > classes // 2):
        warn(
            f"Integer targets are class labels, and there are {classes:,} classes for {rows:,} "
            "rows. If they are a quantity, save them as real numbers."
        )
    elif empty:
        without = ", ".join(map(str, empty[:8]))
        warn(f"Labels run from 0 to {classes - 1}, and no training row has {without}.")
    elif counts.max() > _LOPSIDED * counts.min():
        rare, common = here[counts.argmin()], here[counts.argmax()]
        warn(f"Label {rare} has {counts.min():,} training rows, label {common} {counts.max():,}.")
