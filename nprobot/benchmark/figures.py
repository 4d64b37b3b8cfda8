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

from nprobot import catalogue

from .aggregates import Interval, improvement, iqm, profile, profile_interval
from .peers import METHODS
from .results import AXES, BenchmarkTask, Results, mean_curve

DPI = 130
LARGEST_SCORE = 2.5
"""Scores beyond it would squeeze the others together; the tables have them."""
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
"""Dashes of the learners of one rule, in the order of their K and names."""


def looks(results: Results) -> dict[str, dict[str, Any]]:
    """Line and marker of every learner, the same in all figures, as matplotlib's arguments.

    Rules have the colour and marker of the catalogue, peers their own. Colour is never all that
    tells two learners apart: decorrelating rules have filled markers, and learners of one rule
    differ in their dashes.
    """
    rows = {name: results.row(name) for name in results.learners}
    alike: dict[tuple[str, str | None], list[str]] = {}
    for name in sorted(rows, key=lambda name: (rows[name]["samples"] or 0, name)):
        algo, rule = rows[name]["algo"], rows[name]["rule"]
        alike.setdefault((algo if rule is None else "", rule), []).append(name)
    found: dict[str, dict[str, Any]] = {}
    for (algo, rule), names in alike.items():
        colour, marker, filled = _look(algo, rule)
        for index, name in enumerate(names):
            found[name] = {
                "color": colour,
                "linestyle": DASHES[index % len(DASHES)],
                "marker": marker,
                "markersize": 4.5,
                "markerfacecolor": colour if filled else "white",
            }
    return found


def _look(algo: str, rule: str | None) -> tuple[str, str, bool]:
    """Colour, marker and whether it is filled, of a rule, or of an algorithm without one."""
    known = catalogue.rules().get(rule or "")
    if known is not None:
        return known.colour, known.traits.marker, known.decorrelated
    if algo in METHODS:
        return METHODS[algo].colour, METHODS[algo].marker, True
    return "#4d4d4d", "o", True


def score_figure(results: Results, group: str) -> bytes:
    """Interquartile mean of every complete learner, with intervals."""
    tasks, names = results.comparable(group), results.complete(group)
    intervals = {name: iqm([results.scores(t, name) for t in tasks]) for name in names}
    figure, axes = _interval_figure(results, intervals)
    for anchor, label in ((0.0, "random"), (1.0, results.baseline or "")):
        axes.axvline(anchor, color="0.35", linewidth=1, linestyle=":")
        where = axes.get_xaxis_transform()
        axes.text(anchor, 1.01, label, transform=where, ha="center", fontsize=8, color="0.35")
    left, right = axes.get_xlim()
    axes.set_xlim(max(left, -LARGEST_SCORE), min(right, LARGEST_SCORE))
    for place, (name, own) in enumerate(reversed(intervals.items())):
        _name_what_is_cut(axes, place, own, str(looks(results)[name]["color"]))
    axes.set_xlabel("interquartile mean of the normalised score, 95 % interval")
    return _png(figure)


def _name_what_is_cut(axes: Axes, place: int, own: Interval, colour: str) -> None:
    """An arrow and the figures at the edge, for an interval that goes beyond the axis."""
    left, right = axes.get_xlim()
    for edge, beyond, side in ((left, own.low < left, "left"), (right, own.high > right, "right")):
        if beyond:
            text = f"◂ {own}" if side == "left" else f"{own} ▸"
            axes.annotate(
                text, (edge, place), xytext=(4 if side == "left" else -4, 7), ha=side,
                textcoords="offset points", fontsize=7.5, color=colour, annotation_clip=False,
            )  # fmt: skip


def profile_figure(results: Results, group: str) -> bytes:
    """Share of runs above a score, for every score."""
    tasks, names = results.comparable(group), results.complete(group)
    figure, axes = _figure(7.2, 4.0)
    every = np.concatenate([results.scores(t, n) for t in tasks for n in names])
    tau = np.linspace(min(-0.1, float(np.quantile(every, 0.02))),
                      max(1.2, min(float(every.max()), 2.5)) + 0.05, 200)  # fmt: skip
    look_of = looks(results)
    for name in names:
        if name == results.random:
            continue
        scores = [results.scores(task, name) for task in tasks]
        look = look_of[name]
        axes.plot(tau, profile(scores, tau), label=name, linewidth=1.6, markevery=20, **look)
        low, high = profile_interval(scores, tau)
        axes.fill_between(tau, low, high, color=str(look["color"]), alpha=0.08, linewidth=0)
    axes.axvline(1.0, color="0.35", linewidth=1, linestyle=":")
    best = {n: max(float(results.scores(t, n).max()) for t in tasks) for n in names}
    beyond = [f"{name} {score:.2f}" for name, score in best.items() if score > tau[-1]]
    cut = f"\nbeyond the edge, up to: {', '.join(beyond)}" if beyond else ""
    axes.set_xlabel(f"normalised score τ (0 random, 1 backprop){cut}")
    axes.set_ylabel("share of runs with a score above τ")
    axes.set_ylim(-0.02, 1.02)
    _legend(axes)
    return _png(figure)


