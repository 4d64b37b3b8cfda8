"""Learning through noise that nobody can read: noisy passes compared with each other or the past.

Where a clean pass cannot be had, nodes and losses are compared with something else that is as
noisy: a second pass on the same batch, with noise of its own, or a running mean. What the
comparison leaves is correlated with the noise of the first pass, and that is all that
activity-based node perturbation needs; a constant offset of the noise drops out. With two passes it
is the form published for spintronic noise (artcogsys/MTJ-Node-Perturbation): δa = a⁽¹⁾ − a⁽²⁾,
δL = L⁽¹⁾ − L⁽²⁾, and the outer product with the inputs of pass 1.

Layers of the network that are not on the chip, such as the log standard deviation of a policy, have
no noise of their own, and would learn nothing, or only from what comes to them from the chip. They
get some from the learner, as strong as the chip's nodes have shown theirs to be in the first step.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import override

from nprobot.errors import RuleError
from nprobot.policies.chip.crossbar import ChipLayer

from .activity import Activity, Call, Tree, repeat, share, tree_map
from .nodes import NodeLayer
from .rule import Loss, per_sample

Draw = Callable[[Tensor], Tensor]
"""From pre-activations to noise of their shape."""


class PartlyNoisy(Activity):
    """The activity of a network of which a part is on a chip.

    Args:
        network: with layers on a chip.
        inputs: as of `Activity`.
        draw: noise for the layers that are not.
    """

    def __init__(self, network: nn.Module, inputs: Tree, draw: Draw) -> None:
        self._draw = draw
        super().__init__(network, inputs)

    @override
    def pre_activation(self, layer: NodeLayer, x: Tensor) -> Tensor:
        a = layer.pre_activation(x)
        return a if isinstance(layer.module, ChipLayer) else a + self._draw(a)


class NoisyPasses:
    """Several noisy passes of one batch through a network whose noise is hidden.

    Args:
        network: with layers on a chip.
        inputs: tensor (B, ...), or a tuple or dict of such.
        passes: M, how often the batch is run; in one batched call, every pass with its own noise.
        draw: noise for layers that are not on the chip; None for none.

    Attributes:
        outputs: of all passes, each tensor of shape (M, B, ...).
        pre_activations: as read from all layers, shape (M, B, N).
    """

    def __init__(
        self, network: nn.Module, inputs: Tree, passes: int, draw: Draw | None = None
    ) -> None:
        self.passes = passes
        repeated = tree_map(partial(repeat, passes), inputs)
        if draw is None:
            self.activity = Activity(network, repeated)
        else:
            self.activity = PartlyNoisy(network, repeated, draw)
        self.batch = self.activity.batch // passes
        self.outputs: Tree = tree_map(self._unflatten, self.activity.outputs)
        self.pre_activations = torch.cat(
            [self._unflatten(call.pre_activation).flatten(2) for call in self.activity.calls], -1
        )

    def losses(self, loss: Loss) -> Tensor:
        """Loss of every pass and sample, shape (M, B)."""
        first = per_sample(loss, tree_map(lambda y: y[0], self.outputs), (self.batch,))
        if self.passes == 1:
            return first.unsqueeze(0)
        others = tree_map(lambda y: y[1:], self.outputs)
        rest = per_sample(loss, others, (self.passes - 1, self.batch))
        return torch.cat([first.unsqueeze(0), rest])

    def layer_inputs(self) -> list[tuple[nn.Module, Tensor]]:
        """Every layer and what it was fed in pass 1, shape (B, ...)."""
        calls = self.activity.calls
        return [(call.layer.module, call.inputs[: self.batch]) for call in calls]

    def even_out(self, node_error: Tensor, delta_activity: Tensor) -> float:
        """Scale down the errors of layers off the chip, in place, where they are noisier than it.

        Activity-based node perturbation gives every node its gradient times the variance of its
        noise. Nothing is scaled up: too little noise says too little.

        Args:
            node_error: shape (K, B, N).
            delta_activity: δa, shape (K, B, N).

        Returns:
            Root mean square of δa in the layer of the chip where it is smallest: of noise that has
            not come through other noisy nodes.
        """

        def variance(calls: list[Call]) -> Tensor:
            return torch.cat([share(delta_activity, call) for call in calls], -1).square().mean()

        calls = self.activity.calls
        off_chip = [call for call in calls if not isinstance(call.layer.module, ChipLayer)]
        if not off_chip:
            return 0.0
        on_chip = [call for call in calls if call not in off_chip]
        wanted = variance(on_chip)
        for call in off_chip:
            ratio = wanted / variance([call]).clamp_min_(torch.finfo(wanted.dtype).tiny)
            share(node_error, call).mul_(ratio.clamp_max_(1.0))
        return float(torch.stack([variance([call]) for call in on_chip]).min().sqrt())

    def accumulate(self, node_error: Tensor) -> None:
        """Add the gradient that node errors make, each with the inputs of its own pass, to `.grad`.

        Args:
            node_error: of the first K ≤ M passes, shape (K, B, N).
        """
        rows = node_error.shape[0] * self.batch
        for call in self.activity.calls:
            error = node_error[..., call.nodes].reshape(rows, *call.pre_activation.shape[1:])
            call.layer.accumulate(error, call.inputs[:rows])

    def _unflatten(self, x: Tensor) -> Tensor:
        return x.reshape(self.passes, self.batch, *x.shape[1:])


class Reference(ABC):
    """What noisy passes are compared with."""

    @abstractmethod
    def passes(self, samples: int) -> int:
        """Noisy passes that K comparisons take."""

    @abstractmethod
    def compare(
        self, network: int, pre_activations: Tensor, losses: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How the first K passes differ from the reference.

        Args:
            network: number that the rule gives it.
            pre_activations: shape (M, B, N).
            losses: shape (M, B).

        Returns:
            δa, shape (K, B, N), and δL, shape (K, B).
        """

    @abstractmethod
    def state_dict(self) -> dict[int, list[Tensor]]:
        """What is remembered of every network."""

    @abstractmethod
    def load_state_dict(self, state: dict[int, list[Tensor]]) -> None:
        """Go on from saved memories."""


