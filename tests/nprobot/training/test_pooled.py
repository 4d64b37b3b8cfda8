"""Robots that envpool simulates: episodes, seeds and errors, with a stand-in for the library."""

import dataclasses
import sys
import types

import numpy as np
import pytest
from gymnasium import spaces

from nprobot.errors import ConfigError, EnvironmentUnavailableError, UnknownNameError
from nprobot.training.groups import EnvRecipe, make_group
from nprobot.training.run_config import RunConfig
from nprobot.training.workers import LocalNumber

RECIPE = EnvRecipe("InvertedPendulum-v5", {"max_episode_steps": 3}, envpool=True)


class Pool:
    """Counts the steps of episodes that end after `max_episode_steps`; the last is the seed."""

    def __init__(self, name, *, env_type, num_envs, num_threads, env_seed, max_episode_steps):
        assert (name, env_type) == (RECIPE.env, "gymnasium")
        self.action_space = spaces.Box(-3, 3, (1,), np.float64)
        self.most = max_episode_steps
        self.rows = np.zeros((num_envs, 4))
        self.rows[:, 3] = env_seed

    def reset(self, numbers=slice(None)):
        self.rows[numbers, 0] = 0
        return self.rows[numbers].copy(), {}

    def step(self, actions):
        assert actions.dtype == np.float64
        self.rows[:, 0] += 1
        truncated = self.rows[:, 0] >= self.most
        rewards = np.full(len(self.rows), 0.5, np.float32)
        return self.rows, rewards, np.zeros_like(truncated), truncated, {}


@pytest.fixture
def envpool(monkeypatch):
    library = types.SimpleNamespace(
        __version__="1.2", make=Pool, list_all_envs=lambda: ["Ant-v5", RECIPE.env]
    )
    monkeypatch.setitem(sys.modules, "envpool", library)


def test_episodes_end_and_begin_in_one_step(envpool):
    group = make_group(RECIPE, [4, 5], LocalNumber())
    assert group.describe().together == "simulated at once by envpool 1.2"
    assert group.describe().control_rate == pytest.approx(25)
    first = group.reset([7, 2**31 + 1])
    assert first[:, 3].tolist() == [7, 1]
    for step in (1, 2, 3):
        observations, rewards, dones, infos = group.step(np.zeros((2, 1), np.float32))
        assert rewards.dtype == np.float32
        assert dones.tolist() == [step == 3] * 2
    assert observations[:, 0].tolist() == [0, 0]
    assert infos[1]["terminal_observation"].tolist() == [3, 0, 0, 1]
    assert infos[1]["TimeLimit.truncated"]
    assert infos[1]["episode"] == {"r": 1.5, "l": 3}
    assert group.reset([None, None])[:, 3].tolist() == [7, 1]
    assert group.attribute("spec")[1].id == RECIPE.env
    group.close()


def test_mistakes_are_named(envpool, monkeypatch):
    def make(**changes):
        make_group(dataclasses.replace(RECIPE, **changes), [0], LocalNumber()).reset([0])

    with pytest.raises(UnknownNameError, match="environment of envpool"):
        make(env="Reacher-v5")
    with pytest.raises(EnvironmentUnavailableError, match="cannot be made by envpool"):
        make(kwargs={"reset_noise_scale": 0.1})
    with pytest.raises(ConfigError, match="neither noisy actuators nor wrappers"):
        RunConfig(envpool=True, actuators="servo")
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(EnvironmentUnavailableError, match=r"pip install 'nprobot\[envpool\]'"):
        make()
