"""How true NP with feedback stays to the gradient while PPO learns, layer by layer.

In every 301st minibatch the estimate is compared with backpropagation's gradient of the same loss,
for show: learning does not see it. The slope of the estimate over the gradient is 1 if the estimate
is unbiased, the cosine 1 if it has no noise either.

    python scripts/estimate_in_training.py run      # results/alignment/training.csv, 3 minutes a K
    python scripts/estimate_in_training.py report   # table in docs/variance.md
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from rows import ROOT, append, command_line, put_section, read, versions
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn
from typing_extensions import override

import nprobot
from nprobot.learning.rule import LearningRule, Loss

ROWS = ROOT / "results" / "alignment" / "training.csv"
PAGE = ROOT / "docs" / "variance.md"
TASK, STEPS, ENVS = "InvertedDoublePendulum-v5", 300_000, 8
DRAWS = (1, 8)
EVERY = 301
"""A prime to minibatches of an epoch, so that it does not meet the same ones."""
LAYERS = {"body.0": "first", "body.2": "second", "head": "output"}


class Compared(LearningRule):
    """NP with feedback that compares itself with backpropagation now and then."""

    plain_name = "compared"

    def __init__(self, samples: int) -> None:
        settings: dict[str, Any] = {"sigma": 1e-3, "noise": "rademacher", "feedback": True}
        super().__init__(decorrelated=False, seed=0)
        self.rule = nprobot.learning_rule("np", samples=samples, seed=0, **settings)
        self.exact = nprobot.learning_rule("bp")
        self.calls = 0
        self.found: list[dict[str, object]] = []

    @override
    def backward(self, network: nn.Module, inputs: Any, loss: Loss, **kwargs: Any) -> Tensor:
        self.calls += 1
        if self.calls % EVERY:
            return self.rule.backward(network, inputs, loss, **kwargs)
        with torch.enable_grad():
            self.exact.backward(network, inputs, loss)
        weights = {n: p for n, p in network.named_parameters() if n.endswith("weight")}
        gradients = {name: p.grad.flatten() for name, p in weights.items() if p.grad is not None}
        for parameter in network.parameters():
            parameter.grad = None
        losses = self.rule.backward(network, inputs, loss, **kwargs)
        for name, gradient in gradients.items():
            estimate = weights[name].grad
            assert estimate is not None
            if not gradient.any():
                continue  # every sample is clipped
            along = float(estimate.flatten() @ gradient)
            self.found.append(
                {
                    "samples": self.rule.samples,
                    "call": self.calls,
                    "network": type(network).__name__.lower(),
                    "layer": LAYERS[name.removesuffix(".weight")],
                    "slope": f"{along / float(gradient @ gradient):.4f}",
                    "cosine": f"{along / float(estimate.norm() * gradient.norm()):.4f}",
                }
            )
        return losses


def main() -> None:
    """Run or report."""
    if command_line(__doc__, "run", "report").parse_args().stage == "report":
        put_section("estimate in training", table(read(ROWS)), PAGE)
        return
    torch.set_num_threads(1)
    done = {int(row["samples"]) for row in read(ROWS)}
    for samples in DRAWS:
        if samples in done:
            continue
        rule = Compared(samples)
        env = VecNormalize(make_vec_env(TASK, ENVS, seed=0))
        model = nprobot.PPO(
            *("MlpPolicy", env, LinearSchedule(1e-3, 0.0, 1.0)),
            **{"rule": rule, "n_steps": 256, "batch_size": 64, "max_grad_norm": 0.5, "seed": 0},
        )
        model.learn(STEPS)
        append(ROWS, [{**row, **versions()} for row in rule.found])


def table(rows: list[dict[str, str]]) -> list[str]:
    """Medians and the 5th percentile of the cosine, over the whole run and over its last third."""
    last = 2 * max(int(row["call"]) for row in rows) / 3
    lines = [
        "| weights of | K | slope | cosine (5 %) | last third of the run: slope | cosine (5 %) |",
        "|---|---|---|---|---|---|",
    ]
    for network in ("actor", "critic"):
        for layer in LAYERS.values():
            for samples in DRAWS:
                own = [
                    row
                    for row in rows
                    if (row["network"], row["layer"], row["samples"])
                    == (network, layer, str(samples))
                ]
                cells = []
                for part in (own, [row for row in own if int(row["call"]) > last]):
                    slope = statistics.median(float(row["slope"]) for row in part)
                    cosines = sorted(float(row["cosine"]) for row in part)
                    low = cosines[len(cosines) // 20]
                    cells += [f"{slope:.2f}", f"{statistics.median(cosines):.3f} ({low:.2f})"]
                lines.append(f"| {network}, {layer} layer | {samples} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
