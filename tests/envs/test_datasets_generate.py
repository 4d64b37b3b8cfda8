"""Recorded data is what the robot's model says, without leaks, for any robot a user names."""

import dataclasses
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest

from nprobot.envs import arm, datasets
from nprobot.envs.datasets import Recording
from nprobot.envs.datasets.robots import resolve
from nprobot.envs.dynamics import InverseDynamics
from nprobot.errors import ConfigError, DataError, DataWarning, RobotError

SMALL = Recording(train=4, validation=2, test=2, duration=1.0)
TWO_LINKS = """
<mujoco>
  <option timestep="0.002"/>
  <worldbody>
    <body name="floating" pos="0 0 1">
      <freejoint name="root"/>
      <geom size="0.1" mass="2"/>
      <body name="upper"><joint name="shoulder" axis="0 1 0" range="-1 2" limited="true"/>
        <geom type="capsule" fromto="0 0 0 0 0 -0.5" size="0.03" mass="1"/>
        <body name="lower" pos="0 0 -0.5"><joint name="elbow" type="slide" axis="0 0 1"/>
          <geom type="capsule" fromto="0 0 0 0 0 -0.4" size="0.03" mass="0.5"/>
          <site name="hand" pos="0 0 -0.4"/>
        </body>
      </body>
    </body>
    <geom name="floor" type="plane" size="1 1 .1"/>
  </worldbody>
  {actuators}
</mujoco>
"""


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NPROBOT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def mjcf(tmp_path):
    def write(actuators="", text=TWO_LINKS):
        path = tmp_path / "robot.xml"
        path.write_text(text.format(actuators=actuators))
        return path

    return write


def trajectories(split):
    return set(split.trajectory.tolist())


def test_inverse_dynamics_reproduces_mj_inverse_row_by_row():
    data = datasets.inverse_dynamics(recording=SMALL)
    model = mujoco.MjModel.from_xml_path(str(arm.model_path()))
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    state = mujoco.MjData(model)
    for row in (0, 57, 399):
        state.qpos[:], state.qvel[:], state.qacc[:] = np.split(data.train.inputs[row], 3)
        mujoco.mj_inverse(model, state)
        assert np.allclose(state.qfrc_inverse, data.train.targets[row], rtol=1e-6, atol=1e-8)
    assert data.train.inputs.shape == (400, 21) and data.train.targets.shape == (400, 7)
    assert data.input_names[::7] == ("joint1", "joint1.velocity", "joint1.acceleration")
    assert data.input_units[::7] == ("rad", "rad/s", "rad/s²")
    assert set(data.target_units) == {"N·m"}


def test_splits_share_no_trajectory_and_the_shifted_one_repeats_the_test_motion():
    data = datasets.inverse_dynamics(recording=SMALL)
    parts = [trajectories(s) for s in (data.train, data.validation, data.test)]
    assert [len(p) for p in parts] == [4, 2, 2]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert np.array_equal(data.shifted.inputs, data.test.inputs)
    assert not np.allclose(data.shifted.targets, data.test.targets)
    rows = {row.tobytes() for row in data.train.inputs}
    assert not any(row.tobytes() in rows for row in data.test.inputs)


def test_shifted_targets_are_those_of_a_loaded_robot_that_rubs_more():
    same = datasets.inverse_dynamics(recording=SMALL, payload=0.0, friction_scale=1.0)
    assert np.allclose(same.shifted.targets, same.test.targets)
    data = datasets.inverse_dynamics(recording=SMALL, payload=2.0, friction_scale=1.0)
    env = gymnasium.make("nprobot/ArmTrack-v0", payload=2.0).unwrapped
    exact = env.inverse_dynamics(*np.split(data.shifted.inputs, 3, axis=1))
    env.close()
    assert np.allclose(exact, data.shifted.targets, atol=1e-8)


def test_trajectories_are_recordings_in_time():
    data = datasets.inverse_dynamics(recording=SMALL)
    first = data.train.inputs[data.train.trajectory == 0]
    assert len(first) == 100
    step = np.diff(first[:, :7], axis=0) * SMALL.rate
    mean_velocity = (first[1:, 7:14] + first[:-1, 7:14]) / 2
    assert np.allclose(step, mean_velocity, atol=0.02)


def test_default_task_is_correlated_large_and_beyond_linear_regression():
    data = datasets.inverse_dynamics(cache=False)
    assert len(data.train) >= 32_000
    inputs = (data.train.inputs - data.train.inputs.mean(0)) / data.train.inputs.std(0)
    spectrum = np.linalg.eigvalsh(inputs.T @ inputs)
    assert spectrum[-1] / spectrum[0] > 30
    linear, mean = datasets.linear_regression(data), datasets.mean_predictor(data)
    assert 0.15 < linear["test"].mean() < 0.5
    assert linear["shifted"].mean() > linear["test"].mean()
    assert np.allclose(mean["train"], 1.0) and mean["test"].mean() >= 1.0


