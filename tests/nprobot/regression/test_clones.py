"""From a flight to a clone that flies: history, chunks, likelihood, and what is refused."""

import json
import sys

import gymnasium
import numpy as np
import pytest

from nprobot import fit
from nprobot.cli.deploy import main as deploy
from nprobot.cli.evaluate import main as evaluate_command
from nprobot.cli.fit import main as fit_command
from nprobot.deploy import Controller, load_policy
from nprobot.envs import ActionChunks, NoisyActuators
from nprobot.envs.datasets import Demonstration, Demonstrations
from nprobot.envs.datasets.demonstrations import stacked
from nprobot.errors import (
    ConfigError,
    DataError,
    EnvironmentUnavailableError,
    NotFoundError,
    UnknownNameError,
)
from nprobot.regression.data import Source
from nprobot.regression.demonstrated import CloneShape, cloning_rows, read_flights
from nprobot.training import environments, evaluate
from nprobot.training.evaluation import check_fit
from nprobot.training.groups import EnvRecipe, make_group
from nprobot.training.workers import LocalNumber

REACHER = ["zoo:Reacher", "--episodes", "8"]


@pytest.fixture(scope="module")
def flight(tmp_path_factory):
    """Eight episodes of 50 steps of the zoo's Reacher."""
    file = tmp_path_factory.mktemp("flights") / "expert.npz"
    assert deploy([*REACHER, "--flight", str(file)]) == 0
    return file


def rows(flight, **options):
    return Source(demonstrations=(str(flight),), **options).load()


