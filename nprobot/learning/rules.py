"""The learning rules: node perturbation, its variants, and backpropagation as the baseline.

Notation of Dalm, van Gerven & Ahmad (arXiv 2310.00965), with the equations as in the first author's
reference code: layer l has N_l nodes, ``a_l = W_l x*_{l-1} + b_l`` with ``x*_l = R_l x_l``; noise ε
with standard deviation σ is added to every pre-activation; δL and δa are the changes that it makes
to a sample's loss and to its pre-activations. Every rule turns them into node errors, an estimate
of dL/da for each node and sample, whose outer product with the clean input x* is the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from nprobot import catalogue
from nprobot.errors import NoiseInaccessibleError, RuleError

from .activity import Activity, NoisyCall, Tree, first_tensor, share
from .feedback import (
    UNCORRECTED,
    LayerwiseFeedback,
    Passed,
    error_and_change,
    make_feedback,
)
from .hidden_noise import (
    GuidedPasses,
    HiddenFeedback,
    NoisyPasses,
    make_reference,
    residual_error,
)
from .rule import LearningRule, Loss, PerturbationRule, per_sample

AVERAGED_STEPS = 100
"""Steps of an optimiser that average out each other's noise."""


@catalogue.rule(
    name="np",
    title="NP",
    about="node perturbation: the change of the loss times the noise of each node",
    citation="Dalm, van Gerven & Ahmad, arXiv 2310.00965",
    colours=("#31a354", "#41a6c9"),
    marker="o",
)
class NodePerturbation(PerturbationRule):
    """NP: ``δL ε_l / σ²``. One noisy pass; unbiased to first order in σ."""

    short_form = "np"

    @override
    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Tree], Tensor]
    ) -> Tensor:
        weight = delta_loss(activity.perturbed(noise)) / self.sigma**2
        return average(weight, noise)


@catalogue.rule(
    name="inp",
    title="INP",
    about="iterative node perturbation: a noisy pass for each layer",
    citation="Dalm, van Gerven & Ahmad, arXiv 2310.00965",
    colours=("#a1d99b", "#9ebcda"),
    marker="v",
)
class IterativeNodePerturbation(PerturbationRule):
    """INP: ``N_l δL⁽ˡ⁾ ε_l / ‖ε_l‖²``, with δL⁽ˡ⁾ from a pass in which only layer l is noisy.

    One noisy pass a layer; unbiased to first order in σ.
    """

    short_form = "inp"

    @override
    def noisy_passes(self, activity: Activity) -> int:
        return len(activity.calls)

    @override
    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Tree], Tensor]
    ) -> Tensor:
        errors = []
        for layer, call in enumerate(activity.calls):
            own = noise[..., call.nodes]
            change = delta_loss(activity.perturbed(noise, start=layer, stop=layer + 1))
            weight = own.shape[-1] * change / square_norm(own)
            errors.append(average(weight, own))
        return torch.cat(errors, dim=-1)


