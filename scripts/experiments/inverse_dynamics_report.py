"""Table and figures of `scripts/inverse_dynamics.py`, from the rows that are there."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
from inverse_dynamics import EPOCHS, FEEDBACK, ORDER, PASSES, Learner, Row, read_rows
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rows import FIGURES, ROOT, put_section, read

from nprobot.envs import datasets

PAGE = ROOT / "docs" / "regression.md"
TABLE_ORDER = ("np", "inp", "anp", "dnp", "dinp", "danp", FEEDBACK, "bp", "dbp")
COLOURS = {
    "bp": "#252525", "dbp": "#969696", "np": "#a6bddb", "inp": "#a1d99b", "anp": "#fdae6b",
    "dnp": "#08519c", "dinp": "#238b45", "danp": "#d94801",
    FEEDBACK: "#6a51a3",
}  # fmt: skip
BUDGETS = {"epochs": f"{EPOCHS} epochs", "passes": f"{PASSES} passes of each row"}


def write(out: Path) -> None:
    """Replace the tables in the page and draw the figures.

    Args:
        out: folder of the rows.
    """
    rows = read_rows(out / "rows.csv")
    data = datasets.inverse_dynamics()
    linear = {k: float(v.mean()) for k, v in datasets.linear_regression(data).items()}
    constant = {k: float(v.mean()) for k, v in datasets.mean_predictor(data).items()}
    text = "\n\n".join(
        [*(table(rows, budget, linear, constant) for budget in BUDGETS), ratios(rows)]
    )
    put_section("inverse_dynamics", [text], PAGE)
    put_section("inverse_dynamics settings", [settings(rows)], PAGE)
    print(text)
    figure = Figure(figsize=(10.0, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    dots(panels[0], rows, linear["test"])
    curves(panels[1], out / "curves.csv", rows)
    figure.legend(frameon=False, fontsize=9, ncols=len(TABLE_ORDER), loc="outside lower center")
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / "inverse_dynamics.png")


def found(rows: list[Row], budget: str, rule: str, samples: int) -> list[Row]:
    """The rows of a learner; where both budgets are the same, those of the other."""
    if rule in ("bp", "dbp"):
        samples = 1
    if Learner("passes", rule, samples).epochs == EPOCHS:
        budget = "epochs"
    return [r for r in rows if (r.budget, r.rule, r.samples) == (budget, rule, samples)]


def table(
    rows: list[Row], budget: str, linear: dict[str, float], constant: dict[str, float]
) -> str:
    """NMSE of every rule within a budget, mean ± standard deviation over seeds."""
    names = ("train", "test", "shifted")
    lines = [
        f"**After {BUDGETS[budget]}**",
        "",
        "| rule | K = 1: train | test | shifted | K = 16: train | test | shifted |",
        "|---|---|---|---|---|---|---|",
    ]
    for rule in TABLE_ORDER:
        cells = []
        if not any(found(rows, budget, rule, samples) for samples in (1, 16)):
            continue
        for samples in (1, 16):
            own = found(rows, budget, rule, samples)
            if rule in ("bp", "dbp") and samples == 16:
                own = []
            cells += [spread([getattr(r, name) for r in own]) for name in names]
        lines.append(f"| {title(rule)} | {' | '.join(cells)} |")
    for name, values in (("linear regression", linear), ("mean predictor", constant)):
        cells = [f"{values[split]:.3f}" for split in names]
        lines.append(f"| {name} | {' | '.join(cells)} | | | |")
    return "\n".join(lines)


def title(rule: str) -> str:
    """How a table names a rule."""
    return "DNP + feedback" if rule == FEEDBACK else rule.upper()


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; empty without values."""
    if not values:
        return ""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.4f} ± {deviation:.4f}"


