"""Eligibility traces: what every weight has done of late, kept where the weight is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nprobot.learning.activity import Call


class EligibilityTraces:
    """One trace a parameter and robot: ``e ← γλ e + eligibility ⊗ x*``.

    With the reward prediction error δ, ``Σ_t δ_t e_t`` is the policy gradient with generalised
    advantage estimates (Schulman et al. 2016, arXiv 1506.02438), summed in the order of time: no
    observation, action or activity has to be remembered.

    Args:
        decay: γλ, from one control step to the next.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.traces: dict[Tensor, Tensor] = {}

    def mark(self, calls: Sequence[Call], eligibility: Tensor, inputs: Sequence[Tensor]) -> None:
        """Let the traces decay and add a step.

        Args:
            calls: the layers.
            eligibility: of every node, shape (B, N).
            inputs: what each layer was fed, shape (B, ...).
        """
        marks: dict[Tensor, Tensor] = {}
        for call, x in zip(calls, inputs, strict=True):
            units = call.pre_activation.shape[1:]
            own = eligibility[:, call.nodes].reshape(-1, *units)
            for parameter, mark in call.layer.outer(own, x):
                before = marks.get(parameter)
                marks[parameter] = mark if before is None else before + mark
        for parameter, mark in marks.items():
            trace = self.traces.get(parameter)
            if trace is not None:
                mark = mark + self.decay * trace
            self.traces[parameter] = mark

    def reinforce(self, prediction_error: Tensor, share: float) -> None:
        """Add ``−share · Σ_robots δ e`` to the parameters' `.grad`: its descent makes δ larger.

        Args:
            prediction_error: δ of every robot, shape (B,).
            share: weight of the step.
        """
        for parameter, trace in self.traces.items():
            gradient = torch.tensordot(prediction_error, trace, dims=1).mul_(-share)
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient

    def cut(self, ended: Tensor) -> None:
        """Forget what robots did whose episode has ended, shape (B,), booleans."""
        if ended.any():
            for trace in self.traces.values():
                trace[ended] = 0.0

    def clear(self) -> None:
        """Forget everything."""
        self.traces.clear()
