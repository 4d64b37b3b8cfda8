"""Eligibility traces against the policy gradient."""

from __future__ import annotations

import pytest
import torch

from nprobot.algorithms.nrl import EligibilityTraces
from nprobot.algorithms.nrl_prediction import generalised_advantages
from nprobot.learning.activity import Activity
from nprobot.policies import mlp


@pytest.mark.parametrize("convolution", [False, True])
def test_traces_sum_up_to_the_advantages(convolution):
    """Σ δ e in the order of time = Σ A ⊗ eligibility ⊗ x with advantages from the end backwards."""
    torch.manual_seed(0)
    steps, robots = 7, 3
    if convolution:
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 2), torch.nn.Flatten(), torch.nn.Linear(8, 2)
        )
        observations = torch.randn(steps, robots, 1, 3, 3)
    else:
        net, observations = mlp([3, 4, 2]), torch.randn(steps, robots, 3)
    errors = torch.randn(steps, robots)
    ended = (torch.rand(steps, robots) < 0.3).float()
    advantages = generalised_advantages(errors, ended, 0.8)

    traces = EligibilityTraces(0.8)
    expected = [torch.zeros_like(p) for p in net.parameters()]
    for t in range(steps):
        with torch.no_grad():
            activity = Activity(net, observations[t])
            eligibility = torch.randn(robots, activity.size)
            inputs = [call.inputs for call in activity.calls]
            traces.mark(activity.calls, eligibility, inputs)
            traces.reinforce(errors[t], 0.25)
            traces.cut(ended[t] > 0)
        reinforced = [p.grad for p in net.parameters()]
        for p in net.parameters():
            p.grad = None
        activity.accumulate(-0.25 * advantages[t][:, None] * eligibility)
        for total, p, own in zip(expected, net.parameters(), reinforced, strict=True):
            total += p.grad
            p.grad = own
    for total, p in zip(expected, net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, total)
    traces.clear()
    assert not traces.traces
