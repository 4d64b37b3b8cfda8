"""Tables and figures of docs/ from the rows of experiments."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cycler import cycler
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .rows import ROOT, Rows, select

DOCS = ROOT / "docs" / "experiments"
"""The laboratory notebooks."""
FIGURES = ROOT / "docs" / "figures"
WIDEST = 8.0
"""Inches; on the site a figure has about as much."""
rcParams.update(
    {
        **{"font.size": 11, "axes.titlesize": 11, "legend.fontsize": 9.5, "legend.frameon": False},
        **{"axes.grid": True, "grid.alpha": 0.25, "lines.linewidth": 1.8},
        **{"axes.spines.top": False, "axes.spines.right": False},
        # Okabe and Ito's colours, which colour-blind people can tell apart.
        "axes.prop_cycle": cycler(
            color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
        ),
    }
)


def markdown(heading: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a table."""
    first, *lines = (f"| {' | '.join(cells)} |" for cells in (heading, *rows))
    return [first, "|" + "---|" * len(heading), *lines]


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation; nothing without values."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def each(values: Sequence[float], digits: int) -> str:
    """The mean in bold, and every value."""
    if not values:
        return "–"
    numbers = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"**{statistics.fmean(values):.{digits}f}** ({numbers})"


def put_section(name: str, lines: Sequence[str], page: Path) -> None:
    """Replace what stands in a page between ``<!-- name -->`` and ``<!-- end name -->``."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} has no place for {name}: put {begin.strip()} and {end} there")
    page.write_text(before + begin + "\n".join([*lines, ""]) + end + after, encoding="utf-8")
    print(f"{page.relative_to(ROOT)}, section {name}")


def panels(
    count: int, size: tuple[float, float], *, rows: int = 1, **settings: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of panels, at most two side by side; settings as of `Figure.subplots`.

    No figure is wider than a page, so that its letters can be read at half its size.
    """
    columns = count // rows
    width, height = size
    if width > WIDEST and columns > 2:
        rows, columns = math.ceil(count / 2), 2
        height = 2.9 * rows + 0.6
    figure = Figure(figsize=(min(width, WIDEST), height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **settings).flatten().tolist()
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[: max(0, count - columns)]:
        axis.xaxis.set_tick_params(labelbottom=True)
    return figure, axes[:count]


def save_figure(figure: Figure, name: str) -> None:
    """Write docs/figures/NAME.png."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / f"{name}.png", dpi=130)
    print(f"docs/figures/{name}.png")


def picture(name: str, shows: str, caption: str) -> list[str]:
    """Lines of a figure with what it shows, and a caption with seeds and intervals."""
    return [f"![{shows}](../figures/{name}.png)", "", f"*{caption}*", ""]


def seeds_of(points: Rows, x: str, y: str, scale: float = 1.0) -> list[np.ndarray]:
    """A curve for each seed, shape (2, points), its x divided by `scale`."""
    seeds = sorted({point["seed"] for point in points})
    return [
        np.array([(float(p[x]) / scale, float(p[y])) for p in select(points, seed=seed)]).T
        for seed in seeds
    ]


def plot_mean(axis: Axes, curves: Sequence[np.ndarray], **style: Any) -> None:
    """The mean of the curves and the range between them, at the points of the shortest."""
    if curves:
        x = min((curve[0] for curve in curves), key=len)
        values = np.array([np.interp(x, *curve) for curve in curves])
        (line,) = axis.plot(x, values.mean(0), **style)
        axis.fill_between(x, values.min(0), values.max(0), color=line.get_color(), alpha=0.1, lw=0)


def plot_each(axis: Axes, curves: Sequence[np.ndarray], **style: Any) -> None:
    """A line for each curve; the first has the label."""
    for number, curve in enumerate(curves):
        axis.plot(*curve, **style | ({"label": None} if number else {}))
