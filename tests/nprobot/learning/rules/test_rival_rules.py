"""Rules of others: what their estimates are, against autograd and against their equations."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import nprobot
from nprobot import catalogue
from nprobot.errors import RuleError
from nprobot.policies import mlp

from ..rule_networks import (
    Normalised,
    backprop_gradients,
    gaussian_loss,
    gradients,
    plain_loss,
    squared_error,
)

PEERS = [name for name, rule in catalogue.rules().items() if rule.traits.peer]
UNBIASED = ("apical", "spsa", "forward-gradient", "dust")
BELIEVING = ("feedback-alone", "weight-mirror")


class Policy(nn.Module):
    """An actor as PPO has it: a mean, and a log standard deviation that no input moves."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh())
        self.mean, self.log_std = nn.Linear(6, 2), nprobot.policies.BiasHead(2)

    def forward(self, x):
        return self.mean(self.body(x)), self.log_std(x)


def problem(seed=0):
    torch.manual_seed(seed)
    return Policy().double(), torch.randn(16, 5).double(), gaussian_loss


def estimate(rule, network, x, loss):
    network.zero_grad()
    rule.backward(network, x, loss)
    return gradients(network).clone()


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_of_many_estimates_is_the_gradient(name):
    network, x, loss = problem()
    truth = backprop_gradients(network, x, loss)
    rule = nprobot.learning_rule(name, samples=64, sigma=1e-4, noise="gaussian", seed=0)
    mean = sum(estimate(rule, network, x, loss) for _ in range(150)) / 150
    assert cosine(mean, truth) > 0.98
    assert float(mean @ truth / (truth @ truth)) == pytest.approx(1.0, abs=0.06)


def test_forward_gradient_is_what_np_comes_to_without_the_step():
    network, x, loss = problem()
    noise = [1e-6 * torch.randn(3, 16, n).double() for n in (8, 6, 2, 2)]
    found = {}
    for name in ("np", "forward-gradient"):
        network.zero_grad()
        rule = nprobot.learning_rule(name, sigma=1e-6, samples=3, seed=0)
        rule.backward(network, x, loss, perturbations=noise)
        found[name] = gradients(network).clone()
    torch.testing.assert_close(found["forward-gradient"], found["np"], rtol=1e-4, atol=1e-6)
    assert all(p.requires_grad for p in network.parameters())


def test_spsa_is_its_equation_and_leaves_the_weights_alone():
    network, x, loss = problem()
    before = [p.clone() for p in network.parameters()]
    rule = nprobot.learning_rule("spsa", samples=2, sigma=1e-3, seed=3)
    found = estimate(rule, network, x, loss)
    for p, own in zip(network.parameters(), before, strict=True):
        assert torch.equal(p, own)
    size = found.numel()
    draws = nprobot.learning_rule("np", seed=3).source.draw((2, size), before[0])
    theta = torch.cat([p.flatten() for p in before])

    def mean_loss(weights):
        twin = copy.deepcopy(network)
        nn.utils.vector_to_parameters(weights, twin.parameters())
        return loss(twin(x)).mean()

    with torch.no_grad():
        expected = sum(
            (mean_loss(theta + 1e-3 * d) - mean_loss(theta - 1e-3 * d)) / (2e-3) * d for d in draws
        )
    torch.testing.assert_close(found, expected / 2)
    assert rule.forward_passes == 16 * 5


@pytest.mark.parametrize("name", BELIEVING)
def test_learned_matrices_come_to_point_along_the_gradient(name):
    network, x, loss = problem()
    truth = backprop_gradients(network, x, loss)
    rule = nprobot.learning_rule(name, seed=0)
    for _ in range(200):
        last = estimate(rule, network, x, loss)
    assert cosine(last[:40], truth[:40]) > 0.97


