"""Plain node perturbation diverges at a learning rate that backprop likes, and what cures it.

The noise of the estimate makes weights diffuse; larger weights make larger losses, larger losses
more noise, until the weights run away (Hiratani et al., "On the stability and scalability of node
perturbation learning", NeurIPS 2022, who cure it by weight normalisation). Inverse dynamics of the
arm, 21-128-128-7 tanh, plain SGD at a constant learning rate, three seeds.

    python -m scripts.experiments.regression.np_divergence run     # results/np_divergence/rows.csv
    python -m scripts.experiments.regression.np_divergence report  # docs/figures/np_divergence.png
"""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from matplotlib.ticker import MaxNLocator

from nprobot.errors import NonFiniteError
from nprobot.regression import fit

from ..pages import panels, plot_each, save_figure, seeds_of
from ..rows import RESULTS, append, column, command, read, select
from .inverse_dynamics import HIDDEN, NOISE, SEEDS, arm

ROWS = RESULTS / "np_divergence" / "rows.csv"
LEARNING_RATE = 0.3
EPOCHS = 20


@dataclass(frozen=True)
class Learner:
    """A rule, and what holds its weights."""

    name: str
    colour: str
    rule: str
    settings: dict[str, Any] = field(default_factory=dict)


LEARNERS = (
    Learner("BP", "#636363", "bp"),
    Learner("NP", "#d94801", "np"),
    Learner("NP, rows of norm ≤ 0.6", "#08519c", "np", {"max_row_norm": 0.6}),
    Learner("NP, weight decay 0.03", "#238b45", "np", {"weight_decay": 0.03}),
    Learner("NP, K = 16", "#6a51a3", "np", {"samples": 16}),
)


def run() -> None:
    """Fit what has no rows, which are a curve's points."""
    there = read(ROWS)
    for learner, seed in itertools.product(LEARNERS, SEEDS):
        job = {"learner": learner.name, "seed": seed}
        if not select(there, **job):
            curve = points(learner, seed)
            append(ROWS, [{**job, **point} for point in curve])
            print(job, curve[-1], flush=True)


def points(learner: Learner, seed: int) -> list[dict[str, Any]]:
    """Validation error and weight norm, an epoch a point; infinite ones if it diverges."""
    try:
        result = fit(
            list(HIDDEN),
            arm(),
            learner.rule,
            epochs=EPOCHS,
            seed=seed,
            optimizer="sgd",
            learning_rate=LEARNING_RATE,
            lr_schedule="constant",
            **NOISE | {"samples": 1} | learner.settings,
        )
    except NonFiniteError as error:
        print(f"{learner.name}, seed {seed}: {error}")
        return [{"epoch": EPOCHS, "validation": math.inf, "weight_norm": math.inf}]
    return [
        {
            "epoch": row["epoch"],
            "validation": f"{row['validation/nmse']:.6g}",
            "weight_norm": f"{row['weights/norm']:.6g}",
        }
        for row in result.history
    ]


def report() -> None:
    """Draw validation error and weight norm over the epochs; every seed a line."""
    rows = read(ROWS)
    figure, axes = panels(2, (9.0, 3.8))
    for learner in LEARNERS:
        own = select(rows, learner=learner.name)
        for axis, name in zip(axes, ("validation", "weight_norm"), strict=True):
            style = {"color": learner.colour, "lw": 1.4, "label": learner.name}
            plot_each(axis, seeds_of(own, "epoch", name), **style)
        if last := column(select(own, epoch=EPOCHS), "validation"):
            print(f"{learner.name}: nMSE {statistics.median(last):.3g} (median of {len(last)})")
    axes[0].axhline(1.0, color="0.6", ls=":", lw=1)
    axes[0].set(ylabel="validation nMSE (mean: 1)", ylim=(0.03, 30))
    axes[1].set(ylabel="norm of all weights", ylim=(8, 200))
    for axis in axes:
        axis.set(yscale="log", xlabel="epochs", xlim=(0, EPOCHS))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1].legend(frameon=False)
    figure.suptitle(
        f"inverse dynamics, SGD at a constant learning rate of {LEARNING_RATE:g}, three seeds",
        fontsize=10,
    )
    save_figure(figure, "np_divergence")


if __name__ == "__main__":
    command(__doc__, run, report)
