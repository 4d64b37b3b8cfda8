"""Rules that believe a feedback path: alone, mirrored, random, or direct with a correction.

All of them find the error of the outputs, e = dL/dy, by evaluations of the loss alone, and pass it
to the hidden layers through matrices that are not the weights. What they differ in is where the
matrices come from, and whether anything corrects what they say. Those without a correction are
biased: they point along the gradient as far as their matrices do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from nprobot import catalogue
from nprobot.errors import RuleError
from nprobot.learning.activity import Activity, Tree, share
from nprobot.learning.feedback import DirectFeedback, LayerwiseFeedback, Passed, error_and_change
from nprobot.learning.noise import PerturbationStream
from nprobot.learning.rules import FeedbackNodePerturbation, FeedbackRule
from nprobot.learning.wiring import Edge, Wiring, replay

MIRROR_RATE = 0.1
"""Share of the way that a weight mirror goes in a step."""


@catalogue.rule(
    name="feedback-alone",
    title="Feedback alone",
    about="the learned guess of the node errors, with nothing to correct it",
    citation="this package; an ablation of np+feedback",
    guided=True,
    peer=True,
    settings={"sigma": 1e-3, "samples": 1},
    colours=("#7f7f00", "#a55194"),
    marker="d",
)
class FeedbackAlone(FeedbackNodePerturbation):
    """``g⁰_l``: the guess of `np+feedback` without the noise's correction.

    The noisy pass is there to learn the matrices from, and to measure the slopes of the activation
    functions. Biased wherever the matrices are wrong: the difference to `np+feedback` is what the
    correction is worth. In large networks there is none, as `np+feedback` leaves it out there.
    """

    @override
    def strength(self, units: int, batch: int, draws: int) -> float:
        return 0.0


class MirrorFeedback(LayerwiseFeedback):
    """Matrices that a layer's responses to noise at its inputs are correlated into.

    Args:
        lr: λ of the mirror; None for `MIRROR_RATE`.
        wiring: of `Wiring`.
        source: the source of the noise.
    """

    kind: ClassVar[str] = "mirror"

    def __init__(self, lr: float | None, wiring: str, source: PerturbationStream) -> None:
        super().__init__(lr, wiring)
        self.source = source

    @override
    def learn(self, network: int, passed: Passed) -> None:
        rate = MIRROR_RATE if self.lr is None else self.lr
        for fit, indices in self._uses[network]:
            call = passed.activity.calls[indices[0]]
            noise = self.source.normal_like(call.raw_inputs, 1.0)
            response = call.layer.pre_activation(noise)
            response = response - call.layer.pre_activation(torch.zeros_like(noise[:1]))
            x, a = call.layer.input_rows(noise), call.layer.node_rows(response)
            fit.matrix.mul_(1 - rate).add_(x.mT @ a, alpha=rate / x.shape[-2])
            fit.guide.copy_(fit.matrix)


@catalogue.rule(
    name="weight-mirror",
    title="Weight mirror",
    about="errors through matrices that mirror the weights, learned from noise at layers' inputs",
    citation="Akrout et al., NeurIPS 2019",
    guided=True,
    peer=True,
    settings={"sigma": 1e-3, "samples": 1},
    colours=("#17becf", "#0f6f78"),
    marker="h",
)
class WeightMirror(FeedbackAlone):
    """Feedback alignment whose matrices are learned in mirror mode.

    Akrout, Wilson, Humphreys, Lillicrap & Tweed 2019 (arXiv 1904.05391), section 3: white noise ξ
    stands at the inputs of a layer, and ``B ← (1 − λ) B + λ ξ (W ξ)ᵀ``, which comes to ``Wᵀ`` on
    average. Each layer has its own noise, one row for each sample of the batch, and after it a
    step of learning. B starts at 0 here, not at random: what has not been mirrored says nothing.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.feedback = MirrorFeedback(self.feedback.lr, self.feedback.mode, self.source)

    @override
    def noisy_passes(self, activity: Activity) -> int:
        return 2  # one for the slopes, one in mirror mode


