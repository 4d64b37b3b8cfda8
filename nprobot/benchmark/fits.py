"""Runs of regression tasks: `nprobot.fit` by any rule, scored by the error on unseen data.

The return of such a run is −nMSE on the test split: 0 is perfect, −1 what predicting the mean gets.
Its steps are epochs, and its ledger counts rows seen where another counts environment steps.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from nprobot.envs import datasets
from nprobot.learning.rules import learning_rule
from nprobot.policies.networks import mlp
from nprobot.regression import FitResult, fit

from .ledger import Ledger, multiply_adds
from .recorder import Recorder, Tell
from .spec import FIT, RunSpec

BATCH = 256
"""Rows of a step where the suite does not say."""


def run(spec: RunSpec, recorder: Recorder) -> Ledger:
    """Fit and measure.

    Returns:
        What the run has spent.
    """
    assert spec.rule is not None
    data = datasets.make(spec.env.removeprefix(FIT), **spec.env_kwargs)
    settings: dict[str, Any] = {"batch_size": BATCH, **spec.settings}
    settings |= {"epochs": spec.steps, "seed": spec.seed}
    if spec.samples is not None:
        settings["samples"] = spec.samples
    torch.manual_seed(spec.seed)
    started, cpu = time.perf_counter(), time.process_time()
    result = fit(list(spec.hidden), data, spec.rule, reporter=_Reporter(recorder.tell), **settings)
    spent = time.perf_counter() - started, time.process_time() - cpu
    width, targets = data.train.inputs.shape[1], data.train.targets.shape[1]
    per_step = step_cost(spec, width, targets, settings)
    per_row = per_step / BATCH
    ledgers = [_ledger(row, settings["batch_size"], per_row, spent) for row in result.history]
    for ledger, row in zip(ledgers, result.history, strict=True):
        recorder.known(ledger, [-row["validation/nmse"]])
    recorder.returns = [-_test_error(result)]
    recorder.known(ledgers[-1], recorder.returns)
    return ledgers[-1]


def step_cost(spec: RunSpec, inputs: int, targets: int, settings: dict[str, Any]) -> int:
    """Multiply-adds of a step on `BATCH` rows, decorrelation included."""
    own = ("sigma", "noise", "decorrelation_lr", "feedback")
    chosen = {name: settings[name] for name in own if name in settings}
    rule = learning_rule(spec.rule or "bp", samples=spec.samples or 1, seed=0, **chosen)
    network = mlp([inputs, *spec.hidden, targets], decorrelated=rule.decorrelated)
    x, target = torch.zeros(BATCH, inputs), torch.ones(BATCH, targets)

    def step() -> None:
        rule.backward(network, x, lambda y: ((y - target) ** 2).mean(-1))
        rule.decorrelate(network)

    return multiply_adds(step)


def _ledger(row: Any, batch: int, per_row: float, spent: tuple[float, float]) -> Ledger:  # noqa: ANN401
    rows = int(row["step"]) * batch
    share = row["seconds"] / spent[0] if spent[0] else 0.0
    return Ledger(
        env_steps=rows,
        forward_passes=int(row["forward_passes"]),
        backward_passes=int(row["backward_passes"]),
        multiply_adds=int(rows * per_row),
        wall_seconds=row["seconds"],
        cpu_seconds=share * spent[1],
    )


def _test_error(result: FitResult) -> float:
    return float(result.scores["test"].columns()["nmse"])


class _Reporter:
    """Hands on how far a fit is."""

    stop_requested = False

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def progress(self, progress: Any) -> None:  # noqa: ANN401
        """Epochs that are complete."""
        self._tell(progress.epoch)

    def message(self, text: str) -> None:
        """Nothing."""
