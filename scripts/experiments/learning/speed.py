"""How long one learning step takes under each rule, as a ratio to backpropagation.

On the CPU all rules take turns in one process on one thread, and each counts with its shortest CPU
time, so that whatever else the machine does falls out. Beside each ratio stands the multiply-add
bound: what the ratio would be if only matrix products cost time. PPO's learners take turns, too:
each learns one more rollout a round, and counts with its shortest round.

On a GPU a step is a gradient, a step of Adam and, for decorrelated rules, an update of R: kernel by
kernel, as one CUDA graph, and beside them on one CPU thread. A turn is a stretch of steps between
two waits for the GPU.

    python -m scripts.experiments.learning.speed steps --out results/speed  # rows.csv; CPU
    python -m scripts.experiments.learning.speed ppo --env HalfCheetah-v5 --out results/speed
    python -m scripts.experiments.learning.speed runs --env HalfCheetah-v5  # runs.csv
    python -m scripts.experiments.learning.speed gpu                        # results/speed/gpu.csv
    python -m scripts.experiments.learning.speed report                     # docs/variance.md, GPU
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import stable_baselines3
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import nprobot
from nprobot.catalogue import FEEDBACK, Activation, Noise, learner_title, rule_named
from nprobot.policies import mlp
from nprobot.runs.versions import versions

from ..pages import DOCS, markdown, put_section
from ..rows import RESULTS, Row, Rows, append, command, read, select, write

NETWORKS = [([17, 64, 64, 6], 64), ([17, 256, 256, 6], 256), ([21, 512, 512, 512, 7], 256)]
DRAWS = (1, 4, 16)
RULES = ("np", "inp", "anp", "dnp", "dinp", "danp", "np+feedback", "dnp+feedback")
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

GPU_ROWS = RESULTS / "speed" / "gpu.csv"
GPU_NETWORKS = (
    ((17, 64, 64, 6), 64),
    ((17, 256, 256, 6), 256),
    ((21, 512, 512, 512, 7), 1024),
    ((784, 2048, 2048, 2048, 10), 1024),
)
GPU_LEARNERS = (
    *(("bp", 1), ("np", 1), ("danp", 1), ("danp", 8), ("danp", 64)),
    *(("np+feedback", 1), ("np+feedback", 8), ("dnp+feedback", 1)),
)
"""Rule and K."""
WAYS = ("cpu", "kernels", "graph")


def steps(
    seconds: float = 15.0,
    activation: Activation = "tanh",
    noise: Noise = "rademacher",
    out: Path | None = None,
) -> None:
    """Time a gradient, and an update of R, of every rule on the CPU.

    Args:
        seconds: for each network.
        activation: of the units.
        noise: of the nodes.
        out: write the rows to this folder.
    """
    console = Console()
    found: Rows = []
    cases = [(name, draws) for name in RULES for draws in DRAWS]
    for sizes, batch in NETWORKS:
        x, y = torch.randn(batch, sizes[0]), torch.randn(batch, sizes[-1])
        turns = [backprop_step(mlp(sizes, activation), x, y)]
        for name, draws in cases:
            rule = nprobot.learning_rule(name, samples=draws, noise=noise, seed=0)
            network = mlp(sizes, activation, decorrelated=rule.decorrelated)
            turns.append(perturbation_step(rule, network, x, y))
        backprop, *times = shortest(turns, seconds)
        shared = {"network": "-".join(map(str, sizes)), "batch": batch, "activation": activation}
        first = {"rule": "bp", "noise": "", "samples": 0, "microseconds": backprop * 1e6}
        rows: Rows = [{**shared, **first, "ratio": 1.0, "bound": 1.0}]
        for (name, draws), step, took in zip(cases, turns[1:], times, strict=True):
            own = {"rule": name, "noise": noise, "samples": draws, "microseconds": took * 1e6}
            limit = bound(name, sizes, batch, draws, step)
            rows.append({**shared, **own, "ratio": took / backprop, "bound": limit})
        show(rows, console)
        found += rows
    if out is not None:
        write(out / "rows.csv", found)


def backprop_step(network: torch.nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """One gradient by autograd, as anyone would write it."""

    def step() -> None:
        network.zero_grad()
        (network(x) - y).square().mean().backward()

    return step


def perturbation_step(
    rule: nprobot.LearningRule, network: torch.nn.Module, x: Tensor, y: Tensor
) -> Callable[[], None]:
    """One gradient, and one update of R, by a rule."""

    def step() -> None:
        network.zero_grad()
        rule.backward(network, x, lambda out: squared_error(out, y))
        rule.decorrelate(network)

    return step


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of each sample."""
    return (outputs - targets).square().mean(-1)


