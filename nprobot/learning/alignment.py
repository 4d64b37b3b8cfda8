"""How well a rule's gradient estimate points along backpropagation's, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nprobot.policies.layers import is_decorrelated_layer

from .activity import Activity, Call, Tree
from .rule import LearningRule, Loss
from .rules import FeedbackRule
from .wiring import by_sample

Pairs = Sequence[tuple[Tensor | None, Tensor | None]]
"""Estimate and gradient of some parameters; None where a parameter got none."""


@dataclass(frozen=True)
class LayerAlignment:
    """Estimate against gradient in one layer (or, as `Alignment.total`, in all of them)."""

    name: str
    nodes: int
    """Nodes of the layer for one sample, N_l."""
    cosine: float
    """Between the estimate and the gradient; 1 is backpropagation, 0 is noise."""
    norm_ratio: float
    """Norm of the estimate over that of the gradient."""
    predicted_cosine: float
    """What theory says of an unbiased estimate with this many draws; see `alignment`."""


@dataclass(frozen=True)
class Alignment:
    """Result of `alignment`; print it for a table."""

    rule: str
    samples: int
    layers: tuple[LayerAlignment, ...]
    total: LayerAlignment
    wiring: str | None = None
    """How learned feedback passes between the layers, of a rule that has it."""

    @property
    def cosine(self) -> float:
        """Cosine of the whole estimate and the whole gradient."""
        return self.total.cosine

    def __str__(self) -> str:
        lines = [
            f"alignment of {self.rule}, K = {self.samples}, with the backprop gradient",
            f"{'layer':<16}{'nodes':>7}{'cosine':>9}{'predicted':>11}{'norm ratio':>12}",
        ]
        lines += [
            f"{row.name:<16}{row.nodes:>7}{row.cosine:>9.3f}{row.predicted_cosine:>11.3f}"
            f"{row.norm_ratio:>12.2f}"
            for row in (*self.layers, self.total)
        ]
        if self.wiring:
            lines.append(f"feedback passes between the layers {self.wiring}")
        return "\n".join(lines)


def alignment(rule: LearningRule, network: nn.Module, inputs: Tree, loss: Loss) -> Alignment:
    """Compare a rule's estimate on one batch with the true gradient.

    The rule's noise stream, its counters and the parameters' `.grad` are as before afterwards.

    The predicted cosine is ``‖G_l‖ / sqrt(E‖Ĝ_l‖²)`` with the second moment of an estimate from K
    independent draws. For NP, sample b adds ``‖x*_b‖² (N_l ‖g_b‖² ± ‖g_{b,l}‖²) / (K B²)``, where
    g_b are its node gradients in all layers: plus for Gaussian noise, minus for random signs. For
    INP it adds ``‖x*_b‖² (N_l − 1) ‖g_{b,l}‖² / (K B²)``. For one sample and all layers NP's is
    ``sqrt(K / (N + K + 1))``. For ANP the number is NP's, as a yardstick: ANP is biased, above it
    at small K and below at large K. For backpropagation it is 1.

    Args:
        rule: any rule.
        network: as for `LearningRule.backward`.
        inputs: as for `LearningRule.backward`.
        loss: as for `LearningRule.backward`.

    Returns:
        Cosine, norm ratio and prediction for every layer and in all.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    before = [p.grad for p in parameters]
    state = rule.state_dict()
    try:
        _clear(parameters)
        rule.backward(network, inputs, loss)
        estimate = {id(p): p.grad for p in parameters}
        wiring = rule.wiring(network) if isinstance(rule, FeedbackRule) else None
        _clear(parameters)
        with torch.enable_grad():
            activity = Activity(network, inputs)
            calls = activity.calls
            losses = loss(activity.outputs)
            gradients = torch.autograd.grad(
                losses.mean(), parameters, retain_graph=True, allow_unused=True
            )
            gradient = dict(zip(map(id, parameters), gradients, strict=True))
            node_gradients = torch.autograd.grad(
                losses.sum(), [call.pre_activation for call in calls], allow_unused=True
            )
    finally:
        for p, grad in zip(parameters, before, strict=True):
            p.grad = grad
        rule.load_state_dict(state)

    g = [
        by_sample(torch.zeros_like(call.pre_activation) if own is None else own, activity.batch)
        for own, call in zip(node_gradients, calls, strict=True)
    ]
    square = torch.stack([own.square().sum(1) for own in g]).sum(0)
    rows, variances = [], []
    for call, own in zip(calls, g, strict=True):
        variances.append(_variance(rule, call, own, square))
        parts = [id(p) for p in call.layer.parameters() if p.requires_grad]
        pairs: Pairs = [(estimate[key], gradient[key]) for key in parts]
        rows.append(_compare(call.layer.name or "network", own.shape[1], pairs, variances[-1]))
    pairs = [(estimate[key], gradient[key]) for key in gradient]
    total = _compare("all", activity.size, pairs, sum(variances))
    return Alignment(rule.name, rule.samples, tuple(rows), total, wiring)


def _variance(rule: LearningRule, call: Call, own: Tensor, square: Tensor) -> float:
    """Predicted variance of one layer's estimate, summed over its parameters.

    Args:
        rule: which estimate.
        call: the layer in the clean pass.
        own: g_{b,l}, the layer's node gradients, shape (B, N_l).
        square: ‖g_b‖² over all layers, shape (B,).
    """
    if rule.entry.plain_name == "bp":
        return 0.0
    batch, nodes = own.shape
    own_square = own.square().sum(1)
    if rule.entry.plain_name == "inp":
        moment = (nodes - 1) * own_square
    else:
        moment = nodes * square + (own_square if rule.noise == "gaussian" else -own_square)
    # Positions of a convolution share their weights: the mean over positions takes N_l / positions
    # nodes and the sum over positions puts the factor back. Biases have an input of 1.
    learns = [p for p in call.layer.parameters() if p.requires_grad]
    inputs_square = torch.full_like(own_square, float(any(p.dim() == 1 for p in learns)))
    if any(p.dim() > 1 for p in learns) and call.layer.takes_inputs:
        if is_decorrelated_layer(module := call.layer.module):
            fed = module.decorrelated_input(call.raw_inputs.detach())
            rows = fed.reshape(1, -1, fed.shape[-1])
        else:
            rows = call.layer.input_rows(call.raw_inputs.detach())
        squares = rows.square().sum(-1).reshape(-1, batch, rows.shape[-2] // batch)
        inputs_square += squares.mean((0, 2))
    return float((inputs_square * moment).sum()) / (rule.samples * batch**2)


def _compare(name: str, nodes: int, pairs: Pairs, variance: float) -> LayerAlignment:
    """Cosine, norm ratio and prediction over (estimate, gradient) pairs of parameters."""
    known = [(e.flatten(), g.flatten()) for e, g in pairs if e is not None and g is not None]
    if not known:
        return LayerAlignment(name, nodes, float("nan"), float("nan"), float("nan"))
    estimate = torch.cat([e for e, _ in known]).double()
    gradient = torch.cat([g for _, g in known]).double()
    norm = float(gradient.norm())
    return LayerAlignment(
        name,
        nodes,
        float(torch.nn.functional.cosine_similarity(estimate, gradient, dim=0)),
        float(estimate.norm()) / norm if norm else float("nan"),
        norm / math.sqrt(norm**2 + variance) if norm else float("nan"),
    )


def _clear(parameters: list[nn.Parameter]) -> None:
    for p in parameters:
        p.grad = None
