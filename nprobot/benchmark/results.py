"""Rows of a benchmark as results: by task and learner, normalised between random and backprop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .methods import FIT, IDEAL
from .rows import DIVERGED, DONE, FAILED, Row

Array = npt.NDArray[np.float64]

AXES = {
    "env_steps": "environment steps",
    "passes": "network passes, forward and backward",
    "multiply_adds": "multiply-adds",
    "cpu_seconds": "CPU seconds",
    "wall_seconds": "wall-clock seconds",
}
"""What learners can be compared at equal amounts of."""


@dataclass(frozen=True, order=True)
class BenchmarkTask:
    """What has to be learned.

    Attributes:
        env: environment id.
        actuators: preset of noisy actuators.
        steps: budget.
    """

    env: str
    actuators: str
    steps: int

    @property
    def group(self) -> str:
        """Tasks whose scores are averaged: those with the same actuators; regression by itself."""
        return "regression" if self.env.startswith(FIT) else self.actuators

    def __str__(self) -> str:
        actuators = "" if self.actuators == IDEAL else f", {self.actuators}"
        return f"{self.env.removeprefix(FIT).removeprefix('nprobot/')}{actuators}"


@dataclass
class Results:
    """Rows by task and learner.

    Attributes:
        rows: all rows.
        cells: (task, learner) → rows that are results: done, or diverged.
        failed: rows of runs that failed.
        baseline: learner that stands for 1; None if there is none.
        random: learner that stands for 0.
    """

    rows: list[Row]
    cells: dict[tuple[BenchmarkTask, str], list[Row]] = field(default_factory=dict)
    failed: list[Row] = field(default_factory=list)
    baseline: str | None = None
    random: str | None = None

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Results:
        """The results in rows."""
        own = cls(list(rows))
        for row in own.rows:
            if row["status"] == FAILED:
                own.failed.append(row)
                continue
            own.cells.setdefault((task_of(row), row["learner"]), []).append(row)
            if row["algo"] == "random":
                own.random = row["learner"]
            if row["rule"] == "bp" and row["algo"] in ("ppo", "fit") and own.baseline is None:
                own.baseline = row["learner"]
        for found in own.cells.values():
            found.sort(key=lambda row: int(row["seed"]))
        return own

    @property
    def tasks(self) -> list[BenchmarkTask]:
        """All tasks, in the order of their first row."""
        return list(dict.fromkeys(task for task, _ in self.cells))

    @property
    def groups(self) -> list[str]:
        """All groups of tasks."""
        return list(dict.fromkeys(task.group for task in self.tasks))

    @property
    def learners(self) -> list[str]:
        """All learners: the baseline, then the others by their mean score, random the last."""
        names = dict.fromkeys(learner for _, learner in self.cells)
        scored = {name: self._mean_score(name) for name in names}

        def place(name: str) -> tuple[int, float]:
            last = 0 if name == self.baseline else 2 if name == self.random else 1
            return last, -scored[name]

        return sorted(names, key=place)

    def row(self, learner: str) -> Row:
        """The first row of a learner: its algorithm, rule and K are those of all of them."""
        return next(rows[0] for (_, name), rows in self.cells.items() if name == learner)

    def seeds(self, task: BenchmarkTask, learner: str) -> list[int]:
        """Seeds of the results of a learner on a task."""
        return [int(row["seed"]) for row in self.cells.get((task, learner), [])]

    def returns(self, task: BenchmarkTask, learner: str) -> Array:
        """Final returns, a run each; a diverged run counts as the random policy."""
        fallback = self.anchor(task, self.random)
        rows = self.cells.get((task, learner), [])
        return np.array(
            [row["return_mean"] if row["status"] == DONE else fallback for row in rows], float
        )

    def anchor(self, task: BenchmarkTask, learner: str | None) -> float:
        """Mean return of a learner on a task; NaN if it has no run there."""
        rows = self.cells.get((task, learner), []) if learner else []
        done = [float(row["return_mean"]) for row in rows if row["status"] == DONE]
        return float(np.mean(done)) if done else float("nan")

    def comparable(self, group: str) -> list[BenchmarkTask]:
        """Tasks of a group on which the baseline has learned something to compare with."""
        return [t for t in self.tasks if t.group == group and self.scale(t) > 0]

    def scale(self, task: BenchmarkTask) -> float:
        """What a score of 1 is worth: the return of the baseline above that of random; or NaN."""
        return self.anchor(task, self.baseline) - self.anchor(task, self.random)

    def untrained(self, task: BenchmarkTask) -> float:
        """Mean score of the baseline before it has learned anything; NaN without a curve."""
        starts = [y[0] for _, y in self.curves(task, self.baseline or "", "env_steps")]
        if not starts:
            return float("nan")
        return float(np.mean(starts) - self.anchor(task, self.random)) / self.scale(task)

    def scores(self, task: BenchmarkTask, learner: str) -> Array:
        """Final returns normalised: 0 is the random policy, 1 the mean of the baseline."""
        low = self.anchor(task, self.random)
        scores: Array = (self.returns(task, learner) - low) / self.scale(task)
        return scores

    def complete(self, group: str) -> list[str]:
        """Learners with a run on every comparable task of a group, the best first."""
        tasks = self.comparable(group)
        return [
            name
            for name in self.learners
            if tasks and all((task, name) in self.cells for task in tasks)
        ]

    def incomplete(self, group: str) -> dict[str, list[BenchmarkTask]]:
        """Learners that lack comparable tasks of a group, and which."""
        tasks = self.comparable(group)
        lacking = {
            name: [task for task in tasks if (task, name) not in self.cells]
            for name in self.learners
        }
        return {name: missing for name, missing in lacking.items() if missing}

    def curves(self, task: BenchmarkTask, learner: str, axis: str) -> list[tuple[Array, Array]]:
        """The curve of every finished run: what was spent, and the return."""
        rows = self.cells.get((task, learner), [])
        return [
            (spent(row["curve"], axis), np.array(row["curve"]["return_mean"], float))
            for row in rows
            if row["status"] == DONE
        ]

    def budget(self, task: BenchmarkTask, axis: str) -> float:
        """What the baseline spends on a task, mean of its runs; NaN without one."""
        ends = [x[-1] for x, _ in self.curves(task, self.baseline or "", axis)]
        return float(np.mean(ends)) if ends else float("nan")

    def at_equal(self, task: BenchmarkTask, learner: str, axis: str) -> Array:
        """Scores when a run has spent what the baseline spends in all; a run each.

        Between two points of its curve, by linear interpolation; a run that spends less in all
        counts with what it has in the end.
        """
        budget = self.budget(task, axis)
        low, scale = self.anchor(task, self.random), self.scale(task)
        values = [np.interp(budget, x, y) for x, y in self.curves(task, learner, axis)]
        rows = self.cells.get((task, learner), [])
        values += [np.float64(low)] * sum(row["status"] == DIVERGED for row in rows)
        return (np.array(values, float) - low) / scale

    def _mean_score(self, learner: str) -> float:
        scores = [
            float(self.scores(task, name).mean())
            for task, name in self.cells
            if name == learner and self.scale(task) > 0
        ]
        return float(np.mean(scores)) if scores else float("-inf")


def task_of(row: Row) -> BenchmarkTask:
    """The task of a row."""
    return BenchmarkTask(row["env"], row["actuators"], int(row["steps"]))


def spent(curve: dict[str, Any], axis: str) -> Array:
    """One axis of a curve."""
    if axis == "passes":
        both = np.array([curve["forward_passes"], curve["backward_passes"]], float)
        passes: Array = both.sum(axis=0)
        return passes
    return np.array(curve[axis], float)


def mean_curve(
    curves: Sequence[tuple[Array, Array]], grid: Array, resamples: int = 500
) -> tuple[Array, Array, Array]:
    """Mean of the curves of several runs on a grid, and its bootstrap bounds (95 %)."""
    values = np.array([np.interp(grid, x, y) for x, y in curves])
    generator = np.random.default_rng(0)
    drawn = values[generator.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    mean: Array = values.mean(axis=0)
    return mean, low, high