def improvement_figure(results: Results, group: str, over: str) -> bytes:
    """Probability that a run of each learner beats one of another, with intervals."""
    tasks = results.comparable(group)
    names = [n for n in results.complete(group) if n not in (over, results.random)]
    theirs = [results.scores(task, over) for task in tasks]
    intervals = {
        name: improvement([results.scores(task, name) for task in tasks], theirs) for name in names
    }
    figure, axes = _interval_figure(results, intervals)
    axes.axvline(0.5, color="0.35", linewidth=1, linestyle=":")
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"probability of beating {over}, 95 % interval")
    return _png(figure)


def runs_figure(results: Results, tasks: Sequence[BenchmarkTask]) -> bytes:
    """Final return of every run, a dot each: nothing is averaged away."""
    learners, look_of = results.learners, looks(results)
    columns = min(len(tasks), 3)
    height = 0.7 + 0.23 * len(learners)
    figure, grid = _grid(len(tasks), columns, 3.7 * columns + 0.6, height, extra=0.0)
    for panel, (axes, task) in enumerate(zip(grid, tasks, strict=True)):
        for place, name in enumerate(reversed(learners)):
            values = results.returns(task, name)
            look = look_of[name] | {"linestyle": "none"}
            axes.plot(values, [place] * len(values), alpha=0.65, **look)
            if len(values):
                middle = [values.mean()] * 2
                axes.plot(middle, [place - 0.3, place + 0.3], color=look["color"], lw=1.8)
        labelled = panel % columns == 0
        axes.set_yticks(range(len(learners)), list(reversed(learners)) if labelled else [])
        axes.set_ylim(-0.6, len(learners) - 0.4)
        axes.set_title(f"{task}, {EngFormatter(sep='')(task.steps)} steps", fontsize=9)
        axes.tick_params(labelsize=8)
        _plain(axes, "x")
    figure.supxlabel("return (a dot a seed, a line their mean)", fontsize=9)
    return _png(figure)


def curves_figure(results: Results, tasks: Sequence[BenchmarkTask], axis: str) -> bytes:
    """Learning curves against one axis of the ledger, mean and interval over the seeds."""
    learners = [name for name in results.learners if name != results.random]
    look_of = looks(results)
    columns = min(len(tasks), 3)
    figure, grid = _grid(len(tasks), columns, 3.9 * columns, 2.9, extra=0.9)
    handles: dict[str, Line2D] = {}
    for axes, task in zip(grid, tasks, strict=True):
        for name in learners:
            curves = [c for c in results.curves(task, name, axis) if len(c[0]) > 1]
            if not curves:
                continue
            x = np.linspace(0, min(c[0][-1] for c in curves), 60)
            y, low, high = mean_curve(curves, x)
            look = look_of[name]
            (line,) = axes.plot(x, y, linewidth=1.5, markevery=10, **look)
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
    cut = "" if axis == "env_steps" else f" (to 2.2 times what {results.baseline} spends, dotted)"
    figure.supxlabel(f"{AXES[axis]}{cut}", fontsize=10)
    figure.supylabel("return", fontsize=10)
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", frameon=False,
                  ncols=min(4, max(len(handles), 1)), fontsize=8.5)  # fmt: skip
    return _png(figure)


def _interval_figure(results: Results, intervals: dict[str, Interval]) -> tuple[Figure, Axes]:
    """A bar for the interval of each learner, and a line at its value; the first one on top."""
    figure, axes = _figure(7.2, 0.9 + 0.34 * len(intervals))
    look_of = looks(results)
    for place, (name, own) in enumerate(reversed(intervals.items())):
        colour = look_of[name]["color"]
        axes.barh(place, own.high - own.low, left=own.low, height=0.55, color=colour, alpha=0.35)
        axes.plot([own.value] * 2, [place - 0.34, place + 0.34], color=colour, linewidth=2.4)
    axes.set_yticks(range(len(intervals)), list(reversed(intervals)))
    return figure, axes


def _grid(
    panels: int, columns: int, width: float, height: float, extra: float
) -> tuple[Figure, list[Axes]]:
    """Axes side by side, as many as asked for; `height` of a row, `extra` for all of them."""
    rows = -(-panels // columns)
    size = (width, height * rows + extra)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[panels:]:
        axes.set_axis_off()
    return figure, grid[:panels]


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
