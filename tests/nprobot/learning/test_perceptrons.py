"""The short form of the rules: the engine's steps, number for number, and where it stands back."""

from __future__ import annotations

import copy
import logging
from unittest import mock

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

import nprobot
from nprobot.algorithms.graph_free.array_losses import (
    ArraySurrogate,
    ArrayValueError,
    array_distribution,
)
from nprobot.algorithms.graph_free.fused_step import FusedStep
from nprobot.algorithms.graph_free.short_rollout import ShortRollout, advantages
from nprobot.algorithms.graph_free.short_update import ShortUpdate, Stacks
from nprobot.algorithms.losses import ClippedSurrogate, SquaredValueError
from nprobot.errors import NonFiniteError
from nprobot.learning.perceptrons import Perceptrons
from nprobot.policies import mlp
from nprobot.policies.distributions import action_distribution
from nprobot.policies.sb3_networks import Actor, Critic

RULES = ["np", "inp", "anp", "np+feedback"]
CLOSE = {"rtol": 1e-7, "atol": 1e-9}


def pair(name, **settings):
    """A rule, and the same that takes the general path."""
    short, general = (nprobot.learning_rule(name, seed=1, **settings) for _ in range(2))
    general.use_short_form = False
    return short, general


def flat(parameters):
    return torch.cat([p.detach().flatten() for p in parameters])


@pytest.mark.parametrize("activation", ["tanh", "relu", "leaky_relu", "gelu", "sign", "identity"])
@pytest.mark.parametrize("decorrelated", ["", "d"])
@pytest.mark.parametrize("name", RULES)
def test_steps_are_those_of_the_engine(name, decorrelated, activation):
    for sizes, draws in (([5, 8, 8, 3], 1), ([5, 7, 9, 4, 2], 3), ([5, 3], 2), ([5, 40, 1], 1)):
        short, general = pair(decorrelated + name, samples=draws)
        net = mlp(sizes, activation, decorrelated=short.decorrelated).double()
        twin = copy.deepcopy(net)
        assert isinstance(short.short_form_of(net), Perceptrons)
        for batch in (16, 16, 9, 16, 16, 16, 16, 16):
            x, y = torch.randn(batch, 5).double(), torch.randn(batch, sizes[-1]).double()
            for rule, network in ((short, net), (general, twin)):
                network.zero_grad()
                rule.backward(network, x, lambda out, y=y: (out - y).square().mean(-1))
                with torch.no_grad():
                    for p in network.parameters():
                        p -= 0.01 * p.grad
                rule.decorrelate(network)
            torch.testing.assert_close(flat(net.parameters()), flat(twin.parameters()), **CLOSE)
        assert short.forward_passes == general.forward_passes
        assert short.decorrelation_loss(net) == pytest.approx(general.decorrelation_loss(twin))
        if activation != "sign":  # what never moves teaches feedback nothing but rounding
            torch.testing.assert_close(short.state_dict(), general.state_dict(), **CLOSE)


