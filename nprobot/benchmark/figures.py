"""The figures of a report: scores, profiles, improvement, returns of every run, learning curves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from .aggregates import improvement_interval, iqm_interval, profile, profile_interval
from .results import AXES, Results, Task, mean_curve

DPI = 130
FAMILIES = {
    "BP": "#111111",
    "DBP": "#6b6b6b",
    "DANP": "#08519c",
    "DNP": "#41a6c9",
    "ANP": "#756bb1",
    "NP": "#31a354",
    "DINP": "#9ebcda",
    "INP": "#a1d99b",
    "ARS": "#d94801",
    "CMA-ES": "#e7a000",
    "NRL": "#c51b8a",
    "random": "#9e9e9e",
}
"""Colour of a learner by the first of these words in its name; rules keep theirs for every K."""
LARGEST_SCORE = 2.5
"""Scores beyond it would squeeze the others together; the tables have them."""
WITH_FEEDBACK = {"NP": "#b8a800", "DNP": "#d6278f", "INP": "#7a5c00", "DINP": "#8e0152"}
"""The same for rules with learned feedback."""
OTHERS = ("#8c564b", "#bc80bd", "#b15928", "#666600", "#4d4d4d")


def style(learner: str, learners: Sequence[str]) -> dict[str, Any]:
    """Colour and dashes of a learner: the same in every figure."""
    words = learner.replace(",", " ").split()
    if "feedback" in words:
        plain = next((word for word in words if word in WITH_FEEDBACK), "DNP")
        return {"color": WITH_FEEDBACK[plain], "linestyle": "--" if "K = 1" in learner else "-"}
    colour = next((FAMILIES[word] for word in words if word in FAMILIES), None)
    if colour is None or words[0] not in FAMILIES:
        others = [n for n in learners if n.replace(",", " ").split()[0] not in FAMILIES]
        colour = OTHERS[others.index(learner) % len(OTHERS)] if learner in others else colour
    dashed = "K = 1" in learner and not learner.rstrip().endswith(("16", "10"))
    line = "--" if dashed else ":" if learner == "random" else "-"
    return {"color": colour, "linestyle": line}


def score_figure(results: Results, group: str) -> bytes:
    """Interquartile mean of every complete learner, with intervals."""
    tasks, names = results.comparable(group), results.complete(group)
    figure, axes = _figure(7.2, 0.9 + 0.34 * len(names))
    for place, name in enumerate(reversed(names)):
        interval = iqm_interval([results.scores(task, name) for task in tasks])
        colour = style(name, results.learners)["color"]
        axes.barh(place, interval.high - interval.low, left=interval.low, height=0.55,
                  color=colour, alpha=0.35)  # fmt: skip
        axes.plot([interval.value] * 2, [place - 0.34, place + 0.34], color=colour, linewidth=2.4)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    for anchor, label in ((0.0, "random"), (1.0, results.baseline or "")):
        axes.axvline(anchor, color="0.35", linewidth=1, linestyle=":")
        where = axes.get_xaxis_transform()
        axes.text(anchor, 1.01, label, transform=where, ha="center", fontsize=8, color="0.35")
    left, right = axes.get_xlim()
    axes.set_xlim(max(left, -LARGEST_SCORE), min(right, LARGEST_SCORE))
    axes.set_xlabel("interquartile mean of the normalised score, 95 % interval")
    return _png(figure)


def profile_figure(results: Results, group: str) -> bytes:
    """Share of runs above a score, for every score."""
    tasks, names = results.comparable(group), results.complete(group)
    figure, axes = _figure(7.2, 4.0)
    every = np.concatenate([results.scores(t, n) for t in tasks for n in names])
    tau = np.linspace(min(-0.1, float(np.quantile(every, 0.02))),
                      max(1.2, min(float(every.max()), 2.5)) + 0.05, 200)  # fmt: skip
    for name in names:
        if name == results.random:
            continue
        scores = [results.scores(task, name) for task in tasks]
        look = style(name, results.learners)
        axes.plot(tau, profile(scores, tau), label=name, linewidth=1.6, **look)
        low, high = profile_interval(scores, tau)
        axes.fill_between(tau, low, high, color=str(look["color"]), alpha=0.08, linewidth=0)
    axes.axvline(1.0, color="0.35", linewidth=1, linestyle=":")
    axes.set_xlabel("normalised score τ (0 random, 1 backprop)")
    axes.set_ylabel("share of runs with a score above τ")
    axes.set_ylim(-0.02, 1.02)
    _legend(axes)
    return _png(figure)


def improvement_figure(results: Results, group: str, over: str) -> bytes:
    """Probability that a run of each learner beats one of another, with intervals."""
    tasks = results.comparable(group)
    names = [n for n in results.complete(group) if n not in (over, results.random)]
    figure, axes = _figure(7.2, 0.9 + 0.34 * len(names))
    theirs = [results.scores(task, over) for task in tasks]
    for place, name in enumerate(reversed(names)):
        interval = improvement_interval([results.scores(task, name) for task in tasks], theirs)
        colour = style(name, results.learners)["color"]
        axes.barh(place, interval.high - interval.low, left=interval.low, height=0.55,
                  color=colour, alpha=0.35)  # fmt: skip
        axes.plot([interval.value] * 2, [place - 0.34, place + 0.34], color=colour, linewidth=2.4)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.axvline(0.5, color="0.35", linewidth=1, linestyle=":")
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"probability of beating {over}, 95 % interval")
    return _png(figure)


def runs_figure(results: Results, tasks: Sequence[Task]) -> bytes:
    """Final return of every run, a dot each: nothing is averaged away."""
    learners = results.learners
    columns = min(len(tasks), 3)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.7 * columns + 0.6, (0.7 + 0.23 * len(learners)) * rows),
                    dpi=DPI, layout="constrained")  # fmt: skip
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, task in zip(grid.flat, tasks, strict=False):
        for place, name in enumerate(reversed(learners)):
            values = results.returns(task, name)
            colour = style(name, learners)["color"]
            axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.65, markersize=4.5,
                      markeredgewidth=0)  # fmt: skip
            if len(values):
                axes.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=colour, lw=1.8)
        first = axes.get_subplotspec().is_first_col()
        axes.set_yticks(range(len(learners)), list(reversed(learners)) if first else [])
        axes.set_ylim(-0.6, len(learners) - 0.4)
        axes.set_title(f"{task}, {EngFormatter(sep='')(task.steps)} steps", fontsize=9)
        axes.tick_params(labelsize=8)
        _plain(axes, "x")
    for axes in list(grid.flat)[len(tasks) :]:
        axes.set_axis_off()
    figure.supxlabel("return (a dot a seed, a line their mean)", fontsize=9)
    return _png(figure)


def curves_figure(results: Results, tasks: Sequence[Task], axis: str) -> bytes:
    """Learning curves against one axis of the ledger, mean and interval over the seeds."""
    learners = [name for name in results.learners if name != results.random]
    columns = min(len(tasks), 3)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.9 * columns, 2.9 * rows + 0.9), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    handles: dict[str, Line2D] = {}
    for axes, task in zip(grid.flat, tasks, strict=False):
        for name in learners:
            curves = [c for c in results.curves(task, name, axis) if len(c[0]) > 1]
            if not curves:
                continue
            x = np.linspace(0, min(c[0][-1] for c in curves), 60)
            y, low, high = mean_curve(curves, x)
            look = style(name, learners)
            (line,) = axes.plot(x, y, linewidth=1.5, **look)
            axes.fill_between(x, low, high, color=str(look["color"]), alpha=0.1, linewidth=0)
            handles.setdefault(name, line)
        budget = results.budget(task, axis)
        if axis != "env_steps" and np.isfinite(budget):
            axes.axvline(budget, color="0.35", linewidth=0.9, linestyle=":")
            axes.set_xlim(0, 2.2 * budget)
        axes.set_title(str(task), fontsize=10)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(labelsize=8)
        _plain(axes, "both")
    for axes in list(grid.flat)[len(tasks) :]:
        axes.set_axis_off()
    figure.supxlabel(AXES[axis], fontsize=10)
    figure.supylabel("return", fontsize=10)
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", frameon=False,
                  ncols=min(4, max(len(handles), 1)), fontsize=8.5)  # fmt: skip
    return _png(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _plain(axes, "both")
    return figure, axes


def _plain(axes: Axes, grid: str) -> None:
    axes.grid(color="0.92", axis=grid)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
