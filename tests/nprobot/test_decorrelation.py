"""The rule of R: a step by hand, decorrelation of correlated data, whitening, the interval."""

from __future__ import annotations

import pytest
import torch

import nprobot
from nprobot.learning.decorrelation import mean_square_correlation, update
from nprobot.policies import mlp


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
