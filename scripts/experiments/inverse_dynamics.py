"""All rules on the inverse dynamics of the arm, after equal epochs and after equal passes.

The eight of the paper and DNP with learned feedback. Every rule gets the same search, on one seed
that is not reported, for each budget: learning rate, weight decay and, for decorrelated rules, the
step size of R; the lowest validation nMSE decides.
The first budget, K = 1 and equal epochs, searches widely; what was best for no rule there is left
out of the search of the others. Then three seeds with what was found. A row is written as soon as
its fit is finished and a finished fit is not repeated, so a cut-off costs one fit.

    python scripts/inverse_dynamics.py run              # search.csv, rows.csv, curves.csv
    python scripts/inverse_dynamics.py run --rule danp  # one rule only
    python scripts/inverse_dynamics.py report           # table and figure in docs/

Passes: a row that goes forward through the network once is one pass. Backpropagation's way back
counts as two more, which is what it costs in multiply-adds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from rows import ROOT, append, command_line, read

from nprobot.envs import datasets
from nprobot.envs.datasets import Dataset
from nprobot.errors import NonFiniteError
from nprobot.regression import FitResult, RegressionScore, fit

RESULTS = ROOT / "results" / "inverse_dynamics"
HIDDEN = (128, 128)
BATCH_SIZE = 256
EPOCHS = 12
PASSES = EPOCHS * 17
"""For each training row: what NP, ANP, DNP and DANP spend in 12 epochs at K = 16."""
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
FEEDBACK = "dnp+feedback"
ORDER = ("bp", "dbp", "np", "anp", "dnp", "danp", "inp", "dinp", FEEDBACK)


@dataclass(frozen=True)
class Learner:
    """A rule with a budget."""

    budget: str
    rule: str
    samples: int

    @property
    def passes_per_epoch(self) -> int:
        """Of one row; a backward pass counts as two."""
        if self.rule in ("bp", "dbp"):
            return 3
        layers = len(HIDDEN) + 1 if self.rule.endswith("inp") else 1
        return 1 + self.samples * layers

    @property
    def epochs(self) -> int:
        """Within the budget; never more passes than it allows."""
        return EPOCHS if self.budget == "epochs" else PASSES // self.passes_per_epoch

    def settings(self) -> Iterator[dict[str, float]]:
        """What the search tries."""
        grid = dict(WIDE if (self.budget, self.samples) == ("epochs", 1) else NARROW)
        if not self.rule.startswith("d"):
            grid["decorrelation_lr"] = (0.0,)
        for values in itertools.product(*grid.values()):
            yield dict(zip(grid, values, strict=True))


@dataclass(frozen=True)
class Row:
    """One finished fit; errors are nMSE, averaged over the joints."""

    budget: str
    rule: str
    samples: int
    learning_rate: float
    weight_decay: float
    decorrelation_lr: float
    seed: int
    epochs: int
    passes: int
    best_epoch: int
    train: float
    validation: float
    test: float
    shifted: float
    test_joints: str
    weight_norm: float
    decorrelation_loss: float
    seconds: float
    data: str
    torch: str
    mujoco: str

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from others."""
        settings = (self.learning_rate, self.weight_decay, self.decorrelation_lr, self.seed)
        return (self.budget, self.rule, self.samples, *settings)


def read_rows(file: Path) -> list[Row]:
    """The rows of a table; none if there is no file."""
    kinds = {"int": int, "float": float, "str": str}
    return [
        Row(**{field.name: kinds[str(field.type)](line[field.name]) for field in fields(Row)})
        for line in read(file)
    ]


def learners(rules: list[str]) -> list[Learner]:
    """The rules and budgets in the order in which they run: the quick ones first."""
    found = []
    for budget, samples in itertools.product(("epochs", "passes"), (1, 16)):
        for rule in ORDER:
            learner = Learner(budget, rule, samples)
            # Backpropagation has no K, and what spends 17 passes an epoch has equal budgets.
            same = rule in ("bp", "dbp") and samples > 1
            same |= budget == "passes" and learner.epochs == EPOCHS
            if rule in rules and not same:
                found.append(learner)
    return found


