"""The rule of R: a step by hand, decorrelation, whitening, weights that follow, the interval."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import nprobot
from nprobot.errors import RuleError
from nprobot.learning.decorrelation import (
    DenseStep,
    FactoredStep,
    layer_states,
    mean_square_correlation,
    moved_by_decorrelation,
    update,
)
from nprobot.policies import decorrelate, mlp


def correlated(count=4000):
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.5, -0.5, 0.7]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, dtype=torch.float64, generator=generator) @ mix.mT


def test_one_step_by_hand():
    R = torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    # mean x0·x1 = (2 − 3) / 2 = −0.5; C R = [[0, −.5], [−.5, −.25]].
    update(R, x, lr=0.1)
    expected = torch.tensor([[1.0, 0.55], [0.05, 1.025]], dtype=torch.float64)
    torch.testing.assert_close(R, expected)


def test_one_step_with_whitening_by_hand():
    R = torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    # v = ((1 + 9) / 2 − 1, (4 + 1) / 2 − 1) = (4, 1.5); κ = .2:
    # .8 C R + .2 diag(v) R = [[.8, 0], [−.4, .1]]
    update(R, x, lr=0.1, whitening=0.2)
    expected = torch.tensor([[0.92, 0.5], [0.04, 0.99]], dtype=torch.float64)
    torch.testing.assert_close(R, expected)


def test_inputs_become_uncorrelated():
    x = correlated()
    R = torch.eye(3, dtype=torch.float64)
    before = mean_square_correlation(x)
    for _ in range(500):
        update(R, x @ R.mT, lr=0.05)
    assert before > 0.2
    assert mean_square_correlation(x @ R.mT) < 1e-6


def test_whitening_also_brings_the_variances_to_one():
    x = 3 * correlated()
    R = torch.eye(3, dtype=torch.float64)
    for _ in range(3000):
        update(R, x @ R.mT, lr=0.02, whitening=0.5)
    white = x @ R.mT
    torch.testing.assert_close(
        white.mT @ white / len(x), torch.eye(3, dtype=torch.float64), atol=0.02, rtol=0
    )


def test_correlation_measure_of_known_inputs():
    same = torch.randn(100, 1).expand(-1, 4)
    assert mean_square_correlation(same) == pytest.approx(1.0, abs=1e-5)
    assert mean_square_correlation(torch.eye(4)) == 0.0
    assert mean_square_correlation(torch.zeros(5, 3)) == 0.0
    assert mean_square_correlation(torch.ones(5, 1)) == 0.0


def test_rule_reports_how_correlated_the_inputs_are():
    rule = nprobot.learning_rule("danp", decorrelation_lr=0.05, seed=0)
    net = mlp([3, 2], decorrelated=True).double()
    x = correlated(500)
    assert rule.decorrelation_loss(net) != rule.decorrelation_loss(net)  # NaN before a step
    losses = []
    for _ in range(200):
        rule.backward(net, x, lambda y: y.square().mean(-1))
        losses.append(rule.decorrelation_loss(net))
        rule.decorrelate(net)
    assert losses[0] == pytest.approx(mean_square_correlation(x))
    assert losses[-1] < 0.01 * losses[0]


def test_interval_counts_for_each_network_and_survives_a_save():
    rule = nprobot.learning_rule("dnp", decorrelation_interval=3, seed=0)
    nets = [mlp([3, 2], decorrelated=True) for _ in range(2)]
    changed = []
    for step in range(7):
        if step == 4:
            state, rule = rule.state_dict(), nprobot.learning_rule("dnp", decorrelation_interval=3)
            rule.load_state_dict(state)
        for net in nets:
            before = net[0].R.clone()
            rule.backward(net, correlated(50).float(), lambda y: y.square().mean(-1))
            rule.decorrelate(net)
            changed.append(not torch.equal(before, net[0].R))
    assert changed == [True, True, False, False, False, False] * 2 + [True, True]


def test_scale_shortens_the_step():
    steps = []
    for scale in (1.0, 0.5, 0.0):
        rule = nprobot.learning_rule("dnp", decorrelation_lr=0.1, seed=0)
        torch.manual_seed(0)
        net = mlp([3, 2], decorrelated=True)
        rule.backward(net, correlated(50).float(), lambda y: y.square().mean(-1))
        rule.decorrelate(net, scale=scale)
        steps.append(net[0].R - torch.eye(3))
    torch.testing.assert_close(steps[1], 0.5 * steps[0])
    assert not steps[2].any()
    assert steps[0].any()


def network(kind):
    torch.manual_seed(0)
    if kind == "linear":
        net = decorrelate(nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3)))
        return net.double(), torch.rand(50, 6, dtype=torch.float64)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 5, 3, stride=2), nn.Tanh(),
        nn.Flatten(), nn.Linear(45, 3),
    )  # fmt: skip
    return decorrelate(net).double(), torch.rand(12, 2, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("name", ["dnp", "danp", "dnp+feedback", "dbp"])
@pytest.mark.parametrize("keep_scale", [False, True])
# Steps of all sizes: few terms of the series, all of them, equations to solve, one cut short.
@pytest.mark.parametrize("lr", [1e-4, 1e-3, 3e-2, 0.9])
def test_outputs_stay_where_the_weights_follow(kind, name, keep_scale, lr):
    net, x = network(kind)
    rule = nprobot.learning_rule(
        name,
        seed=0,
        decorrelation_lr=lr,
        whitening=0.3,
        keep_function=True,
        keep_scale=keep_scale,
    )
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        rule.backward(net, x, lambda y: y.square().mean(-1))
        optimizer.step()
        before, weight, R = net(x), net[0].weight.clone(), net[0].R.clone()
        rule.decorrelate(net)
        torch.testing.assert_close(net(x), before, rtol=1e-12, atol=1e-13)
        assert not torch.equal(net[0].R, R)
        assert not torch.equal(net[0].weight, weight)


@pytest.mark.parametrize("whitening", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("keep_scale", [False, True])
def test_R_moves_alike_whether_or_not_the_weights_follow(whitening, keep_scale):
    x = torch.randn(30, 8, dtype=torch.float64) @ torch.randn(8, 8, dtype=torch.float64)
    alone, followed = (torch.eye(8, dtype=torch.float64) for _ in range(2))
    weight = torch.randn(5, 8, dtype=torch.float64)
    update(alone, x, 1e-3, whitening, keep_scale=keep_scale)
    update(followed, x, 1e-3, whitening, weight=weight, keep_scale=keep_scale)
    torch.testing.assert_close(alone, followed)


@pytest.mark.parametrize("whitening", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("rows", [1, 7])
def test_both_forms_of_a_step_are_the_same_step(whitening, rows):
    """The one that is cheaper for few rows, and the one for many."""
    x = torch.randn(rows, 12, dtype=torch.float64)
    weight, R = (torch.randn(n, 12, dtype=torch.float64) for n in (5, 12))
    dense, factored = (kind(x, 0.02, whitening) for kind in (DenseStep, FactoredStep))
    terms = dense.limit()
    share = (weight @ dense.E)[0, 0] / factored.right(weight)[0, 0]
    factored.shorten(float(share))  # if one was cut short
    exact = torch.linalg.inv(torch.eye(12, dtype=torch.float64) - dense.E)
    for step in (dense, factored):
        moved = R.clone()
        step.move(moved)
        torch.testing.assert_close(moved, R - dense.E @ R)
        torch.testing.assert_close(step.right(weight), weight @ dense.E)
        torch.testing.assert_close(step.solve(weight), weight @ exact)
        torch.testing.assert_close(step.follow(weight, terms), weight @ exact)
        assert torch.linalg.matrix_norm(dense.E, 2) <= step.norm() * (1 + 1e-12)


def test_function_is_kept_over_many_steps_in_single_precision():
    torch.manual_seed(0)
    net = decorrelate(nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3)))
    x = torch.rand(200, 6)
    before = net(x)
    rule = nprobot.learning_rule("dnp", decorrelation_lr=1e-3, seed=0, keep_function=True)
    for _ in range(3000):
        rule.backward(net, x, lambda y: y.square().mean(-1))
        rule.decorrelate(net)
    torch.testing.assert_close(net(x), before, rtol=1e-3, atol=1e-4)
    last = rule.remembered_inputs(net)["2"]
    assert mean_square_correlation(last) < 0.5 * mean_square_correlation(net[:2](x).detach())


@pytest.mark.parametrize("keep_function", [False, True])
def test_scale_is_kept(keep_function):
    x = correlated()
    norms = []
    for keep_scale in (False, True):
        R, weight = torch.eye(3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
        for _ in range(300):
            follower = weight if keep_function else None
            update(R, x @ R.mT, 0.03, weight=follower, keep_scale=keep_scale)
        norms.append(R.square().sum())
        assert mean_square_correlation(x @ R.mT) < 1e-3
    assert norms[0] != pytest.approx(3.0, rel=0.1)
    assert norms[1] == pytest.approx(3.0)


def test_kept_scale_does_not_run_away():
    """A scale kept from batch to batch by the inputs grew without bound: batches differ."""
    torch.manual_seed(0)
    R, weight = torch.eye(16), torch.ones(2, 16)
    mix = torch.randn(16, 16) / 4
    for _ in range(3000):
        update(R, torch.randn(8, 16) @ mix @ R.mT, 1e-2, weight=weight, keep_scale=True)
    assert float(R.square().sum()) == pytest.approx(16, rel=1e-3)
    assert torch.isfinite(weight).all()


def test_inputs_that_are_zero_change_nothing():
    R, weight = torch.eye(4), torch.ones(2, 4)
    update(R, torch.zeros(3, 4), 0.1, weight=weight, keep_scale=True)
    assert torch.equal(R, torch.eye(4))
    assert torch.equal(weight, torch.ones(2, 4))


def test_what_R_alone_moves_is_measured():
    net, x = network("linear")
    moved = []
    for keep_function in (False, True):
        own = copy.deepcopy(net)
        rule = nprobot.learning_rule(
            "dnp", decorrelation_lr=1e-2, seed=0, keep_function=keep_function
        )
        rule.backward(own, x, lambda y: y.square().mean(-1))
        expected = copy.deepcopy(own[0].R)
        moved.append(
            moved_by_decorrelation(rule, own, x, lambda old, new: (new - old).square().sum(-1))
        )
        assert not torch.equal(own[0].R, expected)
    assert moved[0] > 1e-6
    assert moved[1] < 1e-24


def test_layer_states_of_known_matrices():
    net = mlp([2, 2], decorrelated=True).double()
    net[0].R.copy_(torch.tensor([[2.0, 0.0], [0.0, 0.5]]))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    (state,) = layer_states(net, {"0": torch.tensor([[1.0, 1.0], [-1.0, -1.0]])})
    assert (state.name, state.condition) == ("0", pytest.approx(4.0))
    assert (state.correlation, state.scale) == (pytest.approx(1.0), pytest.approx(1.0))
    assert state.weight_norm == pytest.approx(5**0.5)
    assert state.folded_norm == pytest.approx(5**0.5)
    (unseen,) = layer_states(net, {})
    assert unseen.correlation != unseen.correlation
    with pytest.raises(RuleError, match="decorrelated layers"):
        layer_states(mlp([2, 2]), {})


def test_settings_are_off_shown_and_absent_in_rules_saved_before():
    rule = nprobot.learning_rule("dnp+feedback")
    assert (rule.keep_function, rule.keep_scale) == (False, False)
    assert "keep" not in repr(rule)
    rule = nprobot.learning_rule("dnp+feedback", keep_function=True, keep_scale=True)
    assert "keep_function=True, keep_scale=True" in repr(rule)
    assert pickle.loads(pickle.dumps(rule)).keep_function
    saved = {k: v for k, v in rule.__getstate__().items() if not k.startswith("keep_")}
    before = nprobot.learning_rule("dnp+feedback")
    before.__setstate__(saved)
    assert not before.keep_function
