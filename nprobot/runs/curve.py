"""The figures of runs: return over steps, error over epochs."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from .atomic_files import write_whole
from .log import column, read_table


def new_figure(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """An empty figure in the style of all runs."""
    figure = Figure(figsize=(7.0, 4.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture)
    return picture.getvalue()


def draw_curve(table: Path, file: Path, title: str, solved_at: float | None = None) -> None:
    """Draw the return of a training run over its steps.

    Args:
        table: `progress.csv` of the run.
        file: PNG to write.
        title: above the figure.
        solved_at: return at which the environment counts as solved, drawn as a line.
    """
    rows = read_table(table)
    figure, axes = new_figure(title, "environment steps", "return of an episode")
    steps, lowest = column(rows, "rollout/ep_rew_min")
    _, highest = column(rows, "rollout/ep_rew_max")
    axes.fill_between(steps, lowest, highest, color="#deebf7", label="lowest to highest episode")
    steps, returns = column(rows, "rollout/ep_rew_last")
    axes.plot(steps, returns, color="#6baed6", linewidth=1, label="mean since the last update")
    steps, returns = column(rows, "rollout/ep_rew_mean")
    axes.plot(steps, returns, color="#08519c", linewidth=2, label="mean of 100 episodes")
    steps, returns = column(rows, "eval/mean_reward")
    axes.plot(steps, returns, "o", color="#d94801", label="evaluation, no exploration")
    low, high = axes.get_ylim()
    # A threshold far away would squeeze the curve into a line.
    if solved_at is not None and low <= solved_at <= high + (high - low):
        axes.axhline(solved_at, color="0.4", linewidth=1, linestyle="--", label="solved")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    write_whole(file, png(figure))
