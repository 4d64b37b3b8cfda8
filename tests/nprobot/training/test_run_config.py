"""A run's configuration: checked when it is made, read back from JSON, names suggested."""

import dataclasses
import json
from typing import get_args

import pytest

from nprobot import catalogue
from nprobot.algorithms.nrl import NOISE_SOURCES
from nprobot.errors import ConfigError, EnvironmentUnavailableError, UnknownNameError, near_matches
from nprobot.learning.noise import DISTRIBUTIONS
from nprobot.policies.networks import ACTIVATIONS
from nprobot.runs.seeds import Seeds
from nprobot.training.environments import control_rate, find_spec, make, newest_versions
from nprobot.training.run_config import AlgorithmOptions, LearningOptions, NetworkOptions, RunConfig


def test_names_are_those_of_the_engine():
    # Written out in the catalogue so that `--help` need not load torch.
    assert set(get_args(catalogue.Activation)) == set(ACTIVATIONS)
    assert set(get_args(catalogue.Noise)) == set(DISTRIBUTIONS) == set(catalogue.NOISES)
    assert set(get_args(catalogue.NoiseSource)) == set(NOISE_SOURCES)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (RunConfig, {"samples": 0}),
        (RunConfig, {"steps": -5}),
        (RunConfig, {"envs": 0}),
        (RunConfig, {"seed": -1}),
        (RunConfig, {"checkpoint_every": 0}),
        (RunConfig, {"stop_at": float("nan")}),
        (RunConfig, {"normalise": "maybe"}),
        (RunConfig, {"workers": -1}),
        (RunConfig, {"workers": 9}),
        (RunConfig, {"env_timeout": 0}),
        (RunConfig, {"actuators": "servos"}),
        (LearningOptions, {"sigma": 0.0}),
        (LearningOptions, {"learning_rate": float("inf")}),
        (LearningOptions, {"decorrelation_lr": 2.0}),
        (LearningOptions, {"noise": "pink"}),
        (LearningOptions, {"lr_schedule": "exponential"}),
        (NetworkOptions, {"hidden": (64, 0)}),
        (NetworkOptions, {"activation": "tahn"}),
        (AlgorithmOptions, {"gamma": 1.5}),
        (AlgorithmOptions, {"n_steps": 0}),
        (AlgorithmOptions, {"ent_coef": -0.1}),
        (AlgorithmOptions, {"ent_coef_start": 0.0}),
    ],
)
def test_a_value_out_of_range_is_named(options, values):
    with pytest.raises(ConfigError) as caught:
        options(**values)
    (name,) = values
    assert name in str(caught.value)


def test_a_temperature_is_fixed_or_learned():
    with pytest.raises(ConfigError, match="give one of them"):
        RunConfig(algo="sac", algorithm=AlgorithmOptions(ent_coef=0.1, ent_coef_start=0.1))


@pytest.mark.parametrize(
    ("values", "near"),
    [
        ({"rule": "dapn"}, "danp"),
        ({"rule": "DANP"}, "danp"),
        ({"rule": "np-feedback"}, "np+feedback"),
        ({"algo": "pppo"}, "ppo"),
    ],
)
def test_unknown_names_come_with_near_ones(values, near):
    with pytest.raises(UnknownNameError, match="did you mean") as caught:
        RunConfig(**values)
    assert near in caught.value.near


def test_survives_json():
    config = RunConfig(
        env="Reacher-v5",
        env_kwargs={"reward_control_weight": 0.1},
        steps=1000,
        learning=LearningOptions(sigma=0.01),
        network=NetworkOptions(hidden=(32, 32), activation="relu"),
        algorithm=AlgorithmOptions(gamma=0.9),
    )
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "near"),
    [({"smaples": 8}, "samples"), ({"learning": {"sigmma": 1}}, "learning.sigma")],
)
def test_unknown_options_are_refused(values, near):
    with pytest.raises(UnknownNameError, match="unknown option") as caught:
        RunConfig.from_dict(values)
    assert caught.value.near[0] == near


def test_what_earlier_versions_wrote_is_understood():
    old = RunConfig.from_dict(
        {
            "rule": "dnp",
            "hardware": "servo",
            "checkpoint_episodes": "keep",
            "learning": {"feedback": True, "sigma": 0.01},
        }
    )
    new = RunConfig(rule="dnp+feedback", actuators="servo", learning=LearningOptions(sigma=0.01))
    assert old == new


def test_options_of_all_groups_have_names_of_their_own():
    groups = (RunConfig, LearningOptions, NetworkOptions, AlgorithmOptions)
    names = [field.name for group in groups for field in dataclasses.fields(group)]
    assert len(names) == len(set(names))  # or two flags of the command line would be one
    assert len(RunConfig().flat()) == len(names) - 3


def test_seeds_differ_from_each_other_and_between_runs():
    seeds = [dataclasses.astuple(Seeds.spawn(seed)) for seed in range(50)]
    assert len({word for run in seeds for word in run}) == 50 * 7
    assert Seeds.spawn(3) == Seeds.spawn(3)


class TestEnvironments:
    def test_unknown_id_suggests_the_newest_version(self):
        with pytest.raises(UnknownNameError) as caught:
            find_spec("reecher-v5")
        assert caught.value.near[0] == "Reacher-v5"

    def test_ids_of_this_software_are_registered(self):
        assert any(spec.namespace == "nprobot" for spec in newest_versions())

    def test_a_module_before_the_id_is_imported(self):
        assert find_spec("nprobot:Reacher-v5").id == "Reacher-v5"
        with pytest.raises(EnvironmentUnavailableError, match="no_such_module"):
            find_spec("no_such_module:Reacher-v5")

    def test_an_argument_it_does_not_take(self):
        with pytest.raises(EnvironmentUnavailableError, match="friction"):
            make("InvertedPendulum-v5", {"friction": 3})

    @pytest.mark.parametrize(
        ("env_id", "rate"), [("Reacher-v5", 50.0), ("CartPole-v1", 50.0), ("Acrobot-v1", 5.0)]
    )
    def test_control_rate(self, env_id, rate):
        env = make(env_id)
        assert control_rate(env) == pytest.approx(rate)
        env.close()


def test_near_matches_ignore_case():
    assert near_matches("REACHER-V5", ["Reacher-v5", "Pusher-v5"])[0] == "Reacher-v5"
    assert near_matches("zzz", ["Reacher-v5"]) == []


def test_a_run_says_what_learns():
    config = RunConfig(samples=1)
    assert config.learner == "PPO with NP + feedback, K = 1"
    assert RunConfig(rule="bp", samples=1, algo="sac").learner == "SAC with BP"


@pytest.mark.parametrize(
    ("env", "kwargs", "camera"),
    [
        ("Hopper-v5", {}, 0),
        ("Hopper-v5", {"camera_id": -1}, -1),
        ("InvertedPendulum-v5", {}, -1),
        ("nprobot/ArmReach-v0", {"camera_name": "side"}, 1),
        ("Pendulum-v1", {}, None),
    ],
)
def test_a_film_follows_the_robot(env, kwargs, camera):
    made = make(env, kwargs, render_mode="rgb_array")
    renderer = getattr(made.unwrapped, "mujoco_renderer", None)
    assert getattr(renderer, "camera_id", None) == camera
    made.close()