@catalogue.rule(
    name="anp",
    title="ANP",
    about="activity-based node perturbation: needs what the noise did, not the noise",
    citation="Dalm, van Gerven & Ahmad, arXiv 2310.00965",
    hidden_noise=True,
    colours=("#756bb1", "#08519c"),
    marker="s",
)
class ActivityNodePerturbation(PerturbationRule):
    """ANP: ``N δL δa_l / ‖δa‖²``, the norm taken over all nodes of all layers, per sample.

    One noisy pass. Not unbiased: its mean is the gradient times the covariance of δa, a positive
    semi-definite preconditioning. It does not need to know the noise, only what it did.

    On a network whose noise is hidden, δL and δa are differences of noisy passes; layers of it that
    are not on the chip get noise of the learner's. See `nprobot.learning.hidden_noise`.

    Args:
        reference: what noisy passes are compared with then: ``"second-pass"`` or
            ``"running-mean"``.
        reference_rate: weight of the newest call in the running mean.
        settings: arguments of `LearningRule`.
    """

    short_form = "anp"

    def __init__(
        self,
        *,
        reference: str = "second-pass",
        reference_rate: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.reference = make_reference(reference, reference_rate)
        self._chip_sigma: dict[int, float] = {}  # how noisy a chip has shown to be, by network

    @override
    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Tree], Tensor]
    ) -> Tensor:
        delta_activity = noise  # ε_l becomes δa_l in its place, layer by layer
        change = delta_loss(activity.perturbed(noise, activity=delta_activity))
        weight = activity.size * change / square_norm(delta_activity)
        return average(weight, delta_activity)

    @override
    def learn_from_hidden_noise(self, network: nn.Module, inputs: Tree, loss: Loss) -> Tensor:
        index = self._index(network)
        draw = partial(self.source.normal_like, scale=self._chip_sigma.get(index, self.sigma))
        passes = NoisyPasses(network, inputs, self.reference.passes(self.samples), draw)
        losses = passes.losses(loss)
        delta_activity, delta_loss = self.reference.compare(index, passes.pre_activations, losses)
        weight = delta_activity.shape[-1] * delta_loss / square_norm(delta_activity)
        node_error = delta_activity * (weight / weight.numel()).unsqueeze(-1)
        seen = passes.even_out(node_error, delta_activity)
        if seen and index not in self._chip_sigma:
            # Once: what the learner adds comes to the chip's nodes, too, and would add up.
            self._chip_sigma[index] = seen
        passes.accumulate(node_error)
        self.remember_inputs(passes.layer_inputs())
        self.forward_passes += passes.activity.batch
        return losses[0]

    @override
    def forget(self) -> None:
        super().forget()
        self.reference.load_state_dict({})
        self._chip_sigma = {}

    @override
    def state_dict(self) -> dict[str, Any]:
        own = {"reference": self.reference.state_dict(), "chip_sigma": dict(self._chip_sigma)}
        return super().state_dict() | own

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.reference.load_state_dict(state.get("reference", {}))
        sigmas = state.get("chip_sigma", {})
        self._chip_sigma = {int(index): float(sigma) for index, sigma in sigmas.items()}


class FeedbackRule(PerturbationRule):
    """What the two rules with learned feedback share.

    Layers that are frozen have nodes, too, so that a guess can pass through them.

    Args:
        feedback: ``"layerwise"`` or ``"direct"``; see `nprobot.learning.feedback`.
        feedback_lr: step size of the feedback matrices; None for the kind's own.
        wiring: ``"auto"`` or ``"forward"``; see `nprobot.learning.wiring`.
        settings: arguments of `LearningRule`.
    """

    frozen_nodes = True

    def __init__(
        self,
        *,
        feedback: str = "layerwise",
        feedback_lr: float | None = None,
        wiring: str = "auto",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.feedback = make_feedback(feedback, feedback_lr, wiring)

    def wiring(self, network: nn.Module) -> str | None:
        """How errors pass between a network's layers: ``"forward"``, or by autograd and why.

        None before the first `backward`. Layers' weights have no part in either.
        """
        index = self._network_index.get(network, -1)
        known = self.feedback.wirings.get(index)
        return None if known is None else str(known)

    @override
    def forget(self) -> None:
        super().forget()
        self.feedback.load_state_dict({})

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"feedback": self.feedback.state_dict()}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        saved = state["feedback"]
        # Earlier versions kept matrices of another kind; new ones are learned in a few steps.
        self.feedback.load_state_dict({} if "matrices" in saved else saved)


