"""How long one learning step takes under each rule, as a ratio to autograd backpropagation.

All rules take turns in one process on one thread, and each counts with its shortest CPU time, so
that whatever else the machine does falls out. Beside each ratio stands the multiply-add bound: what
the ratio would be if only matrix products cost time. PPO's learners take turns, too: each learns
one more rollout a round, and counts with its shortest round.

    python scripts/speed.py                      # gradient steps, then PPO
    python scripts/speed.py --rounds 0           # gradient steps only
    python scripts/speed.py --seconds 0 --env HalfCheetah-v5 # PPO only
    python scripts/speed.py --out results/speed  # and keep the rows
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import stable_baselines3
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

import nprobot
from nprobot.learning.feedback import LONGEST, WIDE
from nprobot.policies import mlp

NETWORKS = [([17, 64, 64, 6], 64), ([17, 256, 256, 6], 256), ([21, 512, 512, 512, 7], 256)]
DRAWS = (1, 4, 16)
FEEDBACK = "+feedback"
LEARNERS = (
    ("sb3", 0, 64),
    ("sb3", 0, 256),
    ("np", 1, 256),
    ("anp", 1, 256),
    ("danp", 1, 256),
    ("danp", 8, 256),
    ("np+feedback", 1, 64),
    ("np+feedback", 1, 256),
    ("np+feedback", 8, 64),
    ("np+feedback", 8, 256),
    ("dnp+feedback", 1, 256),
    ("dnp+feedback", 8, 256),
)
"""Rule, K and batch of what PPO learns by; each is compared with SB3's PPO at both batches. 64 is
SB3's default."""
RULES = ("np", "inp", "anp", "dnp", "dinp", "danp", "np+feedback", "dnp+feedback")


@dataclass(frozen=True)
class Row:
    """One measurement."""

    network: str
    batch: int
    activation: str
    rule: str
    noise: str
    samples: int
    microseconds: float
    ratio: float
    bound: float


@dataclass(frozen=True)
class PPORow:
    """The same for a stretch of PPO."""

    env: str
    rule: str
    samples: int
    batch: int
    milliseconds: float
    over_sb3_64: float
    over_sb3_256: float


def bound(name: str, sizes: list[int], batch: int, draws: int) -> float:
    """Multiply-adds of a step over those of backpropagation, taken as three forward passes.

    NP and ANP: K noisy passes, a clean one, an outer product. INP: one pass a layer, begun there.
    With decorrelation: x* = R x, the product W R, C = mean x* x*ᵀ and C R for every layer. With
    feedback: for every hidden layer the guess and, every eighth step at best, a least-squares
    problem.
    """
    layers = [batch * d * h for d, h in pairwise(sizes)]
    forward = sum(layers)
    if name.endswith("inp"):
        noisy = sum(sum(layers[i + 1 :]) for i in range(len(layers)))
    else:
        noisy = forward
    extra = 0
    if name.startswith("d"):
        extra = sum(2 * batch * d * d + h * d * d + d**3 for d, h in pairwise(sizes))
    if name.endswith(FEEDBACK):
        for h, out in pairwise(sizes[1:]):
            rows = min(batch, h, WIDE)
            square, size = (rows * rows * h, rows) if h > WIDE else (rows * h * h, h)
            learning = 2 * rows * h * out + square + size**3 // 3 + size * size * out
            extra += batch * h * out + learning // LONGEST
    return (draws * noisy + 2 * forward + extra) / (3 * forward)