def main() -> None:
    """Run or report."""
    parser = command_line(__doc__, "run", "report")
    parser.add_argument("--rule", action="append", choices=ORDER, help="only this one; repeatable")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the rows")
    arguments = parser.parse_args()
    if arguments.stage == "report":
        import inverse_dynamics_report

        inverse_dynamics_report.write(arguments.out)
        return
    torch.set_num_threads(1)
    data = datasets.inverse_dynamics()
    for learner in learners(arguments.rule or list(ORDER)):
        settings = search(learner, data, arguments.out)
        for seed in SEEDS:
            run(learner, data, settings, seed, arguments.out / "rows.csv")


def search(learner: Learner, data: Dataset, out: Path) -> dict[str, float]:
    """The settings with the lowest validation error; ties go to the first."""
    tried = [
        (run(learner, data, settings, SEARCH_SEED, out / "search.csv").validation, settings)
        for settings in learner.settings()
    ]
    error, best = min(tried, key=lambda item: item[0])
    print(f"{learner.budget} {learner.rule} K={learner.samples}: {best} validation {error:.4f}")
    return best


def run(learner: Learner, data: Dataset, settings: dict[str, float], seed: int, file: Path) -> Row:
    """Fit once and write the row, unless it is there; a fit that diverges has infinite errors."""
    wanted = (learner.budget, learner.rule, learner.samples, *settings.values(), seed)
    for row in read_rows(file):
        if row.key == wanted:
            return row
    try:
        result: FitResult | None = fit(
            list(HIDDEN),
            data,
            learner.rule.removesuffix("+feedback"),
            feedback=learner.rule == FEEDBACK,
            samples=learner.samples,
            epochs=learner.epochs,
            batch_size=BATCH_SIZE,
            seed=seed,
            **settings,
        )
    except NonFiniteError:
        result = None
    row = summarise(learner, data, settings, seed, result)
    append(file, [asdict(row)])
    if result is not None and file.name == "rows.csv":
        append(file.with_name("curves.csv"), curve(row, result))
    print(row.key, f"test {row.test:.4f} ({row.seconds:.0f} s)", flush=True)
    return row


def summarise(
    learner: Learner,
    data: Dataset,
    settings: dict[str, float],
    seed: int,
    result: FitResult | None,
) -> Row:
    """A fit as a row."""
    errors = dict.fromkeys(("train", "validation", "test", "shifted"), np.inf)
    last: dict[str, Any] = {}
    joints = ""
    if result is not None:
        errors = {name: score.error for name, score in result.scores.items()}
        last = dict(result.history[-1])
        test = result.scores["test"]
        assert isinstance(test, RegressionScore)
        joints = " ".join(f"{value:.6f}" for value in test.nmse)
    return Row(
        budget=learner.budget,
        rule=learner.rule,
        samples=learner.samples,
        seed=seed,
        epochs=learner.epochs,
        passes=learner.epochs * learner.passes_per_epoch,
        best_epoch=0 if result is None else result.best_epoch,
        test_joints=joints,
        weight_norm=round(last.get("weights/norm", np.inf), 4),
        decorrelation_loss=round(last.get("decorrelation/loss", np.nan), 6),
        seconds=0.0 if result is None else round(result.seconds, 2),
        data=str(data.meta["settings_hash"])[:12],
        torch=torch.__version__,
        mujoco=mujoco.__version__,
        **settings,
        **{name: round(error, 6) for name, error in errors.items()},
    )


def curve(row: Row, result: FitResult) -> list[dict[str, Any]]:
    """Validation error over passes, at most about fifty points."""
    every = max(1, result.epochs // 50)
    per_epoch = row.passes / row.epochs
    return [
        {
            "budget": row.budget,
            "rule": row.rule,
            "samples": row.samples,
            "seed": row.seed,
            "epoch": int(entry["epoch"]),
            "passes": entry["epoch"] * per_epoch,
            "validation": round(entry["validation/nmse"], 6),
        }
        for entry in result.history
        if entry["epoch"] % every == 0 or entry["epoch"] == result.epochs
    ]


if __name__ == "__main__":
    main()
