"""All rules on the inverse dynamics of the arm, after equal epochs and after equal passes.

The eight of the paper and DNP with learned feedback. Every rule gets the same search, on one seed
that is not reported, for each budget: learning rate, weight decay and, for decorrelated rules, the
step size of R; the lowest validation nMSE decides. The first budget, K = 1 and equal epochs,
searches widely; what was best for no rule there is left out of the search of the others. Then three
seeds with what was found.

`why` asks why decorrelation gains what it gains, one change of data or settings at a time, for NP,
ANP, DNP and DANP at K = 1 and 12 epochs with the settings that the search chose.

    python -m scripts.experiments.regression.inverse_dynamics run  # search, rows, curves (.csv)
    python -m scripts.experiments.regression.inverse_dynamics run --rule danp  # one rule only
    python -m scripts.experiments.regression.inverse_dynamics why  # ablation.csv, cosines.csv
    python -m scripts.experiments.regression.inverse_dynamics report  # tables and figure in docs/

Passes: a row that goes forward through the network once is one pass. Backpropagation's way back
counts as two more, which is what it costs in multiply-adds.
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from nprobot import alignment, learning_rule
from nprobot.catalogue import learner_title
from nprobot.envs import datasets
from nprobot.envs.datasets import Dataset, Recording
from nprobot.errors import NonFiniteError
from nprobot.regression import FitConfig, FittedModel, RegressionScore, fit, network_for
from nprobot.regression.fit_learner import Regression

from ..pages import DOCS, markdown, panels, plot_mean, put_section, save_figure, seeds_of, spread
from ..rows import RESULTS, Only, Row, Rows, column, command, keep, read, select

FOLDER = RESULTS / "inverse_dynamics"
PAGE = DOCS / "regression.md"
HIDDEN = (128, 128)
BATCH_SIZE = 256
NOISE: dict[str, Any] = {"sigma": 1e-3, "noise": "rademacher"}
EPOCHS = 12
PASSES = EPOCHS * 17
"""For each training row: what NP, ANP, DNP and DANP spend in 12 epochs at K = 16."""
BUDGETS = {"epochs": f"{EPOCHS} epochs", "passes": f"{PASSES} passes of each row"}
DRAWS = (1, 16)
SEARCH_SEED, SEEDS = 100, (0, 1, 2)
WIDE = {
    "learning_rate": (1e-3, 3e-3, 1e-2),
    "weight_decay": (0.0, 0.01, 0.1),
    "decorrelation_lr": (1e-4, 1e-3, 1e-2),
}
NARROW = {
    "learning_rate": (3e-3, 1e-2),
    "weight_decay": (0.01, 0.1),
    "decorrelation_lr": (1e-4, 1e-3),
}
BACKPROP = ("bp", "dbp")
ORDER = (*BACKPROP, "np", "anp", "dnp", "danp", "inp", "dinp", "dnp+feedback")
"""In which rules run: the quick ones first."""
COLOURS = {
    "np": "#a6bddb", "inp": "#a1d99b", "anp": "#fdae6b", "dnp": "#08519c", "dinp": "#238b45",
    "danp": "#d94801", "dnp+feedback": "#6a51a3", "bp": "#252525", "dbp": "#969696",
}  # fmt: skip
"""In the order of the tables."""
STATES = {"before learning": 0, "after one epoch of BP": 1}
"""Networks whose gradient estimates are compared with, and their epochs."""
COMPARED, COSINE_DRAWS = ("np", "inp", "anp"), (1, 16, 256)
SPLITS = ("train", "validation", "test", "shifted")


@dataclass(frozen=True)
class Learner:
    """A rule with a budget."""

    budget: str
    rule: str
    samples: int

    @property
    def passes_per_epoch(self) -> int:
        """Of one row; a backward pass counts as two."""
        if self.rule in BACKPROP:
            return 3
        layers = len(HIDDEN) + 1 if self.rule.endswith("inp") else 1
        return 1 + self.samples * layers

    @property
    def epochs(self) -> int:
        """Within the budget; never more passes than it allows."""
        return EPOCHS if self.budget == "epochs" else PASSES // self.passes_per_epoch

    def jobs(self) -> list[Row]:
        """What the search tries."""
        grid = dict(WIDE if (self.budget, self.samples) == ("epochs", 1) else NARROW)
        if not self.rule.startswith("d"):
            grid["decorrelation_lr"] = (0.0,)
        return [
            {**vars(self), **dict(zip(grid, values, strict=True)), "seed": SEARCH_SEED}
            for values in itertools.product(*grid.values())
        ]


def learners(rules: tuple[str, ...]) -> Iterator[Learner]:
    """The rules and budgets in the order in which they run."""
    for budget, samples in itertools.product(BUDGETS, DRAWS):
        for rule in ORDER:
            learner = Learner(budget, rule, samples)
            # Backpropagation has no K, and what spends 17 passes an epoch has equal budgets.
            same = rule in BACKPROP and samples > 1
            same |= budget == "passes" and learner.epochs == EPOCHS
            if rule in rules and not same:
                yield learner


@functools.lru_cache(maxsize=1)
def arm(recording: Recording | None = None) -> Dataset:
    """The arm's data, or a variant of them."""
    return datasets.inverse_dynamics(recording=recording or Recording())


