"""What a fit minimises and how its outcome is judged: regression and classification.

Both classes have one interface: `loss` gives the per-sample loss that a learning rule asks for,
`score` judges predictions in the units of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nprobot.envs.datasets import Split, nmse
from nprobot.learning.rule import Loss

from .model import Model


class Score(Protocol):
    """How good a model is on the rows of one split."""

    @property
    def error(self) -> float:
        """What checkpoints are chosen by: lower is better."""

    def columns(self) -> dict[str, float]:
        """The overall figures by name."""

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class RegressionScore:
    """How good a model is at regression.

    Attributes:
        nmse: mean squared error over variance of each target; NaN for a target without variance.
        rmse: root mean squared error of each target, in its own unit.
    """

    nmse: tuple[float, ...]
    rmse: tuple[float, ...]

    @property
    def error(self) -> float:
        """Mean nMSE over the targets that vary; infinite if none does."""
        known = [value for value in self.nmse if not math.isnan(value)]
        return sum(known) / len(known) if known else math.inf

    def columns(self) -> dict[str, float]:
        """The overall figures by name."""
        return {"nmse": self.error}

    def __str__(self) -> str:
        return f"nMSE {self.error:.4f}"


@dataclass(frozen=True)
class ClassificationScore:
    """How good a model is at classification.

    Attributes:
        accuracy: share of rows whose label is the most likely one.
        cross_entropy: mean of −log p(label), in nats.
    """

    accuracy: float
    cross_entropy: float

    @property
    def error(self) -> float:
        """Share of rows with a wrong label."""
        return 1 - self.accuracy

    def columns(self) -> dict[str, float]:
        """The overall figures by name."""
        return {"accuracy": self.accuracy, "cross_entropy": self.cross_entropy}

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.1%}"


class Objective(Protocol):
    """What is learned."""

    def targets(self, split: Split) -> Tensor:
        """Targets as `loss` takes them, one row a sample."""

    def loss(self, targets: Tensor) -> Loss:
        """The loss of a batch with these targets, per sample."""

    def score(self, model: Model, split: Split) -> Score:
        """How good a model is on a split."""


class Regression:
    """Squared error of standardised targets.

    Args:
        mean: of each target in the training rows, `(targets,)`.
        scale: their standard deviation.
    """

    def __init__(self, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        self.mean = mean
        self.scale = scale

    def targets(self, split: Split) -> Tensor:
        """Standardised targets, `(rows, targets)`."""
        return torch.from_numpy((split.targets - self.mean) / self.scale).float()

    def loss(self, targets: Tensor) -> Loss:
        """``mean_j (y_j − t_j)²`` for outputs (..., B, targets)."""
        return lambda outputs: (outputs - targets).square().mean(-1)

    def score(self, model: Model, split: Split) -> RegressionScore:
        """Errors in the units of the data."""
        predicted = model.predict(split.inputs)
        error = np.sqrt(((predicted - split.targets) ** 2).mean(axis=0))
        ratio = nmse(predicted, split.targets)
        return RegressionScore(tuple(ratio.tolist()), tuple(error.tolist()))


class Classification:
    """Cross-entropy of the softmax of the outputs."""

    def targets(self, split: Split) -> Tensor:
        """Labels, `(rows,)`."""
        return torch.from_numpy(split.targets.copy())

    def loss(self, targets: Tensor) -> Loss:
        """``−log softmax(y)_label`` for outputs (..., B, classes)."""
        labels = targets.unsqueeze(-1)

        def cross_entropy(outputs: Tensor) -> Tensor:
            chosen = outputs.gather(-1, labels.expand(*outputs.shape[:-1], 1)).squeeze(-1)
            return outputs.logsumexp(-1) - chosen

        return cross_entropy

    def score(self, model: Model, split: Split) -> ClassificationScore:
        """Accuracy and mean cross-entropy."""
        outputs = torch.from_numpy(model.outputs(split.inputs))
        labels = self.targets(split)
        losses = self.loss(labels)(outputs)
        right = outputs.argmax(-1) == labels
        return ClassificationScore(float(right.double().mean()), float(losses.double().mean()))
