"""What noise from a shared table would save: steps that draw it against steps that cut it.

The table holds four million signs; a draw is a piece of it from a random place. Rules write into
their noise, so that a piece has to be copied; what the step would take if they did not is shown for
a rule that gets along with that. All ways take turns in one process, and each counts with its
shortest CPU time.

    python scripts/noise_table.py    # results/speed/noise_table.csv
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
from rows import ROOT, append, versions
from torch import Tensor

import nprobot
from nprobot.learning import noise
from nprobot.policies import mlp

ROWS = ROOT / "results" / "speed" / "noise_table.csv"
SIZE = 1 << 22
TURNS, STEPS = 60, 20
SIZES = (17, 64, 64, 6)
CASES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("danp", 256, {"samples": 8}),
    ("np", 256, {"samples": 16}),
    ("np", 64, {"samples": 8, "feedback": True, "sigma": 1e-3}),
)
Draw = Callable[[Sequence[int], Tensor, torch.Generator, float], Tensor]


def cut(*, copied: bool) -> Draw:
    """Noise from tables of signs, one for each standard deviation."""
    tables: dict[float, Tensor] = {}

    def draw(
        shape: Sequence[int], like: Tensor, generator: torch.Generator, scale: float = 1.0
    ) -> Tensor:
        if scale not in tables:
            tables[scale] = noise.rademacher((SIZE,), like, torch.Generator(), scale)
        count = math.prod(shape)
        start = int(torch.randint(0, SIZE - count, (1,), generator=generator))
        piece = tables[scale][start : start + count].view(*shape)
        return piece.clone() if copied else piece

    return draw


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of each sample."""
    return ((outputs - targets) ** 2).mean(-1)


def main() -> None:
    """Measure and keep the rows."""
    torch.set_num_threads(1)
    for name, batch, settings in CASES:
        torch.manual_seed(0)
        rule = nprobot.learning_rule(name, noise="rademacher", seed=0, **settings)
        network = mlp(SIZES, decorrelated=rule.decorrelated)
        inputs, targets = torch.randn(batch, SIZES[0]), torch.randn(batch, SIZES[-1])
        ways = {"drawn": noise.rademacher, "cut and copied": cut(copied=True)}
        if "feedback" not in settings:  # it multiplies its noise in place, which spoils a table
            ways["cut"] = cut(copied=False)
        shortest = dict.fromkeys(ways, math.inf)
        for _ in range(TURNS):
            for way, draw in ways.items():
                with mock.patch.dict(noise.DISTRIBUTIONS, rademacher=draw):
                    start = time.process_time()
                    for _ in range(STEPS):
                        rule.backward(network, inputs, partial(squared_error, targets=targets))
                    shortest[way] = min(shortest[way], (time.process_time() - start) / STEPS)
        label = f"{name}{' + feedback' if 'feedback' in settings else ''}, K = {rule.samples}"
        for way, seconds in shortest.items():
            ratio = seconds / shortest["drawn"]
            print(f"{label}, batch {batch}, {way}: {seconds * 1e6:.0f} µs, {ratio:.2f}", flush=True)
            row = {"rule": label, "batch": batch, "noise": way, "seconds": f"{seconds:.3e}"}
            append(ROWS, [{**row, "ratio": f"{ratio:.3f}", **versions()}])


if __name__ == "__main__":
    main()
