"""Splitting rows without leaks: by trajectory, in blocks of time, or one by one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError, DataError, DataWarning, UnknownNameError
from .dataset import Dataset, Split, as_rows, as_targets

How = Literal["auto", "trajectory", "blocks", "rows"]
Fractions = tuple[float, float, float]

_BLOCKS = 20
#: Rows follow each other in time below this ratio of successive to overall variation (1: shuffled).
_IN_ORDER = 0.5
#: Factor by which a part may be smaller than asked for before that is said.
_UNEVEN = 3.0
#: Below this, every row may be a trajectory.
_FEW_ROWS = 20


class Splits(NamedTuple):
    """Three splits and, in words, how they were made."""

    train: Split
    validation: Split
    test: Split
    how: str

    def as_dataset(
        self,
        task: str,
        inputs: Sequence[str],
        targets: Sequence[str],
        *,
        input_units: Sequence[str] | None = None,
        target_units: Sequence[str] | None = None,
        **meta: Any,
    ) -> Dataset:
        """A data set of the three.

        Args:
            task: what it is called.
            inputs: names of the input columns.
            targets: names of the target columns, or of the label.
            input_units: units of the input columns; None: none have any.
            target_units: units of the target columns; None: none have any.
            **meta: what else to say of where the data came from.
        """
        return Dataset(
            train=self.train,
            validation=self.validation,
            test=self.test,
            shifted=None,
            input_names=tuple(inputs),
            input_units=tuple(input_units or [""] * len(inputs)),
            target_names=tuple(targets),
            target_units=tuple(target_units or [""] * len(targets)),
            meta={"task": task, "split": self.how, **meta},
        )


def split_rows(
    inputs: ArrayLike,
    targets: ArrayLike,
    trajectory: ArrayLike | None = None,
    *,
    fractions: Fractions = (0.7, 0.15, 0.15),
    how: How = "auto",
    seed: int = 0,
) -> Splits:
    """Split rows in training, validation and test data.

    Args:
        inputs: `(rows, columns)`.
        targets: `(rows, columns)`, or integer labels `(rows,)`.
        trajectory: `(rows,)`, any labels: which recording a row belongs to.
        fractions: shares of the three splits, of sum 1.
        how: "trajectory": whole trajectories, drawn at random. "blocks": contiguous blocks of rows,
            drawn at random, with a gap of dropped rows where two splits meet, since neighbours in
            time are near-copies. "rows": each row by itself, right for independent samples only.
            "auto": by trajectory where there are labels of trajectories; else by rows for
            classification; else in blocks, with a `DataWarning`.
        seed: the seed of the draw.

    Raises:
        DataError: fewer than three trajectories, too few rows, or arrays that do not fit together.
        ConfigError: impossible fractions, or a split by trajectory without labels.
        UnknownNameError: an unknown `how`.
    """
    x, y = as_rows("inputs", inputs), as_targets(targets)
    if len(x) != len(y):
        raise DataError(f"There are {len(x)} rows of inputs and {len(y)} of targets.")
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(
            f"fractions are three positive shares of sum 1 (train, validation, test); got "
            f"{fractions}."
        )
    if how not in get_args(How):
        raise UnknownNameError("how", how, get_args(How))
    if how == "auto" and trajectory is None and y.ndim == 2:
        how = "blocks"
        warnings.warn(
            "There are no trajectory labels, so the rows were split in contiguous blocks. Name the "
            "column of trajectories, or ask for a split in blocks to silence this.",
            DataWarning,
            stacklevel=3,
        )
    elif how == "auto":
        how = "rows" if trajectory is None else "trajectory"
    if how == "trajectory":
        if trajectory is None:
            raise ConfigError("A split by trajectory needs labels of trajectories.")
        labels = np.asarray(trajectory)
        if labels.shape != (len(x),):
            raise DataError(
                f"There are {len(x)} rows and trajectory labels of shape {labels.shape}."
            )
        names, groups = np.unique(labels, return_inverse=True)
        if len(names) < 3:
            raise DataError(
                f"A split by trajectory needs at least three trajectories; the data has "
                f"{len(names)} ({', '.join(map(str, names))}). Record more, or leave the labels "
                "out and split in contiguous blocks."
            )
        _check_trajectories(labels, len(names))
        part = _draw(np.bincount(groups), fractions, seed)[groups]
        words = f"by trajectory ({len(names)} trajectories)"
    elif how == "blocks":
        _warn_shuffled(x)
        groups, part = _blocks(len(x), fractions, seed)
        words = f"in {groups.max() + 1} contiguous blocks, rows dropped where splits meet"
    else:
        _need(len(x), 3)
        groups = np.arange(len(x))
        part = _draw(np.ones(len(x), dtype=np.int64), fractions, seed)
        words = "row by row, at random"
    train, validation, test = (
        Split(x[rows], y[rows], groups[rows]) for rows in (part == 0, part == 1, part == 2)
    )
    _warn_uneven([len(train), len(validation), len(test)], fractions)
    return Splits(train, validation, test, words)


def _check_trajectories(labels: NDArray[Any], count: int) -> None:
    """Labels that are none: another one in almost every row.

    Raises:
        DataError: it is so.
    """
    if len(labels) >= _FEW_ROWS and count > len(labels) / 2:
        raise DataError(
            f"There are {count:,} trajectory labels for {len(labels):,} rows: a time or a counter "
            "rather than the number of a recording. Name another column; for independent rows ask "
            "for a split by rows."
        )
    pieces = 1 + int((labels[1:] != labels[:-1]).sum())
    if pieces > 4 * count:
        warnings.warn(
            f"The rows of {count:,} trajectories lie in {pieces:,} pieces; is that column the "
            "number of a recording?",
            DataWarning,
            stacklevel=4,
        )


def _warn_uneven(sizes: Sequence[int], fractions: Fractions) -> None:
    """Say so where whole trajectories make parts of absurd sizes."""
    shares = [size / sum(sizes) for size in sizes]
    odd = (share < want / _UNEVEN for share, want in zip(shares, fractions, strict=True))
    if any(odd):
        told = ", ".join(
            f"{name} {size:,} rows ({share:.1%} instead of {want:.0%})"
            for name, size, share, want in zip(
                ("training", "validation", "test"), sizes, shares, fractions, strict=True
            )
        )
        warnings.warn(
            f"The split is uneven, because trajectories differ in length: {told}. Errors on a few "
            "rows say little; try another seed of the split, or a split in blocks.",
            DataWarning,
            stacklevel=4,
        )


def _need(rows: int, least: int) -> None:
    if rows < least:
        raise DataError(f"{rows} rows are too few to split in three; at least {least} are needed.")


def _draw(sizes: NDArray[Any], fractions: Fractions, seed: int) -> NDArray[np.int64]:
    """Assign groups of `sizes` rows to parts 0, 1, 2: shares as near as whole groups allow."""
    order = np.random.default_rng(seed).permutation(len(sizes))
    filled = np.cumsum(sizes[order]) / sizes.sum()
    # A group goes where its middle lies.
    middle = filled - sizes[order] / sizes.sum() / 2
    part = np.searchsorted(np.cumsum(fractions)[:2], middle, side="right")
    # Long trajectories can leave a part empty: each takes at least one.
    part[0], part[-1] = 0, 2
    if not (part == 1).any():
        part[np.flatnonzero(part == 2)[0] if (part == 2).sum() > 1 else -2] = 1
    assigned = np.empty(len(sizes), dtype=np.int64)
    assigned[order] = part
    return assigned


def _blocks(
    rows: int, fractions: Fractions, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    _need(rows, 30)
    count = min(_BLOCKS, rows // 10)
    block = np.arange(rows) * count // rows
    part = _draw(np.bincount(block), fractions, seed)[block]
    gap = max(1, rows // count // 20)
    for border in np.flatnonzero(np.diff(part)) + 1:
        part[border : border + gap] = -1
    return block, part


def _warn_shuffled(inputs: NDArray[Any]) -> None:
    """Compare successive differences with the variance (von Neumann's ratio, halved)."""
    if len(inputs) < 100:
        return
    x = inputs.astype(np.float64)
    variance = x.var(axis=0)
    moving = variance > 0
    if not moving.any():
        return
    ratio = (np.diff(x[:, moving], axis=0) ** 2).mean(axis=0) / (2 * variance[moving])
    if float(np.median(ratio)) > _IN_ORDER:
        warnings.warn(
            "The rows do not follow each other in time (successive rows differ as much as any "
            "two): blocks cannot keep trajectories apart, and a test error may flatter the "
            "network. Use the recording before it was shuffled, or label its trajectories.",
            DataWarning,
            stacklevel=4,
        )


def duplicates(rows: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of `rows` (n, columns) are also among `others`, to float32 precision: `(n,)`."""

    def keys(array: NDArray[Any]) -> NDArray[np.void]:
        # Adding zero turns −0 into +0, whose bytes differ.
        plain = np.ascontiguousarray(array.astype(np.float32) + np.float32(0))
        return plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).ravel()

    ours, theirs = keys(rows), keys(others)
    return np.fromiter(map(set(theirs.tolist()).__contains__, ours.tolist()), bool, len(ours))


def warn_duplicates(train: Split, test: Split, *, drop: bool) -> Split:
    """Warn of test rows that are also training rows (inputs and targets); drop them if asked.

    Raises:
        DataError: dropping leaves no test row.
    """

    def whole(split: Split) -> NDArray[Any]:
        targets = split.targets if split.targets.ndim == 2 else split.targets[:, None]
        return np.hstack([split.inputs, targets])

    same = duplicates(whole(test), whole(train))
    if not same.any():
        return test
    found = f"{same.sum():,} of {len(test):,} test rows are also in the training data"
    if not drop:
        warnings.warn(
            f"{found}: a test error would flatter the network. Leave the test file out and split "
            "the training file by trajectory or in blocks, or have duplicates dropped.",
            DataWarning,
            stacklevel=4,
        )
        return test
    if same.all():
        raise DataError(
            f"All {len(test):,} test rows are also in the training data; dropping them leaves "
            "none. Leave the test file out and split the training file."
        )
    warnings.warn(f"{found}; they were dropped.", DataWarning, stacklevel=4)
    return Split(test.inputs[~same], test.targets[~same], test.trajectory[~same])