def test_a_weight_mirror_comes_to_the_transposed_weights():
    network, x, loss = problem()
    rule = nprobot.learning_rule("weight-mirror", seed=0)
    total = 0.0
    for step in range(2000):
        rule.backward(network, x, loss)
        if step >= 500:
            total = total + rule.feedback.fits[0]["body.2"].matrix
    weight = network.body[2].weight.detach()
    assert (total / 1500 - weight.T).norm() < 0.05 * weight.norm()


def test_direct_feedback_alignment_is_its_equation():
    network, x, loss = problem()
    rule = nprobot.learning_rule("dfa", sigma=1e-5, seed=0)
    found = estimate(rule, network, x, loss)
    matrices = rule.feedback.matrices[0]
    mean, log_std = network(x)
    mean, log_std = (y.detach().requires_grad_() for y in (mean, log_std))
    error, _ = torch.autograd.grad(loss((mean, log_std)).mean(), (mean, log_std))
    hidden = torch.tanh(network.body[0](x)).detach()
    node_error = (error @ matrices[0][:, :2].T) * (1 - hidden**2)
    torch.testing.assert_close(found[:40].view(8, 5), node_error.T @ x, rtol=1e-3, atol=1e-6)
    assert not matrices[0][:, 2:].any()  # no layer moves the log standard deviation
    assert rule.forward_passes == 16
    again = estimate(rule, network, x, loss)
    torch.testing.assert_close(again, found, rtol=1e-3, atol=1e-5)
    other = nprobot.learning_rule("dfa", sigma=1e-5, seed=1)
    assert cosine(estimate(other, network, x, loss)[:40], found[:40]) < 0.9


def test_direct_feedback_alignment_refuses_units_that_mix():
    with pytest.raises(RuleError, match=r"mix.*np\+feedback"):
        nprobot.learning_rule("dfa", seed=0).backward(Normalised(), torch.randn(4, 6), plain_loss)


def test_dust_perturbs_one_layer_a_pass():
    network, x, loss = problem()
    seen = []

    def watch(y):
        seen.append(y)
        return loss(y)

    rule = nprobot.learning_rule("dust", samples=4, seed=0)
    rule.backward(network, x, watch)
    (mean, log_std), (noisy_mean, noisy_log_std) = seen
    moved = ((noisy_mean != mean).any(-1), (noisy_log_std != log_std).any(-1))
    assert [bool(m.all()) for m in moved[0]].count(True) == 3  # two hidden layers, and its own
    assert [bool(m.all()) for m in moved[1]].count(True) == 1
    assert not (moved[0] & moved[1]).any()


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_learns_and_continues_from_its_state(name):
    torch.manual_seed(0)
    rule = nprobot.learning_rule(name, seed=0)
    network = mlp([4, 16, 2], decorrelated=rule.decorrelated)
    x = torch.randn(64, 4)
    loss = squared_error(torch.tanh(x[:, :2] - x[:, 2:]))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)

    def steps(count, rule, network, optimizer):
        for _ in range(count):
            optimizer.zero_grad()
            losses = rule.backward(network, x, loss)
            optimizer.step()
            rule.decorrelate(network)
        return float(losses.mean())

    first = steps(1, rule, network, optimizer)
    steps(199, rule, network, optimizer)
    twin, twins_rule = copy.deepcopy(network), nprobot.learning_rule(name, seed=9)
    twins_rule.load_state_dict(pickle.loads(pickle.dumps(rule.state_dict())))
    twins_optimizer = torch.optim.Adam(twin.parameters(), 0.01)
    twins_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert steps(2, rule, network, optimizer) == steps(2, twins_rule, twin, twins_optimizer)
    assert steps(100, rule, network, optimizer) < 0.4 * first
    assert rule.backward_passes == 0


@pytest.mark.parametrize("name", PEERS[: len(PEERS) // 2])
def test_every_peer_trains_a_policy(name):
    model = nprobot.PPO("MlpPolicy", "Pendulum-v1", 1e-3, rule=name, n_steps=64, seed=0)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(64)
    moved = [(a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True)]
    assert all(moved)