class RandomFeedback(DirectFeedback):
    """Matrices that are drawn once and stay, N(0, 1/outputs).

    Args:
        wiring: of `Wiring`.
        seed: the seed of the matrices.
    """

    kind: ClassVar[str] = "random"

    def __init__(self, wiring: str, seed: int) -> None:
        super().__init__(None, wiring)
        self.seed = seed

    @override
    def meet(self, network: int, activity: Activity, wiring: Wiring) -> None:
        before = dict(self.matrices.get(network, {}))
        super().meet(network, activity, wiring)
        for index, matrix in self.matrices[network].items():
            if index in before and before[index].shape == matrix.shape:
                continue
            source = PerturbationStream("gaussian", self.seed + 1009 * network + index)
            matrix.copy_(source.draw(matrix.shape, matrix, matrix.shape[1] ** -0.5))
            for columns, fed in zip(wiring.known, wiring.fed, strict=True):
                if columns is not None and not fed:  # outputs that no layer moves
                    matrix[:, columns] = 0.0

    @override
    def learn(self, network: int, passed: Passed) -> None:
        """Nothing: they stay."""


@catalogue.rule(
    name="dfa",
    title="DFA",
    about="direct feedback alignment: the outputs' error through fixed random matrices",
    citation="Nøkland, NeurIPS 2016",
    guided=True,
    peer=True,
    settings={"sigma": 1e-3, "samples": 1},
    colours=("#9c755f", "#5b3a29"),
    marker="8",
)
class DirectFeedbackAlignment(FeedbackRule):
    """``(B_l e) ∘ f'(a_l)``, with B_l drawn once (Nøkland 2016, arXiv 1609.01596, equation 8).

    No noisy pass: f' is the slope of the activation functions over a step of σ at the clean
    activity, where no layer computes.

    Raises:
        RuleError: units mix between layers (pooling, attention), so no unit has a slope.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "feedback": "direct"})
        self.feedback = RandomFeedback(self.feedback.mode, self.source.seed)

    @override
    def noisy_passes(self, activity: Activity) -> int:
        return 0

    @override
    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Tree], Tensor]
    ) -> Tensor:
        network = self._index(activity.network)
        wiring = self.feedback.wiring(network, activity)
        if wiring.kind != "forward":
            raise RuleError(
                f"direct feedback alignment takes the slope of every unit, and {wiring.reason}; "
                "np+feedback learns such a network"
            )
        error, _ = error_and_change(activity, (), delta_loss, self.sigma)
        total = self.feedback.guess(network, error, Passed(activity, noise, self.sigma))
        for index, slope in self._slopes(activity, wiring, noise[0]).items():
            share(total, activity.calls[index]).mul_(slope)
        return total / activity.batch

    def _slopes(self, activity: Activity, wiring: Wiring, step: Tensor) -> dict[int, Tensor]:
        """Slope of every unit of each hidden call, (B, units), over a step of all nodes (B, N)."""
        moved = [share(step, call) for call in activity.calls]
        base = replay(activity, {})
        slopes: dict[int, Tensor] = {}
        for index, known in enumerate(wiring.known):
            if known is not None:
                continue
            alone = replay(activity, {index: moved[index]})
            inputs = {t: alone[t] - base[t] for t in alone if t is not None}
            floor = 1e-3 * self.sigma
            found: dict[Edge, Tensor] = wiring.slopes(activity, moved, inputs, [index], floor=floor)
            edges = wiring.edges[index]
            ones = torch.ones_like(moved[index])
            total = sum((found.get(edge, ones) for edge in edges), torch.zeros_like(ones))
            slopes[index] = total / max(len(edges), 1)
        return slopes


@catalogue.rule(
    name="apical",
    title="Apical",
    about="NP of what a learned direct map from the outputs' error leaves unexplained",
    citation="Apical Dust, Q Labs 2026",
    guided=True,
    peer=True,
    settings={"sigma": 1e-3, "samples": 1},
    colours=("#e377c2", "#8c2d74"),
    marker="H",
)
class ApicalFeedback(FeedbackNodePerturbation):
    """`np+feedback` with *direct* feedback: ``g⁰_l = B_l e``, and the noise's correction.

    One linear map from the error of the outputs to every layer, as a control variate; unbiased.
    Apical Dust perturbs a layer a pass; here all layers are noisy in the one pass.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "feedback": "direct"})
