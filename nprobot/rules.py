"""The learning rules: node perturbation, its variants, and backpropagation as the baseline.

Notation of Dalm, van Gerven & Ahmad (arXiv 2310.00965), with the equations as in the first author's
reference code: layer l has N_l nodes, ``a_l = W_l x*_{l-1} + b_l`` with ``x*_l = R_l x_l``; noise ε
with standard deviation σ is added to every pre-activation; δL and δa are the changes that it makes
to a sample's loss and to its pre-activations. Every rule turns them into node errors, an estimate
of dL/da for each node and sample, whose outer product with the clean input x* is the gradient.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from .activity import Activity, Tree, first_tensor
from .errors import RuleError
from .rule import LearningRule, Loss, PerturbationRule, per_sample


class NodePerturbation(PerturbationRule):
    """NP: ``δL ε_l / σ²``. One noisy pass; unbiased to first order in σ."""

    plain_name = "np"

    @override
    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Tree], Tensor]
    ) -> Tensor:
        weight = delta_loss(activity.perturbed(noise)) / self.sigma**2
        return average(weight, noise)


class IterativeNodePerturbation(PerturbationRule):
    """INP: ``N_l δL⁽ˡ⁾ ε_l / ‖ε_l‖²``, with δL⁽ˡ⁾ from a pass in which only layer l is noisy.

    One noisy pass a layer; unbiased to first order in σ.
    """

    plain_name = "inp"

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


class ActivityNodePerturbation(PerturbationRule):
    """ANP: ``N δL δa_l / ‖δa‖²``, the norm taken over all nodes of all layers, per sample.

    One noisy pass. Not unbiased: its mean is the gradient times the covariance of δa, a positive
    semi-definite preconditioning. It does not need to know the noise, only what it did.
    """

    plain_name = "anp"

    @override
    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Tree], Tensor]
    ) -> Tensor:
        delta_activity = noise  # ε_l becomes δa_l in its place, layer by layer
        change = delta_loss(activity.perturbed(noise, activity=delta_activity))
        weight = activity.size * change / square_norm(delta_activity)
        return average(weight, delta_activity)


class Backpropagation(LearningRule):
    """BP and DBP, the baseline: reverse-mode differentiation, with R held constant.

    It has no use for `sigma`, `samples` and `noise`; they are accepted so that a comparison can
    build every rule from the same settings.
    """

    plain_name = "bp"

    @override
    @torch.enable_grad()
    def backward(
        self,
        network: nn.Module,
        inputs: Tree,
        loss: Loss,
        *,
        noise: Sequence[Tensor] | None = None,
    ) -> Tensor:
        if noise is not None:
            raise RuleError("backpropagation takes no noise")
        batch = first_tensor(inputs).shape[0]
        if self.decorrelated:
            activity = Activity(network, inputs)
            outputs = activity.outputs
            self._remember_inputs(activity)
        else:
            outputs = network(inputs)
        losses = per_sample(loss, outputs, (batch,))
        losses.mean().backward()  # type: ignore[no-untyped-call]
        self.forward_passes += batch
        self.backward_passes += batch
        return losses.detach()


_KINDS: dict[str, type[LearningRule]] = {
    kind.plain_name: kind
    for kind in (
        NodePerturbation,
        IterativeNodePerturbation,
        ActivityNodePerturbation,
        Backpropagation,
    )
}

RULES = (*_KINDS, *(f"d{name}" for name in _KINDS))
"""The names that `learning_rule` knows."""


def learning_rule(
    name: str,
    *,
    sigma: float = 1e-3,
    samples: int = 1,
    noise: str = "gaussian",
    seed: int | None = None,
    decorrelation_lr: float = 1e-3,
    whitening: float = 0.0,
    decorrelation_interval: int = 1,
) -> LearningRule:
    """A learning rule by name.

    Args:
        name: ``"np"``, ``"inp"``, ``"anp"``: node perturbation, iterative, activity-based;
            ``"dnp"``, ``"dinp"``, ``"danp"``: the same with decorrelation; ``"bp"``, ``"dbp"``:
            backpropagation, the baseline.
        sigma: standard deviation σ of the node noise. In float32, 1e-5 to 1e-2 is safe; below, the
            difference of two losses is rounding noise. The authors use 1e-3.
        samples: K, noisy passes that share one clean pass; the error of the estimate falls with K.
        noise: ``"gaussian"``, or ``"rademacher"`` (random signs: cheaper to draw, and of slightly
            lower variance).
        seed: of the noise; the same seed gives the same noise.
        decorrelation_lr: step size η_R of the decorrelation matrices; decorrelated rules only.
        whitening: share κ of R's update that drives the variances to 1; 0 in the paper.
        decorrelation_interval: update R in every so-manieth step, to save time.

    Returns:
        The rule; call its `backward`, step an optimiser, then call its `decorrelate`.

    Raises:
        RuleError: unknown name (the message has the nearest), or a setting out of range.
    """
    if name not in RULES:
        near = difflib.get_close_matches(str(name).lower(), RULES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise RuleError(f"unknown learning rule {name!r}{hint} Known: {', '.join(RULES)}")
    decorrelated = name not in _KINDS
    return _KINDS[name[decorrelated:]](
        decorrelated=decorrelated,
        sigma=sigma,
        samples=samples,
        noise=noise,
        seed=seed,
        decorrelation_lr=decorrelation_lr,
        whitening=whitening,
        decorrelation_interval=decorrelation_interval,
    )


def square_norm(values: Tensor) -> Tensor:
    """``‖v‖²`` over the last axis; never 0, so that noise lost to rounding gives no NaN."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=-1)
    return norm.square_().clamp_min_(torch.finfo(values.dtype).tiny)


def average(weight: Tensor, values: Tensor) -> Tensor:
    """``Σ_k weight[k, b] values[k, b, :] / (K B)``, shape (B, N); overwrites `values`."""
    return values.mul_((weight / weight.numel()).unsqueeze(-1)).sum(0)
