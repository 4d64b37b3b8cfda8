"""The networks that the rules take: the gradient of each, and nothing in them changed."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn

import nprobot
from nprobot.policies import decorrelate, mlp

from ..rule_networks import NETWORKS, backprop_gradients, gradients, plain_loss


@pytest.mark.parametrize("decorrelated", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_np_finds_the_gradient_of_any_network(kind, decorrelated):
    make, inputs, loss = NETWORKS[kind]
    net = make()
    if decorrelated:
        decorrelate(net)
        for module in net.modules():
            if hasattr(module, "R"):
                module.R += 0.1 * torch.randn_like(module.R)
    net.double()
    inputs = (
        {k: v.double() for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.double()
    )
    rule = nprobot.learning_rule(
        "dnp" if decorrelated else "np", sigma=1e-4, samples=3000, noise="rademacher", seed=0
    )
    truth = backprop_gradients(net, inputs, loss)
    rule.backward(net, inputs, loss)
    cosine = torch.nn.functional.cosine_similarity(gradients(net), truth, dim=0)
    assert cosine > 0.97
    assert float(gradients(net).norm() / truth.norm()) == pytest.approx(1, abs=0.15)
    if decorrelated:
        before = [m.R.clone() for m in net.modules() if hasattr(m, "R")]
        rule.decorrelate(net)
        after = [m.R for m in net.modules() if hasattr(m, "R")]
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_first_layer_is_computed_once_for_all_draws():
    net = mlp([5, 6, 2])
    rows = []
    original = torch.nn.functional.linear

    def linear(x, weight, bias=None):
        rows.append((tuple(weight.shape), x.shape[0]))
        return original(x, weight, bias)

    with mock.patch("torch.nn.functional.linear", linear):
        rule = nprobot.learning_rule("anp", samples=16, seed=0)
        rule.use_short_form = False
        rule.backward(net, torch.randn(4, 5), plain_loss)
    assert rows == [((6, 5), 4), ((2, 6), 4), ((2, 6), 64)]


def test_frozen_layers_are_not_perturbed():
    net = mlp([5, 6, 2])
    net[0].requires_grad_(False)
    net[2].bias.requires_grad_(False)
    rule = nprobot.learning_rule("np", seed=0)
    rule.backward(net, torch.randn(4, 5), plain_loss, perturbations=[torch.randn(1, 4, 2)])
    assert net[0].weight.grad is None
    assert net[2].bias.grad is None
    assert net[2].weight.grad is not None


def test_a_forward_that_somebody_replaced_is_put_back():
    net = mlp([5, 6, 2])
    net[0].forward = lambda x: torch.zeros(len(x), 6)
    own = net[0].forward
    nprobot.learning_rule("anp", seed=0).backward(net, torch.randn(4, 5), plain_loss)
    assert net[0].forward is own
    assert "forward" not in net[2].__dict__


@pytest.mark.parametrize("name", ["np", "inp", "anp"])
def test_activation_functions_that_work_in_place_change_nothing(name):
    """They overwrite the pre-activation that the rules compare with."""
    results = []
    for inplace in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(inplace=inplace), nn.Linear(16, 2)).double()
        rule = nprobot.learning_rule(name, sigma=1e-3, samples=3, seed=0)
        x = torch.randn(8, 5, dtype=torch.float64)
        rule.backward(net, x, lambda y: y.square().sum(-1))
        results.append(gradients(net))
    assert torch.equal(*results)
