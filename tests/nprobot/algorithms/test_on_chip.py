"""A policy on a noisy chip, in rollouts, learning, evaluation and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

import nprobot
from nprobot.errors import ConfigError, NoiseInaccessibleError, UnknownNameError
from nprobot.policies.chip import DeadNodes
from nprobot.policies.chip.crossbar import ChipLayer, on_chip
from nprobot.policies.chip.nonidealities import Converter, GaussianNoise, WeightMismatch, resolve
from nprobot.policies.files.from_sb3 import export_policy
from nprobot.training.evaluation import put_on_chip
from nprobot.training.run_config import RunConfig

DEVICE = "WeightMismatch:std=0.5"
"""A chip that is what it is for life, with nothing random beside."""


def made(algorithm=nprobot.PPO, **kwargs):
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    small = {"policy_kwargs": {"net_arch": [8, 8]}, "seed": 3, "device": "cpu"}
    own = {"n_steps": 32} if algorithm is nprobot.PPO else {"learning_starts": 20}
    return algorithm("MlpPolicy", env, **small | own | {"batch_size": 32} | kwargs)


@pytest.mark.parametrize("rule", ["np+feedback", "dnp+feedback", "danp", "bp"])
def test_ppo_has_all_layers_on_the_chip(rule):
    model = made(chip=0.06, rule=rule)
    layers = [m for m in model.policy.modules() if isinstance(m, nn.Linear)]
    assert all(isinstance(m, ChipLayer) for m in layers)
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(128)
    after = list(model.policy.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (model.rule.backward_passes == 0) == (rule != "bp")


@pytest.mark.parametrize("algorithm", [nprobot.SAC, nprobot.TD3])
def test_off_policy_actors_are_on_the_chip_and_critics_are_the_learners(algorithm):
    model = made(algorithm, chip=0.06)
    assert on_chip(model.policy.actor)
    assert not on_chip(model.policy.critic)
    before = [p.clone() for p in model.policy.actor.parameters()]
    model.learn(60)
    after = list(model.policy.actor.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.isfinite(torch.cat([p.flatten() for p in after])).all()


@pytest.mark.parametrize("algorithm", [nprobot.PPO, nprobot.SAC, nprobot.TD3])
def test_a_policy_file_on_the_chip_is_the_same_device(algorithm):
    model = made(algorithm, chip=DEVICE, device_seed=7)
    policy = export_policy(model, None, {"device_seed": 7})
    seen = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    acted, _ = model.predict(seen, deterministic=True)
    assert np.allclose(put_on_chip(policy, DEVICE, 0)(seen), acted, atol=1e-5)
    assert not np.allclose(policy.predict(seen), acted, atol=1e-3)


def test_a_loaded_model_is_on_the_same_device_and_its_noise_goes_on(tmp_path):
    model = made(chip=[WeightMismatch(0.5), GaussianNoise(0.1)])
    model.learn(64)
    model.save(tmp_path / "model")
    seen = np.zeros((2000, 3), np.float32)
    twins = [nprobot.PPO.load(tmp_path / "model", device="cpu") for _ in range(2)]
    first, second = (twin.predict(seen, deterministic=True)[0] for twin in twins)
    assert np.array_equal(first, second)
    new = made(chip=[WeightMismatch(0.5), GaussianNoise(0.1)])
    new.policy.load_state_dict(model.policy.state_dict())
    other = new.predict(seen, deterministic=True)[0]
    assert not np.array_equal(first, other)  # the noise that the first steps had is not had again
    assert abs(first.mean() - other.mean()) < 0.01
    twins[0].set_env(model.get_env())
    twins[0].learn(64)


@pytest.mark.parametrize("rule", ["np", "dinp", "inp+feedback"])
def test_rules_that_know_the_noise_are_refused_at_once(rule):
    with pytest.raises(NoiseInaccessibleError, match=r"chip.*'np\+feedback'"):
        made(chip=0.1, rule=rule)
    with pytest.raises(NoiseInaccessibleError, match=r"chip.*'np\+feedback'"):
        RunConfig(chip="0.1", rule=rule)


def test_chips_in_words():
    assert resolve("WeightMismatch:std=0.5,0.1, Converter:bound=8:levels=255") == (
        WeightMismatch(0.5),
        GaussianNoise(0.1),
        Converter(8, 255),
    )
    assert resolve("analog,0.02") == (*resolve("analog"), GaussianNoise(0.02))
    with pytest.raises(UnknownNameError, match="'analogue'; did you mean analog"):
        RunConfig(chip="analogue")
    with pytest.raises(ConfigError, match="Name:parameter=number"):
        resolve("Converter:bound=high")
    with pytest.raises(ConfigError, match="leave node_noise away"):
        RunConfig(algo="nrl").with_options({"chip": "0.1", "node_noise": 0.2})


def test_dead_nodes_are_stuck_from_their_onset_on():
    net = nprobot.NoisyNetwork(nn.Linear(2, 20), DeadNodes(0.1, onset=3), device_seed=0)
    a = net(torch.ones(5, 2))
    dead = (a[3:] == 0).all(0)
    assert dead.sum() == 2
    assert (a[:3] != 0).all()
    assert (net(torch.ones(4, 2))[:, dead] == 0).all()
