"""The learning itself: one step a batch, one epoch a pass over the rows, and the state to go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nprobot.envs.datasets import Split
from nprobot.learning.rule import LearningRule
from nprobot.runs.state import restore_optimizer
from nprobot.training.build import SCHEDULES

from .config import FitConfig
from .model import Model
from .objectives import Objective


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows was like.

    Attributes:
        loss: mean loss of the rows, each before the step that it was part of.
        weight_norm: Euclidean norm of all weights and biases after the last step.
        decorrelation_loss: mean squared correlation of the layers' inputs; NaN if not known.
        learning_rate: of the last step.
    """

    loss: float
    weight_norm: float
    decorrelation_loss: float
    learning_rate: float


class Learner:
    """A model that learns the rows of one split.

    Args:
        model: learns in place; its standardisation stays as it is.
        rule: estimates the gradients.
        objective: what is minimised.
        split: the training rows.
        config: with every default filled in.
        seed: of the order of the rows.

    Attributes:
        epochs: passes over the rows so far.
    """

    def __init__(
        self,
        model: Model,
        rule: LearningRule,
        objective: Objective,
        split: Split,
        config: FitConfig,
        seed: int,
    ) -> None:
        assert config.learning_rate is not None, "the configuration is complete"
        self.model = model
        self.network = model.network
        self.rule = rule
        self.objective = objective
        self.config = config
        self.learning_rate = config.learning_rate
        self.decorrelation_lr = rule.decorrelation_lr
        self.schedule = SCHEDULES[config.lr_schedule]
        self.optimizer = optimizer(self.network, config)
        self.epochs = 0
        # Contiguous rows, on the network's device, in its type: a batch is one indexed read.
        raw = torch.tensor(split.inputs, dtype=torch.float64, device=model.device)
        self.inputs = model.standardise(raw)
        self.targets = _as(objective.targets(split), self.inputs)
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
        """Everything needed to go on as if nothing had happened, between two epochs."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rule": self.rule.state_dict(),
            "order": self._order.get_state(),
            "epochs": self.epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.network.load_state_dict(state["network"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.rule.load_state_dict(state["rule"])
        self._order.set_state(state["order"])
        self.epochs = int(state["epochs"])


def optimizer(network: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    """The optimiser of a fit; weight decay is decoupled from the gradient's scale in both."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    assert rate is not None, "the configuration is complete"
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, weight_decay=decay)
    return torch.optim.AdamW(parameters, rate, weight_decay=decay)


def _as(targets: Tensor, like: Tensor) -> Tensor:
    """Targets on the device of the inputs, and of their type unless they are labels."""
    return targets.to(like.device, like.dtype if targets.is_floating_point() else None)
