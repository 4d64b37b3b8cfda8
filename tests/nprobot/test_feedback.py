"""Learned feedback: unbiased for any guess, exact outputs, less variance as it learns."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

import nprobot
from nprobot.errors import RuleError
from nprobot.learning.activity import Activity
from nprobot.learning.feedback import output_error
from nprobot.policies import BiasHead, mlp

from .conftest import Branches, backprop_gradients, gradients, squared_error

NAMES = ["np", "inp", "dnp", "dinp"]
KINDS = ["layerwise", "direct"]


def setting(decorrelated=False, batch=64, sizes=(6, 10, 8, 3)):
    net = mlp(sizes, decorrelated=decorrelated).double()
    x = torch.randn(batch, sizes[0], dtype=torch.float64)
    target = torch.randn(batch, sizes[-1], dtype=torch.float64)
    return net, x, squared_error(target)


def train_feedback(rule, net, x, loss, steps):
    for _ in range(steps):
        rule.backward(net, x, loss)
    net.zero_grad()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_unbiased_whatever_the_feedback_matrices_are(name, kind):
    rule = nprobot.learning_rule(
        name, sigma=1e-4, samples=20_000, feedback=kind, feedback_lr=0.0, seed=0
    )
    net, x, loss = setting(rule.decorrelated, batch=4)
    truth = backprop_gradients(net, x, loss)
    rule.backward(net, x, loss)
    matrices = rule.feedback.matrices[0]
    for matrix in matrices:
        if matrix is not None:
            assert not matrix.any()
            matrix.normal_(std=0.3)
    net.zero_grad()
    rule.backward(net, x, loss)
    assert (gradients(net) - truth).norm() < 0.08 * truth.norm()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_variance_falls_as_the_feedback_learns(name, kind):
    rule = nprobot.learning_rule(name, sigma=1e-3, feedback=kind, feedback_lr=0.05, seed=0)
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


@pytest.mark.parametrize("name", NAMES)
def test_layerwise_feedback_comes_to_the_gradient_in_a_few_steps(name):
    rule = nprobot.learning_rule(name, sigma=1e-4, feedback=True, seed=0)
    net, x, loss = setting(rule.decorrelated, batch=256)
    train_feedback(rule, net, x, loss, 5)
    assert nprobot.alignment(rule, net, x, loss).cosine > 0.995
    # The matrices are what the next layer does with its inputs, transposed.
    for matrix, layer in zip(rule.feedback.matrices[0], [net[2], net[4]], strict=False):
        weight = layer.folded_weight() if rule.decorrelated else layer.weight
        assert (matrix - weight.mT).norm() < 1e-3 * weight.norm()


def test_layerwise_feedback_follows_weights_that_learn():
    rule = nprobot.learning_rule("dnp", sigma=1e-3, noise="rademacher", feedback=True, seed=0)
    net, x, loss = setting(True, batch=256)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    cosines = []
    for step in range(40):
        optimizer.zero_grad()
        rule.backward(net, x, loss)
        if step % 10 == 9:
            cosines.append(nprobot.alignment(rule, net, x, loss).cosine)
        optimizer.step()
        rule.decorrelate(net)
    assert min(cosines) > 0.97, cosines


def test_a_batch_smaller_than_the_layer_is_enough_after_a_while():
    rule = nprobot.learning_rule("np", sigma=1e-4, feedback=True, seed=0)
    net, x, loss = setting(batch=512, sizes=(6, 32, 32, 3))
    for i in range(40):
        rows = torch.arange(8) + 8 * i
        target = x[rows, :3]
        rule.backward(net, x[rows], squared_error(target))
    net.zero_grad()
    assert nprobot.alignment(rule, net, x, loss).cosine > 0.95


class Convolutional(nn.Module):
    """A layer that does not feed the next unit by unit, for which feedback has to be direct."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2)
        self.hidden = nn.Linear(8, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = torch.tanh(self.conv(x)).flatten(1)
        return self.head(torch.tanh(self.hidden(x)))


@pytest.mark.parametrize("name", ["np", "inp"])
def test_layers_that_feed_no_dense_layer_unit_by_unit_get_direct_feedback(name):
    net = Convolutional().double()
    x = torch.randn(64, 1, 3, 3, dtype=torch.float64)
    loss = squared_error(torch.randn(64, 2, dtype=torch.float64))
    rule = nprobot.learning_rule(name, sigma=1e-4, feedback=True, seed=0)
    train_feedback(rule, net, x, loss, 400)
    shapes = [m if m is None else tuple(m.shape) for m in rule.feedback.matrices[0]]
    assert shapes == [(8, 2), (6, 2), None]
    assert rule.feedback.matrices[0][0].norm() > 0.1
    before = nprobot.learning_rule(name, sigma=1e-4, seed=0)
    learned, plain = (nprobot.alignment(r, net, x, loss).layers[0].cosine for r in (rule, before))
    assert learned > plain


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["dnp", "dinp"])
def test_saved_state_continues_exactly(name, kind):
    def make():
        return nprobot.learning_rule(name, feedback=kind, seed=0)

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


def test_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(RuleError, match="did you mean 'layerwise'"):
        nprobot.learning_rule("np", feedback="layerwize")


def ppo(**kwargs):
    sizes = {"n_steps": 64, "batch_size": 64, "n_epochs": 2}
    return nprobot.PPO("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", **sizes, **kwargs)


def test_ppo_learns_with_feedback():
    model = ppo(rule="dnp", rule_kwargs={"feedback": True})
    model.learn(192)
    assert len(model.rule.feedback.matrices) == 2
    assert all(m is None or m.any() for own in model.rule.feedback.matrices.values() for m in own)


def test_ppo_left_to_itself_learns_with_feedback_and_one_small_perturbation():
    rule = ppo().rule
    assert (rule.name, rule.feedback.kind) == ("np", "layerwise")
    assert (rule.samples, rule.sigma, rule.noise) == (1, 1e-3, "rademacher")
    assert ppo(rule_kwargs={"samples": 4}).rule.samples == 4
    assert not hasattr(ppo(rule="dnp").rule, "feedback")
    assert [ppo(rule=name).max_grad_norm for name in (None, "dnp")] == [0.5, None]


def test_ppo_with_feedback_takes_the_steps_that_backpropagation_takes():
    """Of one minibatch, and to the cosine that noise of σ = 1e-3 leaves."""
    model = ppo(alignment_interval=1)
    model.learn(640)
    logged = model.logger.name_to_value
    assert logged["train/alignment_actor"] > 0.9
    assert logged["train/alignment_critic"] > 0.9


@pytest.mark.parametrize("name", ["np", "inp"])
def test_a_sample_is_not_guessed_from_its_own_noise(name):
    """Fewer samples than units: matrices fitted to their noise would explain all of it, wrongly."""
    rule = nprobot.learning_rule(name, sigma=1e-4, noise="rademacher", feedback=True, seed=0)
    net, x, loss = setting(batch=4, sizes=(6, 32, 32, 3))
    truth = backprop_gradients(net, x, loss)
    net.zero_grad()
    draws = 1000
    for _ in range(draws):
        rule.feedback.matrices.clear()
        rule.backward(net, x, loss)
    mean = gradients(net) / draws
    assert cosine_similarity(mean, truth, dim=0) > 0.975
    assert mean @ truth / truth.square().sum() == pytest.approx(1.0, abs=0.04)
