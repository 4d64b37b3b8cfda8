"""Plain node perturbation diverges at a learning rate that backprop likes, and what cures it.

The noise of the estimate makes weights diffuse; larger weights make larger losses, larger losses
more noise, until the weights run away (Hiratani et al., "On the stability and scalability of node
perturbation learning", NeurIPS 2022, who cure it by weight normalisation). Inverse dynamics of the
arm, 21-128-128-7 tanh, plain SGD at a constant learning rate, three seeds.

    python scripts/np_divergence.py           # rows, then the figure
    python scripts/np_divergence.py --report  # the figure from the rows that are there
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rows import FIGURES, ROOT, append, read

from nprobot.envs import datasets
from nprobot.envs.datasets import Dataset
from nprobot.errors import NonFiniteError
from nprobot.regression import fit

ROWS = ROOT / "results" / "np_divergence" / "rows.csv"
FIGURE = FIGURES / "np_divergence.png"

LEARNING_RATE = 0.3
EPOCHS = 20
SEEDS = (0, 1, 2)


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


def main() -> None:
    """Run what is missing, then draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--report", action="store_true", help="only draw")
    if not parser.parse_args().report:
        torch.set_num_threads(1)
        data = datasets.inverse_dynamics()
        done = {(row["learner"], int(row["seed"])) for row in read(ROWS)}
        for learner in LEARNERS:
            for seed in SEEDS:
                if (learner.name, seed) not in done:
                    run(learner, seed, data)
    draw()


def run(learner: Learner, seed: int, data: Dataset) -> None:
    """One fit; its rows are written when it ends."""
    watch = Watch()
    try:
        result = fit(
            [128, 128],
            data,
            learner.rule,
            epochs=EPOCHS,
            seed=seed,
            optimizer="sgd",
            learning_rate=LEARNING_RATE,
            lr_schedule="constant",
            reporter=watch,
            **({"samples": 1} | learner.settings),
        )
        history = list(result.history)
        end = f"nMSE {history[-1]['validation/nmse']:.3g}"
    except NonFiniteError as error:
        history, end = [], str(error)
    print(f"{learner.name}, seed {seed}: {end}; {' '.join(watch.messages)}", flush=True)
    curve = [
        {
            "epoch": row["epoch"],
            "validation": f"{row['validation/nmse']:.6g}",
            "weight_norm": f"{row['weights/norm']:.6g}",
        }
        for row in history
    ] or [{"epoch": EPOCHS, "validation": math.inf, "weight_norm": math.inf}]
    append(ROWS, [{"learner": learner.name, "seed": seed, **point} for point in curve])


class Watch:
    """Keeps what the fit says."""

    stop_requested = False

    def __init__(self) -> None:
        self.messages: list[str] = []

    def progress(self, progress: object) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Keep it."""
        self.messages.append(text)


def draw() -> None:
    """Validation error and weight norm over the epochs; every seed a line."""
    rows = read(ROWS)
    figure = Figure(figsize=(9.0, 3.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for learner in LEARNERS:
        for seed in SEEDS:
            own = [r for r in rows if r["learner"] == learner.name and int(r["seed"]) == seed]
            epochs = [int(r["epoch"]) for r in own]
            for axes, name in zip(panels, ("validation", "weight_norm"), strict=True):
                values = [float(r[name]) for r in own]
                label = learner.name if seed == SEEDS[0] else None
                axes.plot(epochs, values, color=learner.colour, linewidth=1.4, label=label)
        last = [
            float(r["validation"])
            for r in rows
            if r["learner"] == learner.name and int(r["epoch"]) == EPOCHS
        ]
        if last:
            print(f"{learner.name}: nMSE {statistics.median(last):.3g} (median of {len(last)})")
    panels[0].axhline(1.0, color="0.6", linestyle=":", linewidth=1)
    panels[0].set_ylabel("validation nMSE (1: guessing the mean)")
    panels[1].set_ylabel("norm of all weights")
    panels[0].set_ylim(0.03, 30)
    panels[1].set_ylim(8, 200)
    for axes in panels:
        axes.set_yscale("log")
        axes.set_xlabel("epochs")
        axes.set_xlim(0, EPOCHS)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(frameon=False, fontsize=8)
    figure.suptitle(
        f"inverse dynamics, SGD at a constant learning rate of {LEARNING_RATE:g}, three seeds",
        fontsize=10,
    )
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE)


if __name__ == "__main__":
    main()