def backprop_step(net: torch.nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """One gradient by autograd, as anyone would write it."""

    def step() -> None:
        net.zero_grad()
        (net(x) - y).square().mean().backward()

    return step


def perturbation_step(
    rule: nprobot.LearningRule, net: torch.nn.Module, x: Tensor, y: Tensor
) -> Callable[[], None]:
    """One gradient, and one update of R, by a rule."""

    def step() -> None:
        net.zero_grad()
        rule.backward(net, x, lambda out: (out - y).square().mean(-1))
        rule.decorrelate(net)

    return step


def measure(steps: list[Callable[[], None]], seconds: float) -> list[float]:
    """Shortest CPU time of every step in seconds, over rounds in which the steps take turns."""
    start = time.process_time()
    for step in steps:
        step()
    rounds = max(7, int(seconds / (time.process_time() - start)))
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for i, step in enumerate(steps):
            start = time.process_time()
            step()
            times[i].append(time.process_time() - start)
    return [min(t) for t in times]


def gradient_steps(seconds: float, activation: str, noise: str) -> list[Row]:
    """Time every rule on every network."""
    rows = []
    for sizes, batch in NETWORKS:
        x, y = torch.randn(batch, sizes[0]), torch.randn(batch, sizes[-1])
        cases = [(name, draws) for name in RULES for draws in DRAWS]
        steps = [backprop_step(mlp(sizes, activation), x, y)]
        for name, draws in cases:
            rule = nprobot.learning_rule(
                name.removesuffix(FEEDBACK),
                feedback=name.endswith(FEEDBACK),
                samples=draws,
                noise=noise,
                seed=0,
            )
            net = mlp(sizes, activation, decorrelated=rule.decorrelated)
            steps.append(perturbation_step(rule, net, x, y))
        backprop, *times = measure(steps, seconds)
        label = "-".join(map(str, sizes))
        rows.append(Row(label, batch, activation, "bp", "", 0, backprop * 1e6, 1.0, 1.0))
        for (name, draws), took in zip(cases, times, strict=True):
            limit = bound(name, sizes, batch, draws)
            time_and_ratio = (took * 1e6, took / backprop)
            rows.append(Row(label, batch, activation, name, noise, draws, *time_and_ratio, limit))
    return rows


def show(rows: list[Row], console: Console) -> None:
    """One table a network: ratio to backprop, and its multiply-add bound in brackets."""
    for label, batch in dict.fromkeys((row.network, row.batch) for row in rows):
        own = [row for row in rows if row.network == label]
        table = Table(
            title=f"{label} {own[0].activation}, batch {batch}: time of a step / autograd BP "
            f"({own[0].microseconds:.0f} µs) \\[multiply-add bound]"
        )
        table.add_column("rule")
        for draws in DRAWS:
            table.add_column(f"K = {draws}", justify="right")
        for name in RULES:
            cells = [f"{r.ratio:.2f} \\[{r.bound:.2f}]" for r in own if r.rule == name]
            table.add_row(name, *cells)
        console.print(table)


def ppo_speed(env: str, rounds: int, console: Console) -> list[PPORow]:
    """CPU time of our PPO over SB3's, same rollouts and epochs."""
    models: list[stable_baselines3.PPO] = []
    for rule, draws, batch in LEARNERS:
        envs = make_vec_env(env, 8, seed=0)
        arguments: dict[str, Any] = {"n_steps": 256, "batch_size": batch, "seed": 0}
        arguments["device"] = "cpu"
        if rule == "sb3":
            models.append(stable_baselines3.PPO("MlpPolicy", envs, **arguments))
            continue
        settings: dict[str, Any] = {"samples": draws}
        if rule.endswith(FEEDBACK):
            settings["feedback"] = True
        arguments |= {"rule": rule.removesuffix(FEEDBACK), "rule_kwargs": settings}
        models.append(nprobot.PPO("MlpPolicy", envs, **arguments))
    steps = models[0].n_steps * models[0].n_envs
    times = [float("inf")] * len(models)
    for _ in range(rounds):
        for i, model in enumerate(models):
            start = time.process_time()
            model.learn(steps, reset_num_timesteps=False)
            times[i] = min(times[i], time.process_time() - start)
    table = Table(title=f"PPO on {env}, 8 environments, 10 epochs: {steps} steps")
    for column in ("learner", "batch", "CPU ms", "time / SB3, batch 64", "time / SB3, batch 256"):
        table.add_column(column, justify="right")
    rows = []
    for (rule, draws, batch), took in zip(LEARNERS, times, strict=True):
        label = "SB3 PPO (autograd)" if rule == "sb3" else f"{rule}, K = {draws}"
        ratios = [took / times[LEARNERS.index(("sb3", 0, size))] for size in (64, 256)]
        table.add_row(label, str(batch), f"{1e3 * took:.0f}", *(f"{r:.2f}" for r in ratios))
        rows.append(PPORow(env, rule, draws, batch, took * 1e3, *ratios))
    console.print(table)
    return rows


def keep(path: Path, rows: Sequence[Row | PPORow]) -> None:
    """Write rows to a CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def main() -> None:
    """Measure, print, and keep the rows if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="for each network; 0 leaves them out"
    )
    parser.add_argument("--activation", default="tanh")
    parser.add_argument("--noise", default="rademacher", choices=["rademacher", "gaussian"])
    parser.add_argument("--env", default="Reacher-v5", help="for PPO")
    parser.add_argument("--rounds", type=int, default=12, help="of PPO; 0 leaves it out")
    parser.add_argument("--out", type=Path, help="write the rows to this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    if options.seconds:
        rows = gradient_steps(options.seconds, options.activation, options.noise)
        show(rows, console)
        if options.out:
            keep(options.out / "rows.csv", rows)
    if options.rounds:
        ppo_rows = ppo_speed(options.env, options.rounds, console)
        if options.out:
            keep(options.out / f"ppo_{options.env}.csv", ppo_rows)


if __name__ == "__main__":
    main()
