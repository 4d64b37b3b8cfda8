"""Learning through noise that nobody can read: noisy passes compared with each other or the past.

Where a clean pass cannot be had, nodes and losses are compared with something else that is as
noisy: a second pass on the same batch, with fresh noise, or a running mean. What the
comparison leaves is correlated with the noise of the first pass, and that is all that
activity-based node perturbation needs; a constant offset of the noise drops out. With two passes it
is the form published for spintronic noise (artcogsys/MTJ-Node-Perturbation): δa = a⁽¹⁾ − a⁽²⁾,
δL = L⁽¹⁾ − L⁽²⁾, and the outer product with the inputs of pass 1.

Learned feedback takes as many passes, and needs no comparison of losses (`GuidedPasses`). Every
layer's map is fitted to its own inputs and pre-activations as read: its own noise has nothing to do
with its inputs, and blurs the fit without bias. The guess of the node errors that passes down by
these maps is the estimate. It is biased by what the maps are wrong by; what they leave of a layer's
differences is the layer's own noise, inferred, from which node perturbation can correct the guess
(`residual_error`), for the price of its variance.

Layers of the network that are not on the chip, such as the log standard deviation of a policy, have
no noise, and would learn nothing, or only from what comes to them from the chip. They
get some from the learner, as strong as the chip's nodes have shown theirs to be in the first step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import override

from nprobot.errors import RuleError, did_you_mean
from nprobot.policies.chip.crossbar import ChipLayer

from .activity import Activity, Call, Tree, first_tensor, repeat, share, tree_map
from .feedback import LayerwiseFeedback, error_and_change
from .nodes import NodeLayer
from .rule import Loss, per_sample
from .wiring import Edge, Wiring, replay

NEAR = 0.3
"""Share of a unit's usual difference between passes from which on a slope is measured over it."""
LEAST_MOVE = 1e-3
"""What counts as usual where there is hardly any noise."""

Draw = Callable[[Tensor], Tensor]
"""From pre-activations to noise of their shape."""


class PartlyNoisy(Activity):
    """The activity of a network of which a part is on a chip.

    Args:
        network: with layers on a chip.
        inputs: as of `Activity`.
        draw: noise for the layers that are not.
        quiet: names of those that need none.
        frozen: as of `Activity`.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tree,
        draw: Draw,
        quiet: Collection[str] = (),
        *,
        frozen: bool = False,
    ) -> None:
        self._draw = draw
        self._quiet = quiet
        super().__init__(network, inputs, frozen=frozen)

    @override
    def pre_activation(self, layer: NodeLayer, x: Tensor) -> Tensor:
        a = layer.pre_activation(x)
        if isinstance(layer.module, ChipLayer) or layer.name in self._quiet:
            return a
        return a + self._draw(a)


class NoisyPasses:
    """Several noisy passes of one batch through a network whose noise is hidden.

    Args:
        network: with layers on a chip.
        inputs: tensor (B, ...), or a tuple or dict of such.
        passes: M, how often the batch is run; in one batched call, every pass with its own noise.
        draw: noise for layers that are not on the chip; None for none.

    Attributes:
        outputs: the outputs of all passes, each tensor of shape (M, B, ...).
        pre_activations: as read from all layers, shape (M, B, N).
    """

    def __init__(
        self, network: nn.Module, inputs: Tree, passes: int, draw: Draw | None = None
    ) -> None:
        self.passes = passes
        self.activity = self.run(network, tree_map(partial(repeat, passes), inputs), draw)
        self.batch = self.activity.batch // passes
        self.outputs: Tree = tree_map(self._unflatten, self.activity.outputs)
        self.pre_activations = torch.cat(
            [self._unflatten(call.pre_activation).flatten(2) for call in self.activity.calls], -1
        )

    def run(self, network: nn.Module, inputs: Tree, draw: Draw | None) -> Activity:
        """The activity of all passes, inputs being repeated for them."""
        return Activity(network, inputs) if draw is None else PartlyNoisy(network, inputs, draw)

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
        return [
            (call.layer.module, call.layer.correlated_rows(call.inputs[: self.batch]))
            for call in self.activity.calls
        ]

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
            node_error: the node errors of the first K ≤ M passes, shape (K, B, N).
        """
        rows = node_error.shape[0] * self.batch
        for call in self.activity.calls:
            error = node_error[..., call.nodes].reshape(rows, *call.pre_activation.shape[1:])
            call.layer.accumulate(error, call.inputs[:rows])

    def _unflatten(self, x: Tensor) -> Tensor:
        return x.reshape(self.passes, self.batch, *x.shape[1:])