def test_a_clone_flies_from_one_command(flight, tmp_path, capsys):
    out = tmp_path / "clone"
    assert fit_command(["--demonstrations", str(flight), "--epochs", "30", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "nprobot train --from" in told.replace("\n", " ")
    assert evaluate_command([str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["env"] == "Reacher-v5"
    expert = evaluate(load_policy("zoo:Reacher")).mean
    nothing = -43  # what a still arm gets
    assert found["return_mean"] > expert - 0.25 * (expert - nothing)
    policy = load_policy(out)
    assert policy.task.control_rate == 50 and policy.action.high.tolist() == [1, 1]
    assert len(policy.provenance["action_std"]) == 2
    assert policy.provenance["backward_passes"] == 0
    # It flies as it is, and behind noise, like any other policy.
    assert deploy([str(out), "--actuators", "servo"]) == 0


def test_history_and_chunk_are_the_same_in_data_and_on_the_robot(flight, tmp_path):
    data = rows(flight, history=3, chunk=4, execute=2)
    result = fit([16], data, epochs=2, out=tmp_path / "clone")
    assert data.target_size == 8 and result.controls == "Reacher-v5"
    policy = load_policy(tmp_path / "clone")
    assert policy.task.kwargs == {"frame_stack": 3, "action_chunk": 2}
    assert policy.task.control_rate == 25
    made = environments.make(policy.task.id, policy.task.kwargs, "servo")
    check_fit(policy, made, policy.task.id)
    assert isinstance(made, ActionChunks) and isinstance(made.env, NoisyActuators)
    assert environments.control_rate(made) == 25
    made.close()
    expected = result.model.predict(data.test.inputs)[:, :4].clip(-1, 1)
    np.testing.assert_allclose(policy.predict(data.test.inputs), expected, atol=1e-4)
    assert deploy([str(tmp_path / "clone"), "--actuators", "servo", "--seed", "1"]) == 0
    with pytest.raises(ConfigError, match="--execute 1"):
        deploy([str(tmp_path / "clone"), "--slew", "5"])


def test_the_robot_shows_a_clone_the_past_that_it_learned_from(flight, tmp_path):
    fit([16], rows(flight, history=3), epochs=2, out=tmp_path / "clone")
    flown = tmp_path / "flown.npz"
    assert deploy([str(tmp_path / "clone"), "--episodes", "2", "--flight", str(flown)]) == 0
    for part in read_flights([flown]).episodes:
        plain = Demonstration(part.observations[:, -10:], part.actions)
        np.testing.assert_array_equal(stacked(plain, 3), part.observations)


def test_robots_that_could_be_simulated_at_once_show_their_past_too():
    kwargs = {"model": "hopper", "task": "velocity"}
    shapes = []
    for more in ({}, {"frame_stack": 2, "action_chunk": 3}):
        group = make_group(EnvRecipe("nprobot/Robot-v0", kwargs | more), [0, 1], LocalNumber())
        about = group.describe()
        shapes.append((about.observation_space.shape[0], about.action_space.shape[0]))
        assert group.reset([0, 1]).shape == (2, shapes[-1][0])
        group.close()
    assert shapes[1] == (2 * shapes[0][0], 3 * shapes[0][1])


def test_a_chunk_of_which_one_action_is_carried_out_needs_no_wrapper(flight, tmp_path):
    fit([8], rows(flight, chunk=3, execute=1), epochs=1, out=tmp_path / "clone")
    policy = load_policy(tmp_path / "clone")
    assert policy.task.kwargs == {} and policy.action.low.shape == (2,)


@pytest.mark.parametrize("rule", ["bp", "np+feedback", "dnp+feedback"])
def test_the_likelihood_learns_how_far_it_is_from_each_target(rule):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 4))
    noise = np.array([0.1, 0.7]) * rng.normal(size=(3000, 2))
    y = np.stack([x[:, 0], x[:, 1]], axis=1) * [1.0, 0.7] + noise
    from nprobot.regression import fit_run

    kept = {}

    class Kept(fit_run.FitLearner):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            kept["learner"] = self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_run, "FitLearner", Kept)
        result = fit(
            [16], (x, y, np.repeat(np.arange(6), 500)), rule, loss="likelihood", epochs=30,
            batch_size=64, learning_rate=1e-2,
        )  # fmt: skip
    spread = kept["learner"].network.log_std.bias.detach().exp().numpy()
    expected = np.array([0.1, 0.7]) / y.std(axis=0)
    np.testing.assert_allclose(spread, expected, rtol=0.15)
    assert result.scores["test"].error < 0.4
    assert result.backward_passes == 0 or rule == "bp"


def test_a_fit_by_likelihood_continues_bit_for_bit(flight, tmp_path):
    data = rows(flight)
    options = {"loss": "likelihood", "seed": 1, "checkpoint_every": 1}
    whole = fit([8], data, epochs=4, out=tmp_path / "whole", lr_schedule="constant", **options)
    fit([8], data, epochs=2, out=tmp_path / "parts", lr_schedule="constant", **options)
    from nprobot.regression import resume

    parts = resume(tmp_path / "parts", data, epochs=4)
    for name, tensor in whole.model.state_dict().items():
        assert (parts.model.state_dict()[name] == tensor).all(), name


def test_what_a_faulty_supervisor_told_is_no_demonstration(tmp_path):
    controller = Controller(load_policy("zoo:Reacher"), about={"environment": "Reacher-v5"})
    for n in range(30):
        controller.step(np.full(10, np.nan) if n == 12 else np.full(10, n / 30))
        if n == 15:
            controller.clear_fault()
    file = controller.recorder.record().save(tmp_path / "flight.npz")
    parts = read_flights([file]).episodes
    assert [len(part.actions) for part in parts] == [12, 14]
    assert [part.whole for part in parts] == [True, False]
    np.testing.assert_array_equal(parts[1].observations[:, 0], np.arange(16, 30) / 30)


def test_discrete_actions_are_cloned_as_labels():
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(4):
        x = rng.normal(size=(100, 4))
        parts.append(Demonstration(x, (x[:, 2] > 0).astype(np.int64)))
    found = Demonstrations("poles", parts, "CartPole-v1")
    data = cloning_rows(found, CloneShape())
    result = fit([8], data, epochs=20)
    from nprobot.regression.model_export import export_model

    policy = export_model(result.model)
    assert policy.task.id == "CartPole-v1"
    assert policy.predict([[0, 0, 2, 0], [0, 0, -2, 0]]).tolist() == [1, 0]
    with pytest.raises(DataError, match="does not fit"):
        cloning_rows(found, CloneShape(), "Reacher-v5")


def test_data_without_an_environment_make_a_policy_without_one():
    rng = np.random.default_rng(0)
    parts = [Demonstration(rng.normal(size=(20, 3)), rng.normal(size=(20, 2))) for _ in range(3)]
    data = cloning_rows(Demonstrations("arm", parts, rate=30.0), CloneShape(history=2))
    from nprobot.regression.model_export import export_model

    policy = export_model(fit([8], data, epochs=1).model)
    assert policy.task is None and policy.observation_shape == (6,)
    assert np.isinf(policy.action.high).all()


def test_mistakes_are_named_before_anything_is_learned(flight, tmp_path):
    with pytest.raises(ConfigError, match="--execute 5"):
        rows(flight, chunk=2, execute=5)
    with pytest.raises(ConfigError, match="--history belongs to demonstrations"):
        Source(history=3)
    with pytest.raises(ConfigError, match="--rate does not go with"):
        Source(demonstrations=("x.npz",), rate=3.0)
    with pytest.raises(ConfigError, match="--data does not go with"):
        Source(demonstrations=("x.npz",), data=(flight,))
    with pytest.raises(ConfigError, match="LeRobot"):
        rows(flight, inputs=("a",))
    with pytest.raises(DataError, match=r"no file|There is no"):
        rows(tmp_path / "none.npz")
    with pytest.raises(DataError, match="Minari"):
        rows(tmp_path)
    other = tmp_path / "other.npz"
    np.savez(other, a=1)
    with pytest.raises(DataError, match="deploy --flight"):
        rows(other)
    with pytest.raises(DataError, match=r"10 numbers, those of Hopper-v5 11"):
        rows(flight, env="Hopper-v5")
    with pytest.raises(UnknownNameError, match="Reacher"):
        rows(flight, env="Recher-v5")
    found = read_flights([flight])
    stranger = Demonstrations("stranger", found.episodes, "their_module:Reacher-v5")
    with pytest.raises(ConfigError, match="--trust"):
        cloning_rows(stranger, CloneShape())
    assert "their_module" not in sys.modules
    gone = Demonstrations("gone", found.episodes, "Reacher-v5", {"xml_file": "/no/such.xml"})
    with pytest.raises((EnvironmentUnavailableError, NotFoundError), match="--env"):
        cloning_rows(gone, CloneShape())
    stacked = Demonstrations("stacked", found.episodes, "Reacher-v5", {"frame_stack": 2})
    with pytest.raises(ConfigError, match="already"):
        cloning_rows(stacked, CloneShape(history=2))
    assert gymnasium.spec("Reacher-v5")
