"""A learning step gives its tensors back at once, not when Python next collects its garbage."""

import gc

import pytest
import torch
from torch import nn

import nprobot
from nprobot.catalogue import rules

NETWORKS = {
    "mlp": lambda rule: nprobot.policies.mlp([3, 8, 2], decorrelated=rule.decorrelated),
    "convolutional": lambda rule: nn.Sequential(
        nn.Unflatten(1, (1, 1, 3)),
        nn.Conv2d(1, 2, (1, 2)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4, 2),
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", [n for n, rule in rules().items() if not rule.traits.peer])
def test_a_step_leaves_no_garbage(name, network):
    """A run of PPO grew by 50 MB in its first minutes: each step was part of a cycle."""
    rule = nprobot.learning_rule(name, seed=0)
    net = NETWORKS[network](rule)
    if rule.decorrelated:
        net = nprobot.policies.decorrelate(net)
    inputs, target = torch.randn(4, 3), torch.randn(4, 2)

    def steps(count):
        for _ in range(count):
            rule.backward(net, inputs, lambda y: ((y - target) ** 2).mean(-1))
            rule.decorrelate(net)

    steps(3)
    gc.collect()
    gc.disable()
    try:
        steps(5)
        assert gc.collect() == 0
    finally:
        gc.enable()
