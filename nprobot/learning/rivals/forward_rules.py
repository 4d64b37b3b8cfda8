"""Rules without feedback that run the network forward: on weights, on derivatives, by layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from nprobot import catalogue
from nprobot.errors import RuleError
from nprobot.learning.activity import Activity, Tree, first_tensor, tree_map
from nprobot.learning.rule import LearningRule, Loss, PerturbationRule, per_sample
from nprobot.learning.rules import average


@catalogue.rule(
    name="spsa",
    title="SPSA",
    about="weight perturbation: the batch's loss at both ends of a random step of all weights",
    citation="Spall 1992; Jabri & Flower 1992",
    peer=True,
    colours=("#6b6ecf", "#393b79"),
    marker="1",
)
class WeightPerturbation(LearningRule):
    """``(L(θ + σΔ) − L(θ − σΔ)) Δ / (2σ)`` of the *mean* loss of a batch.

    Simultaneous perturbation (Spall, IEEE Trans. Autom. Control 37, 1992, equation 2.2) of all
    weights at once, Δ of random signs or as `noise` says; K draws are averaged. Two passes a draw.
    All samples share a draw, so its variance grows with the number of weights, and no mean over
    samples takes it down.
    """

    @override
    @torch.no_grad()
    def backward(
        self,
        network: nn.Module,
        inputs: Tree,
        loss: Loss,
        *,
        perturbations: Sequence[Tensor] | None = None,
    ) -> Tensor:
        if perturbations is not None:
            raise RuleError("spsa perturbs weights, and takes no perturbations of nodes")
        batch = first_tensor(inputs).shape[0]
        clean_loss = per_sample(loss, self.plain_outputs(network, inputs), (batch,))
        weights = [p for p in network.parameters() if p.requires_grad]
        kept = [p.clone() for p in weights]
        sizes = [p.numel() for p in weights]
        directions = self.source.draw((self.samples, sum(sizes)), weights[0])
        slopes = torch.zeros_like(directions[:, 0])

        def loss_at(step: float, direction: Tensor) -> Tensor:
            """Mean loss of the batch, the weights moved along a direction."""
            for p, start, own in zip(weights, kept, torch.split(direction, sizes), strict=True):
                torch.add(start, own.view_as(p), alpha=step, out=p)
            # With an axis of draws, as losses take note of what they are told of clean passes.
            outputs = tree_map(lambda y: y.unsqueeze(0), network(inputs))
            return per_sample(loss, outputs, (1, batch)).mean()

        try:
            for k, direction in enumerate(directions):
                change = loss_at(self.sigma, direction) - loss_at(-self.sigma, direction)
                slopes[k] = change / (2 * self.sigma)
        finally:
            for p, start in zip(weights, kept, strict=True):
                p.copy_(start)
        estimate = slopes @ directions / self.samples
        for p, own in zip(weights, torch.split(estimate, sizes), strict=True):
            own = own.view_as(p)
            p.grad = own.clone() if p.grad is None else p.grad.add_(own)
        self.forward_passes += batch * (1 + 2 * self.samples)
        return clean_loss


@catalogue.rule(
    name="forward-gradient",
    title="Forward gradient",
    about="NP as its noise goes to nothing: the loss's derivative along noise on every node",
    citation="Baydin et al. 2022; Ren et al., ICLR 2023",
    peer=True,
    colours=("#637939", "#b5cf6b"),
    marker="2",
)
class ForwardGradient(PerturbationRule):
    """``(g·ε) ε_l / σ²``: NP at σ → 0, by forward-mode differentiation.

    Baydin et al. 2022 (arXiv 2202.08587) with the noise on activities instead of weights, as Ren
    et al. 2023 (arXiv 2210.03310) have it. Unbiased without the σ² of a finite step, for networks
    and losses that can be differentiated; a pass costs about two.
    """

    @override
    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Tree], Tensor]
    ) -> Tensor:
        weights = [p for p in activity.network.parameters() if p.requires_grad]
        try:
            for p in weights:
                p.requires_grad_(False)
            # Where gradients are on, nothing computes in numpy; none is recorded, as none needs it.
            with torch.enable_grad():
                change = torch.func.jvp(
                    lambda shift: delta_loss(activity.perturbed(shift)),
                    (torch.zeros_like(noise),),
                    (noise,),
                )[1]
        finally:
            for p in weights:
                p.requires_grad_(True)
        return average(change / self.sigma**2, noise)


@catalogue.rule(
    name="dust",
    title="Dust",
    about="NP with noise in one layer a pass, the layers taking turns at random",
    citation="Dust, Q Labs 2026",
    peer=True,
    colours=("#bd9e39", "#8c6d31"),
    marker="3",
)
class LayerwisePasses(PerturbationRule):
    """``L δL ε_l / σ²``, where a pass has noise in one of the L layers.

    The K passes take the layers in a random order, and then again: where K is a multiple of L,
    every layer has as many. A node hears its own layer's noise alone, but of 1 pass in L. Dust does
    so with language models, whose layers are wide; it also credits the losses of later tokens.
    """

    @override
    def node_error(
        self, activity: Activity, noise: Tensor, delta_loss: Callable[[Tree], Tensor]
    ) -> Tensor:
        layers, draws = len(activity.calls), len(noise)
        generator = self.source.generator(noise.device)
        turns = [
            torch.randperm(layers, generator=generator, device=noise.device)
            for _ in range(-(-draws // layers))
        ]
        for own, layer in zip(noise, torch.cat(turns)[:draws].tolist(), strict=True):
            nodes = activity.calls[layer].nodes
            own[:, : nodes.start].zero_()
            own[:, nodes.stop :].zero_()
        change = delta_loss(activity.perturbed(noise))
        return average(change / self.sigma**2, noise).mul_(layers)