def shortest(turns: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Shortest CPU time of every step in seconds, over rounds in which the steps take turns."""
    start = time.process_time()
    for step in turns:
        step()
    rounds = max(7, int(seconds / (time.process_time() - start)))
    times = [float("inf")] * len(turns)
    for _ in range(rounds):
        for i, step in enumerate(turns):
            start = time.process_time()
            step()
            times[i] = min(times[i], time.process_time() - start)
    return times


def bound(
    name: str, sizes: Sequence[int], batch: int, draws: int, step: Callable[[], object]
) -> float:
    """Multiply-adds of a step over those of backpropagation, taken as three forward passes.

    NP and ANP: K noisy passes, a clean one, an outer product. INP: one pass a layer, begun there.
    With decorrelation: x* = R x, the product W R, C = mean x* x*ᵀ and C R for every layer. With
    feedback: what one step counts, without the solution of its least-squares problems.
    """
    layers = [batch * d * h for d, h in pairwise(sizes)]
    forward = sum(layers)
    if name.endswith(FEEDBACK):
        with FlopCounterMode(display=False) as counter:
            step()
        return counter.get_total_flops() / 2 / (3 * forward)
    noisy = forward
    if name.endswith("inp"):
        noisy = sum(sum(layers[i + 1 :]) for i in range(len(layers)))
    extra = 0
    if rule_named(name).decorrelated:
        extra = sum(2 * batch * d * d + h * d * d + d**3 for d, h in pairwise(sizes))
    return (draws * noisy + 2 * forward + extra) / (3 * forward)


def show(rows: Rows, console: Console) -> None:
    """The table of a network: ratio to backprop, and its multiply-add bound in brackets."""
    first = rows[0]
    table = Table(
        title=f"{first['network']} {first['activation']}, batch {first['batch']}: time of a step "
        f"/ autograd BP ({first['microseconds']:.0f} µs) \\[multiply-add bound]"
    )
    table.add_column("rule")
    for draws in DRAWS:
        table.add_column(f"K = {draws}", justify="right")
    for name in RULES:
        own = select(rows, rule=name)
        cells = (f"{row['ratio']:.2f} \\[{row['bound']:.2f}]" for row in own)
        table.add_row(learner_title(name), *cells)
    console.print(table)


def ppo(env: str = "Reacher-v5", rounds: int = 12, out: Path | None = None) -> None:
    """Time our PPO beside SB3's, same rollouts and epochs, on the CPU.

    Args:
        env: environment id.
        rounds: turns of each.
        out: write the rows to this folder.
    """
    models: list[stable_baselines3.PPO] = []
    for rule, draws, batch in LEARNERS:
        envs = make_vec_env(env, 8, seed=0)
        settings: dict[str, Any] = {"n_steps": 256, "batch_size": batch, "seed": 0, "device": "cpu"}
        if rule == "sb3":
            models.append(stable_baselines3.PPO("MlpPolicy", envs, **settings))
        else:
            settings |= {"rule": rule, "rule_kwargs": {"samples": draws}}
            models.append(nprobot.PPO("MlpPolicy", envs, **settings))
    count = models[0].n_steps * models[0].n_envs
    times = [float("inf")] * len(models)
    for _ in range(rounds):
        for i, model in enumerate(models):
            start = time.process_time()
            model.learn(count, reset_num_timesteps=False)
            times[i] = min(times[i], time.process_time() - start)
    table = Table(title=f"PPO on {env}, 8 environments, 10 epochs: {count} steps")
    for heading in ("learner", "batch", "CPU ms", "time / SB3, batch 64", "time / SB3, batch 256"):
        table.add_column(heading, justify="right")
    rows: Rows = []
    for (rule, draws, batch), took in zip(LEARNERS, times, strict=True):
        label = "SB3 PPO (autograd)" if rule == "sb3" else learner_title(rule, draws)
        over = {size: took / times[LEARNERS.index(("sb3", 0, size))] for size in (64, 256)}
        table.add_row(label, str(batch), f"{1e3 * took:.0f}", *(f"{r:.2f}" for r in over.values()))
        own = {"env": env, "rule": rule, "samples": draws, "batch": batch}
        ratios = {f"over_sb3_{size}": ratio for size, ratio in over.items()}
        rows.append({**own, "milliseconds": took * 1e3, **ratios})
    Console().print(table)
    if out is not None:
        write(out / f"ppo_{env}.csv", rows)


def runs(
    algo: str = "PPO",
    env: str = "HalfCheetah-v5",
    hidden: tuple[int, ...] = (),
    rule: str = "np+feedback",
    samples: int = 1,
    steps: int = 4096,
    turns: int = 10,
    out: Path = RESULTS / "speed" / "runs.csv",
) -> None:
    """Time whole runs of a learner beside SB3's own, both at SB3's settings, in turns.

    Args:
        algo: PPO, SAC or TD3.
        env: environment id.
        hidden: units of each hidden layer; SB3's if empty.
        rule: what ours learns by.
        samples: K.
        steps: environment steps of a turn; the first turn, which warms up, does not count.
        turns: of each.
        out: where the row goes.
    """
    settings: dict[str, Any] = {"seed": 0, "device": "cpu"}
    if hidden:
        settings["policy_kwargs"] = {"net_arch": list(hidden)}
    ours = {"rule": rule, "rule_kwargs": {"samples": samples}}
    models = {
        "sb3": getattr(stable_baselines3, algo)("MlpPolicy", env, **settings),
        "ours": getattr(nprobot, algo)("MlpPolicy", env, **settings, **ours),
    }
    cpu: dict[str, list[float]] = {name: [] for name in models}
    wall: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(turns + 1):
        for name, model in models.items():
            started = time.process_time(), time.perf_counter()
            model.learn(steps, reset_num_timesteps=False)
            if turn:
                cpu[name].append(1e6 * (time.process_time() - started[0]) / steps)
                wall[name].append(1e6 * (time.perf_counter() - started[1]) / steps)
    row: Row = {"algo": algo, "env": env, "hidden": "-".join(map(str, hidden)) or "SB3's"}
    row |= {"rule": rule, "samples": samples, "steps": steps, "turns": turns}
    for kind, times in (("cpu", cpu), ("wall", wall)):
        found = {name: statistics.median(own) for name, own in times.items()}
        row |= {f"{kind}_us_{name}": f"{value:.1f}" for name, value in found.items()}
        row[f"{kind}_ratio"] = f"{found['ours'] / found['sb3']:.3f}"
    row["load"] = f"{os.getloadavg()[0]:.1f}"
    print(row, flush=True)
    append(out, [row | versions()])


def gpu(seconds: float = 1.0, out: Path = GPU_ROWS) -> None:
    """Time a step with Adam on a GPU.

    Args:
        seconds: for each learner and network.
        out: where the rows go.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    for sizes, batch in GPU_NETWORKS:
        for rule, draws in GPU_LEARNERS:
            ways = WAYS if sizes[1] < 2048 else WAYS[1:]
            turns = {way: step_on(way, rule, draws, sizes, batch) for way in ways}
            took = shortest_on_gpu(turns, seconds)
            row: Row = {
                "device": torch.cuda.get_device_name(),
                "network": "-".join(map(str, sizes)),
                **{"batch": batch, "rule": rule, "samples": draws},
                **{f"{way}_us": f"{1e6 * took[way]:.1f}" if way in took else "" for way in WAYS},
            }
            print(*row.values(), flush=True)
            append(out, [row | versions()])


def step_on(
    way: str, rule: str, draws: int, sizes: Sequence[int], batch: int
) -> Callable[[], object]:
    """A learning step, on batches that are where the network is."""
    device = "cpu" if way == "cpu" else "cuda"
    torch.manual_seed(0)
    learner = nprobot.learning_rule(rule, samples=draws, noise="rademacher", seed=0)
    network = mlp(sizes, "tanh", decorrelated=learner.decorrelated).to(device)
    adam = {"fused": True} if way == "cpu" else {"capturable": True, "fused": True}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, **adam)
    x = torch.randn(batch, sizes[0], device=device)
    target = torch.randn(batch, sizes[-1], device=device)
    if way == "graph":
        captured = nprobot.CapturedStep(learner, network, optimizer, squared_error)
        return lambda: captured(x, target)

    def step() -> None:
        optimizer.zero_grad()
        learner.backward(network, x, lambda y: squared_error(y, target))
        optimizer.step()
        learner.decorrelate(network)

    return step


