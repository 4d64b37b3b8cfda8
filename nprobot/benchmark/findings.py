"""What a benchmark found, in plain words made from the rows: who wins, who loses, by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .aggregates import iqm_interval
from .results import Results, Task
from .rows import DIVERGED

FEW_SEEDS = 5
"""Below this, intervals of a single task say little."""
CHEAP = 0.2
"""From here on it has to be said that part of a score needs no learning."""
CLOSE = 0.05
"""Scores that differ by less are called level."""


def rules(results: Results) -> list[str]:
    """Learners by a perturbation rule, the best first."""
    ruled = {
        row["learner"]
        for rows in results.cells.values()
        for row in rows
        if row["rule"] not in (None, "bp", "dbp")
    }
    return [name for name in results.learners if name in ruled]


def peers(results: Results) -> list[str]:
    """Learners without gradients and without a rule."""
    names = {
        row["learner"]
        for rows in results.cells.values()
        for row in rows
        if row["algo"] in ("ars", "cma-es")
    }
    return [name for name in results.learners if name in names]


def headline(results: Results, group: str) -> list[str]:
    """How far the best perturbation rules are from backprop over the tasks of a group."""
    tasks, complete = results.comparable(group), results.complete(group)
    base = results.baseline
    if base is None or results.random is None:
        return ["Scores need both a random policy and backprop on the same tasks; one is missing."]
    said = []
    ranked = [name for name in complete if name not in (base, results.random)]
    for name in ranked:
        interval = iqm_interval([results.scores(task, name) for task in tasks])
        said.append((interval.value, f"{name}: {percent(interval.value)}"))
    if said:
        listed = "; ".join(text for _, text in sorted(said, reverse=True))
        many = f"the {len(tasks)} tasks" if len(tasks) > 1 else "one task"
        return [
            f"How much of the way from random to {base} at equal environment steps, interquartile "
            f"mean over {many}. {listed}."
        ]
    return ["No learner has runs on all tasks yet; see the tasks one by one."]


def by_task(results: Results, task: Task) -> list[str]:
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
    ours = [name for name in rules(results) if name in here]
    if ours:
        top = max(ours, key=lambda name: mean[name])
        score = float(results.scores(task, top).mean())
        said.append(verdict(top, base or "", score, mean[top], mean[base or ""]))
        lost = [name for name in ours if results.scores(task, name).mean() < 1 - CLOSE]
        if lost and len(lost) < len(ours):
            behind = ", ".join(
                f"{name} {percent(float(results.scores(task, name).mean()))}" for name in lost
            )
            said.append(f"Behind {base}: {behind}.")
    if (idle := results.untrained(task)) > CHEAP:
        said.append(f"Before it has learned anything, {base} is at {percent(idle)} already.")
    for peer in (name for name in peers(results) if name in here):
        losers = [name for name in ours if mean[name] < mean[peer]]
        if losers:
            said.append(f"{peer} ({number(mean[peer])}) beats {', '.join(losers)}.")
        if mean[peer] > mean[base or ""]:
            said.append(f"{peer} beats {base}, too.")
    return said


def verdict(ours: str, base: str, score: float, value: float, reference: float) -> str:
    """Who wins between a perturbation rule and backprop."""
    figures = f"{number(value)} against {number(reference)}"
    if score >= 1 + CLOSE:
        return f"{ours} beats {base}: {figures} ({percent(score)} of its distance to random)."
    if score >= 1 - CLOSE:
        return f"{ours} is level with {base}: {figures}."
    return f"{base} wins: the best perturbation rule, {ours}, reaches {percent(score)}: {figures}."


def caveats(results: Results) -> list[str]:
    """What a reader has to know before believing the figures."""
    said = []
    counts = [
        len(results.cells[task, name]) for task, name in results.cells if name != results.random
    ]
    if counts and min(counts) < FEW_SEEDS:
        low, high = min(counts), max(counts)
        span = f"{low}" if low == high else f"{low} to {high}"
        plural = "seed" if span == "1" else "seeds"
        said.append(
            f"{span} {plural} a learner and task: the interval of a single task says little, and "
            "one run can turn a comparison. A single seed has no interval at all."
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
    machines = {row["machine"] for row in results.rows}
    if len(machines) > 1:
        said.append("Runs come from different machines: compare no seconds between learners.")
    else:
        said.append(
            "Seconds are of a machine that may have had other work; multiply-adds do not depend "
            "on it."
        )
    return said


def percent(score: float) -> str:
    """A score as a share of the distance from random to the baseline."""
    return "–" if not np.isfinite(score) else f"{100 * score:.0f} %"


def number(value: float) -> str:
    """A return with three or four figures."""
    if not math.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f}".replace("-", "−")


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation between seeds."""
    array = np.asarray(values, float)
    if not len(array):
        return "–"
    if len(array) == 1:
        return number(float(array[0]))
    return f"{number(float(array.mean()))} ± {number(float(array.std(ddof=1)))}"
