"""A learning step as a CUDA graph: recorded once, then replayed without Python in between.

On a GPU a step of a small network takes as long as Python and the driver need to launch its
hundred small kernels. A graph launches them all at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nprobot.errors import RuleError

from .activity import Tree
from .rule import LearningRule

WARM_UP = 3
"""Steps before the recording, in which libraries and the optimiser set up what they need."""


class CapturedStep:
    """Backward, optimiser and decorrelation of one batch, from the fourth call on as a CUDA graph.

    Every call is a learning step; the first three run as they would without a graph. From then on
    the shapes of the batch, and everything that is not a tensor on the GPU, are fixed: a learning
    rate that is to change has to be a tensor (``lr=torch.tensor(1e-3, device="cuda")``).

    Args:
        rule: what learns; its R, if any, in every step.
        network: on a CUDA device.
        optimizer: of its parameters; where it has the option, with ``capturable=True``.
        loss: from the network's outputs (..., B, out) and the targets to (..., B).

    Raises:
        RuleError: the network is not on a CUDA device, or the optimiser or the rule cannot be
            captured.

    Example::

        loss = lambda y, target: ((y - target) ** 2).mean(-1)
        step = nprobot.CapturedStep(rule, network, optimizer, loss)
        for inputs, targets in batches:
            losses = step(inputs, targets)
    """

    def __init__(
        self,
        rule: LearningRule,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Tree, Tensor], Tensor],
    ) -> None:
        device = next(network.parameters()).device
        if device.type != "cuda":
            raise RuleError(
                f"a step can be captured on a CUDA device, and the network is on {device}: move it "
                "there, or call rule.backward, optimizer.step and rule.decorrelate yourself"
            )
        if any(group.get("capturable") is False for group in optimizer.param_groups):
            raise RuleError(
                f"{type(optimizer).__name__} counts its steps on the CPU: make it with "
                "capturable=True"
            )
        if rule.decorrelation_interval != 1:
            raise RuleError(
                "a captured step is the same every time: decorrelation_interval must be 1, got "
                f"{rule.decorrelation_interval}"
            )
        self.rule = rule
        self.network = network
        self.optimizer = optimizer
        self.loss = loss
        self.device = device
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._passes = (0, 0)
        self._batch: tuple[Tensor, Tensor]
        self._losses: Tensor

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Learn from one batch.

        Args:
            inputs: shape (B, ...).
            targets: what `loss` compares with, shape (B, ...).

        Returns:
            The clean loss of every sample, shape (B,). In a replayed step nothing has looked
            whether it is finite, as that would halt the GPU: look now and then.

        Raises:
            RuleError: the batch has another shape or type than the one that was recorded.
        """
        if self._graph is None:
            self._steps += 1
            if self._steps <= WARM_UP:
                return self._warm_up(inputs, targets)
            self._capture(inputs, targets)
        for kept, given in zip(self._batch, (inputs, targets), strict=True):
            if kept.shape != given.shape or kept.dtype != given.dtype:
                raise RuleError(
                    f"a captured step takes batches of the shape and type that it was recorded "
                    f"with, {tuple(kept.shape)} {kept.dtype}; got {tuple(given.shape)} "
                    f"{given.dtype}. Leave out a last batch that is smaller, or make a second step"
                )
            kept.copy_(given)
        assert self._graph is not None
        self._graph.replay()
        self.rule.forward_passes += self._passes[0]
        self.rule.backward_passes += self._passes[1]
        return self._losses.clone()

    def _learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        losses = self.rule.backward(self.network, inputs, lambda y: self.loss(y, targets))
        self.optimizer.step()
        self.rule.decorrelate(self.network)
        return losses

    def _warm_up(self, inputs: Tensor, targets: Tensor) -> Tensor:
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            losses = self._learn(inputs.to(self.device), targets.to(self.device))
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return losses

    def _capture(self, inputs: Tensor, targets: Tensor) -> None:
        """Record one step; nothing is computed, and no noise is drawn, while it is recorded."""
        self._batch = (inputs.to(self.device, copy=True), targets.to(self.device, copy=True))
        rule = self.rule
        before = (rule.forward_passes, rule.backward_passes)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(rule.source.generator(self.device))
        with torch.cuda.graph(graph):
            self._losses = self._learn(*self._batch)
        self._passes = (rule.forward_passes - before[0], rule.backward_passes - before[1])
        rule.forward_passes, rule.backward_passes = before
        self._graph = graph