class GuidedPasses(NoisyPasses):
    """Several noisy passes that learned feedback learns from.

    Args:
        network: as of `NoisyPasses`.
        inputs: as of `NoisyPasses`.
        passes: M, from 2.
        draw: noise for hidden layers that are not on the chip.
        outputs: names of the layers that are outputs, which have an error without noise; known from
            the second step on.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tree,
        passes: int,
        draw: Draw,
        outputs: Collection[str] = (),
    ) -> None:
        self._quiet = outputs
        super().__init__(network, inputs, passes, draw)

    @override
    def run(self, network: nn.Module, inputs: Tree, draw: Draw | None) -> Activity:
        assert draw is not None
        return PartlyNoisy(network, inputs, draw, self._quiet, frozen=True)

    def losses_and_error(
        self, loss: Loss, step: float, *, forward: bool = False
    ) -> tuple[Tensor, Tensor, bool]:
        """What the loss says of the outputs of all passes.

        Args:
            loss: the loss, a function of the outputs.
            step: how far an output is moved.
            forward: no autograd in the loss either.

        Returns:
            Losses, shape (M, B); e = dL/dy, (M · B, outputs); and whether the loss itself is noisy:
            says something else when asked again, as a critic on a chip does.
        """
        passes, batch = self.passes, self.batch

        def of_rows(outputs: Tree) -> Tensor:
            """Losses (draws, M · B) of outputs (draws, M · B, ...)."""
            draws = first_tensor(outputs).shape[0]
            rows = tree_map(lambda y: y.reshape(draws * passes, batch, *y.shape[2:]), outputs)
            return per_sample(loss, rows, (draws * passes, batch)).view(draws, -1)

        # Alone at first: some losses note how things stand from what they are first asked for.
        first = per_sample(loss, tree_map(lambda y: y[0], self.outputs), (batch,))
        as_read = tree_map(lambda y: y.unsqueeze(0), self.activity.outputs)
        error, losses = error_and_change(self.activity, as_read, of_rows, step, forward=forward)
        losses = losses.view(passes, batch)
        apart = (losses[0] - first).square().mean() > 1e-8 * first.square().mean()
        losses[0] = first
        return losses, error, bool(apart)

    def slopes(self, wiring: Wiring) -> dict[Edge, Tensor]:
        """Slopes of all units, from each pass to the next, by a replay of what is between layers.

        Where a unit hardly differs between the two, as noise of few levels and coarse read-outs
        have it, to a point as far as it usually differs. Within what large moves have shown: 0 to
        1 for the usual activation functions; a slope outside is one of a jump.
        """
        calls = self.activity.calls
        moved = [self._away(self._to_next(call.pre_activation).flatten(1)) for call in calls]
        seen = replay(self.activity, dict(enumerate(moved)))
        inputs = {
            index: seen[index] - call.raw_inputs.flatten(1)
            for index, (call, fed) in enumerate(zip(calls, wiring.fed, strict=True))
            if fed
        }
        slopes = wiring.slopes(self.activity, moved, inputs, range(len(calls)), floor=1e-12)
        return {edge: slope.clamp_(*edge.bounds) for edge, slope in slopes.items()}

    def own_noise(self, maps: Mapping[int, Tensor]) -> Tensor:
        """What layers' inputs do not explain of δa: their own noise, (M − 1, B, N), as inferred.

        Each pass is compared with the mean of the others.

        Args:
            maps: from the rows of a call's inputs to those of its nodes, (d, n).
        """
        parts = []
        for index, call in enumerate(self.activity.calls):
            a = call.pre_activation
            if index in maps:
                rows = call.layer.node_rows(a)
                rows = rows - call.layer.input_rows(call.raw_inputs) @ maps[index]
                a = call.layer.from_node_rows(rows, a.shape)
            parts.append(a.reshape(self.activity.batch, -1))
        return _less_others(self._unflatten(torch.cat(parts, -1)))

    def least_noise(self) -> float:
        """Root mean square of the noise of the chip's quietest layer, as one pass has it."""
        calls = [c for c in self.activity.calls if isinstance(c.layer.module, ChipLayer)]
        moved = [self._to_next(call.pre_activation).square().mean() for call in calls]
        return float(torch.stack(moved).min().div_(2).sqrt())

    def _to_next(self, x: Tensor) -> Tensor:
        return x.roll(-self.batch, 0) - x

    def _away(self, moved: Tensor) -> Tensor:
        """Moves, none of them much shorter than a unit's usual one, nor lost to rounding."""
        least = NEAR * moved.square().mean(0).sqrt_().clamp_min_(LEAST_MOVE)
        return torch.where(moved.abs() < least, torch.copysign(least, moved), moved)


class HiddenFeedback:
    """Noisy passes of one batch, and the learned feedback that errors pass down by.

    Args:
        network: number that the rule gives it.
        passes: how often the network is run.
        feedback: layerwise, which knows the network.
    """

    def __init__(self, network: int, passes: GuidedPasses, feedback: LayerwiseFeedback) -> None:
        self.network = network
        self.passes = passes
        self.feedback = feedback

    def pull(self, error: Tensor) -> Tensor:
        """Errors of all nodes, (M · B, N), from those of the outputs, (M · B, outputs)."""
        slopes = self.passes.slopes(self.feedback.wirings[self.network])
        return self.feedback.pull(self.network, self.passes.activity, error, slopes)

    def learn(self, activities: Sequence[Activity]) -> None:
        """Learn from passes through the network."""
        self.feedback.learn_activity(self.network, *activities)


def residual_error(guess: Tensor, own: Tensor, losses: Tensor) -> Tensor:
    """Node perturbation's estimate of what a guess leaves: ``(δL − Σ g·ε) ε / E[ε²]``.

    Args:
        guess: the guess of the node errors in all passes, (M, B, N).
        own: noise ε, as inferred, (M − 1, B, N).
        losses: the losses of all passes, (M, B).
    """
    left: Tensor = _less_others(losses) - torch.linalg.vecdot(own, guess[:-1])
    return left.unsqueeze(-1) * own / own.square().mean((0, 1)).clamp_min_(1e-24)


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
        """Continue from saved memories."""


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

    Costs one pass instead of two. Row i of a batch must continue where row i of the last one was: a
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
        hint = did_you_mean(name, REFERENCES)
        raise RuleError(f"unknown reference {name!r}{hint}. Known: {', '.join(REFERENCES)}")
    running_mean = RunningMean(rate)
    return running_mean if name == "running-mean" else SecondPass()


def _less_others(values: Tensor) -> Tensor:
    """Values of all passes but the last, (M, ...) to (M − 1, ...), less the mean of the others."""
    passes = values.shape[0]
    return (values[:-1] - values.mean(0)) * (passes / (passes - 1))
