"""The tables of a report, as rows of text: the page and the Markdown file print the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .aggregates import improvement_interval, iqm_interval, mean_interval, median_interval
from .findings import number, percent, spread
from .results import AXES, Results, Task
from .rows import DONE
from .store import Row


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        header: names of the columns.
        rows: as many cells each.
        note: what one has to know to read it.
        mark: by row, which cell is the best one; empty for none.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    mark: frozenset[tuple[int, int]] = frozenset()


def aggregate_table(results: Results, group: str) -> Table:
    """Averages over all tasks of a group, with intervals."""
    tasks = results.comparable(group)
    base, other_peer = results.baseline, peer(results, group)
    header = ["learner", "IQM", "median", "mean", f"P(beats {base})"]
    header += [f"P(beats {other_peer})"] if other_peer else []
    rows = []
    for name in results.complete(group):
        scores = [results.scores(task, name) for task in tasks]
        cells = [name, *map(str, (iqm_interval(scores), median_interval(scores)))]
        cells.append(str(mean_interval(scores)))
        for other in (base, other_peer):
            if other is None:
                continue
            theirs = [results.scores(task, other) for task in tasks]
            cells.append("–" if other == name else str(improvement_interval(scores, theirs)))
        rows.append(tuple(cells))
    note = (
        "Normalised scores: 0 is the random policy, 1 the mean of backprop on the same task. IQM: "
        "mean of the middle half of all runs, tasks counting alike. Median: over tasks of the mean "
        "over seeds. In brackets the 95 % interval of a bootstrap that resamples seeds within each "
        f"task ({len(tasks)} tasks); the two anchors are taken as exact. P: probability "
        "that a run beats one of the other learner."
    )
    return Table(tuple(header), tuple(rows), note)


def return_table(results: Results, tasks: Sequence[Task]) -> Table:
    """Final returns, a column a task."""
    learners = results.learners
    rows = tuple(
        (name, *(spread(list(results.returns(task, name))) for task in tasks)) for name in learners
    )
    mark = set()
    for column, task in enumerate(tasks, 1):
        means = [
            results.returns(task, n).mean() if (task, n) in results.cells else -np.inf
            for n in learners
        ]
        mark.add((int(np.argmax(means)), column))
    seeds = {
        len(results.seeds(task, name))
        for task in tasks
        for name in learners
        if name != results.random
    }
    seeds -= {0}
    span = " to ".join(map(str, sorted({min(seeds), max(seeds)}))) if seeds else "0"
    note = (
        "Return of the finished policy without exploration: mean over seeds ± standard deviation "
        f"between them ({span} seeds). Bold: the best mean."
    )
    return Table(("learner", *map(str, tasks)), rows, note, frozenset(mark))


def equal_table(results: Results, group: str) -> Table:
    """Scores when everybody has spent what backprop spends, on every axis."""
    tasks = results.comparable(group)
    axes = [axis for axis in AXES if axis != "wall_seconds"]
    rows = []
    for name in results.complete(group):
        if name == results.random:
            continue
        cells = [name]
        for axis in axes:
            scores = [results.at_equal(task, name, axis) for task in tasks]
            cells.append(str(iqm_interval(scores)) if all(len(s) for s in scores) else "–")
        rows.append(tuple(cells))
    note = (
        f"IQM of the score when a run has spent as much as {results.baseline} spends in all, read "
        "off the curves; who spends less in all counts with the finished policy. Points of a curve "
        "are means of fewer episodes than the final return, so they are noisier."
    )
    return Table(("learner", *(AXES[axis] for axis in axes)), tuple(rows), note)


def task_table(results: Results, task: Task) -> Table:
    """One task: returns, scores at equal amounts of everything, seeds."""
    axes = [axis for axis in AXES if axis != "wall_seconds"]
    rows = []
    for name in results.learners:
        returns = results.returns(task, name)
        if not len(returns):
            continue
        cells = [name, spread(list(returns)), number(float(returns.min()))]
        for axis in axes:
            values = results.at_equal(task, name, axis)
            shown = name != results.random and len(values) and results.scale(task) > 0
            cells.append(percent(float(values.mean())) if shown else "–")
        rows.append((*cells, str(len(returns))))
    header = ("learner", "return", "worst seed", *(AXES[axis] for axis in axes), "seeds")
    note = f"Per cent of the way from random to {results.baseline}, at equal amounts of each."
    return Table(header, tuple(rows), note)


def ledger_table(results: Results, task: Task) -> Table:
    """What the learners spend on one task, mean over the seeds."""
    rows = []
    for name in results.learners:
        done = [r for r in results.cells.get((task, name), []) if r["status"] == DONE]
        if not done or name == results.random:
            continue

        def mean(key: str, done: list[Row] = done) -> float:
            return float(np.mean([row[key] for row in done]))

        cells = [engineering(mean(key)) for key in _COUNTS]
        seconds = [f"{mean(key):,.0f}" for key in ("cpu_seconds", "wall_seconds")]
        rows.append((name, *cells, *seconds, f"{mean('peak_memory_mib'):,.0f}"))
    header = ("learner", *_COUNTS.values(), "CPU s", "wall s", "peak MiB")
    note = (
        "Passes: of one sample through one network, for acting and for learning. Multiply-adds: "
        "of all matrix products, decorrelation included. Evaluations are in none of it."
    )
    return Table(header, tuple(rows), note)


def settings_table(results: Results) -> Table:
    """Hyperparameters of the learners and where they come from."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for (task, name), found in results.cells.items():
        row = found[0]
        settings = ", ".join(f"{k} {v}" for k, v in row["settings"].items()) or "defaults"
        network = "-".join(map(str, row["hidden"]))
        if row["algo"] in ("ars", "cma-es", "random"):
            network = "linear" if row["algo"] != "random" else "–"
        key = (name, row["algo"], settings, network, str(row["envs"]), row.get("source", ""))
        rows.setdefault(key, []).append(str(task))
    every = len(results.tasks)
    cells = [
        (*key[:5], "all tasks" if len(tasks) == every else ", ".join(tasks), key[5])
        for key, tasks in rows.items()
    ]
    header = ("learner", "algorithm", "settings", "hidden", "envs", "on", "where they come from")
    return Table(header, tuple(sorted(cells)), "")


_COUNTS = {
    "env_steps": "env steps",
    "forward_passes": "forward passes",
    "backward_passes": "backward passes",
    "multiply_adds": "multiply-adds",
}


def engineering(value: float) -> str:
    """A count with three figures: 301 k, 18.1 M, 95.2 G."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f} {unit}"
    return f"{value:.0f}"


def peer(results: Results, group: str) -> str | None:
    """The gradient-free learner that others are compared with, if it has run on all tasks."""
    return next((n for n in ("ARS", "CMA-ES") if n in results.complete(group)), None)


def markdown(table: Table) -> str:
    """A table as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    body = [
        line([f"**{c}**" if (i, j) in table.mark else c for j, c in enumerate(row)])
        for i, row in enumerate(table.rows)
    ]
    rule = "|" + "---|" * len(table.header)
    return "\n".join([line(table.header), rule, *body, "", table.note]).rstrip() + "\n"