def run(rule: tuple[str, ...] = ORDER) -> None:
    """Search and fit.

    Args:
        rule: only these.
    """
    for learner in learners(rule):
        jobs = learner.jobs()
        keep(FOLDER / "search.csv", jobs, fit_once)
        tried = read(FOLDER / "search.csv")
        # Ties go to the first.
        best = min(jobs, key=lambda job: float(select(tried, **job)[0]["validation"]))
        print(f"chosen: {best}", flush=True)
        chosen = [{**best, "seed": seed} for seed in SEEDS]
        keep(FOLDER / "rows.csv", chosen, fit_once, curves=FOLDER / "curves.csv")


def fit_once(budget: str, rule: str, samples: int, seed: int, **settings: float) -> Row:
    """A fit as a row; one that diverges has infinite errors, which are nMSE."""
    learner = Learner(budget, rule, samples)
    row: Row = {
        "epochs": learner.epochs,
        "passes": learner.epochs * learner.passes_per_epoch,
        "data": str(arm().meta["settings_hash"])[:12],
    }
    try:
        result = fit(
            list(HIDDEN),
            arm(),
            rule,
            samples=samples,
            epochs=learner.epochs,
            batch_size=BATCH_SIZE,
            seed=seed,
            **NOISE,
            **settings,
        )
    except NonFiniteError:
        return row | {"best_epoch": 0, "seconds": 0.0} | dict.fromkeys(SPLITS, np.inf)
    test, last = result.scores["test"], result.history[-1]
    assert isinstance(test, RegressionScore)
    every = max(1, result.epochs // 50)  # about fifty points
    return row | {
        **{name: round(score.error, 6) for name, score in result.scores.items()},
        "best_epoch": result.best_epoch,
        "test_joints": " ".join(f"{value:.6f}" for value in test.nmse),
        "weight_norm": round(last["weights/norm"], 4),
        "decorrelation_loss": round(last.get("decorrelation/loss", np.nan), 6),
        "seconds": round(result.seconds, 2),
        "curve": [
            {
                "epoch": int(entry["epoch"]),
                "passes": entry["epoch"] * float(learner.passes_per_epoch),
                "validation": round(entry["validation/nmse"], 6),
            }
            for entry in result.history
            if entry["epoch"] % every == 0 or entry["epoch"] == result.epochs
        ],
    }


@dataclass(frozen=True)
class Variant:
    """One change of data or settings."""

    name: str
    recording: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


RULES = ("np", "anp", "dnp", "danp")
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


def why(only: Only = ()) -> None:
    """Fit with one change; compare estimates with the gradient."""
    jobs = itertools.product(VARIANTS, RULES, SEEDS)
    named = [{"variant": variant.name, "rule": rule, "seed": seed} for variant, rule, seed in jobs]
    keep(FOLDER / "ablation.csv", named, fit_variant, only=only)
    compared = itertools.product(STATES, COMPARED, COSINE_DRAWS)
    named = [{"network": name, "rule": rule, "samples": k} for name, rule, k in compared]
    keep(FOLDER / "cosines.csv", named, cosine, only=only)


def fit_variant(variant: str, rule: str, seed: int) -> Row:
    """One fit; settings of R mean nothing to a rule without R."""
    change = next(own for own in VARIANTS if own.name == variant)
    chosen = select(read(FOLDER / "rows.csv"), budget="epochs", rule=rule, samples=1)[0]
    names = ("learning_rate", "weight_decay", "decorrelation_lr")
    settings: dict[str, Any] = {
        **NOISE,
        "epochs": EPOCHS,
        **{name: float(chosen[name]) for name in names},
        **change.settings,
    }
    if "decorrelation_lr" in change.settings:
        settings["decorrelation_lr"] *= float(chosen["decorrelation_lr"])
    data = arm(Recording(**change.recording))
    activation = settings.pop("activation", "tanh")
    network = network_for(data, FitConfig(rule, seed=seed), HIDDEN, activation)
    result = fit(network, data, rule, samples=1, batch_size=BATCH_SIZE, seed=seed, **settings)
    errors = {name: round(score.error, 6) for name, score in result.scores.items()}
    correlation = round(result.history[-1]["decorrelation/loss"], 6)
    return errors | {"decorrelation_loss": correlation}


@functools.lru_cache(maxsize=1)
def state(name: str) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A network after some epochs of BP, and the arm's standardised rows."""
    network = network_for(arm(), FitConfig("bp", seed=SEEDS[0]), HIDDEN)
    model = FittedModel.for_data(network, arm())
    if epochs := STATES[name]:
        fit(network, arm(), "bp", epochs=epochs, batch_size=BATCH_SIZE, seed=SEEDS[0])
    train = arm().train
    return (
        network,
        model.standardise(torch.tensor(train.inputs)),
        Regression().targets(model, train),
    )


def cosine(network: str, rule: str, samples: int) -> Row:
    """Mean cosine of the estimate with backprop's gradient over twenty batches."""
    learned, inputs, targets = state(network)
    learner = learning_rule(rule, samples=samples, seed=0, **NOISE)
    found = []
    for i in range(20):
        rows = torch.arange(i * 37, i * 37 + BATCH_SIZE * 101, 101) % len(inputs)
        loss = Regression().loss(targets[rows])
        found.append(alignment(learner, learned, inputs[rows], loss).cosine)
    return {"cosine": round(statistics.fmean(found), 6)}


def report() -> None:
    """Write the tables and draw the figure."""
    rows = read(FOLDER / "rows.csv")
    baselines = {
        "linear regression": datasets.linear_regression(arm()),
        "mean predictor": datasets.mean_predictor(arm()),
    }
    errors = {
        name: {split: float(nmse.mean()) for split, nmse in found.items()}
        for name, found in baselines.items()
    }
    tables = [part for budget in BUDGETS for part in (*table(rows, budget, errors), "")]
    put_section("inverse_dynamics", [*tables, *ratios(rows)], PAGE)
    put_section("inverse_dynamics settings", chosen_settings(rows), PAGE)
    put_section("inverse_dynamics why", [*variants_table(), "", *cosines_table()], PAGE)
    figure, (left, right) = panels(2, (10.0, 4.2))
    dots(left, rows, errors["linear regression"]["test"])
    curves(right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, ncols=5, loc="outside lower center")
    save_figure(figure, "inverse_dynamics")


def found(rows: Rows, budget: str, rule: str, samples: int) -> Rows:
    """The rows of a learner; where both budgets are the same, those of the other."""
    if rule in BACKPROP:
        samples = 1
    if Learner("passes", rule, samples).epochs == EPOCHS:
        budget = "epochs"
    return select(rows, budget=budget, rule=rule, samples=samples)


def table(rows: Rows, budget: str, errors: Mapping[str, Mapping[str, float]]) -> list[str]:
    """NMSE of every rule within a budget, mean ± standard deviation over seeds."""
    names = ("train", "test", "shifted")
    lines = []
    for rule in COLOURS:
        if any(found(rows, budget, rule, samples) for samples in DRAWS):
            cells = [learner_title(rule)]
            for samples in DRAWS:
                own = found(rows, budget, rule, samples)
                if rule in BACKPROP and samples > 1:
                    own = []
                cells += [spread(column(own, name), 4) for name in names]
            lines.append(cells)
    for name, error in errors.items():
        lines.append([name, *(f"{error[split]:.3f}" for split in names), "", "", ""])
    heading = ("rule", "K = 1: train", "test", "shifted", "K = 16: train", "test", "shifted")
    return [f"**After {BUDGETS[budget]}**", "", *markdown(heading, lines)]


def ratios(rows: Rows) -> list[str]:
    """How many times smaller decorrelation makes the error."""
    pairs = (("np", "dnp"), ("inp", "dinp"), ("anp", "danp"), ("np", "danp"))
    lines = []
    for (budget, name), samples in itertools.product(BUDGETS.items(), DRAWS):
        cells = [f"{name}, K = {samples}"]
        for pair in pairs:
            plain, decorrelated = (found(rows, budget, rule, samples) for rule in pair)
            both = [
                statistics.fmean(column(plain, split))
                / statistics.fmean(column(decorrelated, split))
                for split in ("train", "test")
                if plain and decorrelated
            ]
            cells.append("; ".join(f"{value:.2f}" for value in both))
        lines.append(cells)
    title = "**Error without decorrelation over error with it** (training rows; test rows)"
    heading = ("", *(" → ".join(map(learner_title, pair)) for pair in pairs))
    return [title, "", *markdown(heading, lines)]


def chosen_settings(rows: Rows) -> list[str]:
    """What the search found."""
    lines = []
    for budget, samples, rule in itertools.product(BUDGETS, DRAWS, ORDER):
        if own := select(rows, budget=budget, rule=rule, samples=samples):
            rate, decay, eta = (
                f"{float(own[0][name]):g}"
                for name in ("learning_rate", "weight_decay", "decorrelation_lr")
            )
            cells = [budget, learner_title(rule), "" if rule in BACKPROP else str(samples)]
            cells += [rate, decay, eta if eta != "0" else "", own[0]["epochs"], own[0]["passes"]]
            lines.append(cells)
    settings = ("learning rate", "weight decay", "η_R", "epochs", "passes of a row")
    return markdown(("budget", "rule", "K", *settings), lines)


def variants_table() -> list[str]:
    """Errors by variant, and how much decorrelation gains."""
    rows = read(FOLDER / "ablation.csv")
    pairs = (("np", "dnp"), ("anp", "danp"), ("np", "danp"))
    lines = []
    for variant in VARIANTS:
        mean = {
            (rule, split): statistics.fmean(column(own, split))
            for rule in RULES
            for split in ("train", "test")
            if (own := select(rows, variant=variant.name, rule=rule))
        }
        if len(mean) < 2 * len(RULES):
            continue
        cells = [f"{mean[rule, 'train']:.3f}, {mean[rule, 'test']:.3f}" for rule in RULES]
        for a, b in pairs:
            gains = (mean[a, split] / mean[b, split] for split in ("train", "test"))
            cells.append(", ".join(f"{gain:.2f}" for gain in gains))
        lines.append([variant.name, *cells])
    gains = (" / ".join(map(learner_title, pair)) for pair in pairs)
    return markdown(("", "NP: train, test", *map(learner_title, RULES[1:]), *gains), lines)


def cosines_table() -> list[str]:
    """Of every rule and K, before learning and after."""
    rows, names = read(FOLDER / "cosines.csv"), list(itertools.product(COMPARED, COSINE_DRAWS))
    lines = [
        [name, *(f"{float(row['cosine']):.2f}" for row in select(rows, network=name))]
        for name in STATES
    ]
    return markdown(("cosine with the gradient", *(learner_title(*own) for own in names)), lines)


def dots(axes: Axes, rows: Rows, linear: float) -> None:
    """Test error of every rule after equal epochs and after equal passes."""
    columns = [
        (f"{EPOCHS} epochs\nK = 1", "epochs", 1),
        (f"{EPOCHS} epochs\nK = 16", "epochs", 16),
        (f"{PASSES} passes\nK = 1", "passes", 1),
        (f"{PASSES} passes\nK = 16", "passes", 16),
    ]
    for place, (_, budget, samples) in enumerate(columns):
        for i, rule in enumerate(COLOURS):
            own = column(found(rows, budget, rule, samples), "test")
            x = place + (i - 4) * 0.085
            marker = "D" if rule in BACKPROP else "o"
            axes.plot([x] * len(own), own, marker, color=COLOURS[rule], markersize=4, alpha=0.7)
            if own:
                axes.hlines(statistics.fmean(own), x - 0.04, x + 0.04, color=COLOURS[rule])
    axes.axhline(linear, color="0.5", linestyle="--", linewidth=1)
    axes.text(
        3.5, linear * 0.97, "linear regression", ha="right", va="top", color="0.4", fontsize=8
    )
    for rule in COLOURS:
        axes.plot(
            [],
            [],
            "D" if rule in BACKPROP else "o",
            color=COLOURS[rule],
            label=learner_title(rule),
        )
    axes.set_xticks(range(len(columns)))
    axes.set_xticklabels([name for name, *_ in columns], size=8.5)
    axes.set_yscale("log")
    axes.set_ylabel("test nMSE")


def curves(axes: Axes) -> None:
    """Validation error over passes, K = 1 within the budget of passes; mean over seeds."""
    points = read(FOLDER / "curves.csv")
    for rule, colour in COLOURS.items():
        own = select(points, budget="passes", rule=rule, samples=1)
        plot_mean(axes, seeds_of(own, "passes", "validation"), color=colour, lw=1.6)
    axes.set_yscale("log")
    axes.set_xlim(0, PASSES)
    axes.set_xlabel("passes of each row (backward: two)")
    axes.set_ylabel("validation nMSE, K = 1")


if __name__ == "__main__":
    command(__doc__, run, why, report)
