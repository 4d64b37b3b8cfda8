"""Learned feedback: unbiased for any guess, exact outputs, less variance as it learns."""

from __future__ import annotations

import copy
import math
import pickle
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

import nprobot
from nprobot.errors import RuleError
from nprobot.learning import feedback, wiring
from nprobot.learning.activity import Activity
from nprobot.learning.feedback import LinearFit, error_and_change
from nprobot.policies import BiasHead, mlp

from .rule_networks import (
    NETWORKS,
    Attention,
    Branches,
    Gated,
    Normalised,
    Residual,
    backprop_gradients,
    convolutions,
    gradients,
    pooled,
    squared_error,
)

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


def learned(rule):
    """The matrices that the guess takes, of the first network."""
    if rule.feedback.kind == "direct":
        return list(rule.feedback.matrices[0].values())
    return [fit.guide for fit in rule.feedback.fits[0].values()]


def guess_cosine(rule, net, x, loss):
    """Between the guess of all node errors and what backprop says they are."""
    seen = []
    original = rule.feedback.guess

    def guess(*args):
        seen.append(original(*args))
        return seen[-1].clone()

    with (
        mock.patch.object(rule.feedback, "guess", guess),
        mock.patch.object(rule, "use_short_form", False),
    ):
        rule.backward(net, x, loss)
    with torch.enable_grad():
        activity = Activity(net, x, frozen=True)
        nodes = [call.pre_activation for call in activity.calls]
        truth = torch.autograd.grad(loss(activity.outputs).sum(), nodes)
    truth = torch.cat([g.flatten(1) for g in truth], -1)
    return float(cosine_similarity(seen[0].flatten(), truth.flatten(), dim=0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_unbiased_whatever_the_feedback_matrices_are(name, kind):
    rule = nprobot.learning_rule(
        name, sigma=1e-4, samples=20_000, feedback=kind, feedback_lr=0.0, seed=0
    )
    net, x, loss = setting(rule.decorrelated, batch=4)
    truth = backprop_gradients(net, x, loss)
    rule.backward(net, x, loss)
    for matrix in learned(rule):
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
    # The matrices are what the layers do with their inputs.
    for fit, layer in zip(rule.feedback.fits[0].values(), [net[2], net[4]], strict=True):
        weight = layer.folded_weight() if rule.decorrelated else layer.weight
        assert (fit.matrix.mT - weight).norm() < 2e-3 * weight.norm()


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


ARCHITECTURES = {
    "mlp": (lambda: mlp([6, 32, 32, 3]), (6,), "forward"),
    "residual": (Residual, (6,), "forward"),
    "gates, concatenation": (Gated, (6,), "forward"),
    "convolutions": (convolutions, (2, 8, 8), "forward"),
    "pooling": (pooled, (2, 8, 8), "autograd"),
    "normalisation": (Normalised, (6,), "autograd"),
    "attention": (Attention, (5, 6), "autograd"),
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("name", ["np", "inp"])
def test_a_guess_reaches_through_any_architecture(name, kind):
    """From one noisy pass, while the weights learn; by the wiring that it says it uses."""
    make, shape, wired = ARCHITECTURES[kind]
    net = make().double()
    rule = nprobot.learning_rule(f"{name}+feedback", seed=0)
    plain = nprobot.learning_rule(name, samples=1, sigma=1e-3, seed=0)
    assert rule.wiring(net) is None
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step in range(40):
        x = torch.randn(64, *shape, dtype=torch.float64)
        loss = squared_error(x.flatten(1)[:, :3].sin())
        if step >= 30:
            assert guess_cosine(rule, net, x, loss) > 0.97
        optimizer.zero_grad()
        rule.backward(net, x, loss)
        optimizer.step()
    assert rule.wiring(net).partition(":")[0] == wired
    learned, alone = (nprobot.alignment(r, net, x, loss) for r in (rule, plain))
    assert learned.cosine > 0.9 > alone.cosine
    assert f"between the layers {wired}" in str(learned)
    assert alone.wiring is None


@pytest.mark.parametrize("kind", ["mlp", "residual", "gates, concatenation", "convolutions"])
def test_nothing_is_differentiated_where_units_keep_their_places(kind):
    make, shape, _ = ARCHITECTURES[kind]
    net, x = make(), torch.randn(8, *shape)
    rule = nprobot.learning_rule("np+feedback", wiring="forward", seed=0)
    forbidden = AssertionError("autograd is at work")
    with (
        mock.patch.object(torch.Tensor, "backward", side_effect=forbidden),
        mock.patch.object(torch.autograd, "grad", side_effect=forbidden),
        mock.patch.object(torch.autograd, "backward", side_effect=forbidden),
        mock.patch.object(torch, "enable_grad", side_effect=forbidden),
    ):
        for _ in range(3):
            rule.backward(net, x, lambda y: y.square().sum(-1))
    assert rule.backward_passes == 0


@pytest.mark.parametrize("kind", ["pooling", "normalisation", "attention"])
def test_no_weight_takes_part_where_autograd_replays_the_wiring(kind):
    """The guess is the same when there are no weights left while it is made."""
    make, shape, _ = ARCHITECTURES[kind]
    net, x = make().double(), torch.randn(16, *shape, dtype=torch.float64)
    loss = squared_error(torch.randn(16, 3, dtype=torch.float64))
    rule = nprobot.learning_rule("np+feedback", seed=0)
    train_feedback(rule, net, x, loss, 5)
    pull, found = wiring._pull_by_autograd, []

    def compare(*args):
        expected = pull(*args)
        weights = [p.detach().clone() for p in net.parameters()]
        for p in net.parameters():
            p.data.fill_(float("nan"))
        found.append((pull(*args), expected))
        for p, weight in zip(net.parameters(), weights, strict=True):
            p.data.copy_(weight)
        return expected

    with mock.patch.object(wiring, "_pull_by_autograd", compare):
        rule.backward(net, x, loss)
    ((without, expected),) = found
    assert expected.any()
    assert torch.equal(without, expected)


@pytest.mark.parametrize("kind", ["pooling", "normalisation", "attention"])
def test_forward_wiring_names_what_prevents_it(kind):
    make, shape, _ = ARCHITECTURES[kind]
    rule = nprobot.learning_rule("np+feedback", wiring="forward")
    with pytest.raises(RuleError, match=r"units of layer '.*' mix on their way to layer '.*'"):
        rule.backward(make(), torch.randn(8, *shape), lambda y: y.square().mean(-1))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", ["np", "inp"])
def test_no_network_learns_worse_for_it(name, kind):
    make, inputs, loss = NETWORKS[kind]
    net = make()
    settings = {"sigma": 1e-3, "samples": 1}
    cosines = {}
    for one in (name, f"{name}+feedback"):
        rule = nprobot.learning_rule(one, seed=0, **settings)
        train_feedback(rule, net, inputs, loss, 10)
        runs = [nprobot.alignment(rule, net, inputs, loss).cosine]
        for _ in range(5):
            rule.source.draw((64,), torch.zeros(()))
            runs.append(nprobot.alignment(rule, net, inputs, loss).cosine)
        cosines[one] = sum(runs) / len(runs)
    assert cosines[f"{name}+feedback"] > min(cosines[name], 0.98)


def test_feedback_passes_through_frozen_layers():
    net, x, loss = setting(batch=256)
    net[2].requires_grad_(False)
    rule = nprobot.learning_rule("np+feedback", wiring="forward", seed=0)
    train_feedback(rule, net, x, loss, 5)
    assert guess_cosine(rule, net, x, loss) > 0.99
    assert net[2].weight.grad is None


def test_a_matrix_that_explains_nothing_is_left_out_of_the_guess():
    fit = LinearFit(8, 8, torch.zeros((), dtype=torch.float64))
    fit.matrix.normal_()
    weights = torch.randn(8, 8, dtype=torch.float64)
    for _ in range(60):
        x = torch.randn(32, 8, dtype=torch.float64)
        a = x @ weights
        fit.observe(x, a, 0.0)
        fit.solve(x, a, 0.0)  # and cannot learn
    wrong = fit.matrix - weights
    assert (fit.guide - weights).norm() < wrong.norm()
    assert fit.guide.norm() < 0.4 * fit.matrix.norm()


@pytest.mark.parametrize("wide", [False, True])
def test_wide_layers_come_to_the_same(wide, monkeypatch):
    monkeypatch.setattr(feedback, "WIDE", 16 if wide else 1024)
    net, x, loss = setting(batch=64, sizes=(6, 32, 32, 3))
    rule = nprobot.learning_rule("np+feedback", sigma=1e-4, seed=0)
    train_feedback(rule, net, x, loss, 150)
    assert [fit.square.numel() for fit in rule.feedback.fits[0].values()] == 2 * [
        0 if wide else 1024
    ]
    assert guess_cosine(rule, net, x, loss) > 0.99


def test_a_network_that_becomes_another_is_learned_anew():
    net, x, loss = setting()
    rule = nprobot.learning_rule("np+feedback", seed=0)
    train_feedback(rule, net, x, loss, 3)
    net.float()
    rule.backward(net, x.float(), lambda y: loss(y.double()))
    assert all(fit.matrix.dtype == torch.float32 for fit in rule.feedback.fits[0].values())
    twin = copy.deepcopy(rule)
    other, x, loss = setting(sizes=(6, 12, 8, 3))
    train_feedback(twin, other, x, loss, 5)
    assert guess_cosine(twin, other, x, loss) > 0.95


def test_output_errors_are_exact_and_take_no_noise():
    rule = nprobot.learning_rule("np", sigma=1e-4, feedback=True, seed=0)
    net, x, loss = setting()
    truth = backprop_gradients(net, x, loss)
    rule.backward(net, x, loss)
    last = net[-1]
    count = last.weight.numel() + last.bias.numel()
    estimate = torch.cat([last.weight.grad.flatten(), last.bias.grad])
    torch.testing.assert_close(estimate, truth[-count:], rtol=1e-6, atol=1e-8)
    wired = rule.feedback.wirings[0]
    assert [known is None for known in wired.known] == [True, True, False]


def test_output_error_is_the_derivative_of_the_loss_to_second_order():
    net, x, _ = setting()
    loss = lambda y: y.sin().sum(-1)  # noqa: E731

    def error(step):
        activity = Activity(net, x)
        clean = loss(activity.outputs)
        return error_and_change(activity, (), lambda y: loss(y) - clean, step)[0]

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
    # The tanh hides the last layer of the body: it gets noise; the log std is an output.
    known = rule.feedback.wirings[0].known
    assert [columns is None for columns in known] == [True, True, False]
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
    with pytest.raises(RuleError, match="feedback is for np, inp, dnp, dinp, not for"):
        nprobot.learning_rule(name, feedback=True)


def test_feedback_rate_out_of_range_is_refused():
    with pytest.raises(RuleError, match="feedback_lr"):
        nprobot.learning_rule("np", feedback=True, feedback_lr=-1.0)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("np+feedback", {"wiring": "forwards"}, "did you mean 'forward'"),
        ("np", {"wiring": "forward"}, "rules with feedback, not for 'np'"),
        ("np+feedback", {"correction": 2.0}, r"in \[0, 1\]"),
        ("inp+feedback", {"correction": 0.5}, "not for 'inp\\+feedback'"),
    ],
)
def test_impossible_settings_are_refused(name, settings, message):
    with pytest.raises(RuleError, match=message):
        nprobot.learning_rule(name, **settings)


def test_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(RuleError, match="did you mean 'layerwise'"):
        nprobot.learning_rule("np", feedback="layerwize")


def ppo(**kwargs):
    sizes = {"n_steps": 64, "batch_size": 64, "n_epochs": 2}
    return nprobot.PPO("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", **sizes, **kwargs)


def test_ppo_learns_with_feedback():
    model = ppo(rule="dnp", rule_kwargs={"feedback": True})
    model.learn(192)
    assert len(model.rule.feedback.fits) == 2
    for fits in model.rule.feedback.fits.values():
        assert fits
        assert all(fit.guide.any() for fit in fits.values())


def test_ppo_left_to_itself_learns_with_feedback_and_one_small_perturbation():
    rule = ppo().rule
    assert (rule.name, rule.feedback.kind) == ("np+feedback", "layerwise")
    assert (rule.samples, rule.sigma, rule.noise) == (1, 1e-3, "rademacher")
    assert ppo(rule_kwargs={"samples": 4}).rule.samples == 4
    assert not hasattr(ppo(rule="dnp").rule, "feedback")
    assert [ppo(rule=name).max_grad_norm for name in (None, "dnp")] == [0.5, math.inf]


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
    rule = nprobot.learning_rule(
        f"{name}+feedback", sigma=1e-4, noise="rademacher", seed=0, feedback_lr=0.5
    )
    net, x, loss = setting(batch=4, sizes=(6, 32, 32, 3))
    truth = backprop_gradients(net, x, loss)
    net.zero_grad()
    draws = 1000
    for step in range(draws):
        if step % 2 == 0:
            for fit in rule.feedback.fits.get(0, {}).values():
                for value in (fit.matrix, fit.guide, fit.square, fit.product):
                    value.zero_()
        rule.backward(net, x, loss)
    mean = gradients(net) / draws
    assert cosine_similarity(mean, truth, dim=0) > 0.975
    assert mean @ truth / truth.square().sum() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("numpy_alone", [False, True], ids=["torch", "numpy"])
@pytest.mark.parametrize("way", ["auto", "forward"])
def test_the_error_of_many_outputs(way, numpy_alone):
    """More than are moved in all at once: by autograd in the loss alone, or a few at a time."""
    torch.manual_seed(0)
    many = 2 * feedback.MANY_OUTPUTS + 7
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, many)).double()
    x, target = torch.randn(4, 5).double(), torch.randn(4, many).double()

    def loss(y):
        if numpy_alone:  # where autograd cannot follow
            return torch.from_numpy(((y.detach().numpy() - target.numpy()) ** 2).sum(-1))
        return (y - target).square().sum(-1)

    rule = nprobot.learning_rule("np+feedback", wiring=way, seed=0, sigma=1e-4)
    calls = mock.Mock(wraps=torch.autograd.grad)
    with mock.patch.object(torch.autograd, "grad", calls):
        train_feedback(rule, net, x, loss, 6)
        rule.backward(net, x, loss)
    assert bool(calls.called) == (way == "auto" and not numpy_alone)
    estimate = gradients(net)
    truth = backprop_gradients(net, x, lambda y: (y - target).square().sum(-1))
    assert cosine_similarity(estimate, truth, dim=0) > 0.999


def test_large_networks_take_the_guess_alone():
    """The correction's variance grows with the nodes; a hundred steps have to average it out."""
    torch.manual_seed(0)
    net, x, loss = setting(batch=2, sizes=(6, 400, 3))
    found = {}
    for name, correction in (("left out", None), ("without", 0.0), ("with", 1.0)):
        rule = nprobot.learning_rule("np+feedback", correction=correction, seed=0)
        train_feedback(rule, net, x, loss, 10)
        rule.backward(net, x, loss)
        found[name] = gradients(net)
        net.zero_grad()
    assert torch.equal(found["left out"], found["without"])
    assert not torch.equal(found["left out"], found["with"])
    small = nprobot.learning_rule("np+feedback")
    assert small.strength(units=150, batch=64, draws=1) == 1.0
    assert small.strength(units=209_000, batch=16, draws=1) == 0.0