@catalogue.rule(
    name="np+feedback",
    title="NP + feedback",
    about="node perturbation of what a learned guess of the node errors leaves unexplained",
    citation="this package",
    hidden_noise=True,
    # One noisy pass does, as little variance is left; so little to average that curvature shows,
    # which a small sigma takes away.
    settings={"sigma": 1e-3, "samples": 1},
    colours=("#b8a800", "#d6278f"),
    marker="D",
)
class FeedbackNodePerturbation(FeedbackRule, NodePerturbation):
    """NP with learned feedback: ``g⁰_l + (δL − Σ_m g⁰_m·ε_m) ε_l / σ²``; see `feedback`.

    One noisy pass, and evaluations of the loss. The second summand, the correction, makes the
    estimate unbiased, as NP is, whatever the feedback matrices. It has the variance of NP at what
    the guess leaves, curvature of the loss included, N times that for N nodes. In a network with
    more nodes than `AVERAGED_STEPS` steps have draws, that drowns the guess, so there the guess
    alone is the estimate (a GPT of 209,000 nodes a sample: cosine to backprop's gradient .02 with
    the correction and 1.00 without).

    On a network whose noise is hidden the guess alone is the estimate, or with a correction from
    the noise as it is inferred; see `nprobot.learning.hidden_noise`.

    Args:
        correction: strength of the correction, 0 to 1. Left out: 1 or 0, by the size of the
            network, as above; 0 where the noise is hidden.
        settings: arguments of `FeedbackRule`.

    Raises:
        RuleError: a setting is out of range.
    """

    short_form = "np+feedback"

    def __init__(self, *, correction: float | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        if correction is not None and not 0.0 <= correction <= 1.0:
            raise RuleError(f"correction must be in [0, 1], got {correction!r}")
        self.correction = correction
        # By network: how noisy its chip has shown to be, how far outputs are moved if not σ, and
        # which layers are outputs.
        self._chip_sigma: dict[int, float] = {}
        self._error_step: dict[int, float] = {}
        self._outputs: dict[int, list[str]] = {}

    @override
    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Tree], Tensor]
    ) -> Tensor:
        network = self._index(activity.network)
        outputs, passed = self.noisy_pass(activity, noise)
        error, change = error_and_change(
            activity, outputs, delta_loss, self.sigma, forward=self.feedback.forward_only
        )
        strength = self.strength(activity.size, activity.batch, len(noise))
        passed.amplified = strength * activity.size or UNCORRECTED
        if not strength:  # no noise is multiplied by the guess, so it may know this step's
            self.feedback.learn(network, passed)
            return self.feedback.guess(network, error, passed) / activity.batch
        guess = self.feedback.guess(network, error, passed)
        self.feedback.learn(network, passed)
        residual = change - torch.linalg.vecdot(noise, guess)
        weight = residual * (strength / self.sigma**2)
        return average(weight, noise).add_(guess, alpha=1 / activity.batch)

    def strength(self, units: int, batch: int, draws: int) -> float:
        """Of the correction where the noise is known.

        Args:
            units: nodes of the network, of one sample.
            batch: samples of a step.
            draws: noisy passes of a step.
        """
        if self.correction is not None:
            return self.correction
        guesses_well = isinstance(self.feedback, LayerwiseFeedback)
        return float(not guesses_well or units <= AVERAGED_STEPS * draws * batch)

    def noisy_pass(self, activity: Activity, noise: Tensor) -> tuple[Tree, Passed]:
        """Outputs of noisy passes, and what they did.

        Args:
            activity: the activity of the clean pass.
            noise: ε of every node, (K, B, N); set to 0 where the error of the node is known.
        """
        wiring = self.feedback.wiring(self._index(activity.network), activity)
        for call, known in zip(activity.calls, wiring.known, strict=True):
            if known is not None:
                share(noise, call).zero_()
        seen: list[NoisyCall] = []
        outputs = activity.perturbed(noise, record=seen)
        passed = Passed(activity, noise, self.sigma)
        passed.add(wiring, outputs, seen, range(len(seen)))
        return outputs, passed

    def hidden_feedback(self, network: nn.Module, inputs: Tree, passes: int) -> HiddenFeedback:
        """Run a network whose noise is hidden, and what is known of how errors pass through it.

        Args:
            network: with layers on a chip.
            inputs: a batch.
            passes: how often it is run, from 2.

        Raises:
            NoiseInaccessibleError: the feedback has to know the noise.
        """
        if not isinstance(self.feedback, LayerwiseFeedback):
            raise NoiseInaccessibleError(
                "direct feedback has to know the noise, and this network is on a chip whose noise "
                "cannot be read; layerwise feedback needs only its activity"
            )
        index = self._index(network)
        draw = partial(self.source.normal_like, scale=self._chip_sigma.get(index, self.sigma))
        guided = GuidedPasses(network, inputs, passes, draw, self._outputs.get(index, ()))
        wiring = self.feedback.wiring(index, guided.activity)
        self._outputs[index] = sorted(wiring.known_layers)
        return HiddenFeedback(index, guided, self.feedback)

    @override
    def learn_from_hidden_noise(self, network: nn.Module, inputs: Tree, loss: Loss) -> Tensor:
        guide = self.hidden_feedback(network, inputs, self.samples + 1)
        index, passes, activity = guide.network, guide.passes, guide.passes.activity
        step = self._error_step.get(index, self.sigma)
        losses, error, noisy_loss = passes.losses_and_error(
            loss, step, forward=guide.feedback.forward_only
        )
        guess = guide.pull(error).view(*losses.shape, -1)
        if self.correction:
            own = passes.own_noise(guide.feedback.maps(index))
            guess[:-1] += self.correction * residual_error(guess, own, losses)
        guide.learn([activity])
        passes.accumulate(guess / losses.numel())
        if index not in self._chip_sigma and (seen := passes.least_noise()):
            # Once: what the learner adds comes to the chip's nodes, too, and would add up.
            self._chip_sigma[index] = seen
            if noisy_loss:  # its slope shows only over a distance
                self._error_step[index] = max(self.sigma, seen)
        self.remember_inputs(passes.layer_inputs())
        self.forward_passes += activity.batch
        return losses[0]

    @override
    def state_dict(self) -> dict[str, Any]:
        own = ("chip_sigma", "error_step", "outputs")
        return super().state_dict() | {name: dict(getattr(self, f"_{name}")) for name in own}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for name in ("chip_sigma", "error_step"):
            values = {int(index): float(value) for index, value in state.get(name, {}).items()}
            setattr(self, f"_{name}", values)
        self._outputs = {int(index): list(own) for index, own in state.get("outputs", {}).items()}


