"""Learned feedback: a guess of the node errors that takes most of the variance out of NP and INP.

The loss of a noisy pass tells how the noise of *all* nodes did together; every node hears its own
share under the noise of the others. A guess g⁰ of the node errors says what that noise should have
done, and only what it leaves unexplained has to come from the loss:

    g_l = g⁰_l + (δL − Σ_m g⁰_m·ε_m) ε_l / σ²

The mean does not depend on the guess, so the estimate stays unbiased (to the order of σ²) whatever
g⁰ is; its variance falls as the guess gets better: a control variate. The guess starts from e =
dL/dy, the error of the outputs, found by perturbing the *outputs*, which takes evaluations of the
loss and no pass through the network. Nodes that *are* outputs get their error from e exactly and
need no noise. For the others there are two kinds of feedback:

- *layerwise*: the guess passes down from layer to layer. Each layer with weights keeps a matrix B,
  an accumulated least-squares fit of the change of its own pre-activation, less its own noise, on
  the change of its own input between two passes (`LinearFit`). It is local to the layer, and the
  same for all kinds of layers; what lies between them has no weights and is not learned (`wiring`).
- *direct*: ``g⁰_l = B_l e``. B_l learns how noise in layer l moves the outputs, averaged over
  inputs, by least mean squares. It asks nothing of what lies between, and explains less.

A guess comes from what was learned in *earlier* steps alone: one that knew the noise that it is
multiplied by would bias the estimate. Only activities and noise are read, no weights. B of a layer
comes to what ``(W R)ᵀ`` is; it is measured through the noise, as a "weight mirror" is (Akrout et
al., NeurIPS 2019), not copied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from nprobot.errors import RuleError, did_you_mean

from .activity import Activity, NoisyCall, Tree, share, tensors, tree_map
from .wiring import Edge, Wiring, by_sample, check_wiring, output_sizes, signature

DIRECT_LR = 0.01
"""Step size of direct feedback, whose targets are noisy."""
MANY_OUTPUTS = 128
"""Numbers a sample has at most if the loss is differentiated by differences in all of them."""
RIDGE = 1e-3
"""Regularisation of a fit, in units of the mean square of an input."""
LONGEST = 8
"""Most steps from one answer of a fit to the next."""
BLUR = (0.005, 0.02)
"""What the correction may add to the variance of an estimate, relative to its square, as a guess is
old: above the second, a fit answers twice as often; below the first, half as often."""
UNCORRECTED = 100.0
"""Without a correction, a fit answers as often as in a corrected network of so many nodes."""
LEAST_ROWS = 16
"""Rows of a step that a fit takes at least, as the change of one may be next to nothing."""
WIDE = 256
"""More inputs than that, and a fit solves for as many rows of a step instead of for its inputs."""
HIDDEN_RATES = (0.3, 0.1, 0.03, 0.01)
"""Shares of the way to a step's answer that B goes where own noise blurs the rows it is from: fast
where weights move fast, slow where noise is large beside what the layer says."""
HIDDEN_RIDGE = 3e-2
"""Regularisation of that answer; what it holds back comes with the next steps."""
HIDDEN_ROWS = 4096
"""Rows of a step that are enough there."""
MEMORY_OF_ERRORS = 0.95
"""Weight of the past in the measure of how wrong each rate was."""
TRUST_MEMORY = 0.9
"""Weight of the past in the measure of how much of a layer's response its fit explains."""


