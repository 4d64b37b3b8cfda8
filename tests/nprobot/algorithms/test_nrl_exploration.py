"""Explorations: what they find eligible is the gradient of the reward, node by node."""

from __future__ import annotations

import pytest
import torch

import nprobot
from nprobot.algorithms.nrl_exploration import (
    ActuatorNoise,
    GuidedNoise,
    HiddenNoise,
    InjectedNoise,
    RunningPower,
)
from nprobot.algorithms.nrl_reinforce import BackpropagatedNoise
from nprobot.errors import RuleError
from nprobot.learning.activity import Activity
from nprobot.policies import mlp


def score(exploration, net, x, weight, sensed=None, repeats=60):
    """Mean over trials of reward x eligibility, for a reward that is linear in the outputs."""
    total = 0.0
    with torch.no_grad():
        for _ in range(repeats):
            trial = exploration.act(net, x)
            what = None if sensed is None else sensed(trial.outputs)
            done = trial.outputs if what is None else what
            reward = (done * weight).sum(-1, keepdim=True)
            total = total + reward * exploration.eligibility(trial, what)
            exploration.learn()
    return total / repeats


def test_every_exploration_finds_the_gradient_of_the_reward():
    """E[reward x eligibility] is the derivative of the expected reward, node by node."""
    torch.manual_seed(1)
    net = mlp([3, 5, 2])
    with torch.no_grad():
        net[2].weight.mul_(0.5)
    x, weight = 0.5 * torch.randn(64, 3).repeat(50, 1), torch.tensor([1.0, -0.5])
    activity = Activity(net, x)
    truth = torch.autograd.grad(
        (activity.outputs * weight).sum(), [call.pre_activation for call in activity.calls]
    )
    truth = torch.cat(truth, -1)
    noise = torch.Generator().manual_seed(2)

    def sensed(outputs):
        return outputs + 0.1 * torch.randn(outputs.shape, generator=noise)

    rule = nprobot.learning_rule("np", sigma=1e-2, samples=64, noise="rademacher", seed=0)
    found = {
        "injected": score(InjectedNoise(0.1, seed=0), net, x, weight),
        "actuators": score(ActuatorNoise(rule), net, x, weight, sensed, repeats=20),
        "backprop": score(BackpropagatedNoise(0.1, seed=0), net, x, weight),
        "backprop, sensed": score(BackpropagatedNoise(0.0, seed=0), net, x, weight, sensed),
    }
    chip = nprobot.NoisyNetwork(net, 0.1, seed=0)
    found["hidden"] = score(HiddenNoise(), chip, x, weight)
    found["hidden, 3 references"] = score(HiddenNoise(3), chip, x, weight)
    for name, given in {"guided": None, "guided, sensed": sensed}.items():
        guided = GuidedNoise(1, nprobot.learning_rule("np+feedback", seed=0))
        found[name] = score(guided, chip, x, weight, given)
    found["hidden, sensed"] = score(HiddenNoise(), chip, x, weight, sensed)
    for name, estimate in found.items():
        for nodes in (slice(0, 5), slice(5, 7)):
            own, true = estimate[:, nodes].mean(0), truth[:, nodes].mean(0)
            cosine = torch.nn.functional.cosine_similarity(own, true, dim=0)
            assert cosine > 0.95, (name, nodes)
            if "sensed" not in name:
                assert float(own.norm() / true.norm()) == pytest.approx(1, abs=0.35), name


def test_the_acting_pass_is_the_one_that_is_reinforced():
    """Reward for what pass 1 did: with pass 2 acting, the eligibility would have the other sign."""
    net = nprobot.NoisyNetwork(torch.nn.Linear(1, 1), 0.1, seed=0)
    with torch.no_grad():
        trial = HiddenNoise().act(net, torch.ones(1000, 1))
        eligibility = HiddenNoise().eligibility(trial, None)
        reward = trial.outputs - trial.outputs.mean()
        assert (reward * eligibility).mean() > 0.5


def test_offsets_of_the_chip_teach_nothing():
    chip = nprobot.NoisyNetwork(mlp([2, 3, 1]), 0.1, seed=0)
    offset = nprobot.NoisyNetwork(
        chip.off_chip_copy(), [0.1, nprobot.policies.chip.Offset(5)], seed=0
    )
    with torch.no_grad():
        for net in (chip, offset):
            trial = HiddenNoise().act(net, torch.ones(5000, 2))
            assert abs(float(trial.perturbation.mean())) < 0.01


def test_silent_nodes_are_not_eligible_and_harm_nobody():
    power = RunningPower()
    assert power.update(torch.zeros(4)) == 1.0
    assert power.update(torch.full((4,), 2.0)) == 4.0
    assert 0 < power.update(torch.zeros(4)) < 4.0
    with pytest.raises(RuleError, match="references"):
        HiddenNoise(0)