def shortest_on_gpu(turns: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Shortest time of a step in seconds, by its way."""
    for step in turns.values():
        for _ in range(6):
            step()
    lengths = {way: max(1, int(0.02 / stretch(step, 1))) for way, step in turns.items()}
    found = dict.fromkeys(turns, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for way, step in turns.items():
            found[way] = min(found[way], stretch(step, lengths[way]) / lengths[way])
    return found


def stretch(step: Callable[[], object], count: int) -> float:
    """How long the steps take between two waits for the GPU, s."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def report() -> None:
    """Microseconds of a step on a GPU, and its ratio to backprop's of the same way."""
    rows = read(GPU_ROWS)
    networks = list(dict.fromkeys((row["network"], row["batch"]) for row in rows))
    lines = []
    for rule, samples in dict.fromkeys((row["rule"], row["samples"]) for row in rows):
        cells = [learner_title(rule, int(samples))]
        for network, batch in networks:
            own = select(rows, network=network, batch=batch)
            (backprop,), (row,) = select(own, rule="bp"), select(own, rule=rule, samples=samples)
            times = " / ".join(f"{float(row[f'{way}_us']):,.0f}" for way in WAYS[1:])
            ratio = float(row["graph_us"]) / float(backprop["graph_us"])
            cells.append(f"{times} ({ratio:.1f} × BP)")
        lines.append(cells)
    names = (f"{network}, batch {batch}" for network, batch in networks)
    heading = ("µs a step: kernel by kernel / as a graph", *names)
    put_section("gpu", markdown(heading, lines), DOCS / "variance.md")


if __name__ == "__main__":
    command(__doc__, steps, ppo, runs, gpu, report)
