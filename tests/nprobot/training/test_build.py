"""From a configuration to a model: options, seeds, schedules, normalisation."""

import dataclasses
import inspect

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch

import nprobot
from nprobot import catalogue
from nprobot.runs.seeds import Seeds
from nprobot.training import train
from nprobot.training.build import SCHEDULES, build_model, schedule
from nprobot.training.run_config import AlgorithmOptions, LearningOptions, NetworkOptions, RunConfig
from nprobot.training.vector import make_vector

from .helpers import CONFIG


class TestBuild:
    def test_options_reach_the_algorithm(self):
        config = dataclasses.replace(
            CONFIG,
            rule="np",
            learning=LearningOptions(
                learning_rate=2e-3,
                lr_schedule="linear",
                sigma=0.02,
                noise="gaussian",
                weight_decay=0.1,
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
        assert isinstance(model.policy.optimizer, torch.optim.AdamW)
        assert model.policy.optimizer.param_groups[0]["weight_decay"] == 0.1

    def test_every_part_has_its_own_seed(self):
        env = make_vector(CONFIG)
        model = build_model(CONFIG, env)
        seeds = Seeds.spawn(CONFIG.seed)
        starts = [gymnasium.make(CONFIG.env).reset(seed=seeds.environments + i)[0] for i in (0, 1)]
        assert (env.venv.reset() == np.stack(starts)).all()
        assert model.rule.source.seed == seeds.rule

    def test_without_steps_a_run_continues_until_solved(self):
        resolved = dataclasses.replace(CONFIG, steps=None).resolved(reward_threshold=950)
        assert resolved.stop_at == 950
        assert resolved.evaluate_every is not None
        assert resolved.steps is not None

    @pytest.mark.parametrize("name", SCHEDULES)
    def test_schedules(self, name):
        assert SCHEDULES[name](1.0) == pytest.approx(1.0)
        assert SCHEDULES[name](0.0) == pytest.approx(float(name == "constant"))
        for remaining in (1.0, 0.7, 0.0):
            assert schedule(0.5, name)(remaining) == pytest.approx(0.5 * SCHEDULES[name](remaining))

    @pytest.mark.parametrize(
        ("choice", "observations", "rewards"),
        [(None, 1, 1), ("on", 1, 1), ("off", 0, 0), ("observations", 1, 0), ("rewards", 0, 1)],
    )
    def test_normalise(self, choice, observations, rewards):
        env = make_vector(dataclasses.replace(CONFIG, normalise=choice))
        assert (env.norm_obs, env.norm_reward) == (observations, rewards)


class TestDefaults:
    """They are data in the catalogue, and those of stable-baselines3."""

    @pytest.mark.parametrize("algo", ["ppo", "sac", "td3"])
    def test_are_those_of_stable_baselines3(self, algo):
        theirs = inspect.signature(getattr(stable_baselines3, algo.upper())).parameters
        about = catalogue.ALGORITHMS[algo]
        same = {*about.options, "learning_rate"} & theirs.keys()
        assert len(same) > 6
        for name in same - {"ent_coef"} if algo == "sac" else same:
            assert about.defaults[name] == theirs[name].default, name

    @pytest.mark.parametrize("algo", ["ppo", "sac", "td3"])
    def test_of_the_network_are_those_of_the_policy(self, algo):
        config = RunConfig(algo=algo, env="Pendulum-v1")
        env = make_vector(config)
        ours = build_model(config, env)
        theirs = getattr(stable_baselines3, algo.upper())("MlpPolicy", env)
        shapes = [[tuple(p.shape) for p in m.policy.parameters()] for m in (ours, theirs)]
        assert shapes[0] == shapes[1]

    @pytest.mark.parametrize("rule", [n for n, r in catalogue.rules().items() if not r.traits.peer])
    @pytest.mark.parametrize("algo", catalogue.ALGORITHMS)
    def test_are_the_same_in_python_and_on_the_command_line(self, algo, rule):
        config = RunConfig(algo=algo, rule=rule, env="Pendulum-v1", seed=2)
        if algo == "nrl" and not catalogue.rules()[rule].perturbs:
            return
        env = make_vector(config)
        ours = build_model(config, env)
        plain = config.about.load()("MlpPolicy", env, rule=rule)
        assert repr(plain.rule) == repr(ours.rule)
        assert repr(plain.rule) == repr(nprobot.learning_rule(rule))
        assert plain.lr_schedule(1.0) == ours.lr_schedule(1.0)
        assert plain.lr_schedule(0.5) == ours.lr_schedule(0.5)
        for name in ("batch_size", "max_grad_norm", "gamma", "tau", "clip_range"):
            if hasattr(plain, name) and not callable(getattr(plain, name)):
                assert getattr(plain, name) == getattr(ours, name), name
        assert repr(plain.policy) == repr(ours.policy)

    def test_train_and_ppo_make_the_same_weights(self, tmp_path):
        """For the same seed, environment and settings."""
        config = RunConfig(
            steps=1024,
            seed=5,
            envs=2,
            checkpoint_every=4096,
            algorithm=AlgorithmOptions(n_steps=128),
        )
        trained = train(config, tmp_path / "run").policy
        seeds = Seeds.spawn(5)
        env = make_vector(config)
        model = nprobot.PPO(
            "MlpPolicy", env, n_steps=128, seed=seeds.torch, rule_kwargs={"seed": seeds.rule}
        )
        env.seed(seeds.environments)
        model.learn(1024)
        layers = [
            model.policy.mlp_extractor.policy_net[0],
            model.policy.mlp_extractor.policy_net[2],
            model.policy.action_net,
        ]
        saved = [o for o in trained.operations if o.name == "linear"]
        for layer, operation in zip(layers, saved, strict=True):
            assert (layer.weight.detach().numpy() == operation.arrays["weight"]).all()
