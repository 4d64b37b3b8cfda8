"""How much settings matter, by rule: one grid of rate, batch, clip range and width on two tasks.

The question is whether what is known for backpropagation carries over: whether a rule is as
forgiving, and whether the settings that are good for backpropagation are good for it. Settings come
in a random order, each for all rules, so that a part of the grid is a sample of it.

    python -m scripts.experiments.control.robustness run     # results/robustness/rows.csv; hours
    python -m scripts.experiments.control.robustness report  # tables and figure
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from nprobot import benchmark
from nprobot.catalogue import learner_title, rule_named

from ..pages import DOCS, markdown, panels, picture, put_section, save_figure
from ..rows import RESULTS, Only, Row, Rows, column, command, keep, read, select

ROWS = RESULTS / "robustness" / "rows.csv"
PAGE = DOCS / "robustness.md"
TASKS = ("InvertedDoublePendulum-v5", "Reacher-v5")
STEPS = 50_000
GRID: dict[str, tuple[float, ...]] = {
    "learning_rate": (1e-4, 3e-4, 1e-3, 3e-3),
    "batch_size": (64, 256),
    "clip_range": (0.1, 0.3),
    "width": (32, 128),
}
"""What differs; the rest is stable-baselines3's, for all rules."""
BASE = "bp"
RULES: dict[str, tuple[int | None, dict[str, Any]]] = {
    BASE: (None, {"max_grad_norm": 0.5}),
    "np+feedback": (1, {"max_grad_norm": 0.5, "sigma": 1e-3}),
    # No bound on the norm of an estimate that is mostly noise.
    "danp": (8, {"sigma": 1e-2}),
}
"""Noisy passes, and what a rule's estimate asks for."""


def settings() -> list[dict[str, float]]:
    """The points of the grid, in an order that is the same every time."""
    points = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    random.Random(0).shuffle(points)
    return points


def run(only: Only = (), seeds: int = 1) -> None:
    """Train what has no row, every setting for all rules and tasks before the next."""
    jobs = [
        {"seed": seed, **point, "env": env, "rule": rule}
        for seed in range(seeds)
        for point in settings()
        for env in TASKS
        for rule in RULES
    ]
    keep(ROWS, jobs, train, only=only)


def train(env: str, rule: str, seed: int, width: int, **point: float) -> Row:
    """Train once, and measure the finished and the best policy."""
    samples, own = RULES[rule]
    spec = benchmark.RunSpec(
        env=env,
        steps=STEPS,
        learner=rule,
        algo="ppo",
        rule=rule,
        samples=samples,
        settings={"lr_schedule": "constant", **own, **point},
        seed=seed,
        hidden=(width, width),
        points=5,
    )
    row = benchmark.execute(spec)
    if row["status"] == "failed":
        raise SystemExit(f"{env}, {rule}, seed {seed}, {point}: {row['error']}")
    found = {name: row.get(name, float("nan")) for name in ("return_mean", "best_return_mean")}
    return {"status": row["status"], **found, "cpu_seconds": row.get("cpu_seconds", float("nan"))}


def report() -> None:
    """A line for each task and rule, and every return in a figure."""
    rows = read(ROWS)
    lines, drawn = [], {}
    for env in TASKS:
        for rule, (samples, _) in RULES.items():
            pairs = paired(rows, env, rule)
            if not len(pairs):
                continue
            ours, theirs = pairs.T
            drawn[env, rule] = ours
            low, middle, high = np.quantile(ours, (0.25, 0.5, 0.75))
            rank = "–" if rule == BASE else f"{spearmanr(ours, theirs).statistic:.2f}"
            lines.append(
                (
                    *(env, learner_title(rule, samples), str(len(ours))),
                    *(f"{v:.1f}" for v in (ours.max(), middle, high - low, ours.min())),
                    rank,
                )
            )
    heading = ("task", "rule", "runs", "best", "median", "middle half's width", "worst", "ranks")
    put_section("spread", markdown(heading, lines), PAGE)
    figure, axes = panels(len(TASKS), (8, 3))
    for axis, env in zip(axes, TASKS, strict=True):
        for rule, (samples, _) in RULES.items():
            values = np.sort(drawn.get((env, rule), np.empty(0)))
            share = (np.arange(len(values)) + 0.5) / max(len(values), 1)
            look = {"color": rule_named(rule).colour, "marker": rule_named(rule).traits.marker}
            axis.plot(share, values, label=learner_title(rule, samples), markersize=3, **look)
        axis.set_title(env)
        axis.set_xlabel("share of settings with less")
    axes[0].set_ylabel(f"return after {STEPS // 1000}k steps")
    axes[-1].legend()
    save_figure(figure, "robustness")
    shows = "Sorted returns over one grid of settings, by rule and task"
    caption = "Every setting of the grid that was run, sorted: the flatter, the more forgiving."
    put_section("figure", picture("robustness", shows, caption), PAGE)


def paired(rows: Rows, env: str, rule: str) -> np.ndarray:
    """Returns of a rule and of backpropagation at the settings that both have, (settings, 2).

    A run that diverged counts as the worst of its task.
    """
    names = ("seed", *GRID)
    worst = min(column(select(rows, env=env, status="done"), "return_mean"), default=0.0)

    def returns(name: str) -> dict[tuple[str, ...], float]:
        found = {}
        for row in select(rows, env=env, rule=name):
            value = float(row["return_mean"])
            found[tuple(row[n] for n in names)] = value if np.isfinite(value) else worst
        return found

    ours, theirs = returns(rule), returns(BASE)
    both = [key for key in ours if key in theirs]
    return np.array([(ours[key], theirs[key]) for key in both]).reshape(-1, 2)


if __name__ == "__main__":
    command(__doc__, run, report)
