"""From a configuration to a model: options, seeds, schedules, normalisation."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.utils import LinearSchedule

from nprobot.runs.seeds import Seeds
from nprobot.training.build import SCHEDULES, build_model, learning_rates, resolve, schedule_name
from nprobot.training.config import AlgorithmOptions, LearningOptions, NetworkOptions
from nprobot.training.vector import make_vector

from .training_helpers import CONFIG


class TestBuild:
    def test_options_reach_the_algorithm(self):
        config = dataclasses.replace(
            CONFIG,
            rule="np",
            learning=LearningOptions(
                learning_rate=2e-3, lr_schedule="linear", sigma=0.02, noise="gaussian"
            ),
            network=NetworkOptions(hidden=(5,), activation="relu"),
            algorithm=AlgorithmOptions(n_steps=32, batch_size=16, clip_range=0.3, gamma=0.9),
        )
        env = make_vector(config)
        model = build_model(config, env)
        assert model.rule.name == "np"
        assert (model.rule.sigma, model.rule.samples, model.rule.noise) == (0.02, 2, "gaussian")
        assert (model.n_steps, model.batch_size, model.gamma) == (32, 16, 0.9)
        assert env.gamma == 0.9
        assert model.clip_range(1.0) == 0.3
        assert model.lr_schedule(0.5) == pytest.approx(1e-3)
        assert isinstance(model.policy.mlp_extractor.policy_net[1], torch.nn.ReLU)
        resolved = resolve(config, model)
        assert resolved.learning.lr_schedule == "linear"
        assert resolved.network == config.network
        assert resolved.algorithm.clip_range == 0.3

    def test_every_part_has_its_own_seed(self):
        env = make_vector(CONFIG)
        model = build_model(CONFIG, env)
        seeds = Seeds.spawn(CONFIG.seed)
        starts = [gymnasium.make(CONFIG.env).reset(seed=seeds.environments + i)[0] for i in (0, 1)]
        assert (env.venv.reset() == np.stack(starts)).all()
        assert model.rule.source.seed == seeds.rule

    def test_without_steps_a_run_goes_on_until_solved(self):
        config = dataclasses.replace(CONFIG, steps=None)
        resolved = resolve(config, build_model(config, make_vector(config)))
        assert resolved.stop_at == 950
        assert resolved.evaluate_every is not None
        assert resolved.steps is not None

    def test_first_rate_and_schedule_are_separate(self):
        constant = LearningOptions(learning_rate=0.5)
        for name, share in SCHEDULES.items():
            rates = learning_rates(constant, share)
            assert (rates(1.0), schedule_name(rates)) == (0.5, name)
            rates = learning_rates(LearningOptions(lr_schedule=name), lambda remaining: 0.1)
            assert (rates(1.0), schedule_name(rates)) == (pytest.approx(0.1), name)
        assert schedule_name(lambda remaining: remaining**3) is None

    @pytest.mark.parametrize("name", SCHEDULES)
    def test_schedules_start_at_one(self, name):
        assert SCHEDULES[name](1.0) == pytest.approx(1.0)
        assert SCHEDULES[name](0.0) == pytest.approx(float(name == "constant"))

    @pytest.mark.parametrize(
        ("choice", "observations", "rewards"),
        [(None, 1, 1), ("on", 1, 1), ("off", 0, 0), ("observations", 1, 0), ("rewards", 0, 1)],
    )
    def test_normalise(self, choice, observations, rewards):
        env = make_vector(dataclasses.replace(CONFIG, normalise=choice))
        assert (env.norm_obs, env.norm_reward) == (observations, rewards)


def test_a_default_that_is_written_out_is_the_same_to_the_last_digit():
    """Or a run from its `config.json` would drift away from the run that wrote it."""
    default = LinearSchedule(3e-3, 0.0, 1.0)
    silent = learning_rates(LearningOptions(), default)
    written = learning_rates(LearningOptions(learning_rate=3e-3, lr_schedule="linear"), default)
    assert all(silent(i / 977) == written(i / 977) for i in range(978))
