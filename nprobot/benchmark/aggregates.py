"""Statistics over few runs on several tasks, as Agarwal et al. 2021 (arXiv 2108.13264) define them.

Their library, rliable 1.2.0, is not used: it pins a version of `arch` that does not import beside
pandas 3, and it wants as many runs on every task as on every other, which a benchmark in progress
does not have. Scores come as one array of runs for each task; the tests compare with values
computed by hand and by scipy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Scores = Sequence[npt.ArrayLike]
"""For every task the scores of its runs. The same scores give the same intervals."""

RESAMPLES = 2000
LEVEL = 0.95
SEED = 0
"""Seed of the stratified bootstrap."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its bootstrap interval at `LEVEL`."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def iqm(scores: Scores) -> Interval:
    """Interquartile mean: of the middle half of all runs on all tasks together.

    Every task counts the same: where one has more runs than another, each of them counts less.
    """
    return _interval(_iqm, scores)


def median(scores: Scores) -> Interval:
    """Median over the tasks of the mean over a task's runs."""
    return _interval(_median, scores)


def mean(scores: Scores) -> Interval:
    """Mean over the tasks of the mean over a task's runs."""
    return _interval(_mean, scores)


def improvement(ours: Scores, theirs: Scores) -> Interval:
    """Probability that a run of ours beats one of theirs: mean over the tasks, a tie counts half.

    Args:
        ours: scores of one learner; both are resampled.
        theirs: of another, on the same tasks in the same order.
    """
    pairs = [(_array(x), _array(y)) for x, y in zip(ours, theirs, strict=True)]
    generator = np.random.default_rng(SEED)
    drawn = [(_resample(x, generator), _resample(y, generator)) for x, y in pairs]
    value = _improvement([(x[None], y[None]) for x, y in pairs])[0]
    return _bounds(float(value), _improvement(drawn))


def profile(scores: Scores, thresholds: npt.ArrayLike) -> Array:
    """Performance profile: the share of runs above each threshold, every task counting the same."""
    tau = _array(thresholds)
    shares = [(_array(task)[:, None] > tau).mean(axis=0) for task in scores]
    return np.asarray(np.mean(shares, axis=0), np.float64)


def profile_interval(scores: Scores, thresholds: npt.ArrayLike) -> tuple[Array, Array]:
    """Pointwise bounds of `profile`, each of the length of `thresholds`."""
    generator = np.random.default_rng(SEED)
    tau = _array(thresholds)
    drawn = [_resample(_array(task), generator) for task in scores]
    shares = np.mean([(task[:, :, None] > tau).mean(axis=1) for task in drawn], axis=0)
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def _iqm(tasks: Sequence[Array]) -> Array:
    """Interquartile means of drawn scores, (draws, runs) a task: one value a draw."""
    together = np.concatenate(tasks, axis=1)
    if len({task.shape[1] for task in tasks}) == 1:
        runs = together.shape[1]
        cut = runs // 4  # whole runs, as rliable and scipy cut
        return np.asarray(np.sort(together, axis=1)[:, cut : runs - cut].mean(axis=1))
    weights = np.concatenate([np.full(task.shape[1], 1 / task.shape[1]) for task in tasks])
    order = np.argsort(together, axis=1)
    above = np.cumsum(weights[order], axis=1)
    low, high = len(tasks) / 4, len(tasks) * 3 / 4
    inside = np.minimum(above, high) - np.maximum(above - weights[order], low)
    kept = np.maximum(inside, 0.0) * np.take_along_axis(together, order, axis=1)
    return np.asarray(kept.sum(axis=1) / (high - low))


def _median(tasks: Sequence[Array]) -> Array:
    return np.asarray(np.median([task.mean(axis=1) for task in tasks], axis=0))


def _mean(tasks: Sequence[Array]) -> Array:
    return np.asarray(np.mean([task.mean(axis=1) for task in tasks], axis=0))


def _improvement(pairs: Sequence[tuple[Array, Array]]) -> Array:
    shares = []
    for x, y in pairs:
        above = (x[:, :, None] > y[:, None, :]).mean(axis=(1, 2))
        equal = (x[:, :, None] == y[:, None, :]).mean(axis=(1, 2))
        shares.append(above + equal / 2)
    return np.asarray(np.mean(shares, axis=0))


def _interval(statistic: Callable[[Sequence[Array]], Array], scores: Scores) -> Interval:
    generator = np.random.default_rng(SEED)
    drawn = [_resample(_array(task), generator) for task in scores]
    value = statistic([_array(task)[None] for task in scores])[0]
    return _bounds(float(value), statistic(drawn))


def _bounds(value: float, drawn: Array) -> Interval:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _resample(runs: Array, generator: np.random.Generator) -> Array:
    """Runs of one task drawn again with replacement, shape (RESAMPLES, runs)."""
    return runs[generator.integers(len(runs), size=(RESAMPLES, len(runs)))]


def _array(values: Any) -> Array:  # noqa: ANN401
    return np.asarray(values, np.float64)