class SecondPass(Reference):
    """Each of K passes is compared with the mean of all the others; K = 1: with a second pass."""

    @override
    def passes(self, samples: int) -> int:
        return samples + 1

    @override
    def compare(
        self, network: int, pre_activations: Tensor, losses: Tensor
    ) -> tuple[Tensor, Tensor]:
        return _less_others(pre_activations), _less_others(losses)

    @override
    def state_dict(self) -> dict[int, list[Tensor]]:
        return {}

    @override
    def load_state_dict(self, state: dict[int, list[Tensor]]) -> None:
        pass


class RunningMean(Reference):
    """Each pass is compared with the mean of earlier calls, for every row of the batch by itself.

    Costs one pass instead of two. Row i of a batch must go on where row i of the last one was: a
    stimulus that is shown again and again, or an environment whose state changes slowly. On
    shuffled data it would take the differences between samples for noise.

    Args:
        rate: weight of the newest call in the mean.
    """

    def __init__(self, rate: float) -> None:
        if not 0.0 < rate <= 1.0:
            raise RuleError(f"reference_rate must be in (0, 1], got {rate!r}")
        self.rate = rate
        self.means: dict[int, list[Tensor]] = {}

    @override
    def passes(self, samples: int) -> int:
        return samples

    @override
    def compare(
        self, network: int, pre_activations: Tensor, losses: Tensor
    ) -> tuple[Tensor, Tensor]:
        seen = [pre_activations.mean(0), losses.mean(0)]
        # Nothing to compare with in the first call: it teaches nothing.
        means = self.means.setdefault(network, [value.clone() for value in seen])
        if means[0].shape != seen[0].shape:
            raise RuleError(
                f"a running mean follows the rows of a batch from call to call: the batch had "
                f"{len(means[1])} rows and has {len(seen[1])} now. Keep the batch size, or use "
                "reference='second-pass'"
            )
        differences = (pre_activations - means[0], losses - means[1])
        for mean, value in zip(means, seen, strict=True):
            mean.lerp_(value, self.rate)
        return differences

    @override
    def state_dict(self) -> dict[int, list[Tensor]]:
        return {n: [mean.clone() for mean in own] for n, own in self.means.items()}

    @override
    def load_state_dict(self, state: dict[int, list[Tensor]]) -> None:
        self.means = {int(n): list(own) for n, own in state.items()}


REFERENCES = ("second-pass", "running-mean")
"""The names that `reference` knows."""


def make_reference(name: str, rate: float) -> Reference:
    """What noisy passes are compared with, by name.

    Raises:
        RuleError: unknown name, or a rate out of range.
    """
    if name not in REFERENCES:
        near = difflib.get_close_matches(str(name), REFERENCES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise RuleError(f"unknown reference {name!r}{hint} Known: {', '.join(REFERENCES)}")
    running_mean = RunningMean(rate)
    return running_mean if name == "running-mean" else SecondPass()


def _less_others(values: Tensor) -> Tensor:
    """Values of all passes but the last, (M, ...) to (M − 1, ...), less the mean of the others."""
    passes = values.shape[0]
    return (values[:-1] - values.mean(0)) * (passes / (passes - 1))
