"""What came out of a fit, and its table of errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .controller import ARM_TRACK, is_arm_model
from .folder import FitFolder
from .model import Model, describe_network
from .objectives import RegressionScore, Score

End = Literal["complete", "patience", "interrupted"]


@dataclass(frozen=True)
class FitResult:
    """What came out of a fit.

    Attributes:
        model: the best one by validation error, in the units of the data.
        scores: how good it is, by split: train, validation, test, and shifted if there is one.
        best_epoch: after which it was that good; 0 if learning never helped.
        history: a row an epoch, as in `progress.csv`.
        epochs: passes over the training rows.
        forward_passes: network passes of one sample that learning took.
        backward_passes: the same backwards; 0 under node perturbation.
        seconds: of wall-clock time, all sessions of the fit together.
        end: why it ended: all epochs done, no better model for `patience` epochs, or
            the reporter asked for it (Ctrl-C on the command line).
        folder: the fit on disk; None if it was not kept.
    """

    model: Model
    scores: Mapping[str, Score]
    best_epoch: int
    history: tuple[Mapping[str, float], ...]
    epochs: int
    forward_passes: int
    backward_passes: int
    seconds: float
    end: End
    folder: FitFolder | None

    @property
    def controls(self) -> str | None:
        """Id of the environment that the model's policy file controls; None if it has none."""
        exported = is_arm_model(self.model) and describe_network(self.model.network) is not None
        return ARM_TRACK if exported else None

    def rows(self) -> list[dict[str, Any]]:
        """The errors of every split and target, and overall; the rows of `scores.csv`."""
        return [row for split, score in self.scores.items() for row in self._rows(split, score)]

    def _rows(self, split: str, score: Score) -> list[dict[str, Any]]:
        if not isinstance(score, RegressionScore):
            return [{"split": split, **score.columns()}]
        about = self.model.description
        named = zip(about["target_names"], about["target_units"], strict=True)
        rows: list[dict[str, Any]] = [
            {"split": split, "target": name, "unit": unit, "rmse": rmse, "nmse": nmse}
            for (name, unit), rmse, nmse in zip(named, score.rmse, score.nmse, strict=True)
        ]
        overall = {"split": split, "target": "mean", "unit": "", "rmse": "", "nmse": score.error}
        return [*rows, overall]