class LinearFit:
    """The linear map of one layer, as its inputs and pre-activations show it.

    ``P ← ρP + xᵀx``, ``C ← ρC + xᵀa`` over rows of inputs and pre-activations (or their changes),
    and B = (P + λI)⁻¹(C + λB): the ridge draws towards the last answer, so what the data are silent
    on stays. A wide layer keeps no P: it moves B to the answer of a step's rows that is next to it.

    Args:
        inputs: d.
        nodes: n.
        like: gives device and type.

    Attributes:
        matrix: B, shape (d, n); 0 at first.
        guide: B as the guess takes it: times the share of the layer's response that it explains,
            0 to 1, measured on rows that it has not learned from yet.
        steps: how many it has seen.
        interval: steps from one answer to the next, where every step could have one.
    """

    _STATE = ("matrix", "guide", "square", "product", "explained", "tracks", "errors")

    def __init__(self, inputs: int, nodes: int, like: Tensor) -> None:
        self.inputs = inputs
        self.matrix = like.new_zeros(inputs, nodes)
        self.guide = like.new_zeros(inputs, nodes)
        self.wide = inputs > WIDE
        self.square = like.new_zeros(0 if self.wide else inputs, 0 if self.wide else inputs)
        self.product = like.new_zeros(0 if self.wide else inputs, nodes)
        # Starts in full: a first answer is better than none.
        self.explained = like.new_full((2,), 1e-24)
        # Of `follow`: B at every rate, and how wrong each was about rows that it had not seen.
        self.tracks = like.new_zeros(0, inputs, nodes)
        self.errors = like.new_zeros(0)
        self.steps = 0
        self.interval = 1

    def suits(self, shape: tuple[int, ...], like: Tensor) -> bool:
        """Whether it is of such a map, (d, n); moves it to the device and type of `like`."""
        if self.matrix.shape != shape:
            return False
        if self.matrix.device != like.device or self.matrix.dtype != like.dtype:
            for name in self._STATE:
                setattr(self, name, getattr(self, name).to(like))
            self.interval = 1
        return True

    def observe(self, x: Tensor, a: Tensor, memory: float) -> None:
        """Take in rows of inputs (rows, d) and of pre-activations (rows, n).

        Args:
            x: inputs, or changes of them.
            a: what they made.
            memory: ρ, weight of all earlier rows.
        """
        if not self.wide:
            self.square.addmm_(x.mT, x, beta=memory)
            self.product.addmm_(x.mT, a, beta=memory)

    def solve(self, x: Tensor, a: Tensor, lr: float, ridge: float = RIDGE) -> Tensor | float:
        """Move B to the answer, and judge the old one by the newest rows.

        Everything stays where it is, as a captured step starts from there the next time.

        Args:
            x: the rows of the last `observe`.
            a: what they made.
            lr: share of the way to the answer.
            ridge: λ, in units of the mean square of an input.

        Returns:
            The share of the newest rows' response that the old B did not explain.
        """
        if self.matrix.is_cpu:
            return self._solve_by_arrays(x, a, lr, ridge)
        guessed = x @ self.matrix
        left = a - guessed
        whole, rest, own = [torch.linalg.vector_norm(part).square() for part in (a, left, guessed)]
        # |a − g|² = |a|² − 2 a·g + |g|²
        newest = torch.stack([0.5 * (whole - rest + own), own])
        self.explained.lerp_(newest, 1 - TRUST_MEMORY).clamp_min_(1e-24)
        trust = (self.explained[0] / self.explained[1]).clamp_(0.0, 1.0)
        square = x @ x.mT if self.wide else self.square.clone()
        diagonal = square.diagonal()
        strength = ridge * diagonal.mean() + 1e-24
        diagonal.add_(strength)
        factor, _ = torch.linalg.cholesky_ex(square)
        if self.wide:
            self.matrix.addmm_(x.mT, torch.cholesky_solve(left, factor), alpha=lr)
        else:
            right = torch.addcmul(self.product, self.matrix, strength)
            self.matrix.lerp_(torch.cholesky_solve(right, factor), lr)
        torch.mul(self.matrix, trust, out=self.guide)
        unexplained: Tensor = rest / whole.clamp_min(1e-30)
        return unexplained

    def _solve_by_arrays(self, x: Tensor, a: Tensor, lr: float, ridge: float) -> float:
        """`solve` on a CPU, where a small operation takes numpy a third of torch's time."""
        matrix, explained = self.matrix.numpy(), self.explained.numpy()
        guessed = torch.mm(x, self.matrix)
        left = torch.sub(a, guessed)
        whole, rest, own = (float(np.vdot(y, y)) for y in (_flat(a), _flat(left), _flat(guessed)))
        explained *= TRUST_MEMORY
        explained += (1 - TRUST_MEMORY) * np.array([0.5 * (whole - rest + own), own])
        np.maximum(explained, 1e-24, out=explained)
        trust = min(max(float(explained[0] / explained[1]), 0.0), 1.0)
        square = torch.mm(x, x.mT) if self.wide else self.square.clone()
        diagonal = square.numpy().reshape(-1)[:: len(matrix) + 1 if not self.wide else len(x) + 1]
        strength = ridge * float(np.add.reduce(diagonal)) / len(diagonal) + 1e-24
        diagonal += strength
        factor, _ = torch.linalg.cholesky_ex(square)
        if self.wide:
            self.matrix.addmm_(x.mT, torch.cholesky_solve(left, factor), alpha=lr)
        else:
            right = torch.add(self.product, self.matrix, alpha=strength)
            answer = torch.cholesky_solve(right, factor)
            if lr == 1.0:
                self.matrix.copy_(answer)
            else:
                self.matrix.lerp_(answer, lr)
        np.multiply(matrix, trust, out=self.guide.numpy())
        return rest / max(whole, 1e-30)

    def follow(self, x: Tensor, a: Tensor, rates: Sequence[float], ridge: float) -> None:
        """Move B to the answer at several rates, and take the one that was best at new rows.

        Args:
            x: the rows of the last `observe`.
            a: what they made, blurred by noise that has nothing to do with them.
            rates: shares of the way to the answer; in the first steps the answers' plain mean.
            ridge: as of `solve`.
        """
        if len(self.tracks) != len(rates):
            self.tracks = torch.stack([self.matrix] * len(rates))
            self.errors = self.matrix.new_zeros(len(rates))
        self.steps += 1
        left = a - x @ self.tracks
        newest = left.square().flatten(1).mean(1)
        self.errors.lerp_(newest, max(1 - MEMORY_OF_ERRORS, 1 / self.steps))
        best = self.errors.argmin()
        trust = self._judge(a, left[best])
        self.matrix.copy_(self.tracks[best])  # what is left is of this one
        answer = self._answer(x, left[best], ridge)
        for track, rate in zip(self.tracks, rates, strict=True):
            track.lerp_(answer, max(rate, 1 / self.steps))
        self.matrix.copy_(self.tracks[best])
        torch.mul(self.matrix, trust, out=self.guide)

    def _judge(self, a: Tensor, left: Tensor) -> Tensor:
        """How far B is to be trusted, by what it left of the response of new rows."""
        whole, rest, own = [torch.linalg.vector_norm(y).square() for y in (a, left, a - left)]
        # |a − g|² = |a|² − 2 a·g + |g|²
        newest = torch.stack([0.5 * (whole - rest + own), own])
        self.explained.lerp_(newest, 1 - TRUST_MEMORY).clamp_min_(1e-24)
        return (self.explained[0] / self.explained[1]).clamp_(0.0, 1.0)

    def _answer(self, x: Tensor, left: Tensor, ridge: float) -> Tensor:
        """The fit's answer, where it is silent the present B."""
        square = x @ x.mT if self.wide else self.square.clone()
        diagonal = square.diagonal(dim1=-2, dim2=-1)
        strength = ridge * diagonal.mean(-1, keepdim=True) + 1e-24
        diagonal.add_(strength)
        factor, _ = torch.linalg.cholesky_ex(square)
        if self.wide:
            return torch.addmm(self.matrix, x.mT, torch.cholesky_solve(left, factor))
        right = torch.addcmul(self.product, self.matrix, strength.unsqueeze(-1))
        return torch.cholesky_solve(right, factor)

    def due(self) -> bool:
        """Whether it wants to see this step."""
        self.steps += 1
        return not self.steps % self.interval

    def samples(self, batch: int, places: int = 1) -> int:
        """How many samples of a batch are enough, where each is several rows."""
        return min(batch, -(-max(min(self.inputs, WIDE), LEAST_ROWS) // places))

    def take(self, x: Tensor, a: Tensor, lr: float | None, amplified: float) -> None:
        """Learn from what a step did to inputs (rows, d) and pre-activations (rows, n).

        Exact but for rounding: as many rows as inputs tell all, and older ones are of weights that
        have moved.

        Args:
            x: changes of the inputs.
            a: changes of the pre-activations, less the layer's own noise.
            lr: share of the way to the answer; None for all of it.
            amplified: how many times the correction blows up what a guess leaves.
        """
        self.observe(x, a, max(1 - x.shape[-2] / self.inputs, 0.0))
        unexplained = self.solve(x, a, 1.0 if lr is None else lr)
        if isinstance(unexplained, float) or not unexplained.is_cuda:
            # A captured step is the same every time.
            self.adapt(float(unexplained), amplified)

    def adapt(self, unexplained: float, amplified: float) -> None:
        """Choose how many steps to wait: as many as the guess can bear.

        What a guess leaves of its own size, in square, the correction of node perturbation blows up
        N times in a network of N nodes.
        """
        low, high = BLUR
        if unexplained * amplified > high:
            self.interval = max(1, self.interval // 2)
        elif unexplained * amplified < low:
            self.interval = min(LONGEST, self.interval * 2)

    def state_dict(self) -> dict[str, Any]:
        """Everything that it has accumulated."""
        tensors = {name: getattr(self, name).clone() for name in self._STATE}
        return tensors | {"steps": self.steps, "interval": self.interval}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> LinearFit:
        """The inverse of `state_dict`."""
        fit = fit_of_shape(tuple(state["matrix"].shape), state["matrix"])
        for name in cls._STATE:
            if name in state:  # earlier versions had no tracks
                setattr(fit, name, state[name].clone())
        fit.steps, fit.interval = int(state["steps"]), int(state["interval"])
        return fit


class GroupedFit(LinearFit):
    """The fits of G maps that have nothing in common, side by side; see `LinearFit`.

    Rows are (G, rows, d) and (G, rows, n): the groups of a convolution, the gains of a norm.
    """

    def __init__(self, groups: int, inputs: int, nodes: int, like: Tensor) -> None:
        super().__init__(0, 0, like)
        self.inputs = inputs
        self.matrix, self.guide, self.product = (
            like.new_zeros(groups, inputs, nodes) for _ in range(3)
        )
        self.square = like.new_zeros(groups, inputs, inputs)

    @override
    def observe(self, x: Tensor, a: Tensor, memory: float) -> None:
        self.square.baddbmm_(x.mT, x, beta=memory)
        self.product.baddbmm_(x.mT, a, beta=memory)

    @override
    def solve(self, x: Tensor, a: Tensor, lr: float, ridge: float = RIDGE) -> Tensor:
        guessed = x @ self.matrix
        whole, rest, own = (y.square().sum() for y in (a, a - guessed, guessed))
        newest = torch.stack([0.5 * (whole - rest + own), own])
        self.explained.lerp_(newest, 1 - TRUST_MEMORY).clamp_min_(1e-24)
        trust = (self.explained[0] / self.explained[1]).clamp_(0.0, 1.0)
        square = self.square.clone()
        diagonal = square.diagonal(dim1=-2, dim2=-1)
        strength = ridge * diagonal.mean(-1, keepdim=True) + 1e-24
        diagonal.add_(strength)
        factor, _ = torch.linalg.cholesky_ex(square)
        right = torch.addcmul(self.product, self.matrix, strength.unsqueeze(-1))
        self.matrix.lerp_(torch.cholesky_solve(right, factor), lr)
        torch.mul(self.matrix, trust, out=self.guide)
        unexplained: Tensor = rest / whole.clamp_min(1e-24)
        return unexplained


def fit_of_shape(shape: tuple[int, ...], like: Tensor) -> LinearFit:
    """A fit of a map of shape (d, n), or of G maps, (G, d, n)."""
    if len(shape) == 3:
        return GroupedFit(shape[0], shape[1], shape[2], like)
    return LinearFit(shape[0], shape[1], like)


class Passed:
    """What noisy passes did, beside the clean one.

    Args:
        activity: the activity of the clean pass.
        noise: the noise of every node in all passes, (K, B, N).
        sigma: its standard deviation.

    Attributes:
        moved: change of each call's pre-activations in the first draw, (B, units); summed over
            passes if each had noise in another layer.
        inputs: change of the inputs of the calls that are fed by others, (rows, ...), likewise.
        slopes: of `Wiring.slopes`.
        outputs: for each pass its outputs, every tensor (K, B, ...), and which calls were noisy.
        amplified: how many times the correction blows up what a guess leaves.
    """

    def __init__(self, activity: Activity, noise: Tensor, sigma: float) -> None:
        self.activity = activity
        self.noise = noise
        self.sigma = sigma
        self.moved: list[Tensor] = []
        self.inputs: dict[int, Tensor] = {}
        self.slopes: dict[Edge, Tensor] = {}
        self.outputs: list[tuple[Tree, Sequence[int]]] = []
        self.amplified = float(activity.size)

    def add(
        self, wiring: Wiring, outputs: Tree, seen: Sequence[NoisyCall], noisy: Sequence[int]
    ) -> None:
        """Note a pass.

        Args:
            wiring: of the network.
            outputs: the outputs of the pass, each tensor (K, B, ...).
            seen: what its calls saw.
            noisy: indices of the calls whose noise it had.
        """
        activity, moved, inputs = self.activity, [], {}
        batch, several = activity.batch, len(self.noise) > 1
        for index, (call, other) in enumerate(zip(activity.calls, seen, strict=True)):
            a, x = other.pre_activation, other.raw_inputs
            if several:
                rows = call.pre_activation.shape[0]
                a, x = a.narrow(0, 0, rows), x.narrow(0, 0, rows)
            moved.append(by_sample(a - call.pre_activation, batch))
            if wiring.fed[index]:
                inputs[index] = x - call.raw_inputs
        # Rounding decides the sign of a change much below σ.
        floor = 1e-3 * self.sigma
        self.slopes |= wiring.slopes(activity, moved, inputs, noisy, floor=floor)
        if self.moved:
            for total, change in zip(self.moved, moved, strict=True):
                total += change
            for index, change in inputs.items():
                self.inputs[index] += change
        else:
            self.moved, self.inputs = moved, inputs
        self.outputs.append((outputs, noisy))


class Feedback(ABC):
    """What one rule has learned of the networks that it has met, each by its number.

    Args:
        lr: step size; see the kinds.
        wiring: of `Wiring`.

    Attributes:
        wirings: the wirings of the networks met since the rule was made, copied or loaded.

    Raises:
        RuleError: a step size out of range, or an unknown wiring.
    """

    kind: ClassVar[str]

    def __init__(self, lr: float | None, wiring: str) -> None:
        if lr is not None and not 0.0 <= lr <= 1.0:
            raise RuleError(f"feedback_lr must be in [0, 1], got {lr!r}")
        self.lr = lr
        self.mode = check_wiring(wiring)
        self.forward_only = wiring == "forward"
        self.wirings: dict[int, Wiring] = {}

    def wiring(self, network: int, activity: Activity) -> Wiring:
        """How errors pass between the layers of a network; looked at when it is new.

        Args:
            network: its number.
            activity: the activity of a pass through it.
        """
        known = self.wirings.get(network)
        if known is None or known.signature != signature(activity):
            known = self.wirings[network] = Wiring(activity, self.mode)
            self.meet(network, activity, known)
        return known

    @abstractmethod
    def meet(self, network: int, activity: Activity, wiring: Wiring) -> None:
        """Get ready for a network that is new, or is not as it was."""

    @abstractmethod
    def guess(self, network: int, error: Tensor, passed: Passed) -> Tensor:
        """``g⁰`` of every node, shape (B, N), from what earlier steps have taught.

        Args:
            network: its number.
            error: e, shape (B, outputs).
            passed: what this step's noisy passes did.
        """

    @abstractmethod
    def learn(self, network: int, passed: Passed) -> None:
        """Learn from this step's noisy passes."""

    @abstractmethod
    def state_dict(self) -> dict[int, dict[str, Any]]:
        """What was learned, by network and layer."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        """Continue from a saved state."""

    def __getstate__(self) -> dict[str, Any]:
        """What copies keep: all but what was seen of networks, as for the rule."""
        return vars(self) | {"wirings": {}}


class LayerwiseFeedback(Feedback):
    """A guess that passes down from layer to layer, by a fit of each.

    Args:
        lr: share of the way to the fit's answer that B goes; None for all of it.
        wiring: of `Wiring`.

    Attributes:
        fits: by the number of a network and the name of a layer.
    """

    kind = "layerwise"

    def __init__(self, lr: float | None, wiring: str) -> None:
        super().__init__(lr, wiring)
        self.fits: dict[int, dict[str, LinearFit]] = {}
        self._calls: dict[int, list[tuple[int, LinearFit]]] = {}
        self._uses: dict[int, list[tuple[LinearFit, list[int]]]] = {}

    @override
    def meet(self, network: int, activity: Activity, wiring: Wiring) -> None:
        fits = self.fits.setdefault(network, {})
        self._calls[network] = []
        for index, call in enumerate(activity.calls):
            if not wiring.fed[index]:
                continue
            x = call.layer.input_rows(call.raw_inputs[:1])
            nodes = call.layer.node_rows(call.pre_activation[:1]).shape[-1]
            shape = (*x.shape[:-2], x.shape[-1], nodes)
            fit = fits.get(call.layer.name)
            if fit is None or not fit.suits(shape, activity.like):
                fit = fits[call.layer.name] = fit_of_shape(shape, activity.like)
            self._calls[network].append((index, fit))
        # A layer that runs several times, as over time, has one fit.
        uses: dict[int, tuple[LinearFit, list[int]]] = {}
        for index, fit in self._calls[network]:
            uses.setdefault(id(fit), (fit, []))[1].append(index)
        self._uses[network] = list(uses.values())

    @override
    def guess(self, network: int, error: Tensor, passed: Passed) -> Tensor:
        return self.pull(network, passed.activity, error, passed.slopes)

    def pull(
        self, network: int, activity: Activity, error: Tensor, slopes: Mapping[Edge, Tensor]
    ) -> Tensor:
        """Errors of all nodes, shape (rows, N), from those of the outputs, (rows, outputs)."""
        guides = {index: fit.guide for index, fit in self._calls[network]}
        return self.wirings[network].pull(activity, error, guides, slopes)

    def maps(self, network: int) -> dict[int, Tensor]:
        """B of each call that is fed by others, (d, n)."""
        return {index: fit.matrix for index, fit in self._calls[network]}

    @override
    def learn(self, network: int, passed: Passed) -> None:
        for fit, indices in self._uses[network]:
            if not fit.due():
                continue
            rows = [self._rows(passed, index, fit, len(indices)) for index in indices]
            x, a = (
                rows[0] if len(rows) == 1 else (torch.cat(s, -2) for s in zip(*rows, strict=True))
            )
            fit.take(x, a, self.lr, passed.amplified)

    def _rows(self, passed: Passed, index: int, fit: LinearFit, uses: int) -> tuple[Tensor, Tensor]:
        """Changes of inputs and pre-activations of one of a layer's uses, as many as are wanted."""
        batch, call = passed.activity.batch, passed.activity.calls[index]
        a, units = passed.moved[index], call.pre_activation.shape[1:]
        places = a.shape[1] // (fit.matrix.numel() // fit.inputs)
        samples = fit.samples(batch, places * uses)
        a = (a - share(passed.noise[0], call)).narrow(0, 0, samples)
        folded = call.pre_activation.shape[0] // batch
        x = passed.inputs[index].narrow(0, 0, samples * folded)
        return call.layer.input_rows(x), call.layer.node_rows(a.reshape(samples * folded, *units))

    def learn_activity(self, network: int, *activities: Activity) -> None:
        """Learn from inputs and pre-activations whose noise is hidden.

        A layer's own noise has nothing to do with its inputs, so the fit is right on average, and
        the more its inputs vary, the better: between passes and between samples.

        Args:
            network: its number.
            activities: the activities of passes since the last call.
        """
        for index, fit in self._calls[network]:
            calls = [activity.calls[index] for activity in activities]
            layer, first = calls[0].layer, calls[0].pre_activation
            rows = len(calls) * first.numel() // (fit.matrix.numel() // fit.inputs)
            step = max(1, rows // (WIDE if fit.wide else HIDDEN_ROWS))
            x = layer.input_rows(torch.cat([call.raw_inputs for call in calls])[::step])
            a = layer.node_rows(torch.cat([call.pre_activation for call in calls])[::step])
            x, a = x - x.mean(-2, keepdim=True), a - a.mean(-2, keepdim=True)
            fit.observe(x, a, max(1 - x.shape[-2] / fit.inputs, 0.0))
            fit.follow(x, a, HIDDEN_RATES if self.lr is None else (self.lr,), HIDDEN_RIDGE)

    @override
    def state_dict(self) -> dict[int, dict[str, Any]]:
        return {
            network: {name: fit.state_dict() for name, fit in fits.items()}
            for network, fits in self.fits.items()
        }

    @override
    def load_state_dict(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        self.wirings.clear()
        self.fits = {
            int(network): {name: LinearFit.from_state(fit) for name, fit in fits.items()}
            for network, fits in state.items()
        }

    @override
    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_calls": {}, "_uses": {}}


class DirectFeedback(Feedback):
    """A guess that goes from the outputs to every layer at once: ``g⁰_l = B_l e``.

    Args:
        lr: of B, by least mean squares of the change of the outputs on the noise of the layer;
            None for `DIRECT_LR`.
        wiring: of `Wiring`, which tells what the outputs are.

    Attributes:
        matrices: by the number of a network and the index of a layer call, shape (N_l, outputs).
    """

    kind = "direct"

    def __init__(self, lr: float | None, wiring: str) -> None:
        super().__init__(lr, wiring)
        self.matrices: dict[int, dict[int, Tensor]] = {}

    @override
    def meet(self, network: int, activity: Activity, wiring: Wiring) -> None:
        outputs = sum(output_sizes(activity.outputs))
        matrices = self.matrices.setdefault(network, {})
        for index, (call, known) in enumerate(zip(activity.calls, wiring.known, strict=True)):
            if known is not None:
                continue
            shape = (call.nodes.stop - call.nodes.start, outputs)
            if index not in matrices or matrices[index].shape != shape:
                matrices[index] = activity.like.new_zeros(shape)
            matrices[index] = matrices[index].to(activity.like)

    @override
    def guess(self, network: int, error: Tensor, passed: Passed) -> Tensor:
        total = error.new_empty(len(error), passed.activity.size)
        known = self.wirings[network].known
        for index, (call, columns) in enumerate(zip(passed.activity.calls, known, strict=True)):
            own = share(total, call)
            if columns is None:
                torch.mm(error, self.matrices[network][index].mT, out=own)
            else:
                own.copy_(error[:, columns])
        return total

    @override
    def learn(self, network: int, passed: Passed) -> None:
        matrices = self.matrices[network]
        activity = passed.activity
        clean = flatten(activity.outputs, 1)
        lr = DIRECT_LR if self.lr is None else self.lr
        for outputs, noisy in passed.outputs:
            noises = {
                index: share(passed.noise, activity.calls[index]).flatten(0, 1)
                for index in noisy
                if index in matrices
            }
            # Each layer learns from what all together leave unexplained.
            left = (flatten(outputs, 2) - clean).flatten(0, 1)
            for index, noise in noises.items():
                left = torch.addmm(left, noise, matrices[index], alpha=-1)
            for index, noise in noises.items():
                matrices[index].addmm_(noise.mT, left, alpha=lr / (len(noise) * passed.sigma**2))

    @override
    def state_dict(self) -> dict[int, dict[str, Any]]:
        return {
            network: {str(index): {"matrix": m.clone()} for index, m in own.items()}
            for network, own in self.matrices.items()
        }

    @override
    def load_state_dict(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        self.wirings.clear()
        self.matrices = {
            int(network): {int(index): saved["matrix"].clone() for index, saved in own.items()}
            for network, own in state.items()
        }


KINDS: Mapping[str, type[Feedback]] = {
    kind.kind: kind for kind in (LayerwiseFeedback, DirectFeedback)
}


def make_feedback(kind: str, lr: float | None, wiring: str) -> Feedback:
    """Feedback by name.

    Raises:
        RuleError: unknown name, a step size out of range, or an unknown wiring.
    """
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise RuleError(f"unknown feedback {kind!r}{hint}. Known: True, {', '.join(KINDS)}")
    return KINDS[kind](lr, wiring)


def error_and_change(
    activity: Activity,
    outputs: Tree,
    delta_loss: Callable[[Tree], Tensor],
    step: float,
    *,
    forward: bool = False,
) -> tuple[Tensor, Tensor]:
    """``dL/dy`` of every output from the loss alone, and δL of noisy outputs.

    By central differences, both from one evaluation of the loss: a loss is many small operations,
    which take as long for a few rows as for some more. The work is quadratic in the outputs, so a
    loss of more than `MANY_OUTPUTS` (an image, the letters of a text) is differentiated by
    autograd, from the outputs on: there is no layer and no weight in it.

    Args:
        activity: the activity of the clean pass.
        outputs: the outputs of the noisy passes, (K, B, ...); may be none.
        delta_loss: from outputs (K, B, ...) to the change of the loss, (K, B).
        step: how far an output is moved; the error is of the order of its square.
        forward: differences however many outputs there are, a few at a time.

    Returns:
        The error, shape (B, outputs), and δL, shape (K, B).
    """
    clean, noisy = tensors(activity.outputs), tensors(outputs)
    sizes = output_sizes(activity.outputs)
    count = sum(sizes)
    if count > MANY_OUTPUTS:
        change = delta_loss(outputs) if noisy else clean[0].new_zeros(0, activity.batch)
        error = None if forward else _error_by_autograd(activity.outputs, delta_loss)
        if error is None:  # as of a loss that leaves torch
            error = _error_by_parts(activity.outputs, delta_loss, step)
        return error, change
    both = _there_and_back(count, step, clean[0].dtype, clean[0].device)
    moved = [
        y + part.view(-1, 1, *y.shape[1:])
        for y, part in zip(clean, torch.split(both, sizes, dim=1), strict=True)
    ]
    if noisy:
        moved = [torch.cat(pair) for pair in zip(moved, noisy, strict=True)]
    parts = iter(moved)
    change = delta_loss(tree_map(lambda _: next(parts), activity.outputs))
    up, down = change[:count], change[count : 2 * count]
    error = ((up - down) / (2 * step)).mT.to(clean[0].dtype)
    return error, change[2 * count :]


def _error_by_autograd(outputs: Tree, delta_loss: Callable[[Tree], Tensor]) -> Tensor | None:
    """``dL/dy``, (B, outputs), with the outputs as leaves; None if autograd cannot follow."""
    with torch.enable_grad():
        leaves = tree_map(lambda y: y.detach().requires_grad_(), outputs)
        change = delta_loss(tree_map(lambda y: y.unsqueeze(0), leaves))
    if not change.requires_grad:
        return None
    ys = tensors(leaves)
    parts = torch.autograd.grad(change, ys, torch.ones_like(change), allow_unused=True)
    given = [y.new_zeros(y.shape) if p is None else p for y, p in zip(ys, parts, strict=True)]
    return torch.cat([p.flatten(1) for p in given], dim=1)


def _error_by_parts(outputs: Tree, delta_loss: Callable[[Tree], Tensor], step: float) -> Tensor:
    """``dL/dy``, (B, outputs), by central differences, `MANY_OUTPUTS` at a time."""
    ys = tensors(outputs)
    flat = torch.cat([y.flatten(1) for y in ys], dim=1)
    moves = step * torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device).unsqueeze(1)

    def change(moved: Tensor) -> Tensor:
        each = torch.split(moved, output_sizes(outputs), dim=2)
        shaped = iter([m.reshape(-1, *y.shape) for m, y in zip(each, ys, strict=True)])
        return delta_loss(tree_map(lambda _: next(shaped), outputs))

    few = torch.split(moves, MANY_OUTPUTS)
    errors = [(change(flat + some) - change(flat - some)).mT / (2 * step) for some in few]
    return torch.cat(errors, dim=1).to(flat.dtype)


@cache
def _there_and_back(size: int, step: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Steps along every axis, and the same backwards; shape (2 · size, size)."""
    directions = step * torch.eye(size, dtype=dtype, device=device)
    return torch.cat([directions, -directions])


def _flat(x: Tensor) -> NDArray[Any]:
    return x.numpy().reshape(-1)


def flatten(outputs: Tree, leading: int) -> Tensor:
    """All outputs of a sample side by side, keeping the first `leading` axes."""
    return torch.cat([y.flatten(leading) for y in tensors(outputs)], dim=-1)
