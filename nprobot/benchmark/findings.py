"""What a benchmark found: who wins, who loses and by how much, in plain words and in tables.

The page and the Markdown file print the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nprobot import catalogue

from . import aggregates
from .peers import METHODS
from .results import AXES, BenchmarkTask, Results
from .rows import DIVERGED, DONE, FORMAT, Row

FEW_SEEDS = 5
"""Below this, intervals of a single task say little."""
FEWEST_TO_CLAIM = 4
"""Seeds of each learner below which none is said to beat another."""
CHEAP = 0.2
"""Share of a score that needs no learning from which on the report says so."""
CLOSE = 0.05
"""Scores that differ by less are called level."""


def perturbing(results: Results) -> list[str]:
    """Learners by a perturbation rule, the best first."""
    known = catalogue.rules()
    found = []
    for name in results.learners:
        rule = results.row(name)["rule"]
        if rule is not None and (rule not in known or known[rule].perturbs):
            found.append(name)
    return found


def gradient_free(results: Results) -> list[str]:
    """Peers that learn without gradients and without a rule, the best first."""
    algos = {name: results.row(name)["algo"] for name in results.learners}
    return [n for n, algo in algos.items() if algo in METHODS and METHODS[algo].gradient_free]


def headline(results: Results, group: str) -> list[str]:
    """How far the best perturbation rules are from backprop over the tasks of a group."""
    tasks, complete = results.comparable(group), results.complete(group)
    base = results.baseline
    if base is None or results.random is None:
        return ["Scores need both a random policy and backprop on the same tasks; one is missing."]
    said = []
    ranked = [name for name in complete if name not in (base, results.random)]
    for name in ranked:
        interval = aggregates.iqm([results.scores(task, name) for task in tasks])
        said.append((interval.value, f"{name}: {percent(interval.value)}"))
    if said:
        listed = "; ".join(text for _, text in sorted(said, reverse=True))
        many = f"the {len(tasks)} tasks" if len(tasks) > 1 else "one task"
        return [
            f"How much of the way from random to {base} at equal environment steps, interquartile "
            f"mean over {many}. {listed}."
        ]
    return ["No learner has runs on all tasks yet; see the tasks one by one."]


def by_task(results: Results, task: BenchmarkTask) -> list[str]:
    """Sentences about one task."""
    base = results.baseline
    here = [n for n in results.learners if (task, n) in results.cells and n != results.random]
    if not here:
        return []
    mean = {name: float(results.returns(task, name).mean()) for name in here}
    best = max(here, key=lambda name: mean[name])
    said = [f"Best: {best}, {number(mean[best])}."]
    if base not in here or math.isnan(results.scale(task)):
        return said
    if results.scale(task) <= 0:
        return [*said, f"{base} does not beat the random policy here: no normalised scores."]
    ours = [name for name in perturbing(results) if name in here]
    if ours:
        top = max(ours, key=lambda name: mean[name])
        score = float(results.scores(task, top).mean())
        doubt = in_doubt(results, task, top, base or "")
        said.append(verdict(top, base or "", score, mean[top], mean[base or ""], doubt))
        lost = [name for name in ours if results.scores(task, name).mean() < 1 - CLOSE]
        if lost and len(lost) < len(ours):
            behind = ", ".join(
                f"{name} {percent(float(results.scores(task, name).mean()))}" for name in lost
            )
            said.append(f"Behind {base}: {behind}.")
    if (idle := results.untrained(task)) > CHEAP:
        said.append(f"Before it has learned anything, {base} is at {percent(idle)} already.")
    for peer in (name for name in gradient_free(results) if name in here):
        beaten = [name for name in (*ours, base or "") if mean[name] < mean[peer]]
        surely = [name for name in beaten if not in_doubt(results, task, peer, name)]
        perhaps = [name for name in beaten if name not in surely]
        if surely:
            said.append(f"{peer} ({number(mean[peer])}) beats {', '.join(surely)}.")
        if perhaps:
            doubt = in_doubt(results, task, peer, perhaps[0])
            said.append(f"{peer} ({number(mean[peer])}) is ahead of {', '.join(perhaps)}{doubt}.")
    return said


def in_doubt(results: Results, task: BenchmarkTask, one: str, other: str) -> str:
    """Why the order of two learners on a task may be chance, in words; empty if it is not.

    It is not where the bootstrapped probability that a run of one beats one of the other stays on
    its side of a half. With fewer than four seeds each, no order at all is rarer by chance than
    one in twenty (2 · 3! · 3! / 6! = 1/10).
    """
    ours, theirs = results.scores(task, one), results.scores(task, other)
    least = min(len(ours), len(theirs))
    if least < FEWEST_TO_CLAIM:
        return f", on {least} seed{'s' * (least != 1)}, which is too few to tell from chance"
    interval = aggregates.improvement([ours], [theirs])
    return "" if interval.low > 0.5 or interval.high < 0.5 else ", and not beyond chance"


def verdict(
    ours: str, base: str, score: float, value: float, reference: float, doubt: str = ""
) -> str:
    """Who wins between a perturbation rule and backprop; `doubt` says why it may be chance."""
    figures = f"{number(value)} against {number(reference)}"
    if score >= 1 + CLOSE:
        distance = f"{figures} ({percent(score)} of its distance to random)"
        wins = f"is ahead of {base}{doubt}" if doubt else f"beats {base}"
        return f"{ours} {wins}: {distance}."
    if score >= 1 - CLOSE:
        return f"{ours} is level with {base}: {figures}."
    wins = f"is ahead{doubt}" if doubt else "wins"
    return (
        f"{base} {wins}: the best perturbation rule, {ours}, reaches {percent(score)}: {figures}."
    )


def caveats(results: Results) -> list[str]:
    """What a reader has to know before believing the figures."""
    said = []
    counts = [len(rows) for (_, name), rows in results.cells.items() if name != results.random]
    if counts and min(counts) < FEW_SEEDS:
        said.append(
            f"{span(counts)} seed{'s' * (max(counts) > 1)} a learner and task: the interval of a "
            "single task says little, and one run can turn a comparison. A single seed has no "
            "interval at all."
        )
    for group in results.groups:
        missing = results.incomplete(group)
        if missing:
            listed = "; ".join(
                f"{name} (not on {', '.join(map(str, tasks))})" for name, tasks in missing.items()
            )
            said.append(f"Left out of the averages, because not run everywhere: {listed}.")
    odd = [t for t in results.tasks if not results.scale(t) > 0]
    if odd:
        listed = ", ".join(map(str, odd))
        said.append(f"No normalised scores, for want of a baseline above random: {listed}.")
    diverged = [
        f"{row['learner']} on {task}, seed {row['seed']}"
        for (task, _), rows in results.cells.items()
        for row in rows
        if row["status"] == DIVERGED
    ]
    if diverged:
        said.append(f"Diverged, counted as no better than random: {'; '.join(diverged)}.")
    if results.failed:
        said.append(f"{len(results.failed)} runs failed and are in no average; see below.")
    if earlier := [row for row in results.rows if row["format"] != FORMAT]:
        by = ", ".join(sorted({f"nprobot {row['versions']['nprobot']}" for row in earlier}))
        said.append(
            f"{len(earlier)} of {len(results.rows)} runs are of an earlier version ({by}; commits "
            "below), which seeded the parts of a run in another way: the same seed gives other "
            "runs now."
        )
    machines = {row["machine"] for row in results.rows}
    if len(machines) > 1:
        said.append("Runs come from different machines: compare no seconds between learners.")
    else:
        said.append(
            "Seconds are of a machine that may have had other work; multiply-adds do not depend "
            "on it."
        )
    return said


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

    @property
    def wordy(self) -> bool:
        """Whether it is more words than numbers."""
        return any(len(cell) > 30 for row in self.rows for cell in row)


def aggregate_table(results: Results, group: str) -> Table:
    """Averages over all tasks of a group, with intervals."""
    tasks = results.comparable(group)
    base, other_peer = results.baseline, reference_peer(results, group)
    header = ["learner", "IQM", "median", "mean", f"P(beats {base})"]
    header += [f"P(beats {other_peer})"] if other_peer else []
    rows = []
    for name in results.complete(group):
        scores = [results.scores(task, name) for task in tasks]
        averages = (aggregates.iqm, aggregates.median, aggregates.mean)
        cells = [name, *(str(average(scores)) for average in averages)]
        for other in (base, other_peer):
            if other is None:
                continue
            theirs = [results.scores(task, other) for task in tasks]
            cells.append("–" if other == name else str(aggregates.improvement(scores, theirs)))
        rows.append(tuple(cells))
    note = (
        "Normalised scores: 0 is the random policy, 1 the mean of backprop on the same task. IQM: "
        "mean of the middle half of all runs, tasks counting alike. Median: over tasks of the mean "
        "over seeds. In brackets the 95 % interval of a bootstrap that resamples seeds within each "
        f"task ({len(tasks)} tasks); the two anchors are taken as exact. P: probability "
        "that a run beats one of the other learner."
    )
    return Table(tuple(header), tuple(rows), note)


def return_table(results: Results, tasks: Sequence[BenchmarkTask]) -> Table:
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
    seeds = [
        len(rows)
        for (task, name), rows in results.cells.items()
        if task in tasks and name != results.random
    ]
    note = (
        "Return of the finished policy without exploration: mean over seeds ± standard deviation "
        f"between them ({span(seeds or [0])} seeds). Bold: the best mean."
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
            cells.append(str(aggregates.iqm(scores)) if all(len(s) for s in scores) else "–")
        rows.append(tuple(cells))
    note = (
        f"IQM of the score when a run has spent as much as {results.baseline} spends in all, read "
        "off the curves; who spends less in all counts with the finished policy. Points of a curve "
        "are means of fewer episodes than the final return, so they are noisier."
    )
    return Table(("learner", *(AXES[axis] for axis in axes)), tuple(rows), note)


def task_table(results: Results, task: BenchmarkTask) -> Table:
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


def ledger_table(results: Results, task: BenchmarkTask) -> Table:
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
        if row["algo"] in METHODS:
            network = METHODS[row["algo"]].network or network
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


def surroundings_table(results: Results) -> Table:
    """Versions, commits and machines, and how many runs had each."""
    counts: dict[tuple[str, str, str], int] = {}
    for row in results.rows:
        packages = ", ".join(f"{k} {v}" for k, v in row["versions"].items() if v)
        key = (packages, str(row["commit"]), row["machine"])
        counts[key] = counts.get(key, 0) + 1
    rows = tuple((*key, str(count)) for key, count in counts.items())
    return Table(("versions", "commit", "machine", "runs"), rows)


def command_table(results: Results) -> Table:
    """The command that repeats each run, and its result."""
    rows = tuple(
        (
            row.get("command", ""),
            number(row["return_mean"]) if row["status"] == DONE else row["status"],
        )
        for row in results.rows
    )
    return Table(("command", "return"), rows)


def failure_table(results: Results) -> Table:
    """Runs that failed, with their errors."""
    rows = tuple((row.get("command", ""), row["error"]) for row in results.failed)
    return Table(("command", "error"), rows)


def reference_peer(results: Results, group: str) -> str | None:
    """The gradient-free learner that others are compared with, if it has run on all tasks."""
    complete = results.complete(group)
    found = {results.row(n)["algo"]: n for n in gradient_free(results) if n in complete}
    return found.get("ars", found.get("cma-es"))


def measured(results: Results) -> str:
    """How returns were measured."""
    row = results.rows[0]
    return (
        f"Every finished policy: {row['episodes']} episodes without exploration, from the same "
        f"starts for every learner and seed. Curves: {row['points']} points of "
        f"{row['point_episodes']} episodes, in separate environments. All runs have the same "
        "budget of environment steps; what evaluation costs is charged to nobody."
    )


def percent(score: float) -> str:
    """A score as a share of the distance from random to the baseline."""
    return "–" if not np.isfinite(score) else f"{100 * score:.0f} %"


def number(value: float) -> str:
    """A return with three or four figures."""
    if not math.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f}".replace("-", "−")


def span(counts: Sequence[int]) -> str:
    """The least and the most, such as ``3 to 5``."""
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation between seeds."""
    array = np.asarray(values, float)
    if not len(array):
        return "–"
    if len(array) == 1:
        return number(float(array[0]))
    return f"{number(float(array.mean()))} ± {number(float(array.std(ddof=1)))}"


def engineering(value: float) -> str:
    """A count with three figures: 301 k, 18.1 M, 95.2 G."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f} {unit}"
    return f"{value:.0f}"