@catalogue.rule(
    name="inp+feedback",
    title="INP + feedback",
    about="iterative node perturbation of what a learned guess leaves unexplained",
    citation="this package",
    settings={"sigma": 1e-3, "samples": 1},
    colours=("#7a5c00", "#8e0152"),
    marker="^",
)
class FeedbackIterativeNodePerturbation(FeedbackRule, IterativeNodePerturbation):
    """INP with learned feedback: ``g⁰_l + N_l (δL⁽ˡ⁾ − g⁰_l·ε_l) ε_l / ‖ε_l‖²``.

    One noisy pass a hidden layer; unbiased as INP is, whatever the feedback matrices.
    """

    @override
    def noisy_passes(self, activity: Activity) -> int:
        wiring = self.feedback.wiring(self._index(activity.network), activity)
        return sum(known is None for known in wiring.known)

    @override
    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Tree], Tensor]
    ) -> Tensor:
        network = self._index(activity.network)
        error, _ = error_and_change(
            activity, (), delta_loss, self.sigma, forward=self.feedback.forward_only
        )
        wiring = self.feedback.wiring(network, activity)
        passed = Passed(activity, noise, self.sigma)
        changes: dict[int, Tensor] = {}
        for index, (call, known) in enumerate(zip(activity.calls, wiring.known, strict=True)):
            if known is not None:  # its error is known
                share(noise, call).zero_()
                continue
            seen: list[NoisyCall] = []
            outputs = activity.perturbed(noise, start=index, stop=index + 1, record=seen)
            passed.add(wiring, outputs, seen, [index])
            changes[index] = delta_loss(outputs)
        guess = self.feedback.guess(network, error, passed)
        self.feedback.learn(network, passed)
        total = guess / activity.batch
        for index, change in changes.items():
            call = activity.calls[index]
            own = share(noise, call).clone()
            explained = torch.linalg.vecdot(own, share(guess, call))
            weight = own.shape[-1] * (change - explained) / square_norm(own)
            share(total, call).add_(average(weight, own))
        return total


