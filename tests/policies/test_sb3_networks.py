"""Views of the networks of SAC and TD3: the same outputs and parameters; critics run forward."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.sac.policies import MultiInputPolicy as SACDictPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from nprobot.errors import ArchitectureError
from nprobot.policies import decorrelate
from nprobot.policies.sb3_networks import (
    DeterministicActor,
    FrozenCritic,
    GaussianActor,
    QNetwork,
    effective_parameters,
)

OBSERVATIONS, ACTIONS = spaces.Box(-1, 1, (5,)), spaces.Box(-1, 1, (2,))
B, K = 6, 3


def make(kind, observations=OBSERVATIONS, **settings):
    torch.manual_seed(0)
    return kind(observations, ACTIONS, lambda _: 1e-3, net_arch=[7, 8], **settings)


def mix(network):
    """Give R something to do."""
    for name, buffer in decorrelate(network).named_buffers():
        if name.endswith("R"):
            buffer += 0.3 * torch.randn_like(buffer)
    return network


def same(parameters, others):
    return {id(p) for p in parameters} == {id(p) for p in others}


def test_views_share_the_parameters_and_compute_what_the_policy_does():
    sac, td3, x = make(SACPolicy), make(TD3Policy), torch.randn(B, 5)
    mean, log_std, _ = sac.actor.get_action_dist_params(x)
    for ours, theirs in zip(GaussianActor(sac.actor)(x), (mean, log_std), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(DeterministicActor(td3.actor)(x).tanh(), td3.actor(x))
    assert same(GaussianActor(sac.actor).parameters(), sac.actor.parameters())
    assert same(DeterministicActor(td3.actor).parameters(), td3.actor.parameters())
    actions = torch.rand(B, 2)
    for i, theirs in enumerate(sac.critic(x, actions)):
        view = QNetwork(sac.critic, i)
        assert torch.equal(view((x, actions)), theirs)
        assert same(view.parameters(), sac.critic.q_networks[i].parameters())


@pytest.mark.parametrize("convert", [lambda network: network, mix])
@pytest.mark.parametrize("leading", [(), (K,)])
def test_a_frozen_critic_gives_the_critics_values(convert, leading):
    critic = convert(make(SACPolicy).critic)
    x, actions = torch.randn(B, 5), torch.rand(*leading, B, 2)
    frozen = FrozenCritic(critic, x)
    values = frozen(actions)
    assert values.shape == (2, *leading, B)
    for row, own in zip(
        values.reshape(2, -1, B).transpose(0, 1), actions.view(-1, B, 2), strict=True
    ):
        torch.testing.assert_close(row, torch.cat(critic(x, own), dim=1).mT)
    assert frozen.passes == 2 * B * (K if leading else 1)
    assert not values.requires_grad


def test_a_frozen_critic_passes_gradients_to_actions_alone():
    critic, actions = make(SACPolicy).critic, torch.rand(B, 2, requires_grad=True)
    FrozenCritic(critic, torch.randn(B, 5))(actions).sum().backward()
    assert actions.grad is not None
    assert all(p.grad is None for p in critic.parameters())


def test_a_frozen_critic_of_dict_observations_and_of_its_first_network_only():
    space = spaces.Dict(a=OBSERVATIONS, b=spaces.Box(-1, 1, (2, 2)))
    critic = make(SACDictPolicy, space).critic
    x = {"a": torch.randn(B, 5), "b": torch.randn(B, 2, 2)}
    actions = torch.rand(B, 2)
    frozen = FrozenCritic(critic, x, networks=1)
    torch.testing.assert_close(frozen(actions), critic.q1_forward(x, actions).mT)
    assert frozen.passes == B


def test_a_frozen_critic_runs_networks_it_cannot_fold():
    class Bilinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(7, 1)

        def forward(self, x):
            return self.layer(x).square()

    critic = make(SACPolicy).critic
    critic.q_networks[0] = Bilinear()
    x, actions = torch.randn(B, 5), torch.rand(K, B, 2)
    values = FrozenCritic(critic, x)(actions)
    for k in range(K):
        torch.testing.assert_close(values[:, k], torch.cat(critic(x, actions[k]), dim=1).mT)


def test_effective_parameters_are_those_of_the_plain_network():
    plain = make(TD3Policy).critic
    expected = [p.detach().clone() for p in plain.parameters()]
    critic = make(TD3Policy).critic
    for ours, theirs in zip(effective_parameters(critic), expected, strict=True):
        assert torch.equal(ours, theirs)
    mix(critic)
    with torch.no_grad():
        for p, value in zip(plain.parameters(), effective_parameters(critic), strict=True):
            p.copy_(value)
    x, actions = torch.randn(B, 5), torch.rand(B, 2)
    for ours, theirs in zip(plain(x, actions), critic(x, actions), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_foreign_head_is_refused():
    td3 = make(TD3Policy)
    td3.actor.mu[-1] = nn.Identity()
    with pytest.raises(ArchitectureError, match="Tanh"):
        DeterministicActor(td3.actor)