SPACES = [
    spaces.Box(-1, 1, (3,)),
    spaces.Discrete(4),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("arch", [[12, 9], {"pi": [8], "vf": [6, 5]}], ids=["stacked", "apart"])
def test_ppos_losses_of_arrays_are_its_losses(arch, name, space):
    policy = ActorCriticPolicy(
        spaces.Box(-1, 1, (5,)),
        space,
        lambda _: 1e-3,
        net_arch=arch,
        share_features_extractor=False,
    ).double()
    networks = {"actor": Actor(policy), "critic": Critic(policy)}
    distribution = action_distribution(space)
    short, general = pair(name, samples=2, sigma=1e-6)  # so small that no sample meets a kink
    stacks = Stacks(short, networks)
    assert len(stacks.stacks) == (1 if isinstance(arch, list) else 2)
    ours = ArraySurrogate(array_distribution(distribution), 0.2, 0.01), ArrayValueError(0.5, 0.5)
    for _ in range(4):
        x = torch.randn(32, 5).double()
        actions = torch.as_tensor(np.stack([space.sample() for _ in range(32)])).view(32, -1)
        old = distribution.log_prob(tensors(networks["actor"](x)), actions)
        old = (old + 0.3 * torch.randn(32)).detach()
        advantages, returns, values = torch.randn(3, 32).double()
        ours[0].actions, ours[0].old_log_prob = actions.numpy(), old.numpy()
        ours[0].advantages = advantages.numpy()
        ours[1].returns, ours[1].old_values = returns.numpy(), values.numpy()
        stacks.estimate(x.numpy(), ours)
        theirs = (
            ClippedSurrogate(distribution, actions, old, advantages, 0.2, 0.01),
            SquaredValueError(returns, values, 0.5, 0.5),
        )
        policy.zero_grad()
        for network, loss in zip(networks.values(), theirs, strict=True):
            general.backward(network, x, loss)
        expected = torch.cat([p.grad.flatten() for p in stacks.parameters])
        found = torch.cat([g.flatten() for g in stacks.gradients])
        assert (found - expected).norm() < 1e-5 * expected.norm()
        terms = ours[0].surrogate.mean(), -ours[0].entropy.mean()
        assert theirs[0].terms() == pytest.approx(terms)
        assert theirs[1].mean() == pytest.approx(ours[1].error.mean())


def tensors(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def learnt(env, short, **settings):
    steps = 128 * settings.get("envs", 1)
    rule, general = pair(settings.pop("rule", "np+feedback"))
    model = nprobot.PPO(
        "MlpPolicy",
        make_vec_env(env, settings.pop("envs", 1), seed=0),
        rule=rule if short else general,
        seed=0,
        device="cpu",
        **{"n_steps": 128, "n_epochs": 4, **settings},
    )
    return model.learn(steps)


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"envs": 3, "batch_size": 60, "ent_coef": 0.01, "rule": "dnp+feedback"}),
        ("Reacher-v5", {"policy_kwargs": {"optimizer_class": torch.optim.AdamW}}),
        ("Reacher-v5", {"policy_kwargs": {"optimizer_class": torch.optim.SGD}, "rule": "anp"}),
    ],
)
def test_a_whole_run_is_that_of_the_engine_to_rounding(env, settings):
    short, general = (learnt(env, which, **copy.deepcopy(settings)) for which in (True, False))
    assert isinstance(short._update, ShortUpdate)
    assert isinstance(short._rollout, ShortRollout)
    assert general._update == general._rollout == "it is switched off"
    start = nprobot.PPO("MlpPolicy", env, seed=0, device="cpu").policy.parameters()
    ours, theirs, before = (
        flat(p) for p in (short.policy.parameters(), general.policy.parameters(), start)
    )
    assert (ours - theirs).norm() < 0.05 * (ours - before).norm()  # single precision
    assert short.rule.forward_passes == general.rule.forward_passes
    logged, expected = short.logger.name_to_value, general.logger.name_to_value
    assert list(logged) == list(expected)
    for name in expected:
        assert logged[name] == pytest.approx(expected[name], rel=0.05, abs=1e-4), name
    ours, theirs = short.policy.optimizer.state_dict(), general.policy.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert {k: v.keys() for k, v in ours["state"].items()} == {
        k: v.keys() for k, v in theirs["state"].items()
    }


def test_an_update_that_went_too_far_ends():
    short, general = (
        learnt("CartPole-v1", which, target_kl=1e-4, learning_rate=1e-2) for which in (True, False)
    )
    assert short._n_updates == general._n_updates == 1
    assert short.rule.forward_passes == general.rule.forward_passes