@catalogue.rule(
    name="bp",
    title="BP",
    about="backpropagation, the baseline",
    citation="Rumelhart, Hinton & Williams 1986; decorrelated: arXiv 2405.02385",
    perturbs=False,
    settings={"samples": 1},
    colours=("#111111", "#6b6b6b"),
    marker="P",
)
class Backpropagation(LearningRule):
    """BP and DBP, the baseline: reverse-mode differentiation, with R held constant.

    It has no use for `sigma`, `samples` and `noise`; they are accepted so that a comparison can
    build every rule from the same settings.
    """

    @override
    @torch.enable_grad()
    def backward(
        self,
        network: nn.Module,
        inputs: Tree,
        loss: Loss,
        *,
        perturbations: Sequence[Tensor] | None = None,
    ) -> Tensor:
        if perturbations is not None:
            raise RuleError("backpropagation takes no perturbations")
        batch = first_tensor(inputs).shape[0]
        losses = per_sample(loss, self.plain_outputs(network, inputs), (batch,))
        losses.mean().backward()  # type: ignore[no-untyped-call]
        self.forward_passes += batch
        self.backward_passes += batch
        return losses.detach()


BLOCK = 2**17
"""Numbers of one draw from which draws are added up one by one, as all do not fit a CPU's cache."""