def ratios(rows: list[Row]) -> str:
    """How many times smaller decorrelation makes the error, and how far BP is."""
    lines = [
        "**Error without decorrelation over error with it** (training rows; test rows)",
        "",
        "| | NP → DNP | INP → DINP | ANP → DANP | NP → DANP |",
        "|---|---|---|---|---|",
    ]
    pairs = (("np", "dnp"), ("inp", "dinp"), ("anp", "danp"), ("np", "danp"))
    for budget, name in BUDGETS.items():
        for samples in (1, 16):
            cells = []
            for plain, decorrelated in pairs:
                a, b = (found(rows, budget, rule, samples) for rule in (plain, decorrelated))
                both = [
                    statistics.fmean(getattr(r, split) for r in a)
                    / statistics.fmean(getattr(r, split) for r in b)
                    for split in ("train", "test")
                    if a and b
                ]
                cells.append("; ".join(f"{value:.2f}" for value in both))
            lines.append(f"| {name}, K = {samples} | {' | '.join(cells)} |")
    return "\n".join(lines)


def settings(rows: list[Row]) -> str:
    """What the search found."""
    lines = [
        "| budget | rule | K | learning rate | weight decay | η_R | epochs | passes of a row |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for budget in BUDGETS:
        for samples in (1, 16):
            for rule in ORDER:
                own = [r for r in rows if (r.budget, r.rule, r.samples) == (budget, rule, samples)]
                if own:
                    r = own[0]
                    eta = f"{r.decorrelation_lr:g}" if r.decorrelation_lr else ""
                    k = "" if rule in ("bp", "dbp") else str(samples)
                    lines.append(
                        f"| {budget} | {title(rule)} | {k} | {r.learning_rate:g} "
                        f"| {r.weight_decay:g} | {eta} | {r.epochs} | {r.passes} |"
                    )
    return "\n".join(lines)


def dots(axes: Axes, rows: list[Row], linear: float) -> None:
    """Test error of every rule after equal epochs and after equal passes."""
    columns = [
        (f"{EPOCHS} epochs\nK = 1", "epochs", 1),
        (f"{EPOCHS} epochs\nK = 16", "epochs", 16),
        (f"{PASSES} passes\nK = 1", "passes", 1),
        (f"{PASSES} passes\nK = 16", "passes", 16),
    ]
    for place, (_, budget, samples) in enumerate(columns):
        for i, rule in enumerate(TABLE_ORDER):
            own = [r.test for r in found(rows, budget, rule, samples)]
            x = place + (i - 4) * 0.085
            marker = "D" if rule in ("bp", "dbp") else "o"
            axes.plot([x] * len(own), own, marker, color=COLOURS[rule], markersize=4, alpha=0.7)
            if own:
                axes.hlines(statistics.fmean(own), x - 0.04, x + 0.04, color=COLOURS[rule])
    axes.axhline(linear, color="0.5", linestyle="--", linewidth=1)
    axes.text(
        3.5, linear * 0.97, "linear regression", ha="right", va="top", color="0.4", fontsize=8
    )
    for rule in TABLE_ORDER:
        axes.plot(
            [], [], "D" if rule in ("bp", "dbp") else "o", color=COLOURS[rule], label=title(rule)
        )
    axes.set_xticks(range(len(columns)))
    axes.set_xticklabels([name for name, *_ in columns])
    axes.set_yscale("log")
    axes.set_ylabel("test nMSE")
    finish(axes)


def curves(axes: Axes, file: Path, rows: list[Row]) -> None:
    """Validation error over passes, K = 1 within the budget of passes; mean over seeds."""
    entries = read(file)
    for rule in TABLE_ORDER:
        seeds: dict[str, list[tuple[float, float]]] = {}
        for e in entries:
            if (e["budget"], e["rule"], e["samples"]) == ("passes", rule, "1"):
                point = (float(e["passes"]), float(e["validation"]))
                seeds.setdefault(e["seed"], []).append(point)
        if not seeds:
            continue
        runs = np.array(list(seeds.values()))
        axes.plot(
            *(runs[0, :, 0], runs[:, :, 1].mean(0)),
            **{"color": COLOURS[rule], "linewidth": 1.6},
        )
    axes.set_yscale("log")
    axes.set_xlim(0, PASSES)
    axes.set_xlabel("passes of each training row (a backward pass counts as two)")
    axes.set_ylabel("validation nMSE, K = 1")
    finish(axes)


def finish(axes: Axes) -> None:
    """What all panels share."""
    axes.grid(color="0.9", axis="y", which="both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
