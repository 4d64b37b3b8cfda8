"""The learning of a fit: what is minimised, a step a batch, an epoch a pass over the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from nprobot.envs.datasets import Split, nmse
from nprobot.learning.rule import LearningRule, Loss
from nprobot.policies.chip.crossbar import read_back
from nprobot.policies.layers import BiasHead
from nprobot.runs.state import restore_optimizer
from nprobot.training.build import SCHEDULES

from .fit_config import FitConfig
from .model import FittedModel


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
        """Mean nMSE of the targets that vary, by which checkpoints are chosen; infinite if none."""
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
        """Share of rows with a wrong label, by which checkpoints are chosen."""
        return 1 - self.accuracy

    def columns(self) -> dict[str, float]:
        """The overall figures by name."""
        return {"accuracy": self.accuracy, "cross_entropy": self.cross_entropy}

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.1%}"


FitScore = RegressionScore | ClassificationScore
"""How good a model is on the rows of one split."""


class Regression:
    """Squared error of standardised targets."""

    def learned(self, model: FittedModel) -> nn.Module:
        """What learns: the network itself."""
        return model.network

    def targets(self, model: FittedModel, split: Split) -> Tensor:
        """What `loss` takes: standardised targets, `(rows, targets)`."""
        raw = torch.tensor(split.targets, dtype=torch.float64, device=model.device)
        return ((raw - model.target_mean) / model.target_scale).to(model.dtype)

    def loss(self, targets: Tensor) -> Loss:
        """``mean_j (y_j − t_j)²`` for outputs (..., B, targets)."""
        return lambda outputs: (outputs - targets).square().mean(-1)

    def score(self, model: FittedModel, split: Split) -> RegressionScore:
        """Errors in the units of the data."""
        predicted = model.predict(split.inputs)
        error = np.sqrt(((predicted - split.targets) ** 2).mean(axis=0))
        ratio = nmse(predicted, split.targets)
        return RegressionScore(tuple(ratio.tolist()), tuple(error.tolist()))


class WithSpread(nn.Module):
    """A network whose outputs are the means of Gaussians, and their spread.

    Args:
        network: from inputs (B, inputs) to means (B, targets).
        targets: how many.
    """

    def __init__(self, network: nn.Module, targets: int) -> None:
        super().__init__()
        weight = next(network.parameters())
        self.network = network
        self.log_std = BiasHead(nn.Parameter(weight.new_zeros(targets)))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log standard deviations, (B, targets) each."""
        means = self.network(inputs)
        return means, self.log_std(means)


class Likelihood(Regression):
    """Minus the log-likelihood of standardised targets under a Gaussian of learned spread.

    The spread does not depend on the inputs, as in PPO's policies. Targets with little unexplained
    variance weigh more than in a squared error.
    """

    @override
    def learned(self, model: FittedModel) -> nn.Module:
        """The network, and beside it the spread of its targets."""
        return WithSpread(model.network, len(model.target_mean))

    @override
    def loss(self, targets: Tensor) -> Loss:
        """``mean_j ((y_j − t_j)² / 2σ_j² + ln σ_j)`` for outputs (…, B, targets) of y and ln σ."""

        def negative_log_likelihood(outputs: tuple[Tensor, Tensor]) -> Tensor:
            means, log_std = outputs
            # A spread below a 150th of the target's would make steps of the noise in the weights.
            log_std = log_std.clamp(min=-5.0)
            z = (means - targets) * torch.exp(-log_std)
            return (0.5 * z.square() + log_std).mean(-1)

        return negative_log_likelihood


class Classification:
    """Cross-entropy of the softmax of the outputs."""

    def learned(self, model: FittedModel) -> nn.Module:
        """What learns: the network itself."""
        return model.network

    def targets(self, model: FittedModel, split: Split) -> Tensor:
        """What `loss` takes: labels, `(rows,)`."""
        return torch.tensor(split.targets, device=model.device)

    def loss(self, targets: Tensor) -> Loss:
        """``−log softmax(y)_label`` for outputs (..., B, classes)."""
        labels = targets.unsqueeze(-1)

        def cross_entropy(outputs: Tensor) -> Tensor:
            chosen = outputs.gather(-1, labels.expand(*outputs.shape[:-1], 1)).squeeze(-1)
            return outputs.logsumexp(-1) - chosen

        return cross_entropy

    def score(self, model: FittedModel, split: Split) -> ClassificationScore:
        """Accuracy and mean cross-entropy."""
        outputs, labels = torch.from_numpy(model.outputs(split.inputs)), torch.tensor(split.targets)
        losses = self.loss(labels)(outputs)
        right = outputs.argmax(-1) == labels
        return ClassificationScore(float(right.double().mean()), float(losses.double().mean()))


