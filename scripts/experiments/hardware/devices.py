"""Perturbation learning against a chip's native training, on emulated devices with a ledger.

Digits (64-32-10, tanh) are learned *on* a device whose weights are written by pulses, and every
learner gets as many minibatches. The figure is the share of right test labels, on the chip, and the
pulses that it took. Then the device breaks, or drifts, and they go on for a tenth of the steps.

    python -m scripts.experiments.hardware.devices run
    python -m scripts.experiments.hardware.devices rates
    python -m scripts.experiments.hardware.devices speed
    python -m scripts.experiments.hardware.devices write
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import torch
from matplotlib.ticker import NullFormatter
from sklearn.datasets import load_digits
from torch import Tensor, nn

import nprobot
from nprobot.learning.nodes.chip_nodes import ChipLinearNodes
from nprobot.policies import mlp
from nprobot.policies.chip import (
    ArraySpec,
    EmulatedChip,
    OuterProduct,
    RemoteChip,
    WeightChange,
    read_back,
)
from nprobot.policies.chip.emulated import parse_layers
from nprobot.policies.chip.nonidealities import PulsedDevice

from ..pages import DOCS, markdown, panels, put_section, save_figure, spread
from ..rows import RESULTS, Only, Row, command, keep, read, select

ROWS = RESULTS / "devices" / "digits.csv"
RATES = RESULTS / "devices" / "rates.csv"
SPEED = RESULTS / "devices" / "speed.csv"
PAGE = DOCS / "devices.md"
SIZES = (64, 32, 10)
STEPS, BATCH, RECOVERY = 400, 32, 40
DEVICES = ("ecram", "reram-om", "pcm")
TRANSFER = 5
"""Steps between two transfers of the two-matrix scheme."""

Batch = tuple[Tensor, Tensor]
Learner = Callable[[nn.Sequential, EmulatedChip, float, int, int], Callable[[Batch], None]]


@cache
def digits(seed: int) -> tuple[Batch, Batch]:
    """Training and test rows, standardised pixels and labels; 80 and 20 %."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.data))
    x = torch.tensor(data.data / 8.0 - 1.0, dtype=torch.float32)[order]
    y = torch.tensor(data.target)[order]
    cut = len(x) * 4 // 5
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def cross_entropy(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """``−log softmax(y)_label`` for outputs (..., B, classes)."""

    def loss(y: Tensor) -> Tensor:
        wanted = labels.expand(y.shape[:-1]).unsqueeze(-1)
        return torch.logsumexp(y, -1) - y.gather(-1, wanted).squeeze(-1)

    return loss


def by_rule(name: str, **settings: Any) -> Learner:
    """Adam on what a rule estimates; the device is asked for weight changes."""

    def make(
        net: nn.Sequential, chip: EmulatedChip, rate: float, seed: int, steps: int
    ) -> Callable[[Batch], None]:
        rule = nprobot.learning_rule(name, seed=seed, **settings)
        optimizer = torch.optim.Adam(net.parameters(), rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)

        def step(batch: Batch) -> None:
            if name == "bp":
                read_back(net)  # what it differentiates is what the device holds
            optimizer.zero_grad()
            rule.backward(net, batch[0], cross_entropy(batch[1]))
            optimizer.step()
            rule.decorrelate(net)
            schedule.step()

        return step

    return make


def feedback_by_pulses(
    net: nn.Sequential, chip: EmulatedChip, rate: float, seed: int, steps: int
) -> Callable[[Batch], None]:
    """Learned feedback finds the node errors; rows and columns send pulse trains, row by row."""
    rule = nprobot.learning_rule("np+feedback", seed=seed)
    places = {id(module): index for index, module in enumerate(net[::2])}

    def step(batch: Batch) -> None:
        found: list[OuterProduct] = []

        def send(self: ChipLinearNodes, error: Tensor, x: Tensor) -> None:
            layer = places[id(self.module)]
            found.append(OuterProduct(layer, error.numpy().copy(), x.numpy().copy(), rate))

        with mock.patch.object(ChipLinearNodes, "accumulate", send):
            rule.backward(net, batch[0], cross_entropy(batch[1]))
        chip.update(found)

    return step


def errors_by_transpose(chip: EmulatedChip, batch: Batch) -> Iterator[tuple[int, Any, Any]]:
    """Backprop through the device: activities as read, errors by its own weights, transposed."""
    x, labels = batch
    hidden, outputs = (torch.from_numpy(a) for a in chip.forward(x.numpy()))
    weights = chip.read()[1][0]
    error = outputs.softmax(-1)
    error[torch.arange(len(labels)), labels] -= 1
    error = (error / len(labels)).numpy()
    h = torch.tanh(hidden).numpy()
    yield 1, error, h
    yield 0, (error @ weights) * (1 - h**2), x.numpy()


def pulsed_backprop(
    net: nn.Sequential, chip: EmulatedChip, rate: float, seed: int, steps: int
) -> Callable[[Batch], None]:
    """Stochastic pulsed SGD, the chip's native training."""

    def step(batch: Batch) -> None:
        found = [OuterProduct(*part, rate) for part in errors_by_transpose(chip, batch)]
        chip.update(found)

    return step


def two_matrices(
    net: nn.Sequential, chip: EmulatedChip, rate: float, seed: int, steps: int
) -> Callable[[Batch], None]:
    """As Tiki-Taka v2: pulses go to a second array, which a digital sum passes on to the first."""
    fast = EmulatedChip(chip.models, chip.layers, seed=seed + 500, device_seed=seed + 500)
    fast.write([(0 * w, 0 * b) for w, b in chip.read()])
    device = next(model for model in chip.models if isinstance(model, PulsedDevice))
    sums = [[0 * w, 0 * b] for w, b in chip.read()]
    done = 0

    def step(batch: Batch) -> None:
        nonlocal done
        fast.update([OuterProduct(*part, rate) for part in errors_by_transpose(chip, batch)])
        done += 1
        if done % TRANSFER:
            return
        changes = []
        for layer, (parts, there) in enumerate(zip(sums, fast.read(), strict=True)):
            least = device.step * 0.5
            sent = []
            for own, value in zip(parts, there, strict=True):
                own += 0.1 * value
                whole = np.trunc(own / least) * least
                own -= whole
                sent.append(whole)
            changes.append(WeightChange(layer, *sent))
        chip.update(changes)

    step.extra = fast  # type: ignore[attr-defined]
    return step


def deployed(noise: float) -> Learner:
    """Backprop of the ideal network, its weights and nodes noisy or not, then written once."""

    def make(
        net: nn.Sequential, chip: EmulatedChip, rate: float, seed: int, steps: int
    ) -> Callable[[Batch], None]:
        twin = mlp(list(SIZES))
        twin.load_state_dict(net.state_dict())
        optimizer = torch.optim.Adam(twin.parameters(), rate)
        generator = torch.Generator().manual_seed(seed)
        done = 0

        def step(batch: Batch) -> None:
            nonlocal done
            x = batch[0]
            for layer in twin:
                if isinstance(layer, nn.Linear):
                    top = layer.weight.detach().abs().max()
                    off = noise * top * torch.randn(layer.weight.shape, generator=generator)
                    x = nn.functional.linear(x, layer.weight + off, layer.bias)
                    x = x + (noise > 0) * 0.06 * torch.randn(x.shape, generator=generator)
                else:
                    x = layer(x)
            optimizer.zero_grad()
            cross_entropy(batch[1])(x).mean().backward()
            optimizer.step()
            done += 1
            if done == steps:
                chip.write(
                    [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in twin[::2]]
                )

        return step

    return make


LEARNERS: dict[str, tuple[Learner, float]] = {
    "NP + feedback": (by_rule("np+feedback"), 3e-3),
    "NP + feedback, pulsed": (feedback_by_pulses, 0.1),
    "DANP, K = 1": (by_rule("danp", samples=1), 3e-3),
    "BP, digital sums": (by_rule("bp"), 3e-3),
    "BP, pulsed SGD": (pulsed_backprop, 0.1),
    "BP, two matrices": (two_matrices, 0.1),
    "BP, deployed": (deployed(0.0), 3e-3),
    "BP, noise-aware, deployed": (deployed(0.1), 3e-3),
}
"""And a learning rate of each, from which `RATES_TRIED` are tried."""
RATES_TRIED = (0.3, 1.0, 3.0)
"""Times that rate; the best on *ecram* with a seed of its own is taken."""


def best_rate(learner: str) -> float:
    """The best of those tried."""
    rows = select(read(RATES), learner=learner)
    return float(max(rows, key=lambda row: float(row["accuracy"]))["rate"]) if rows else 1.0


def learn(learner: str, device: str, seed: int, rate: float | None = None) -> Row:
    """Learn the digits on a device, then let it break and go on.

    Args:
        learner: a name from `LEARNERS`.
        device: a preset.
        seed: of data, first weights, device and noise.
        rate: times the learner's own; the best of those tried if left out.
    """
    rate = best_rate(learner) if rate is None else rate
    (x, y), (test_x, test_y) = digits(seed)
    torch.manual_seed(seed)
    decorrelated = learner.startswith("D")
    net = mlp(list(SIZES), decorrelated=decorrelated)
    chip = EmulatedChip(device, seed=seed, device_seed=seed)
    nprobot.NoisyNetwork(net, chip)
    net(x[:1])  # programs the first weights
    begun = chip.ledger()["pulses"]
    make, own = LEARNERS[learner]
    step = make(net, chip, own * rate, seed, STEPS)
    generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def right() -> float:
        return float((net(test_x).argmax(-1) == test_y).float().mean())

    def go(steps: int) -> None:
        for _ in range(steps):
            rows = torch.randint(len(x), (BATCH,), generator=generator)
            step((x[rows], y[rows]))

    def spent() -> dict[str, float]:
        extra = getattr(step, "extra", None)
        both = [chip.ledger(), *([] if extra is None else [extra.ledger()])]
        return {name: sum(ledger[name] for ledger in both) for name in both[0]}

    go(STEPS)
    ledger = spent()
    result: Row = {
        "rate_used": own * rate,
        "accuracy": right(),
        "pulses": ledger["pulses"] - begun,
        "reads": ledger["reads"],
        "energy": ledger["energy"],
    }
    if "deployed" in learner:
        return result | {"broken": broken(chip, device, right), "recovered": float("nan")}
    result["broken"] = broken(chip, device, right)
    step = make(net, chip, own * rate, seed + 1, RECOVERY) if "two" not in learner else step
    go(RECOVERY)
    return result | {"recovered": right()}


def broken(chip: EmulatedChip, device: str, right: Callable[[], float]) -> float:
    """Accuracy once 13.5 % of the devices have failed, and, where they drift, ten days went by."""
    chip.fail(0.135, seed=1)
    chip.advance(864_000.0)
    return right()


def run(only: Only = ()) -> None:
    """Every learner on every device, three seeds."""
    jobs = [
        {"learner": learner, "device": device, "seed": seed}
        for seed in range(3)
        for device in DEVICES
        for learner in LEARNERS
    ]
    keep(ROWS, jobs, learn, only=only)


def rates(only: Only = ()) -> None:
    """Three learning rates for each learner, with a seed of its own."""
    jobs = [
        {"learner": learner, "device": "ecram", "seed": 100, "rate": rate}
        for learner in LEARNERS
        for rate in RATES_TRIED
    ]
    keep(RATES, jobs, learn, only=only)


def measure(place: str, batch: int) -> Row:
    """Batches a second of a chip 11-64-64-3, here or in another process."""
    inputs = np.zeros((batch, 11), np.float32)
    layers = parse_layers("11,64,64,3", "tanh")
    changes = [WeightChange(i, *pair) for i, pair in enumerate(_small(layers))]
    command_line = [sys.executable, "-m", "nprobot", "chip", "serve", "ecram", "--port", "0"]
    process = None
    chip: Any = EmulatedChip("ecram", layers, seed=0)
    if place == "another process":
        process = subprocess.Popen(
            [*command_line, "--layers", "11,64,64,3"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        line = next(line for line in process.stdout if "tcp://" in line)
        chip = RemoteChip(re.findall(r"tcp://[\d.:]+\d", line)[0], timeout=60.0)
    result: Row = {}
    for name, with_changes in (("forward", False), ("forward and change", True)):
        times = []
        for _ in range(100):
            before = time.perf_counter()
            if with_changes:
                chip.update(changes)
            chip.forward(inputs)
            times.append(time.perf_counter() - before)
        result[f"{name}, ms"] = 1000 * statistics.median(times)
    if process is not None:
        process.terminate()
        process.wait()
    return result | {"load": os.getloadavg()[0]}


def _small(layers: list[ArraySpec]) -> Iterator[tuple[Any, Any]]:
    for spec in layers:
        yield (
            np.full((spec.outputs, spec.inputs), 1e-3, np.float32),
            np.zeros(spec.outputs, np.float32),
        )


def speed(only: Only = ()) -> None:
    """How long a batch takes, here and in another process."""
    jobs = [
        {"place": place, "batch": batch}
        for place in ("this process", "another process")
        for batch in (1, 64, 256)
    ]
    keep(SPEED, jobs, measure, only=only)


def write() -> None:
    """Tables and the figure of docs/experiments/devices.md."""
    rows = read(ROWS)

    def cell(column: str, scale: float, places: int, **wanted: str) -> str:
        values = [float(r[column]) * scale for r in select(rows, **wanted)]
        values = [value for value in values if value == value]
        return spread(values, places) or "–"

    for name, column, scale, places in (
        ("accuracy", "accuracy", 100.0, 1),
        ("pulses", "pulses", 1e-6, 2),
        ("recovered", "recovered", 100.0, 1),
        ("broken", "broken", 100.0, 1),
    ):
        lines = [
            [learner, *(cell(column, scale, places, learner=learner, device=d) for d in DEVICES)]
            for learner in LEARNERS
        ]
        put_section(name, markdown(["learner", *DEVICES], lines), PAGE)
    heading = ["chip", "rows", "forward, ms", "forward and change, ms", "load of the machine"]
    lines = [
        [r["place"], r["batch"], *(f"{float(r[name]):.2f}" for name in heading[2:4]), r["load"][:4]]
        for r in read(SPEED)
    ]
    put_section("speed", markdown(heading, lines), PAGE)
    figure, axes = panels(len(DEVICES), (8.0, 4.0), sharey=True)
    for axis, device in zip(axes, DEVICES, strict=True):
        for number, learner in enumerate(LEARNERS):
            found = select(rows, learner=learner, device=device)
            if not found:
                continue
            x = statistics.fmean(float(r["pulses"]) for r in found)
            values = [100 * float(r["accuracy"]) for r in found]
            marker = "osD^vPX*"[number]
            axis.plot([x] * len(values), values, marker, label=learner, mfc="none", mew=1.6)
        axis.set(xscale="log", title=device)
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("right test labels, %")
    for axis in axes:
        axis.set_xlabel("pulses")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    save_figure(figure, "devices")


if __name__ == "__main__":
    command(__doc__, run, rates, speed, write)