def learning_rule(
    name: str = catalogue.DEFAULT_RULE,
    *,
    sigma: float | None = None,
    samples: int | None = None,
    noise: str | None = None,
    seed: int | None = None,
    antithetic: bool = False,
    decorrelation_lr: float | None = None,
    whitening: float = 0.0,
    decorrelation_interval: int = 1,
    keep_function: bool = False,
    keep_scale: bool = False,
    feedback: bool | str = False,
    feedback_lr: float | None = None,
    wiring: str = "auto",
    correction: float | None = None,
    reference: str = "second-pass",
    reference_rate: float = 0.1,
) -> LearningRule:
    """A learning rule by name.

    Args:
        name: ``"np"``, ``"inp"``, ``"anp"``: node perturbation, iterative, activity-based;
            ``"np+feedback"``, ``"inp+feedback"``: the same with learned feedback, a guess of the
            node errors, so that the noise has to find only what it leaves; the estimate stays
            unbiased (but see `correction`) and its variance falls (`nprobot.learning.feedback`).
            ``"bp"``: backpropagation, the baseline. A ``d`` in front: with decorrelation.
            ANP has no feedback, as it divides by the realised change of the activity: its mean is
            not the gradient that a guess would have to be subtracted from.
        sigma: standard deviation σ of the node noise. In float32, 1e-5 to 1e-2 is safe; below, the
            difference of two losses is rounding noise. Left out: 1e-3 with feedback, else 1e-2.
        samples: K, noisy passes that share one clean pass; the error of the estimate falls with K.
            Left out: 1 with feedback, else 8.
        noise: one of `nprobot.catalogue.NOISES`. Left out: ``"rademacher"``, random signs.
        seed: the seed of the noise; the same seed gives the same noise.
        antithetic: draw the K perturbations in pairs of opposite sign, which takes out even orders
            of the loss: for large σ. At small σ it halves the number of directions for nothing.
        decorrelation_lr: step size η_R of the decorrelation matrices; decorrelated rules only.
            Left out: 1e-4.
        whitening: share κ of R's update that drives the variances to 1; 0 in the paper.
        decorrelation_interval: update R in every n-th step, to save time.
        keep_function: let the weights follow every step of R, W ← W M⁻¹ where R ← M R, so that the
            outputs stay what they are, to rounding, and R only preconditions the gradient. Off in
            the paper, where a step of R changes the function (docs/experiments/decorrelation.md).
        keep_scale: multiply R by a number after every step, so that its norm stays what it is;
            otherwise R shrinks, and weights that follow it grow.
        feedback: for a rule with feedback ``"layerwise"``, which passes the guess from layer to
            layer, or ``"direct"``, from the outputs to every layer. True for a rule without is the
            name of the rule with feedback, said in another way.
        feedback_lr: step size of the feedback matrices; None for what suits the kind.
        wiring: how feedback passes what has no weights: ``"auto"``, forward only where every unit
            moves its own place (activation functions, sums, concatenations, reshapes), else by
            autograd with no weight in it; ``"forward"`` refuses a network that needs autograd.
        correction: how much of what a guess leaves of the loss corrects it, 0 to 1, of np+feedback.
            Left out: 1, or 0 in networks of so many nodes that it would only add variance
            (`FeedbackNodePerturbation`), and where the noise is hidden, as it has to be inferred
            there (`nprobot.learning.hidden_noise`).
        reference: what ANP and DANP compare a noisy pass with where the network's own noise is
            hidden: ``"second-pass"``, or ``"running-mean"``, which needs no second pass but rows
            that continue from batch to batch (`nprobot.learning.hidden_noise.RunningMean`).
        reference_rate: weight of the newest call in the running mean.

    Returns:
        The rule; call its `backward`, step an optimiser, then call its `decorrelate`.

    Raises:
        RuleError: unknown name (the message has the nearest), or a setting out of range.
    """
    entry = catalogue.rule_named(name, feedback=feedback)
    given = {
        "sigma": sigma,
        "samples": samples,
        "noise": noise,
        "decorrelation_lr": decorrelation_lr,
    }
    settings: dict[str, Any] = {
        **entry.settings,
        **{key: value for key, value in given.items() if value is not None},
        "decorrelated": entry.decorrelated,
        "seed": seed,
        "antithetic": antithetic,
        "whitening": whitening,
        "decorrelation_interval": decorrelation_interval,
        "keep_function": keep_function,
        "keep_scale": keep_scale,
    }
    if entry.feedback:
        kind = feedback if isinstance(feedback, str) else "layerwise"
        settings |= {"feedback": kind, "feedback_lr": feedback_lr, "wiring": wiring}
    elif wiring != "auto":
        raise RuleError(f"wiring={wiring!r} is for rules with feedback, not for {entry.name!r}")
    if entry.feedback and entry.hidden_noise:
        settings |= {"correction": correction}
    elif correction is not None:
        raise RuleError(f"correction={correction!r} is for np+feedback, not for {entry.name!r}")
    if entry.hidden_noise and not entry.feedback:
        settings |= {"reference": reference, "reference_rate": reference_rate}
    elif reference != "second-pass":
        raise RuleError(f"reference={reference!r} is for anp and danp, not for {entry.name!r}")
    rule: LearningRule = catalogue.rule_class(entry.traits)(**settings)
    return rule


def square_norm(values: Tensor) -> Tensor:
    """``‖v‖²`` over the last axis; never 0, so that noise lost to rounding gives no NaN."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=-1)
    return norm.square_().clamp_min_(torch.finfo(values.dtype).tiny)


def average(weight: Tensor, values: Tensor) -> Tensor:
    """``Σ_k weight[k, b] values[k, b, :] / (K B)``, shape (B, N); overwrites `values`."""
    weight = (weight / weight.numel()).unsqueeze(-1)
    if len(values) > 1 and values[0].numel() < BLOCK:
        return values.mul_(weight).sum(0)
    total = values[0].mul_(weight[0])
    for one, value in zip(weight[1:], values[1:], strict=True):
        total.addcmul_(one, value)
    return total
