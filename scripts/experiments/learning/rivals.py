"""How well the estimates of others' rules point along the gradient, on a policy-sized network.

Weights stand still; feedback learns for a while first. The cosine is that of the hidden layers, as
the outputs' error is exact under every rule with feedback.

    python -m scripts.experiments.learning.rivals run     # results/rivals/rows.csv; a minute
    python -m scripts.experiments.learning.rivals report  # table in docs/experiments/peers.md
"""

from __future__ import annotations

from itertools import product

import torch

import nprobot
from nprobot.catalogue import learner_title, rules

from ..pages import DOCS, markdown, put_section, spread
from ..rows import RESULTS, Only, Row, column, command, keep, read, select

ROWS = RESULTS / "rivals" / "rows.csv"
SIZES, BATCH, STEPS = [17, 64, 64, 6], 64, 100
HIDDEN = 17 * 64 + 64 + 64 * 64 + 64
"""Weights and biases of the hidden layers, which come first."""
SEEDS = range(3)
GUIDED = ("np+feedback", "feedback-alone", "weight-mirror", "apical", "dfa")
NOISY = ("np", "forward-gradient", "dust", "spsa")
CASES = [*product(GUIDED, (1,)), *product(NOISY, (8,))]


def run(only: Only = ()) -> None:
    """Measure what has no row."""
    jobs = [{"seed": s, "rule": rule, "samples": k} for s in SEEDS for rule, k in CASES]
    keep(ROWS, jobs, measure, only=only)


def measure(rule: str, samples: int, seed: int) -> Row:
    """The cosine after the feedback has learned, mean of ten steps."""
    torch.manual_seed(seed)
    network = nprobot.policies.mlp(SIZES)
    learner = nprobot.learning_rule(rule, samples=samples, seed=seed)
    cosines = []
    for step in range(STEPS + 10):
        x, target = torch.randn(BATCH, SIZES[0]), torch.randn(BATCH, SIZES[-1])

        def loss(y: torch.Tensor, target: torch.Tensor = target) -> torch.Tensor:
            return (y - target).square().mean(-1)

        if rule in NOISY and step < STEPS:
            continue  # nothing to learn
        network.zero_grad()
        learner.backward(network, x, loss)
        found = torch.cat([p.grad.flatten() for p in network.parameters()])[:HIDDEN].clone()
        if step >= STEPS:
            network.zero_grad()
            loss(network(x)).mean().backward()
            true = torch.cat([p.grad.flatten() for p in network.parameters()])[:HIDDEN]
            cosines.append(float(torch.nn.functional.cosine_similarity(found, true, dim=0)))
    return {"cosine": f"{sum(cosines) / len(cosines):.4f}"}


def report() -> None:
    """A line for each rule."""
    rows, lines = read(ROWS), []
    for rule, samples in CASES:
        found = column(select(rows, rule=rule, samples=samples), "cosine")
        about = rules()[rule].traits.about
        lines.append((learner_title(rule, samples), about, spread(found, 3)))
    heading = ("rule", "what it is", "cosine in the hidden layers")
    put_section("cosines", markdown(heading, lines), DOCS / "peers.md")


if __name__ == "__main__":
    command(__doc__, run, report)
