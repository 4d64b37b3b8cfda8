"""What the rules refuse, and what they say: losses, noise, layers and settings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nprobot
from nprobot.errors import NonFiniteError, RuleError, UnsupportedLayerError
from nprobot.policies import mlp

from ..rule_networks import plain_loss

PLAIN_RULES = [
    name
    for name, rule in nprobot.catalogue.rules().items()
    if not rule.feedback and not rule.traits.peer
]


def step(name="anp", net=None, x=None, loss=plain_loss, **kwargs):
    net = mlp([5, 6, 2]) if net is None else net
    x = torch.randn(4, 5) if x is None else x
    return nprobot.learning_rule(name, seed=0).backward(net, x, loss, **kwargs)


@pytest.mark.parametrize("name", PLAIN_RULES)
@pytest.mark.parametrize(
    "loss", [lambda y: y.square().mean(), lambda y: y.square(), lambda y: 1.0, lambda y: y[..., :1]]
)
def test_losses_that_are_not_per_sample_are_refused_with_the_reason(name, loss):
    rule = nprobot.learning_rule(name, seed=0)
    net = mlp([5, 6, 2], decorrelated=rule.decorrelated)
    with pytest.raises(RuleError, match=r"one number per sample.*drop the mean"):
        rule.backward(net, torch.randn(4, 5), loss)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", PLAIN_RULES)
def test_non_finite_losses_are_refused(name, bad):
    rule = nprobot.learning_rule(name, seed=0)
    net = mlp([5, 6, 2], decorrelated=rule.decorrelated)
    broken = torch.tensor([1.0, 1.0, bad, 1.0])
    with pytest.raises(NonFiniteError, match=r"sample 2 is (nan|inf).*1 of 4"):
        rule.backward(net, torch.randn(4, 5), lambda y: plain_loss(y) * broken)
    assert all(p.grad is None for p in net.parameters())


def test_losses_whose_sum_overflows_are_fine():
    losses = step(loss=lambda y: y.square().mean(-1) * 0 + 3e38)
    assert (losses > 1e38).all()


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ([torch.zeros(1, 4, 6)], "each of the 2 perturbed layers"),
        ([torch.zeros(1, 4, 6), torch.zeros(1, 4, 3)], r"layer '2'.*\(1, 4, 2\), got \(1, 4, 3\)"),
        ([torch.zeros(2, 4, 6), torch.zeros(1, 4, 2)], r"got \(1, 4, 2\)"),
        ([torch.zeros(4, 6), torch.zeros(4, 2)], r"\(K, B, units\)"),
    ],
)
def test_wrong_noise_shapes_are_refused(noise, message):
    with pytest.raises(RuleError, match=message):
        step(perturbations=noise)


def test_backprop_takes_no_noise():
    with pytest.raises(RuleError, match="no perturbations"):
        step("bp", perturbations=[torch.zeros(1, 4, 6)])


def test_unsupported_layers_are_named():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(6))

        def forward(self, x):
            return self.scale * x

    net = nn.Sequential(nn.Linear(5, 6), Scaled(), nn.Linear(6, 2))
    with pytest.raises(UnsupportedLayerError, match=r"'1' \(Scaled\).*freeze"):
        step(net=net)
    net[1].requires_grad_(False)
    assert step(net=net).shape == (4,)


def test_networks_without_nodes_are_refused():
    with pytest.raises(RuleError, match="nothing to perturb"):
        step(net=nn.Sequential(nn.Tanh()))


def test_layers_that_change_places_between_passes_are_refused():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x):
            return self.a(self.b(x)) if len(x) == 4 else self.b(self.a(x))

    with pytest.raises(RuleError, match="order of the layers"):
        nprobot.learning_rule("np", samples=2).backward(Fickle(), torch.randn(4, 5), plain_loss)


@pytest.mark.parametrize(
    "settings",
    [
        {"sigma": 0.0},
        {"sigma": -1e-3},
        {"sigma": float("nan")},
        {"sigma": float("inf")},
        {"samples": 0},
        {"samples": 1.5},
        {"decorrelation_lr": -1.0},
        {"whitening": 2.0},
        {"decorrelation_interval": 0},
        {"noise": "gauss"},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(RuleError, match=next(iter(settings))):
        nprobot.learning_rule("danp", **settings)


def test_unknown_rules_are_refused_with_the_nearest():
    with pytest.raises(RuleError, match=r"'damp'; did you mean danp\?.*Known: np"):
        nprobot.learning_rule("damp")


def test_decorrelated_rules_need_decorrelated_layers_and_a_step_before():
    rule = nprobot.learning_rule("danp", seed=0)
    with pytest.raises(RuleError, match="decorrelated=True"):
        rule.decorrelate(mlp([5, 6, 2]))
    with pytest.raises(RuleError, match="backward"):
        rule.decorrelate(mlp([5, 6, 2], decorrelated=True))
