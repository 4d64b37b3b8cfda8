"""How long a learning step takes on a GPU, kernel by kernel and as one CUDA graph.

A step is a gradient, a step of Adam and, for decorrelated rules, an update of R. All ways take
turns in one process; a turn is a stretch of steps between two waits for the GPU, and each counts
with its shortest. The same step on one CPU thread, with Adam in one kernel, stands beside it.

    python scripts/gpu_speed.py --out results/speed/gpu.csv
    python scripts/gpu_speed.py table     # docs/variance.md, from the rows
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rows import ROOT, append, put_section, read, versions
from torch import Tensor

import nprobot
from nprobot.learning.captured_step import CapturedStep
from nprobot.policies import mlp

ROWS = ROOT / "results" / "speed" / "gpu.csv"
NETWORKS = (
    ((17, 64, 64, 6), 64),
    ((17, 256, 256, 6), 256),
    ((21, 512, 512, 512, 7), 1024),
    ((784, 2048, 2048, 2048, 10), 1024),
)
LEARNERS = (
    *(("bp", 1, False), ("np", 1, False), ("danp", 1, False), ("danp", 8, False)),
    *(("danp", 64, False), ("np", 1, True), ("np", 8, True), ("dnp", 1, True)),
)
"""Rule, K, learned feedback."""
WAYS = ("cpu", "kernels", "graph")


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of each sample."""
    return (outputs - targets).square().mean(-1)


def step_of(
    rule: tuple[str, int, bool], sizes: tuple[int, ...], batch: int, way: str
) -> Callable[[], object]:
    """A learning step, on batches that are where the network is."""
    name, draws, feedback = rule
    device = "cpu" if way == "cpu" else "cuda"
    torch.manual_seed(0)
    learner = nprobot.learning_rule(
        name, samples=draws, feedback=feedback, noise="rademacher", seed=0
    )
    network = mlp(sizes, "tanh", decorrelated=learner.decorrelated).to(device)
    adam = {"fused": True} if way == "cpu" else {"capturable": True, "fused": True}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, **adam)
    x = torch.randn(batch, sizes[0], device=device)
    target = torch.randn(batch, sizes[-1], device=device)
    if way == "graph":
        captured = CapturedStep(learner, network, optimizer, squared_error)
        return lambda: captured(x, target)

    def step() -> None:
        optimizer.zero_grad()
        learner.backward(network, x, lambda y: squared_error(y, target))
        optimizer.step()
        learner.decorrelate(network)

    return step


def measure(steps: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Shortest time of a step in seconds, by its way."""
    lengths = {}
    for way, step in steps.items():
        for _ in range(6):
            step()
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        lengths[way] = max(1, int(0.02 / (time.perf_counter() - start)))
    shortest = dict.fromkeys(steps, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for way, step in steps.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(lengths[way]):
                step()
            torch.cuda.synchronize()
            shortest[way] = min(shortest[way], (time.perf_counter() - start) / lengths[way])
    return shortest


def main() -> None:
    """Measure, or make the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each learner and network")
    parser.add_argument("--out", type=Path, default=ROWS, help="where the rows go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stage == "table":
        put_section("gpu", table(read(options.out)), ROOT / "docs" / "variance.md")
        return
    torch.backends.cuda.matmul.allow_tf32 = False
    for sizes, batch in NETWORKS:
        for rule in LEARNERS:
            ways = WAYS if sizes[1] < 2048 else WAYS[1:]
            steps = {way: step_of(rule, sizes, batch, way) for way in ways}
            row: dict[str, object] = {
                "device": torch.cuda.get_device_name(),
                "network": "-".join(map(str, sizes)),
                "batch": batch,
                "rule": rule[0] + ("+feedback" if rule[2] else ""),
                "samples": rule[1],
            }
            took = measure(steps, options.seconds)
            row |= {f"{way}_us": f"{1e6 * took[way]:.1f}" if way in took else "" for way in WAYS}
            print(*row.values(), flush=True)
            append(options.out, [row | versions()])


def table(rows: list[dict[str, str]]) -> list[str]:
    """Lines of a table: microseconds of a step, and its ratio to backprop's of the same way."""
    networks = list(dict.fromkeys((row["network"], row["batch"]) for row in rows))
    lines = [
        "| µs a step: kernel by kernel / as a graph | "
        + " | ".join(f"{network}, batch {batch}" for network, batch in networks)
        + " |",
        "|---" * (1 + len(networks)) + "|",
    ]
    for rule, samples in dict.fromkeys((row["rule"], row["samples"]) for row in rows):
        label = rule.upper().replace("+FEEDBACK", " + feedback")
        cells = [label if rule == "bp" else f"{label}, K = {samples}"]
        for network in networks:
            own = [row for row in rows if (row["network"], row["batch"]) == network]
            backprop = next(row for row in own if row["rule"] == "bp")
            row = next(r for r in own if (r["rule"], r["samples"]) == (rule, samples))
            times = [f"{float(row[f'{way}_us']):,.0f}" for way in WAYS[1:]]
            ratio = float(row["graph_us"]) / float(backprop["graph_us"])
            cells.append(f"{times[0]} / {times[1]} ({ratio:.1f} × BP)")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
