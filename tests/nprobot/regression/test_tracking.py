"""A learned inverse-dynamics model at work: feed-forward torques on the arm."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from nprobot.envs import datasets
from nprobot.envs.arm import TORQUE_LIMITS
from nprobot.envs.arm_track import ArmTrackEnv
from nprobot.errors import ArchitectureError, ConfigError, EnvironmentUnavailableError
from nprobot.policies.files import policy_file
from nprobot.regression import export_model, feedforward_policy, fit, track
from nprobot.regression.tracking import SHIFTED
from nprobot.training.evaluation import evaluate

SHORT = {"episodes": 3, "env_kwargs": {"duration": 2.0}}


@pytest.fixture(scope="module")
def learned():
    """A small model, learned without a backward pass."""
    recording = datasets.Recording(train=16, validation=2, test=2)
    data = datasets.inverse_dynamics(recording=recording, cache=False)
    return fit([64], data, "danp", samples=4, epochs=5)


def test_feedforward_halves_the_tracking_error(learned):
    alone, model = track(None, **SHORT), track(learned.model, **SHORT)
    assert learned.backward_passes == 0
    assert model.position_error < 0.5 * alone.position_error
    assert model.feedback_torque < 0.5 * alone.feedback_torque
    assert model.torque_error < 0.5 * alone.torque_error


def test_exact_inverse_dynamics_bounds_every_model(learned):
    model, exact = track(learned.model, **SHORT), track("exact", **SHORT)
    assert exact.position_error < model.position_error
    assert exact.torque_error == pytest.approx(0, abs=1e-4)  # what float32 actions leave
    assert len(exact.episode_errors) == 3
    assert len(exact.joint_errors) == len(exact.joint_feedback) == 7
    mean_square = np.mean(np.square(exact.joint_errors))
    assert exact.position_error == pytest.approx(np.sqrt(mean_square))


def test_a_payload_makes_the_nominal_model_wrong():
    exact, nominal = (track(name, **SHORT, **SHIFTED) for name in ("exact", "nominal"))
    assert nominal.torque_error > 0.5
    assert exact.torque_error == pytest.approx(0, abs=1e-4)
    assert exact.position_error < 0.5 * nominal.position_error
    assert track("nominal", **SHORT).torque_error == pytest.approx(0, abs=1e-4)


def test_the_controller_asks_the_model_about_the_reference(learned):
    policy = feedforward_policy(learned.model)
    env = gymnasium.make("nprobot/ArmTrack-v0")
    observation, _ = env.reset(seed=0)
    torque = learned.model.predict(observation[ArmTrackEnv.REFERENCE])
    expected = env.unwrapped.action_from_torque(torque)
    np.testing.assert_allclose(policy.predict(observation), expected, atol=1e-5)
    other = observation.copy()
    other[:14] += 1.0  # the measured state is the PD controller's business
    np.testing.assert_array_equal(policy.predict(other), policy.predict(observation))
    far = observation.copy()
    far[ArmTrackEnv.REFERENCE] *= 1000
    assert (np.abs(policy.predict(far)) <= 1).all()
    assert np.abs(torque).max() < TORQUE_LIMITS.max()
    env.close()


def test_model_policy_folder_and_function_are_the_same_controller(learned, tmp_path):
    folder = policy_file.save(export_model(learned.model), tmp_path)
    model = learned.model

    def function(env, observation):
        return env.action_from_torque(model.predict(observation[ArmTrackEnv.REFERENCE]))

    errors = [
        track(given, **SHORT).position_error
        for given in (model, feedforward_policy(model), folder, str(folder), function)
    ]
    np.testing.assert_allclose(errors, errors[0], rtol=1e-3)


def test_the_policy_file_knows_its_environment(learned):
    policy = export_model(learned.model)
    assert policy.task.id == "nprobot/ArmTrack-v0"
    assert policy.task.control_rate == 100
    result = evaluate(policy, episodes=2)
    assert result.lengths == (500, 500)
    assert result.mean > 400  # of at most 500


def test_what_is_no_controller_is_refused(learned):
    with pytest.raises(ConfigError, match="episodes"):
        track(None, episodes=0)
    with pytest.raises(ConfigError, match="got int"):
        track(3, **SHORT)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    other = fit([4], (x, x[:, :1], np.arange(300) // 30), "bp", epochs=1)
    with pytest.raises(ArchitectureError, match="arm-inverse-dynamics"):
        track(other.model, **SHORT)
    with pytest.raises(EnvironmentUnavailableError, match="does not fit"):
        track(export_model(other.model), **SHORT)
