"""How good is good: standardisation, normalised error, and the bounds that need no network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import DataError
from .dataset import Dataset, as_rows, is_constant

Array = NDArray[np.float64]


def moments(values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and scale of each column, for standardising: `(values - mean) / scale`.

    Args:
        values: `(rows, columns)`.

    Returns:
        The mean and the standard deviation, `(columns,)` each; the scale of a column that does not
        change (up to rounding) is 1, so that it becomes zero rather than noise or NaN.
    """
    array = as_rows("values", values).astype(np.float64)
    mean, scale = array.mean(axis=0), array.std(axis=0)
    return mean, np.where(is_constant(array), 1.0, scale)


def nmse(predicted: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Mean squared error of each target column, divided by that column's variance.

    1 is what a constant guess of the mean reaches, 0 is perfect. The overall figure is the mean
    over columns (`numpy.nanmean` where some target is constant).

    Args:
        predicted: `(rows, targets)`.
        targets: same shape.

    Returns:
        `(targets,)`; NaN for a column without variance.
    """
    y = as_rows("targets", targets).astype(np.float64)
    guess = as_rows("predicted", predicted).astype(np.float64)
    if guess.shape != y.shape:
        raise DataError(f"Predictions have the shape {guess.shape}, targets {y.shape}.")
    variance = np.where(is_constant(y), np.nan, y.var(axis=0))
    return np.asarray(((guess - y) ** 2).mean(axis=0) / variance)


def linear_regression(dataset: Dataset) -> dict[str, NDArray[np.float64]]:
    """NMSE of each target, in every split, of least squares on the training rows.

    Returns:
        Split name → `(targets,)`.
    """
    return _fit(dataset, linear=True)


def mean_predictor(dataset: Dataset) -> dict[str, NDArray[np.float64]]:
    """NMSE of each target, in every split, of always guessing the training mean.

    Returns:
        Split name → `(targets,)`.
    """
    return _fit(dataset, linear=False)


def _fit(dataset: Dataset, *, linear: bool) -> dict[str, Array]:
    if dataset.is_classification:
        raise DataError("nMSE is a measure of regression; this data set has labels.")
    mean, scale = moments(dataset.train.inputs)

    def features(inputs: NDArray[Any]) -> Array:
        ones = np.ones((len(inputs), 1))
        return np.hstack([(inputs - mean) / scale, ones]) if linear else ones

    weights, *_ = np.linalg.lstsq(features(dataset.train.inputs), dataset.train.targets, rcond=None)
    return {
        name: nmse(features(split.inputs) @ weights, split.targets)
        for name, split in dataset.splits.items()
    }
