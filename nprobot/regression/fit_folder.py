"""A fit on disk: `config.json`, `progress.csv`, checkpoints, scores, and the figure.

| in ``runs/<task>-<rule>-<seed>-<time>/`` | |
|---|---|
| `config.json` | options, data, network, versions: everything needed to do it again |
| `progress.csv` | one row an epoch |
| `checkpoints/step_000002580/` | written whole and renamed; `last` points at the newest |
| … `model.json`, `.safetensors` | the best model so far, by validation error |
| … `policy.json`, `.safetensors` | the same, for deployment without torch |
| … `training.json`, `.safetensors` | the newest weights, from which learning continues; the table |
| … `checkpoint.json` | checksums of these files |
| `scores.csv` | error of every target in every split, at the end |
| `curve.png` | error over epochs |
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nprobot.options import Options
from nprobot.runs.atomic_files import write_whole
from nprobot.runs.folder import Folder

from .fit_config import FitConfig

EpochRow = Mapping[str, float]
"""What `progress.csv` has on an epoch."""


@dataclass(frozen=True)
class FitFolder(Folder):
    """The folder of a fit.

    Attributes:
        path: the folder.
        config: what the fit does, every default filled in.
        source: how to make the data again, JSON values; empty for data made in Python.
    """

    form: ClassVar[str] = "nprobot-fit"
    what: ClassVar[str] = "fit"
    resume_command: ClassVar[str] = "nprobot fit --resume"
    unit: ClassVar[str] = "epoch"
    options: ClassVar[type[Options]] = FitConfig

    config: FitConfig

    @property
    def scores(self) -> Path:
        """Table of errors by split and target."""
        return self.path / "scores.csv"

    def read_progress(self) -> list[dict[str, float]]:
        """The rows of `progress.csv`; none if there is no such file."""
        if not self.progress.exists():
            return []
        with self.progress.open(newline="", encoding="utf-8") as stream:
            rows = csv.DictReader(stream)
            return [{k: int(v) if v.isdigit() else float(v) for k, v in r.items()} for r in rows]


def write_table(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file whole or not at all; the first row names the columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, text.getvalue().encode())


def draw_errors(
    file: Path,
    rows: Sequence[EpochRow],
    title: str,
    bounds: Mapping[str, float] | None = None,
    *,
    loss: str = "mse",
) -> None:
    """Draw the errors of training and validation over the epochs.

    Args:
        file: PNG to write.
        rows: a row an epoch: nMSE for regression, error rate for classification.
        title: above the figure.
        bounds: errors to compare with, by name, drawn as lines.
        loss: what the fit minimised; a likelihood is no error and is not drawn.
    """
    # Here, because torch comes with them, and a folder is opened without.
    from matplotlib.ticker import MaxNLocator

    from nprobot.runs.curve import new_figure, png

    regression = "validation/nmse" in rows[0]
    what = "mean squared error / variance" if regression else "share of wrong labels"
    figure, axes = new_figure(title, "epochs", what)
    epochs = [row["epoch"] for row in rows]
    if regression:
        validation = [row["validation/nmse"] for row in rows]
        if loss == "mse":
            training = [row["train/loss"] for row in rows]
            label = "training rows, while learning"
            axes.plot(epochs[1:], training[1:], color="#9ecae1", linewidth=1.5, label=label)
    else:
        validation = [1 - row["validation/accuracy"] for row in rows]
    axes.plot(epochs, validation, color="#08519c", linewidth=2, label="validation rows")
    best = min(range(len(rows)), key=lambda i: (not validation[i] >= 0, validation[i]))
    label = f"best: {validation[best]:.4g}"
    axes.plot(epochs[best], validation[best], "o", color="#d94801", label=label)
    for (name, value), style in zip((bounds or {}).items(), ("--", ":"), strict=False):
        axes.axhline(value, color="0.4", linewidth=1, linestyle=style, label=f"{name}: {value:.3g}")
    if min(validation) > 0:
        axes.set_yscale("log")
        axes.grid(color="0.9", which="both")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    write_whole(file, png(figure))
