"""Environments that are simulated at once give a run the rows that those one by one give it."""

import dataclasses

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import nprobot
from nprobot.runs.log import read_table
from nprobot.training import training_run, workers
from nprobot.training.groups import BatchGroup, EnvironmentGroup, EnvRecipe, make_group
from nprobot.training.run_config import AlgorithmOptions, NetworkOptions, RunConfig
from nprobot.training.run_folder import RunFolder
from nprobot.training.vector import SideBySide
from nprobot.training.workers import LocalNumber

RECIPE = EnvRecipe("nprobot/Quadruped-v0", {"duration": 0.6, "command.every": 0.2})
CLOCK = {"time/fps", "time/time_elapsed"}


def test_both_give_the_same():
    many = make_group(RECIPE, range(5), LocalNumber())
    ones = EnvironmentGroup(RECIPE, range(5), LocalNumber())
    assert isinstance(many, BatchGroup)
    about = many.describe()
    assert about.together == "simulated at once by 1 thread" or about.together.endswith("threads")
    assert dataclasses.replace(about, together=None) == ones.describe()
    seeds = [3, 1, 4, 1, 5]
    np.testing.assert_array_equal(many.reset(seeds), ones.reset(seeds))
    assert many.attribute("spec")[0].kwargs == ones.attribute("spec")[0].kwargs
    generator, ended = np.random.default_rng(0), 0
    for _ in range(70):
        actions = generator.uniform(-1.2, 1.2, (5, 12)).astype(np.float32)
        *these, infos = many.step(actions)
        *those, told = ones.step(actions)
        for mine, theirs in zip(these, those, strict=True):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype
        for mine, theirs in zip(infos, told, strict=True):
            last = mine.pop("terminal_observation", None)
            ended += last is not None
            np.testing.assert_array_equal(last, theirs.pop("terminal_observation", None))
            assert mine == theirs
    assert ended > 3


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (dataclasses.replace(RECIPE, actuators="servo"), "noisy actuators are before each"),
        (EnvRecipe(RECIPE.env, {"randomise": True}), "randomise.actuators"),
        (EnvRecipe(RECIPE.env, {"max_episode_steps": 9}), "max_episode_steps is an argument of"),
        (EnvRecipe("Pendulum-v1"), None),
    ],
)
def test_what_cannot_be_at_once_is_one_by_one_and_says_why(recipe, told):
    group = make_group(recipe, range(2), LocalNumber())
    assert isinstance(group, EnvironmentGroup)
    together = group.describe().together
    assert together is None if told is None else told in together


def one_by_one(recipe, indices, busy, threads=None):
    return EnvironmentGroup(recipe, indices, busy)


def test_a_run_is_the_same_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    config = RunConfig(
        **{"env": RECIPE.env, "env_kwargs": {**RECIPE.kwargs, "command.grow": True}},
        **{"envs": 4, "steps": 192, "checkpoint_every": 64, "seed": 2},
        network=NetworkOptions(hidden=(8,)),
        algorithm=AlgorithmOptions(n_steps=16, batch_size=32, n_epochs=2),
    )
    train = training_run.train
    train(dataclasses.replace(config, steps=128), tmp_path / "parts")
    stored = RunFolder.open(tmp_path / "parts").config
    training_run.resume(tmp_path / "parts", dataclasses.replace(stored, steps=192))
    assert train(config, tmp_path / "whole").backward_passes == 0
    train(dataclasses.replace(config, workers=2), tmp_path / "workers")
    monkeypatch.setattr(workers, "make_group", one_by_one)
    train(config, tmp_path / "ones")
    rows = {
        path.name: [
            {name: cell for name, cell in row.items() if name not in CLOCK}
            for row in read_table(path / "progress.csv")
        ]
        for path in tmp_path.iterdir()
    }
    assert rows["whole"] == rows["workers"] == rows["ones"]
    assert len(rows["whole"]) > 2
    last = [path / "checkpoints" / "last" / "policy.safetensors" for path in tmp_path.iterdir()]
    assert len({file.read_bytes() for file in last}) == 1


def test_backprop_is_stable_baselines3s_weight_for_weight():
    """On robots at once, beside SB3 on the same robots one by one."""
    settings = {
        **{"seed": 1, "device": "cpu", "n_steps": 32, "batch_size": 32, "n_epochs": 2},
        "policy_kwargs": {"net_arch": [8]},
    }
    many = SideBySide(RECIPE, 4, 0, 300.0)
    ours = nprobot.PPO("MlpPolicy", many, rule="bp", **settings).learn(256)
    ones = DummyVecEnv([lambda: Monitor(RECIPE.make()) for _ in range(4)])
    theirs = stable_baselines3.PPO("MlpPolicy", ones, **settings).learn(256)
    assert [e["l"] for e in ours.ep_info_buffer] == [e["l"] for e in theirs.ep_info_buffer]
    for name, weight in theirs.policy.state_dict().items():
        assert torch.equal(weight, ours.policy.state_dict()[name]), name
