"""Why decorrelation gains what it gains on the arm's inverse dynamics: one change at a time.

NP, ANP, DNP and DANP at K = 1 for 12 epochs, each with the settings that its search chose
(`scripts/inverse_dynamics.py`), on changed data or with one changed setting; three seeds. Settings
are not searched again for a variant. A finished fit is not repeated.

    python scripts/inverse_dynamics_why.py run     # ablation.csv
    python scripts/inverse_dynamics_why.py report  # table in docs/
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from inverse_dynamics import BATCH_SIZE, EPOCHS, HIDDEN, RESULTS, SEEDS, read_rows
from inverse_dynamics_report import PAGE
from rows import append, command_line, put_section, read

from nprobot import alignment, learning_rule
from nprobot.envs import datasets
from nprobot.envs.datasets import Dataset, Recording
from nprobot.regression import FitConfig, Model, fit, network_for
from nprobot.regression.objectives import Regression

FILE = RESULTS / "ablation.csv"
RULES = ("np", "anp", "dnp", "danp")


@dataclass(frozen=True)
class Variant:
    """One change of data or settings."""

    name: str
    recording: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant("as in the table"),
    Variant("independent joints (synergy 0)", {"synergy": 0.0}),
    Variant("stronger synergy (0.95)", {"synergy": 0.95}),
    Variant(
        "six times the trajectories, 2 epochs",
        {"train": 6 * 66, "validation": 48, "test": 48},
        {"epochs": 2},
    ),
    Variant("no weight decay", {}, {"weight_decay": 0.0}),
    Variant("constant learning rate", {}, {"lr_schedule": "constant"}),
    Variant("σ = 0.01", {}, {"sigma": 1e-2}),
    Variant("σ = 0.0001", {}, {"sigma": 1e-4}),
    Variant("Gaussian noise", {}, {"noise": "gaussian"}),
    Variant("η_R × 10", {}, {"decorrelation_lr": 10.0}),
    Variant("η_R / 10", {}, {"decorrelation_lr": 0.1}),
    Variant("κ = 0.5: whitening too", {}, {"whitening": 0.5}),
    Variant("ReLU", {}, {"activation": "relu"}),
)


def main() -> None:
    """Run or report."""
    if command_line(__doc__, "run", "report").parse_args().stage == "report":
        torch.set_num_threads(1)
        text = f"{table()}\n\n{cosines()}"
        put_section("inverse_dynamics why", [text], PAGE)
        print(text)
        return
    torch.set_num_threads(1)
    done = {(row["variant"], row["rule"], int(row["seed"])) for row in read(FILE)}
    for variant in VARIANTS:
        data = datasets.inverse_dynamics(recording=Recording(**variant.recording))
        for rule in RULES:
            for seed in SEEDS:
                if (variant.name, rule, seed) not in done:
                    run(variant, rule, seed, data)


def run(variant: Variant, rule: str, seed: int, data: Dataset) -> None:
    """One fit and its row; settings of R mean nothing to a rule without R."""
    chosen = next(
        row
        for row in read_rows(RESULTS / "rows.csv")
        if (row.budget, row.rule, row.samples) == ("epochs", rule, 1)
    )
    settings: dict[str, Any] = {
        "epochs": EPOCHS,
        "learning_rate": chosen.learning_rate,
        "weight_decay": chosen.weight_decay,
        "decorrelation_lr": chosen.decorrelation_lr,
        **variant.settings,
    }
    if "decorrelation_lr" in variant.settings:
        settings["decorrelation_lr"] *= chosen.decorrelation_lr
    network = hidden_network(data, rule, settings.pop("activation", "tanh"), seed)
    result = fit(network, data, rule, samples=1, batch_size=BATCH_SIZE, seed=seed, **settings)
    errors = {name: round(score.error, 6) for name, score in result.scores.items()}
    correlation = round(result.history[-1]["decorrelation/loss"], 6)
    row = {"variant": variant.name, "rule": rule, "seed": seed, **errors}
    append(FILE, [row | {"decorrelation_loss": correlation}])
    print(row, f"{result.seconds:.0f} s", flush=True)


def hidden_network(data: Dataset, rule: str, activation: str, seed: int) -> torch.nn.Module:
    """The network of the table, or one with another activation."""
    return network_for(data, FitConfig(rule, seed=seed), HIDDEN, activation)


def table() -> str:
    """Errors by variant, and how much decorrelation gains."""
    rows = read(FILE)
    lines = [
        "| | NP: train, test | ANP | DNP | DANP | NP / DNP | ANP / DANP | NP / DANP |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        mean: dict[tuple[str, str], float] = {}
        for rule in RULES:
            own = [r for r in rows if (r["variant"], r["rule"]) == (variant.name, rule)]
            for split in ("train", "test"):
                if own:
                    mean[rule, split] = statistics.fmean(float(r[split]) for r in own)
        if len(mean) < 2 * len(RULES):
            continue
        cells = [f"{mean[rule, 'train']:.3f}, {mean[rule, 'test']:.3f}" for rule in RULES]
        for a, b in (("np", "dnp"), ("anp", "danp"), ("np", "danp")):
            ratios = [mean[a, split] / mean[b, split] for split in ("train", "test")]
            cells.append(", ".join(f"{ratio:.2f}" for ratio in ratios))
        lines.append(f"| {variant.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cosines(batch: int = BATCH_SIZE, repeats: int = 20) -> str:
    """Cosine of the estimate with backprop's gradient, before learning and after an epoch of BP."""
    data = datasets.inverse_dynamics()
    rules = ("np", "inp", "anp")
    draws = (1, 16, 256)
    names = [f"{rule.upper()}, K = {k}" for rule in rules for k in draws]
    lines = [
        f"| cosine with the gradient | {' | '.join(names)} |",
        "|---" * (1 + len(names)) + "|",
    ]
    for name, epochs in (("before learning", 0), ("after one epoch of BP", 1)):
        config = FitConfig("bp", seed=SEEDS[0])
        network = network_for(data, config, HIDDEN)
        model = Model.for_data(network, data)
        objective = Regression(model.target_mean.numpy(), model.target_scale.numpy())
        if epochs:
            fit(network, data, "bp", epochs=epochs, batch_size=BATCH_SIZE, seed=SEEDS[0])
        inputs = model.standardise(torch.tensor(data.train.inputs))
        targets = objective.targets(data.train)
        cells = []
        for rule_name in rules:
            for k in draws:
                rule = learning_rule(rule_name, samples=k, noise="rademacher", seed=0)
                found = []
                for i in range(repeats):
                    rows = torch.arange(i * 37, i * 37 + batch * 101, 101) % len(inputs)
                    loss = objective.loss(targets[rows])
                    found.append(alignment(rule, network, inputs[rows], loss).cosine)
                cells.append(f"{statistics.fmean(found):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