def test_advantages_are_those_of_sb3_bit_for_bit():
    rng = np.random.default_rng(0)
    buffer = RolloutBuffer(50, spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)), n_envs=3)
    buffer.rewards[:], buffer.values[:] = rng.normal(size=(2, 50, 3))
    buffer.episode_starts[:] = rng.random((50, 3)) < 0.1
    twin = copy.deepcopy(buffer)
    last, dones = rng.normal(size=3).astype(np.float32), np.array([True, False, False])
    advantages(buffer, last, dones)
    twin.compute_returns_and_advantage(torch.from_numpy(last), dones)
    assert np.array_equal(buffer.advantages, twin.advantages)
    assert np.array_equal(buffer.returns, twin.returns)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.Adam, {"fused": True, "weight_decay": 0.1}),
        (torch.optim.AdamW, {"fused": True, "betas": (0.8, 0.9)}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_a_fused_step_is_the_optimisers_own(kind, settings):
    net = mlp([3, 4, 2])
    twin = copy.deepcopy(net)
    ours, theirs = (kind(n.parameters(), lr=1e-2, **settings) for n in (net, twin))
    gradients = [torch.empty_like(p) for p in net.parameters()]
    step = FusedStep(ours, list(net.parameters()), gradients)
    for i in range(6):
        if i == 3:  # as by a checkpoint
            ours.load_state_dict(copy.deepcopy(ours.state_dict()))
            step = FusedStep(ours, list(net.parameters()), gradients)
        for gradient, p in zip(gradients, twin.parameters(), strict=True):
            gradient.normal_()
            p.grad = gradient.clone()
        step()
        theirs.step()
    assert torch.equal(flat(net.parameters()), flat(twin.parameters()))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_gradients_add_up_and_are_the_users():
    rule = nprobot.learning_rule("np", seed=0)
    net, x = mlp([4, 5, 2]), torch.randn(6, 4)
    noise = [torch.randn(1, 6, 5), torch.randn(1, 6, 2)]

    def loss(y):
        return y.square().sum(-1)

    rule.backward(net, x, loss, perturbations=noise)
    once = [p.grad for p in net.parameters()]
    kept = flat(once)
    rule.backward(net, x, loss, perturbations=noise)
    torch.testing.assert_close(flat([p.grad for p in net.parameters()]), 2 * kept)
    net.zero_grad()
    rule.backward(net, 2 * x, loss)
    torch.testing.assert_close(flat(once), 2 * kept)


def changed(how):
    net = mlp([4, 5, 2])
    how(net)
    return net


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        ("frozen", lambda net: net[0].requires_grad_(False)),
        ("hook", lambda net: net[0].register_forward_hook(lambda *_: None)),
        ("Bilinear", lambda net: net.__setitem__(0, nn.Bilinear(2, 2, 5))),
        ("LayerNorm", lambda net: net.insert(1, nn.LayerNorm(5, elementwise_affine=False))),
        ("Softmax", lambda net: net.__setitem__(1, nn.Softmax(-1))),
        ("no linear layer", lambda net: net.append(nn.Tanh())),
    ],
)
def test_what_is_no_plain_perceptron_takes_the_general_path(reason, how):
    rule = nprobot.learning_rule("np+feedback", seed=0)
    assert reason in rule.short_form_of(changed(how))


def test_a_network_that_changes_is_looked_at_again():
    rule = nprobot.learning_rule("np", seed=0)
    net, x = mlp([4, 5, 2]), torch.randn(6, 4)
    rule.backward(net, x, lambda y: y.square().sum(-1))
    assert isinstance(rule.short_form_of(net), Perceptrons)
    net[0].weight.data = torch.zeros(5, 4)  # other memory
    net[0].bias.data.zero_()
    values = rule.backward(net, x, lambda y: y.square().sum(-1))
    assert torch.allclose(values, net(x).square().sum(-1))
    net[1] = nn.Softmax(-1)
    assert isinstance(rule.short_form_of(net), str)


def test_the_log_says_by_which_path_it_learns(caplog):
    with caplog.at_level(logging.INFO, "nprobot"):
        nprobot.PPO("MlpPolicy", "CartPole-v1", rule="np", device="cpu")
        assert "updates: numpy" in caplog.text
        policy = {"activation_fn": lambda: nn.Softmax(-1)}
        nprobot.PPO("MlpPolicy", "CartPole-v1", rule="np", device="cpu", policy_kwargs=policy)
    assert "updates: the general engine, as Softmax" in caplog.text


def test_a_policy_that_has_lost_its_numbers_says_so():
    model = nprobot.PPO("MlpPolicy", "Reacher-v5", seed=0, device="cpu", n_steps=64)
    with torch.no_grad():
        model.policy.action_net.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="distribution"):
        model.learn(64)


def test_nothing_of_torchs_graph_is_touched():
    env = gymnasium.make("CartPole-v1")
    model = nprobot.PPO("MlpPolicy", env, seed=0, device="cpu", n_steps=64, n_epochs=1)
    model.learn(64)
    forbidden = AssertionError("torch runs the network")
    with mock.patch.object(torch.nn.functional, "linear", side_effect=forbidden):
        model.train()
        assert model.collect_rollouts(model.env, mock.MagicMock(), model.rollout_buffer, 64)


def test_a_network_that_is_put_on_a_chip_takes_the_general_path_at_once():
    net, rule = mlp([4, 8, 2]), nprobot.learning_rule("np+feedback", seed=0)
    assert isinstance(rule.short_form_of(net), Perceptrons)
    chip = nprobot.NoisyNetwork(net, 0.1, seed=0)
    assert isinstance(rule.short_form_of(net), str)
    assert isinstance(rule.short_form_of(chip), str)
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    model = nprobot.PPO("MlpPolicy", env, rule="danp", n_steps=32, batch_size=32, device="cpu")
    nprobot.NoisyNetwork(model.actor, 0.1, seed=0)
    with mock.patch.object(ShortRollout, "collect", side_effect=AssertionError):
        model.learn(64)
    assert "ChipDecorrelatedLinear" in model.paths
    assert "on a chip" in nprobot.PPO("MlpPolicy", env, chip=0.1, device="cpu").paths
