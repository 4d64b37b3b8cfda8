"""A learning step as a CUDA graph learns what the same step without one learns."""

from __future__ import annotations

import pytest
import torch

import nprobot
from nprobot.errors import RuleError
from nprobot.learning.captured_step import CapturedStep
from nprobot.policies import mlp

PLAIN_RULES = [
    name
    for name, rule in nprobot.catalogue.rules().items()
    if not rule.feedback and not rule.traits.peer
]

CASES = [(name, {}) for name in PLAIN_RULES] + [
    ("dnp", {"feedback": True}),
    ("inp", {"feedback": True}),
    ("np", {"feedback": "direct"}),
]


def squared_error(y, target):
    return (y - target).square().mean(-1)


def setup(name, device, **settings):
    rule = nprobot.learning_rule(name, samples=2, noise="rademacher", seed=0, **settings)
    torch.manual_seed(0)
    network = mlp([5, 16, 16, 3], decorrelated=rule.decorrelated).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, capturable=device == "cuda")
    return rule, network, optimizer


def test_the_cpu_has_no_graphs():
    with pytest.raises(RuleError, match="CUDA device, and the network is on cpu"):
        CapturedStep(*setup("danp", "cpu"), squared_error)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_a_captured_step_learns_what_an_eager_one_does(name, settings):
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(64, 5, generator=generator), torch.randn(64, 3, generator=generator))
        for _ in range(10)
    ]
    rule, network, optimizer = setup(name, "cuda", **settings)
    other_rule, other, other_optimizer = setup(name, "cuda", **settings)
    step = CapturedStep(rule, network, optimizer, squared_error)
    for inputs, targets in batches:
        x, target = inputs.to("cuda"), targets.to("cuda")
        losses = step(x, target)
        other_optimizer.zero_grad()
        expected = other_rule.backward(other, x, lambda y, t=target: squared_error(y, t))
        other_optimizer.step()
        other_rule.decorrelate(other)
        torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(network.state_dict(), other.state_dict(), rtol=1e-4, atol=1e-5)
    assert rule.forward_passes == other_rule.forward_passes
    assert rule.backward_passes == other_rule.backward_passes
    with pytest.raises(RuleError, match="shape and type"):
        step(x[:3], target[:3])


@pytest.mark.gpu
def test_what_cannot_be_captured_is_refused():
    rule, network, _ = setup("danp", "cuda")
    plain = torch.optim.Adam(network.parameters())
    with pytest.raises(RuleError, match="capturable=True"):
        CapturedStep(rule, network, plain, squared_error)
    rule, network, optimizer = setup("danp", "cuda", decorrelation_interval=2)
    with pytest.raises(RuleError, match="decorrelation_interval must be 1"):
        CapturedStep(rule, network, optimizer, squared_error)
