"""The figure of a run: return over steps."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from nprobot.runs.files import write_whole
from nprobot.runs.progress import column, read_table

from .environments import find_spec
from .folder import RunFolder


def draw_curve(folder: RunFolder) -> None:
    """Draw `curve.png` from `progress.csv`."""
    config = folder.config
    rows = read_table(folder.progress)
    figure = Figure(figsize=(7.0, 4.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
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
    threshold = find_spec(config.env).reward_threshold
    # A threshold far away would squeeze the curve into a line.
    if threshold is not None and low <= threshold <= high + (high - low):
        axes.axhline(threshold, color="0.4", linewidth=1, linestyle="--", label="solved")
    axes.set_title(f"{config.env}: {config.learner}, seed {config.seed}")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture)
    write_whole(folder.curve, picture.getvalue())
