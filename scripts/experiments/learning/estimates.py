"""How far the estimates of the rules point along the gradient: the figure of the explanation.

    python -m scripts.experiments.learning.estimates     # rows, and docs/figures/estimates.png

A fresh 21-64-64-7 tanh network and one batch of 256 rows for each of 5 seeds. Learned feedback has
seen 50 batches before, in which the weights stood still.
"""

from __future__ import annotations

from itertools import product

import torch
import tyro

import nprobot
from nprobot.catalogue import rule_named

from ..pages import panels, plot_mean, save_figure, seeds_of
from ..rows import RESULTS, Row, keep, read, select

TABLE = RESULTS / "estimates" / "rows.csv"
RULES = ("np", "inp", "anp", "np+feedback")
SAMPLES = (1, 4, 16, 64, 256)
SEEDS = range(5)
BATCH = 256


def cosine(rule: str, samples: int, seed: int) -> Row:
    """One estimate on one batch against backprop's gradient."""
    torch.manual_seed(seed)
    network = nprobot.policies.mlp([21, 64, 64, 7])
    learner = nprobot.learning_rule(rule, sigma=1e-3, samples=samples, seed=seed)
    x, y = torch.randn(BATCH, 21), torch.randn(BATCH, 7)

    def loss(outputs: torch.Tensor) -> torch.Tensor:
        return (outputs - y).square().mean(-1)

    for _ in range(50 if rule_named(rule).feedback else 0):
        learner.backward(network, torch.randn(BATCH, 21), loss)
    return {"cosine": nprobot.alignment(learner, network, x, loss).cosine}


def write() -> None:
    """Make the rows that are missing, and the figure."""
    torch.set_num_threads(1)
    jobs = product(RULES, SAMPLES, SEEDS)
    keep(TABLE, (dict(zip(("rule", "samples", "seed"), job, strict=True)) for job in jobs), cosine)
    rows = read(TABLE)
    figure, (axis,) = panels(1, (6.5, 4.0))
    for rule in RULES:
        entry = rule_named(rule)
        style = {"color": entry.colour, "marker": entry.traits.marker, "label": entry.title}
        plot_mean(axis, seeds_of(select(rows, rule=rule), "samples", "cosine"), **style)
    axis.set(
        xscale="log", xlabel="noisy passes, K", ylabel="cosine with the gradient", ylim=(0, 1.05)
    )
    axis.set_xticks(SAMPLES, [str(k) for k in SAMPLES])
    axis.legend()
    save_figure(figure, "estimates")


if __name__ == "__main__":
    tyro.cli(write, description=__doc__)
