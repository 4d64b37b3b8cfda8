"""How long a learning step takes in networks that are no perceptrons, as a ratio to backprop's.

All rules take turns in one process on one thread, and each counts with its shortest CPU time.

    python -m scripts.experiments.learning.deep_networks steps    # results/speed/deep_networks.csv
    python -m scripts.experiments.learning.deep_networks report   # docs/networks.md
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nprobot
from nprobot.catalogue import learner_title
from nprobot.policies import decorrelate
from nprobot.runs.versions import versions

from ..pages import markdown, put_section
from ..rows import RESULTS, ROOT, Row, append, command, read, select
from .speed import backprop_step, perturbation_step, shortest

ROWS = RESULTS / "speed" / "deep_networks.csv"
RULES = (("np", 1), ("anp", 1), ("anp", 8), ("danp", 1), ("np+feedback", 1), ("dnp+feedback", 1))
"""Rule and K."""


class Block(nn.Module):
    """Two convolutions with GroupNorm around a sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(4, outputs) for _ in range(2))
        self.past = nn.Identity()
        if stride > 1:
            self.past = nn.Conv2d(inputs, outputs, 1, stride, bias=False)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, outputs, height / stride, width / stride)."""
        h = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(h)) + self.past(x))


class Last(nn.Module):
    """The last of a GRU's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.GRU(32, 64, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, 64), of sequences (B, T, 32)."""
        y: Tensor = self.memory(x)[0][:, -1]
        return y


class Mean(nn.Module):
    """The mean over a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, d), of (B, T, d)."""
        return x.mean(1)


def nature_cnn() -> nn.Module:
    """The convolutional policy of Mnih et al. (2015)."""
    convolutions = [nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)]
    body = [part for layer in convolutions for part in (layer, nn.ReLU())]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6))


def resnet8() -> nn.Module:
    """Three residual blocks of 16, 32 and 64 channels."""
    blocks = (Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), *blocks, pool, nn.Flatten(), nn.Linear(64, 6))


def transformer() -> nn.Module:
    """Four pre-norm blocks of width 64."""
    blocks = [
        nn.TransformerEncoderLayer(64, 4, 256, 0.0, batch_first=True, norm_first=True)
        for _ in range(4)
    ]
    return nn.Sequential(nn.Linear(32, 64), *blocks, nn.LayerNorm(64), Mean(), nn.Linear(64, 6))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Nature-CNN, batch 32 of 4×84×84": (nature_cnn, (32, 4, 84, 84)),
    "ResNet-8 with GroupNorm, batch 32 of 3×32×32": (resnet8, (32, 3, 32, 32)),
    "transformer of 4 blocks, batch 16 of 32×32": (transformer, (16, 32, 32)),
    "GRU of 64, batch 64 of 16×32": (lambda: nn.Sequential(Last(), nn.Linear(64, 6)), (64, 16, 32)),
}
"""What makes the network, and the shape of a batch."""


def steps(seconds: float = 20.0, out: Path = ROWS) -> None:
    """Time a gradient, and an update of R, of every rule.

    Args:
        seconds: of CPU time for each network.
        out: where the rows go.
    """
    torch.set_num_threads(1)
    out.unlink(missing_ok=True)
    for name, (make, shape) in NETWORKS.items():
        x, y = torch.rand(shape), torch.randn(shape[0], 6)
        rules = [nprobot.learning_rule(rule, samples=draws, seed=0) for rule, draws in RULES]
        networks = [decorrelate(make()) if rule.decorrelated else make() for rule in rules]
        turns = [backprop_step(make(), x, y)]
        turns += [
            perturbation_step(rule, net, x, y) for rule, net in zip(rules, networks, strict=True)
        ]
        backprop, *times = shortest(turns, seconds)
        found = [("bp", 0, backprop), *((*r, t) for r, t in zip(RULES, times, strict=True))]
        for rule, draws, took in found:
            row: Row = {"network": name, "rule": rule, "samples": draws}
            own = {"milliseconds": f"{1e3 * took:.2f}", "ratio": f"{took / backprop:.2f}"}
            row |= own | {"load": f"{os.getloadavg()[0]:.1f}"}
            print(*row.values(), flush=True)
            append(out, [row | versions()])


def report() -> None:
    """The ratios, in docs/networks.md."""
    rows = read(ROWS)
    lines = []
    for name in NETWORKS:
        (backprop,) = select(rows, network=name, rule="bp")
        found = [
            select(rows, network=name, rule=rule, samples=str(draws))[0]["ratio"]
            for rule, draws in RULES
        ]
        lines.append([name, f"{float(backprop['milliseconds']):.1f}", *found])
    heading = ("network", "BP, ms", *(learner_title(rule, draws) for rule, draws in RULES))
    put_section("cost", markdown(heading, lines), ROOT / "docs" / "networks.md")


if __name__ == "__main__":
    command(__doc__, steps, report)