Objective = Regression | Classification
"""What is learned: both give a loss per sample, and judge a model in the units of the data."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows was like.

    Attributes:
        loss: mean loss of the rows, each before the step that it was part of.
        weight_norm: Euclidean norm of all weights and biases after the last step.
        decorrelation_loss: mean squared correlation of the layers' inputs; NaN if not known.
        learning_rate: the learning rate of the last step.
    """

    loss: float
    weight_norm: float
    decorrelation_loss: float
    learning_rate: float


class FitLearner:
    """A model that learns the rows of one split.

    Args:
        model: learns in place; its standardisation stays as it is.
        rule: estimates the gradients.
        objective: what is minimised.
        split: the training rows.
        config: with every default filled in.
        seed: the seed of the order of the rows.

    Attributes:
        epochs: passes over the rows so far.
    """

    def __init__(
        self,
        model: FittedModel,
        rule: LearningRule,
        objective: Objective,
        split: Split,
        config: FitConfig,
        seed: int,
    ) -> None:
        assert config.learning_rate is not None, "the configuration is resolved"
        self.model = model
        self.network = objective.learned(model)
        self.rule = rule
        self.objective = objective
        self.config = config
        self.learning_rate = config.learning_rate
        self.decorrelation_lr = rule.decorrelation_lr
        self.schedule = SCHEDULES[config.lr_schedule]
        weights = [p for p in self.network.parameters() if p.requires_grad]
        # AdamW: decay takes its share of the weights whatever the gradient's scale, as in SGD.
        kind = torch.optim.SGD if config.optimizer == "sgd" else torch.optim.AdamW
        self.optimizer: torch.optim.Optimizer = kind(
            weights, self.learning_rate, weight_decay=config.weight_decay
        )
        self.epochs = 0
        # Contiguous rows, on the network's device, in its type: a batch is one indexed read.
        raw = torch.tensor(split.inputs, dtype=torch.float64, device=model.device)
        self.inputs = model.standardise(raw)
        self.targets = objective.targets(model, split)
        self.steps_per_epoch = -(-len(split) // config.batch_size)
        self._order = torch.Generator().manual_seed(seed)
        self._constrained = [p for p in self.network.parameters() if p.dim() > 1]

    @property
    def steps(self) -> int:
        """Steps so far."""
        return self.epochs * self.steps_per_epoch

    def epoch(self, while_running: Callable[[int], None] = lambda step: None) -> Epoch:
        """Pass over all rows once, in a new order.

        Args:
            while_running: called after every step with the number of steps so far.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """
        self.network.train()
        total = torch.zeros((), device=self.inputs.device)
        order = torch.randperm(len(self.inputs), generator=self._order).to(self.inputs.device)
        step = self.steps
        # Batches of nearly equal size: a last one of a few rows would be mostly noise.
        for rows in order.tensor_split(self.steps_per_epoch):
            self._set_rates(step)
            total += self._step(self.inputs[rows], self.targets[rows]).sum()
            step += 1
            while_running(step)
        self.epochs += 1
        self.network.eval()
        return Epoch(
            loss=float(total) / len(order),
            weight_norm=self.weight_norm(),
            decorrelation_loss=self.rule.decorrelation_loss(self.network),
            learning_rate=self.optimizer.param_groups[0]["lr"],
        )

    def _step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        losses = self.rule.backward(self.network, inputs, self.objective.loss(targets))
        self.optimizer.step()
        self.rule.decorrelate(self.network)
        if self.config.max_row_norm is not None:
            with torch.no_grad():
                for weight in self._constrained:
                    weight.renorm_(2, 0, self.config.max_row_norm)
        return losses

    def _set_rates(self, step: int) -> None:
        """Both step sizes follow the schedule: R has to settle as the weights do."""
        share = self.schedule(1 - step / (self.config.epochs * self.steps_per_epoch))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * share
        self.rule.decorrelation_lr = self.decorrelation_lr * share

    def weight_norm(self) -> float:
        """Euclidean norm of all weights and biases."""
        return float(nn.utils.get_total_norm([p.detach() for p in self.network.parameters()]))

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning remembers between two epochs."""
        read_back(self.network)
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rule": self.rule.state_dict(),
            "order": self._order.get_state(),
            "epochs": self.epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.network.load_state_dict(state["network"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.rule.load_state_dict(state["rule"])
        self._order.set_state(state["order"])
        self.epochs = int(state["epochs"])
