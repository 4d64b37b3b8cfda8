"""Behaviour of the rules: no autograd, seeds and state, counters, precision, devices."""

from __future__ import annotations

import copy
import pickle
from unittest import mock

import pytest
import torch

import nprobot
from nprobot.policies import mlp

from ..rule_networks import gradients, plain_loss, squared_error

PLAIN_RULES = [
    name
    for name, rule in nprobot.catalogue.rules().items()
    if not rule.feedback and not rule.traits.peer
]

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PERTURBATION_RULES = [name for name in PLAIN_RULES if "bp" not in name]


@pytest.mark.parametrize("name", PERTURBATION_RULES)
def test_perturbation_rules_never_differentiate(name):
    rule = nprobot.learning_rule(name, samples=2, seed=0)
    net = mlp([5, 6, 2], decorrelated=rule.decorrelated)
    seen = []

    def loss(y):
        seen.append((torch.is_grad_enabled(), y.requires_grad))
        return plain_loss(y)

    with (
        mock.patch.object(torch.Tensor, "backward", side_effect=AssertionError),
        mock.patch.object(torch.autograd, "grad", side_effect=AssertionError),
        mock.patch.object(torch.autograd, "backward", side_effect=AssertionError),
    ):
        losses = rule.backward(net, torch.randn(4, 5), loss)
        rule.decorrelate(net)
    assert seen
    assert all(state == (False, False) for state in seen)
    assert losses.shape == (4,)
    assert not losses.requires_grad
    assert rule.backward_passes == 0


@pytest.mark.parametrize("name", PLAIN_RULES)
def test_gradients_accumulate_as_autograd_does(name):
    rule = nprobot.learning_rule(name, seed=0)
    net = mlp([5, 6, 2], decorrelated=rule.decorrelated)
    x = torch.randn(4, 5)
    noise = None if "bp" in name else [1e-3 * torch.randn(1, 4, n) for n in (6, 2)]
    rule.backward(net, x, plain_loss, perturbations=noise)
    once = gradients(net).clone()
    rule.backward(net, x, plain_loss, perturbations=noise)
    torch.testing.assert_close(gradients(net), 2 * once)


@pytest.mark.parametrize("name", PLAIN_RULES)
@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
def test_same_seed_same_steps_and_state_continues_the_stream(name, noise):
    x = torch.randn(8, 5)

    def steps(rule, net, count):
        for _ in range(count):
            rule.backward(net, x, plain_loss)
            rule.decorrelate(net)
        return gradients(net).clone()

    def make(seed):
        return nprobot.learning_rule(name, samples=2, noise=noise, seed=seed)

    start = mlp([5, 6, 2], decorrelated=make(0).decorrelated)
    first, second = copy.deepcopy(start), copy.deepcopy(start)
    a, b = make(7), make(7)
    assert torch.equal(steps(a, first, 3), steps(b, second, 3))
    state = pickle.loads(pickle.dumps(a.state_dict()))
    c = make(99)
    c.load_state_dict(state)
    assert torch.equal(steps(a, first, 2), steps(c, second, 2))
    assert c.forward_passes == a.forward_passes


def test_rules_can_be_pickled_for_sb3s_save():
    rule = nprobot.learning_rule("danp", samples=3, seed=5)
    net = mlp([5, 6, 2], decorrelated=True)
    x = torch.randn(4, 5)
    rule.backward(net, x, plain_loss)
    twin = pickle.loads(pickle.dumps(rule))
    net.zero_grad()
    rule.backward(net, x, plain_loss)
    expected = gradients(net).clone()
    net.zero_grad()
    twin.backward(net, x, plain_loss)
    assert torch.equal(gradients(net), expected)


@pytest.mark.parametrize(
    ("name", "passes"), [("np", 3), ("danp", 3), ("inp", 1 + 2 * 3), ("bp", 1)]
)
def test_forward_passes_are_counted(name, passes):
    rule = nprobot.learning_rule(name, samples=2, seed=0)
    net = mlp([5, 6, 6, 2], decorrelated=rule.decorrelated)
    rule.backward(net, torch.randn(4, 5), plain_loss)
    assert rule.forward_passes == 4 * passes
    assert rule.backward_passes == (4 if name == "bp" else 0)


@pytest.mark.parametrize("name", PERTURBATION_RULES)
def test_float32_and_float64_agree(name):
    rule = nprobot.learning_rule(name, sigma=1e-3, samples=2, seed=0)
    net = mlp([5, 8, 3], decorrelated=rule.decorrelated)
    x = torch.randn(16, 5)
    noise = [1e-3 * torch.randn(2, 16, n) for n in (8, 3)]
    rule.backward(net, x, plain_loss, perturbations=noise)
    single = gradients(net).double()
    double = copy.deepcopy(net).double()
    double.zero_grad()
    rule.backward(double, x.double(), plain_loss, perturbations=[n.double() for n in noise])
    error = (single - gradients(double)).norm() / gradients(double).norm()
    assert error < 5e-3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PLAIN_RULES)
def test_devices_agree_and_draw_their_own_noise(name, device):
    rule = nprobot.learning_rule(name, samples=2, seed=0)
    net = mlp([5, 8, 3], decorrelated=rule.decorrelated).double()
    x = torch.randn(16, 5).double()
    noise = None if "bp" in name else [1e-3 * torch.randn(2, 16, n).double() for n in (8, 3)]
    rule.backward(net, x, plain_loss, perturbations=noise)
    expected = gradients(net).clone()
    net.zero_grad()
    net.to(device)
    there = None if noise is None else [n.to(device) for n in noise]
    rule.backward(net, x.to(device), plain_loss, perturbations=there)
    torch.testing.assert_close(gradients(net).cpu(), expected, rtol=1e-5, atol=1e-7)
    rule.backward(net, x.to(device), plain_loss)
    rule.decorrelate(net)
    assert all(p.device.type == device for p in net.parameters())


def test_plain_rules_leave_the_network_alone_when_asked_to_decorrelate():
    net = mlp([5, 6, 2], decorrelated=True)
    rule = nprobot.learning_rule("anp", seed=0)
    rule.backward(net, torch.randn(4, 5), plain_loss)
    rule.decorrelate(net)
    assert torch.equal(net[0].R, torch.eye(5))


def test_a_network_learns_by_danp():
    torch.manual_seed(3)
    net = mlp([5, 32, 2], decorrelated=True)
    rule = nprobot.learning_rule("danp", samples=4, noise="rademacher", seed=0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    x = torch.randn(512, 5)
    y = torch.sin(x[:, :2] * 2)
    for _ in range(300):
        batch = torch.randint(512, (64,))
        optimizer.zero_grad()
        rule.backward(net, x[batch], squared_error(y[batch]))
        optimizer.step()
        rule.decorrelate(net)
    with torch.no_grad():
        assert squared_error(y)(net(x)).mean() < 0.15 * y.var()
