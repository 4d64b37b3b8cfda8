"""The figure of a fit: error over epochs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nprobot.runs.files import write_whole

Row = Mapping[str, float]


def draw_curve(
    file: Path, rows: Sequence[Row], title: str, bounds: Mapping[str, float] | None = None
) -> None:
    """Draw the errors of training and validation over the epochs.

    Args:
        file: PNG to write.
        rows: a row an epoch: nMSE for regression, error rate for classification.
        title: above the figure.
        bounds: errors to compare with, by name, drawn as lines.
    """
    figure = Figure(figsize=(7.0, 4.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    regression = "validation/nmse" in rows[0]
    epochs = [row["epoch"] for row in rows]
    if regression:
        validation = [row["validation/nmse"] for row in rows]
        training = [row["train/loss"] for row in rows]
        label = "training rows, while learning"
        axes.plot(epochs[1:], training[1:], color="#9ecae1", linewidth=1.5, label=label)
        axes.set_ylabel("mean squared error / variance")
    else:
        validation = [1 - row["validation/accuracy"] for row in rows]
        axes.set_ylabel("share of wrong labels")
    axes.plot(epochs, validation, color="#08519c", linewidth=2, label="validation rows")
    best = min(range(len(rows)), key=lambda i: (not validation[i] >= 0, validation[i]))
    label = f"best: {validation[best]:.4g}"
    axes.plot(epochs[best], validation[best], "o", color="#d94801", label=label)
    for (name, value), style in zip((bounds or {}).items(), ("--", ":"), strict=False):
        axes.axhline(value, color="0.4", linewidth=1, linestyle=style, label=f"{name}: {value:.3g}")
    if min(validation) > 0:
        axes.set_yscale("log")
    axes.set_title(title)
    axes.set_xlabel("epochs")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(left=0)
    axes.grid(color="0.9", which="both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture)
    write_whole(file, picture.getvalue())
