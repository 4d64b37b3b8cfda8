"""The rules against what theory says of them: jvp, backprop in the mean, ANP's bias, cosine law."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

import nprobot
from nprobot.errors import RuleError
from nprobot.policies import mlp

from ..rule_networks import backprop_gradients, gradients, squared_error

SIZES = [4, 6, 5, 3]


def network_and_batch(decorrelated, batch=7):
    net = mlp(SIZES, decorrelated=decorrelated).double()
    for layer in net:
        if decorrelated and hasattr(layer, "R"):
            layer.R += 0.2 * torch.randn_like(layer.R)
    x = torch.randn(batch, SIZES[0], dtype=torch.float64)
    target = torch.randn(batch, SIZES[-1], dtype=torch.float64)
    return net, x, squared_error(target)


def node_errors(net):
    """Node errors averaged over the batch: the gradient of the biases."""
    return torch.cat([layer.bias.grad for layer in net if hasattr(layer, "weight")])


def loss_of_perturbed_nodes(net, x, loss, perturbations):
    """Per-sample loss with something added to every pre-activation; plain functional code."""
    h, added = x, iter(perturbations)
    for module in net:
        h = module(h) + next(added) if hasattr(module, "weight") else module(h)
    return loss(h)


@pytest.mark.parametrize("name", ["np", "inp", "dnp", "dinp"])
@pytest.mark.parametrize("draws", [1, 3])
def test_small_noise_limit_is_the_directional_derivative(name, draws):
    rule = nprobot.learning_rule(name, sigma=1e-6, samples=draws)
    net, x, loss = network_and_batch(rule.decorrelated)
    noise = [1e-6 * torch.randn(draws, len(x), n, dtype=torch.float64) for n in SIZES[1:]]
    rule.backward(net, x, loss, perturbations=noise)
    estimate = [layer.bias.grad for layer in net if hasattr(layer, "weight")]

    zeros = [torch.zeros(len(x), n, dtype=torch.float64) for n in SIZES[1:]]

    def slope(k, layers):
        tangents = [noise[i][k] if i in layers else zeros[i] for i in range(len(zeros))]
        return torch.func.jvp(
            lambda *added: loss_of_perturbed_nodes(net, x, loss, added),
            tuple(zeros),
            tuple(tangents),
        )[1]

    for i in range(len(zeros)):
        expected = torch.zeros_like(zeros[i])
        for k in range(draws):
            own = noise[i][k]
            if name.endswith("inp"):
                square = own.square().sum(-1, keepdim=True)
                expected += own.shape[-1] * slope(k, {i}).unsqueeze(-1) * own / square
            else:
                expected += slope(k, range(len(zeros))).unsqueeze(-1) * own / rule.sigma**2
        torch.testing.assert_close(estimate[i], (expected / draws).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize("name", ["np", "inp", "dnp", "dinp"])
def test_mean_over_many_draws_is_the_gradient(name, noise):
    rule = nprobot.learning_rule(name, sigma=1e-4, samples=20_000, noise=noise, seed=1)
    net, x, loss = network_and_batch(rule.decorrelated, batch=4)
    truth = backprop_gradients(net, x, loss)
    rule.backward(net, x, loss)
    error = (gradients(net) - truth).norm() / truth.norm()
    predicted = nprobot.alignment(rule, net, x, loss).total.predicted_cosine
    # The error that the predicted variance leaves, with room for chance.
    assert error < 2.0 * math.sqrt(1 / predicted**2 - 1)
    assert error < 0.06


def test_mean_of_anp_is_the_gradient_preconditioned_by_the_activity_covariance():
    rule = nprobot.learning_rule("anp", sigma=1e-4, samples=50_000, seed=1)
    net, x, loss = network_and_batch(False, batch=2)
    zeros = tuple(torch.zeros(len(x), n, dtype=torch.float64) for n in SIZES[1:])

    def pre_activations(*added):
        h, i, seen = x, 0, []
        for module in net:
            h = module(h)
            if hasattr(module, "weight"):
                h = h + added[i]
                seen.append(h)
                i += 1
        return torch.cat(seen, dim=-1)

    def loss_of_last(*added):
        return loss(pre_activations(*added)[:, -SIZES[-1] :])

    nodes = sum(SIZES[1:])
    rule.backward(net, x, loss)
    estimate = node_errors(net)
    # By a Monte Carlo of its own, in the limit σ → 0: δa = J ε, δL = g·ε.
    epsilon = torch.randn(200_000, nodes, dtype=torch.float64)
    expected = torch.zeros(nodes, dtype=torch.float64)
    for b in range(len(x)):
        unit = torch.eye(nodes, dtype=torch.float64)
        columns = []
        slopes = []
        for row in unit:
            tangent = tuple(
                part.expand(len(x), -1) for part in row.split([z.shape[1] for z in zeros])
            )
            columns.append(torch.func.jvp(pre_activations, zeros, tangent)[1][b])
            slopes.append(torch.func.jvp(loss_of_last, zeros, tangent)[1][b])
        jacobian, g = torch.stack(columns, dim=1), torch.stack(slopes)
        change = epsilon @ jacobian.mT
        weight = nodes * (epsilon @ g) / change.square().sum(-1)
        expected += (weight.unsqueeze(-1) * change).mean(0) / len(x)
    assert cosine_similarity(estimate, expected, dim=0) > 0.995
    assert abs(float(estimate.norm() / expected.norm()) - 1) < 0.05


@pytest.mark.parametrize("draws", [1, 4, 16])
def test_cosine_law_of_one_sample(draws):
    net = mlp([10, 30, 30, 5]).double()
    rule = nprobot.learning_rule("np", sigma=1e-4, samples=draws, seed=2)
    nodes = 65
    cosines = []
    for _ in range(200):
        x = torch.randn(1, 10, dtype=torch.float64)
        loss = squared_error(torch.randn(1, 5, dtype=torch.float64))
        loss(net(x)).mean().backward()
        truth = node_errors(net)
        net.zero_grad()
        rule.backward(net, x, loss)
        cosines.append(float(cosine_similarity(node_errors(net), truth, dim=0)))
        net.zero_grad()
    law = math.sqrt(draws / (nodes + draws + 1))
    root_mean_square = math.sqrt(sum(c**2 for c in cosines) / len(cosines))
    assert root_mean_square == pytest.approx(law, rel=0.1)


def test_one_loss_for_a_whole_batch_would_teach_nothing():
    """The defect that the check for per-sample losses guards against, shown by hand."""
    net, x, loss = network_and_batch(False, batch=256)
    truth = backprop_gradients(net, x, loss)

    def cosine(per_batch):
        rule = nprobot.learning_rule("np", samples=64, noise="gaussian", seed=3)

        def used(y):
            losses = loss(y)
            return losses.mean(-1, keepdim=True).expand_as(losses) if per_batch else losses

        rule.backward(net, x, used)
        estimate = gradients(net).clone()
        net.zero_grad()
        return float(cosine_similarity(estimate, truth, dim=0))

    assert cosine(per_batch=False) > 0.9
    assert cosine(per_batch=True) < 0.5


def test_as_many_orthogonal_directions_as_nodes_give_the_exact_gradient():
    net = mlp([4, 6, 5, 2]).double()
    x = torch.randn(16, 4, dtype=torch.float64)
    loss = squared_error(torch.randn(16, 2, dtype=torch.float64))
    truth = backprop_gradients(net, x, loss)
    rule = nprobot.learning_rule("np", sigma=1e-6, samples=13, noise="orthogonal", seed=0)
    rule.backward(net, x, loss)
    assert (gradients(net) - truth).norm() < 1e-4 * truth.norm()


def test_antithetic_pairs_take_the_curvature_out():
    net = mlp([4, 6, 2]).double()
    x = torch.randn(16, 4, dtype=torch.float64)
    loss = squared_error(torch.randn(16, 2, dtype=torch.float64))
    truth = backprop_gradients(net, x, loss)
    errors = {}
    for antithetic in (False, True):
        rule = nprobot.learning_rule(
            "np", sigma=1.0, samples=16, noise="orthogonal", seed=0, antithetic=antithetic
        )
        rule.backward(net, x, loss)
        errors[antithetic] = float((gradients(net) - truth).norm())
        net.zero_grad()
    assert errors[True] < errors[False]


def test_antithetic_noise_needs_pairs():
    with pytest.raises(RuleError, match="even where the noise is antithetic"):
        nprobot.learning_rule("np", samples=3, antithetic=True)
