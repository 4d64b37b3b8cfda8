"""Networks of which a part is on a noisy chip: the learner gives the rest noise of its own."""

from __future__ import annotations

import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from torch import nn
from torch.nn.functional import cosine_similarity

import nprobot
from nprobot import learning_rule
from nprobot.policies import mlp
from nprobot.policies.chip.crossbar import put_on_chip

from .rule_networks import gradients, squared_error

X = torch.randn(16, 5, generator=torch.Generator().manual_seed(1)).double()
Y = torch.randn(16, 2, generator=torch.Generator().manual_seed(2)).double()


def network(rule):
    torch.manual_seed(0)
    return mlp([5, 6, 2], "tanh", decorrelated=rule.decorrelated).double()


@pytest.mark.parametrize("first_on_chip", [True, False])
def test_what_is_off_the_chip_learns_from_noise_of_the_learners(first_on_chip):
    """In the direction of the gradient, and no less or more than if it were on the chip."""
    rule = learning_rule("anp", samples=1024, sigma=1e-3, seed=0)
    net, loss = network(rule), squared_error(Y)
    layers = (net[0], net[-1])
    loss(net(X)).mean().backward()
    expected = [layer.weight.grad.flatten() for layer in layers]
    net.zero_grad()
    put_on_chip(nn.ModuleList([layers[not first_on_chip]]), 0.02, seed=0)
    rule.backward(net, X, loss)  # finds out how noisy the chip is
    net.zero_grad()
    rule.backward(net, X, loss)
    estimates = [layer.weight.grad.flatten() for layer in layers]
    for estimate, gradient in zip(estimates, expected, strict=True):
        assert cosine_similarity(estimate, gradient, dim=0) > 0.9
    first, last = (
        float(own.norm() / gradient.norm())
        for own, gradient in zip(estimates, expected, strict=True)
    )
    assert 0.5 < first / last < 2


def test_the_noise_of_the_learner_can_be_had_again():
    """It is drawn from the rule's own stream, which is part of its state."""
    found = []
    rule = learning_rule("danp", seed=0)
    state = rule.state_dict()
    for _ in range(2):
        rule.load_state_dict(state)
        net = network(rule)
        put_on_chip(nn.ModuleList([net[-1]]), 0.02, seed=0)
        rule.backward(net, X, squared_error(Y))
        found.append(gradients(net))
    assert torch.equal(*found)
    assert rule.state_dict()["noise"]


def test_ppo_learns_how_much_to_explore_where_only_its_layers_are_on_a_chip():
    """SB3's log std is none of the layers that a user would put on a chip by hand."""
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    model = nprobot.PPO(
        "MlpPolicy", env, rule="danp", seed=0, n_steps=64, batch_size=64, device="cpu"
    )
    put_on_chip(nn.ModuleList([model.policy.mlp_extractor.policy_net]), "analog", seed=0)
    model.learn(256)
    assert model.policy.log_std.detach().abs() > 1e-3


def test_feedback_passes_layers_of_several_maps_off_the_chip():
    """Gains of a norm and groups of a convolution, fitted from noisy activity like any layer."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Linear(5, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh()),
        *(nn.Unflatten(1, (4, 3)), nn.Conv1d(4, 4, 3, groups=2), nn.Flatten(), nn.Tanh()),
        nn.Linear(4, 2),
    ).double()
    x, loss = torch.randn(256, 5).double(), squared_error(torch.randn(256, 2).double())
    loss(net(x)).mean().backward()
    expected = gradients(net)
    put_on_chip(nn.ModuleList([net[0], net[3], net[-1]]), 0.05, seed=0)
    rule = learning_rule("np+feedback", seed=0)
    for _ in range(60):
        net.zero_grad()
        rule.backward(net, x, loss)
    assert cosine_similarity(gradients(net), expected, dim=0) > 0.95
