"""Learned feedback: unbiased for any guess, exact outputs, less variance as it learns."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

import nprobot
from nprobot.activity import Activity
from nprobot.errors import RuleError
from nprobot.feedback import output_error
from nprobot.policies import BiasHead, mlp

from .conftest import Branches, backprop_gradients, gradients, squared_error

NAMES = ["np", "inp", "dnp", "dinp"]


def setting(decorrelated=False, batch=64, sizes=(6, 10, 8, 3)):
    net = mlp(sizes, decorrelated=decorrelated).double()
    x = torch.randn(batch, sizes[0], dtype=torch.float64)
    target = torch.randn(batch, sizes[-1], dtype=torch.float64)
    return net, x, squared_error(target)


def train_feedback(rule, net, x, loss, steps):
    for _ in range(steps):
        rule.backward(net, x, loss)
    net.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_unbiased_whatever_the_feedback_matrices_are(name):
    rule = nprobot.learning_rule(name, sigma=1e-4, samples=20_000, feedback=True, seed=0)
    rule.feedback.lr = 0.0
    net, x, loss = setting(rule.decorrelated, batch=4)
    truth = backprop_gradients(net, x, loss)
    rule.backward(net, x, loss)
    matrices = rule.feedback.matrices[0]
    for matrix in matrices:
        if matrix is not None:
            assert not matrix.any()
            matrix.normal_(std=0.1)
    net.zero_grad()
    rule.backward(net, x, loss)
    assert (gradients(net) - truth).norm() < 0.08 * truth.norm()


@pytest.mark.parametrize("name", NAMES)
def test_variance_falls_as_the_feedback_learns(name):
    rule = nprobot.learning_rule(name, sigma=1e-3, feedback=True, feedback_lr=0.05, seed=0)
    net, x, loss = setting(rule.decorrelated, batch=256)

    def hidden_cosines(one):
        """Of the hidden layers; the output layer is exact from the start."""
        runs = []
        for seed in range(10):
            one.source.seed, one.source._generators = seed, {}
            runs.append([r.cosine for r in nprobot.alignment(one, net, x, loss).layers[:-1]])
        return torch.tensor(runs).mean(0)

    before = hidden_cosines(rule)
    train_feedback(rule, net, x, loss, 400)
    after = hidden_cosines(rule)
    # For one draw, (1 − c²) / c² is the variance over the squared norm of the gradient.
    assert ((1 / after**2 - 1) < 0.6 * (1 / before**2 - 1)).all(), (before, after)


def test_output_errors_are_exact_and_take_no_noise():
    rule = nprobot.learning_rule("np", sigma=1e-4, feedback=True, seed=0)
    net, x, loss = setting()
    truth = backprop_gradients(net, x, loss)
    rule.backward(net, x, loss)
    last = net[-1]
    count = last.weight.numel() + last.bias.numel()
    estimate = torch.cat([last.weight.grad.flatten(), last.bias.grad])
    torch.testing.assert_close(estimate, truth[-count:], rtol=1e-6, atol=1e-8)
    assert [m is None for m in rule.feedback.matrices[0]] == [False, False, True]


def test_output_error_is_the_derivative_of_the_loss_to_second_order():
    net, x, _ = setting()
    loss = lambda y: y.sin().sum(-1)  # noqa: E731

    def error(step):
        activity = Activity(net, x)
        clean = loss(activity.outputs)
        return output_error(activity, lambda y: loss(y) - clean, step)

    with torch.no_grad():
        truth = net(x).cos()
        coarse = float((error(0.1) - truth).abs().max())
        fine = float((error(0.01) - truth).abs().max())
    assert coarse < 2e-3
    assert fine == pytest.approx(coarse / 100, rel=0.05)


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_networks_with_several_outputs(kind):
    net = Branches(kind).double()
    x = torch.randn(8, 5, dtype=torch.float64)

    def loss(y):
        left, right = y if kind == "tuple" else (y["left"], y["right"])
        return left.square().sum(-1) + right.sin().sum(-1)

    rule = nprobot.learning_rule("np", sigma=1e-4, samples=5000, feedback=True, seed=0)
    truth = backprop_gradients(net, x, loss)
    rule.backward(net, x, loss)
    assert cosine_similarity(gradients(net), truth, dim=0) > 0.97


def test_heads_without_inputs_and_outputs_behind_an_activation():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp([4, 6, 2], output_activation="tanh")
            self.log_std = BiasHead(2)

        def forward(self, x):
            return self.body(x), self.log_std(x)

    net = Policy().double()
    x = torch.randn(8, 4, dtype=torch.float64)
    rule = nprobot.learning_rule("np", sigma=1e-4, samples=5000, feedback=True, seed=0)

    def loss(y):
        return ((y[0] - 0.5) * torch.exp(-y[1])).square().sum(-1) + y[1].sum(-1)

    truth = backprop_gradients(net, x, loss)
    rule.backward(net, x, loss)
    # The tanh hides the last layer of the body: it gets a matrix; the log std is an output.
    assert [m is None for m in rule.feedback.matrices[0]] == [False, False, True]
    assert cosine_similarity(gradients(net), truth, dim=0) > 0.97
    torch.testing.assert_close(net.log_std.bias.grad, truth[-2:])


@pytest.mark.parametrize("name", ["dnp", "dinp"])
def test_saved_state_continues_exactly(name):
    def make():
        return nprobot.learning_rule(name, feedback=True, feedback_lr=0.05, seed=0)

    net, x, loss = setting(True)
    rule, twin = make(), make()
    train_feedback(rule, net, x, loss, 5)
    twin.load_state_dict(pickle.loads(pickle.dumps(rule.state_dict())))
    results = []
    for one in (rule, twin):
        net.zero_grad()
        one.backward(net, x, loss)
        results.append(gradients(net).clone())
    assert torch.equal(results[0], results[1])


def test_passes_of_inp_leave_the_outputs_out():
    rule = nprobot.learning_rule("inp", samples=2, feedback=True, seed=0)
    net, x, loss = setting(batch=4)
    rule.backward(net, x, loss)
    assert rule.forward_passes == 4 * (1 + 2 * 2)


@pytest.mark.parametrize("name", ["anp", "danp", "bp", "dbp"])
def test_rules_for_which_it_is_not_sound_refuse_it(name):
    with pytest.raises(RuleError, match="feedback=True is for np, inp, dnp and dinp"):
        nprobot.learning_rule(name, feedback=True)


def test_feedback_rate_out_of_range_is_refused():
    with pytest.raises(RuleError, match="feedback_lr"):
        nprobot.learning_rule("np", feedback=True, feedback_lr=-1.0)


def test_ppo_learns_with_feedback():
    model = nprobot.PPO(
        "MlpPolicy",
        "Pendulum-v1",
        rule="dnp",
        rule_kwargs={"feedback": True, "samples": 1},
        seed=0,
        n_steps=64,
        batch_size=64,
        n_epochs=2,
        device="cpu",
    )
    model.learn(192)
    assert len(model.rule.feedback.matrices) == 2
    assert all(m is None or m.any() for own in model.rule.feedback.matrices.values() for m in own)
