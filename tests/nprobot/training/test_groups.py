"""Environments that are simulated at once give a run the rows that those one by one give it."""

import dataclasses

import numpy as np
import pytest

from nprobot.runs.log import read_table
from nprobot.training import groups, training_run
from nprobot.training.groups import BatchGroup, EnvironmentGroup, EnvRecipe, make_group
from nprobot.training.run_config import AlgorithmOptions, NetworkOptions, RunConfig
from nprobot.training.run_folder import RunFolder
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


@pytest.mark.parametrize("rule", ["np+feedback", "bp"])
def test_a_run_is_the_same_and_resumes_bit_for_bit(tmp_path, monkeypatch, rule):
    config = RunConfig(
        **{"env": RECIPE.env, "env_kwargs": {**RECIPE.kwargs, "command.grow": True}},
        **{"rule": rule, "envs": 3, "steps": 192, "checkpoint_every": 96, "seed": 2},
        network=NetworkOptions(hidden=(8,)),
        algorithm=AlgorithmOptions(n_steps=16, batch_size=24, n_epochs=2),
    )

    def rows(path):
        return [
            {name: cell for name, cell in row.items() if name not in CLOCK}
            for row in read_table(path / "progress.csv")
        ]

    whole = training_run.train(config, tmp_path / "whole")
    assert whole.backward_passes == 0 or rule == "bp"
    training_run.train(dataclasses.replace(config, workers=2), tmp_path / "workers")
    first = dataclasses.replace(config, steps=96)
    training_run.train(first, tmp_path / "parts")
    resumed = RunFolder.open(tmp_path / "parts").config
    training_run.resume(tmp_path / "parts", dataclasses.replace(resumed, steps=192))
    monkeypatch.setattr(groups.BatchGroup, "__new__", lambda cls, *a, **k: EnvironmentGroup(*a[:3]))
    training_run.train(config, tmp_path / "ones")
    expected = rows(tmp_path / "ones")
    assert len(expected) > 3
    for path in ("whole", "workers"):
        assert rows(tmp_path / path) == expected
    weights = [
        (tmp_path / path / "checkpoints" / "last" / "policy.safetensors").read_bytes()
        for path in ("ones", "whole", "workers", "parts")
    ]
    assert len(set(weights)) == 1