def test_more_training_trajectories_leave_the_others_as_they_are():
    few = datasets.inverse_dynamics(recording=SMALL)
    many = datasets.inverse_dynamics(recording=dataclasses.replace(SMALL, train=6))
    assert np.array_equal(many.test.inputs, few.test.inputs)
    assert np.array_equal(many.train.inputs[: len(few.train)], few.train.inputs)
    other = datasets.inverse_dynamics(recording=dataclasses.replace(SMALL, seed=1))
    assert not np.allclose(other.train.inputs, few.train.inputs)


def test_share_of_rhythmic_trajectories_is_kept():
    def moving_starts(share):
        recording = dataclasses.replace(SMALL, train=10, rhythmic=share)
        data = datasets.inverse_dynamics(recording=recording)
        starts = data.train.inputs[:: round(SMALL.rate), 7:14]
        return int((np.abs(starts).max(1) > 0).sum())

    assert [moving_starts(share) for share in (0.0, 0.3, 1.0)] == [0, 3, 10]


def test_forward_kinematics_is_the_pose_of_the_tool():
    data = datasets.forward_kinematics(recording=SMALL, tool_shift=0.1)
    env = gymnasium.make("nprobot/ArmTrack-v0").unwrapped
    for inputs, pose, longer in zip(
        data.test.inputs[::60], data.test.targets[::60], data.shifted.targets[::60], strict=True
    ):
        assert np.allclose(env.end_effector_at(inputs), pose[:3], atol=1e-12)
        x, y = pose[3:6], pose[6:9]
        assert np.allclose([x @ x, y @ y, x @ y], [1, 1, 0], atol=1e-9)
        assert np.allclose(longer[:3] - pose[:3], 0.1 * np.cross(x, y), atol=1e-9)
    env.close()
    assert data.target_names[:4] == ("x", "y", "z", "R11")


def test_inverse_kinematics_asks_for_the_posture_that_has_the_pose():
    data = datasets.inverse_kinematics(recording=SMALL, lookahead=0.25)
    forward = datasets.forward_kinematics(recording=SMALL)
    assert len(data.train) == 4 * 75
    pose, now = data.train.inputs[:75, :9], data.train.inputs[:75, 9:]
    assert np.array_equal(pose, forward.train.targets[25:100])
    assert np.array_equal(now, forward.train.inputs[:75])
    assert np.array_equal(data.train.targets[:75], forward.train.inputs[25:100])


@pytest.mark.parametrize("lookahead", [0.0, 1.0, float("nan")])
def test_inverse_kinematics_without_a_future_is_refused(lookahead):
    with pytest.raises(DataError, match="lookahead"):
        datasets.inverse_kinematics(recording=SMALL, lookahead=lookahead)


# -- other robots ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "joints"), [("Reacher-v5", 2), ("Ant-v5", 8), ("Pusher-v5", 7)])
def test_gymnasium_robots_can_be_recorded(name, joints):
    data = datasets.inverse_dynamics(name, SMALL)
    assert data.train.inputs.shape == (400, 3 * joints)
    assert data.train.targets.shape == (400, joints)
    assert data.meta["robot"] == name
    assert not np.allclose(data.shifted.targets, data.test.targets)


def test_environments_of_the_arm_are_the_arm():
    data = datasets.inverse_dynamics("nprobot/ArmReach-v0", SMALL)
    assert np.array_equal(
        data.train.targets, datasets.inverse_dynamics(recording=SMALL).train.targets
    )


def test_mjcf_without_actuators_moves_hinges_and_slides_and_holds_the_floating_base(mjcf):
    path = mjcf()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = datasets.inverse_dynamics(path, SMALL)
    assert data.meta["joints"] == ("shoulder", "elbow")
    assert data.input_units == ("rad", "m", "rad/s", "m/s", "rad/s²", "m/s²")
    assert data.target_units == ("N·m", "N")
    # On its stand the sliding link is lifted by 0.5 kg of force where it hangs straight down.
    exact = InverseDynamics(mujoco.MjModel.from_xml_path(str(path)), [6, 7], [7, 8])
    assert exact([0, 0], [0, 0], [0, 0])[1] == pytest.approx(0.5 * 9.81)
    assert np.allclose(exact(*np.split(data.train.inputs, 3, axis=1)), data.train.targets)
    shoulder = data.train.inputs[:, 0]
    assert shoulder.min() > -1 and shoulder.max() < 2


