"""Every algorithm ends bit for bit as if it had never stopped, whatever it remembers."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from nprobot.catalogue import ALGORITHMS
from nprobot.errors import ConfigError, DamagedFileError, EnvironmentUnavailableError
from nprobot.policies.files import policy_file
from nprobot.runs.folder import find_policy
from nprobot.runs.state import load_state, save_state
from nprobot.training.build import build_model
from nprobot.training.run_config import (
    AlgorithmOptions,
    LearningOptions,
    NetworkOptions,
    RunConfig,
)
from nprobot.training.run_folder import RunFolder
from nprobot.training.training_run import resume, train
from nprobot.training.vector import make_vector

COMMON = {"samples": 2, "seed": 3, "network": NetworkOptions(hidden=(8, 8))}
ON_LINE = {**COMMON, "algo": "nrl", "envs": 2, "steps": 384, "checkpoint_every": 128}
REPLAY = {"steps": 120, "checkpoint_every": 60, **COMMON}
LEARNS_EARLY = AlgorithmOptions(learning_starts=40, batch_size=16)
NOISY = {"env": "Reacher-v5", "actuators": "torque-motor", "sensor": "current-sense"}

RUNS = {
    "nrl": RunConfig(**ON_LINE, **NOISY),
    "nrl by its actuators": RunConfig(
        **{**ON_LINE, **NOISY},
        algorithm=AlgorithmOptions(noise_source="actuators", baseline="running-mean"),
    ),
    "nrl by injected noise": RunConfig(
        **ON_LINE,
        algorithm=AlgorithmOptions(noise_source="injected"),
    ),
    "sac": RunConfig(
        algo="sac", **REPLAY, algorithm=dataclasses.replace(LEARNS_EARLY, ent_coef_start=0.05)
    ),
    "sac by bp, its buffer full": RunConfig(
        algo="sac",
        rule="bp",
        env="Pendulum-v1",
        normalise="on",
        envs=2,
        algorithm=dataclasses.replace(LEARNS_EARLY, buffer_size=50, ent_coef=0.1),
        **REPLAY,
    ),
    "td3": RunConfig(algo="td3", **REPLAY, algorithm=LEARNS_EARLY),
}


@pytest.fixture(scope="module", params=RUNS)
def whole(request, tmp_path_factory):
    """A run that was never stopped; not to be changed."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("runs") / "whole"
    train(RUNS[request.param], path)
    return path


def first_checkpoint(path):
    return min((path / "checkpoints").glob("step_*"))


def test_a_resumed_run_is_the_same(whole, tmp_path, tools):
    path = tools.cut(whole, tmp_path / "run", int(first_checkpoint(whole).name[5:]))
    resume(path)
    tools.assert_same(path, whole)


def test_what_is_saved_is_what_is_restored(whole, tmp_path):
    config = RunFolder.open(whole).config
    saved = load_state(first_checkpoint(whole) / "training")["memory"]
    model = build_model(config, make_vector(config))
    model._restore_memory(saved)
    save_state(tmp_path / "a", saved)
    save_state(tmp_path / "b", model._memory())
    for kind in (".json", ".safetensors"):
        assert (tmp_path / f"a{kind}").read_bytes() == (tmp_path / f"b{kind}").read_bytes()


def test_the_policy_file_gives_the_actions_of_the_model(whole):
    config = RunFolder.open(whole).config
    vector = make_vector(config)
    model = build_model(config, vector)
    last = find_policy(whole)
    state = load_state(last / "training")
    if config.algo == "nrl" and config.algorithm.noise_source == "network":
        state["parameters"]["policy"] = dict(state["parameters"]["policy"])
        config = dataclasses.replace(config, algorithm=AlgorithmOptions(node_noise=0.0))
        model = build_model(config, vector)  # the same without noise
    model.policy.load_state_dict(state["parameters"]["policy"])
    policy = policy_file.load(last)
    x = np.random.default_rng(0).normal(size=(20, *policy.observation_shape))
    seen = x if policy.normaliser is None else policy.normaliser(x)
    expected, _ = model.predict(seen.astype(np.float32), deterministic=True)
    np.testing.assert_allclose(policy.predict(x), expected, atol=1e-4)


def test_the_configuration_on_disk_is_complete_and_makes_the_same_model(whole):
    written = json.loads((whole / "config.json").read_text())["config"]
    own = ALGORITHMS[written["algo"]].options
    given = {name for name, value in written["algorithm"].items() if value is not None}
    assert given <= set(own)
    assert set(own) - given <= {
        "max_grad_norm",
        "ent_coef",
        "ent_coef_start",
    }  # None
    config = RunFolder.open(whole).config
    assert config.resolved() == config


@pytest.mark.parametrize(
    ("given", "temperature", "recorded"),
    [
        ({}, 1.0, (None, 1.0)),
        ({"ent_coef_start": 0.01}, 0.01, (None, 0.01)),
        ({"ent_coef": 0.2}, 0.2, (0.2, None)),
    ],
)
def test_where_sacs_temperature_begins(given, temperature, recorded):
    config = RunConfig(env="Pendulum-v1", algo="sac", algorithm=AlgorithmOptions(**given))
    model = build_model(config, make_vector(config))
    if model.log_ent_coef is None:
        assert float(model.ent_coef_tensor) == pytest.approx(temperature)
    else:
        assert float(model.log_ent_coef.exp()) == pytest.approx(temperature)
    own = config.resolved().algorithm
    assert (own.ent_coef, own.ent_coef_start) == recorded


def test_a_replay_buffer_of_another_size_is_refused(whole, tmp_path, tools):
    config = RunFolder.open(whole).config
    if config.algo not in ("sac", "td3"):
        return
    memory = load_state(first_checkpoint(whole) / "training")["memory"]
    memory["replay"]["rewards"] = memory["replay"]["rewards"][1:]
    with pytest.raises(ValueError, match="rewards"):
        build_model(config, make_vector(config))._restore_memory(memory)
    memory["replay"]["pos"] = 10**9
    with pytest.raises(ValueError, match="no place"):
        build_model(config, make_vector(config))._restore_memory(memory)


def test_the_chip_of_another_run_is_refused(tmp_path):
    config = RunConfig(**ON_LINE)
    train(dataclasses.replace(config, steps=64, checkpoint_every=64), tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    other = file.read_text().replace('"seed": 3', '"seed": 4')
    file.write_text(other)
    with pytest.raises(DamagedFileError, match="another seed"):
        resume(tmp_path / "run", dataclasses.replace(RunFolder.open(tmp_path / "run").config))


def test_every_option_belongs_to_an_algorithm():
    names = {option.name for option in dataclasses.fields(AlgorithmOptions)}
    assert set().union(*(a.options for a in ALGORITHMS.values())) == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algo": "nrl", "algorithm": AlgorithmOptions(clip_range=0.1)}, "nrl has no option clip"),
        ({"algorithm": AlgorithmOptions(tau=0.1)}, "ppo has no option tau; it has batch_size"),
        ({"algo": "nrl", "learning": LearningOptions(alignment_every=3)}, "nrl has no option"),
        ({"sensor": "current-sense"}, "give actuators"),
    ],
)
def test_options_of_another_algorithm_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig(**options)


@pytest.mark.parametrize("algo", ["nrl", "sac", "td3"])
def test_actions_have_to_be_continuous(algo, tmp_path):
    with pytest.raises(EnvironmentUnavailableError, match="--algo ppo"):
        train(RunConfig(env="CartPole-v1", algo=algo), tmp_path / "run")
    assert not (tmp_path / "run").exists()