def test_only_driven_joints_move_unless_others_are_named(mjcf):
    path = mjcf('<actuator><motor joint="shoulder"/></actuator>')
    assert resolve(path).joints == ("shoulder",)
    assert resolve(path, joints=["elbow"]).joints == ("elbow",)
    tendon = (
        '<tendon><fixed name="t"><joint joint="elbow" coef="1"/></fixed></tendon>'
        '<actuator><motor tendon="t"/></actuator>'
    )
    assert resolve(mjcf(tendon)).joints == ("elbow",)


def test_end_effector_is_the_last_link_or_what_is_named(mjcf):
    path = mjcf()
    last, hand = resolve(path), resolve(path, end_effector="hand")
    assert last.model.body(last.body).name == hand.model.body(hand.body).name == "lower"
    assert np.allclose(last.offset, 0) and np.allclose(hand.offset, [0, 0, -0.4])
    for wrong in ("nose", "floating"):
        with pytest.raises(RobotError, match="hand"):
            resolve(path, end_effector=wrong)


def test_robots_that_cannot_be_used_say_why(mjcf, tmp_path):
    with pytest.raises(RobotError, match="shoulder"):
        resolve(mjcf(), joints=["root"])
    only_free = TWO_LINKS.replace(
        '<joint name="shoulder" axis="0 1 0" range="-1 2" limited="true"/>', ""
    )
    only_free = only_free.replace('<joint name="elbow" type="slide" axis="0 0 1"/>', "")
    with pytest.raises(RobotError, match="Free and ball"):
        resolve(mjcf(text=only_free))
    broken = tmp_path / "broken.xml"
    broken.write_text('<mujoco><worldbody><body><geom size="-1"/></body></worldbody></mujoco>')
    with pytest.raises(RobotError, match=r"broken\.xml"):
        datasets.inverse_dynamics(broken, SMALL)
    broken.write_text("no xml at all")
    with pytest.raises(RobotError):
        datasets.inverse_dynamics(str(broken), SMALL)
    with pytest.raises(RobotError, match=r"gone\.xml"):
        datasets.inverse_dynamics("gone.xml", SMALL)
    with pytest.raises(RobotError, match="Reacher-v5"):
        datasets.inverse_dynamics("Reachr-v5", SMALL)
    with pytest.raises(RobotError, match="MuJoCo"):
        datasets.inverse_dynamics("CartPole-v1", SMALL)


def test_columns_out_of_the_plane_are_warned_of_and_standardise_to_zero():
    with pytest.warns(DataWarning, match="z, R31, R32"):
        data = datasets.forward_kinematics("Reacher-v5", SMALL)
    mean, scale = datasets.moments(data.train.targets)
    assert np.isfinite((data.train.targets - mean) / scale).all()
    assert np.abs((data.train.targets - mean) / scale)[:, 2].max() < 1e-9
    error = datasets.linear_regression(data)["test"]
    assert np.isnan(error[2]) and np.isfinite(np.nanmean(error))


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"train": 0},
        {"duration": 0.0},
        {"duration": 0.01},
        {"rate": float("inf")},
        {"rhythmic": 1.2},
        {"synergy": -0.1},
        {"speed": 0.0},
        {"seed": -1},
    ],
)
def test_impossible_recordings_are_refused(bad):
    with pytest.raises(DataError):
        Recording(**bad)


def test_impossible_shifts_are_refused():
    with pytest.raises(ConfigError, match="payload"):
        datasets.inverse_dynamics(recording=SMALL, payload=-1.0)
    with pytest.raises(DataError, match="tool_shift"):
        datasets.forward_kinematics(recording=SMALL, tool_shift=float("nan"))


def test_tasks_are_made_by_name_with_flat_settings(mjcf):
    settings = {"train": 4, "validation": 2, "test": 2, "duration": 1.0}
    made = datasets.make("arm-inverse-dynamics", payload=1.0, cache=False, **settings)
    direct = datasets.inverse_dynamics(recording=SMALL, payload=1.0)
    assert np.array_equal(made.shifted.targets, direct.shifted.targets)
    for name in ("arm-forward-kinematics", "arm-inverse-kinematics"):
        assert len(datasets.make(name, **settings).splits) == 4
    own = datasets.make("inverse-dynamics", robot=mjcf(), **settings)
    assert own.meta["robot"] == "robot"


def test_unknown_tasks_and_settings_suggest_the_nearest():
    with pytest.raises(DataError, match="did you mean 'arm-inverse-dynamics'"):
        datasets.make("arm-inverse-dynamic")
    with pytest.raises(DataError, match="did you mean 'payload'"):
        datasets.make("arm-inverse-dynamics", paylod=1.0)
    with pytest.raises(DataError, match="no setting 'robot'"):
        datasets.make("arm-inverse-dynamics", robot="Ant-v5")
    with pytest.raises(DataError, match="robot="):
        datasets.make("inverse-dynamics")
    with pytest.raises(DataError, match="wrong type"):
        datasets.make("arm-inverse-dynamics", train="many")
