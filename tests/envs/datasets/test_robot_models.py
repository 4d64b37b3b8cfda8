"""From what a user names to joints that can move, for any robot."""

from __future__ import annotations

import warnings

import mujoco
import numpy as np
import pytest

from nprobot.envs import datasets
from nprobot.envs.datasets.robot_models import find_robot
from nprobot.envs.dynamics import InverseDynamics
from nprobot.errors import DataWarning, RobotError

SHOULDER = '<joint name="shoulder" axis="0 1 0" range="-1 2" limited="true"/>'
ELBOW = '<joint name="elbow" type="slide" axis="0 0 1"/>'
TWO_LINKS = """
<mujoco>
  <option timestep="0.002"/>
  <worldbody>
    <body name="floating" pos="0 0 1">
      <freejoint name="root"/>
      <geom size="0.1" mass="2"/>
      <body name="upper">{joints[0]}
        <geom type="capsule" fromto="0 0 0 0 0 -0.5" size="0.03" mass="1"/>
        <body name="lower" pos="0 0 -0.5">{joints[1]}
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


@pytest.fixture
def mjcf(tmp_path):
    def write(actuators="", joints=(SHOULDER, ELBOW), text=TWO_LINKS):
        path = tmp_path / "robot.xml"
        path.write_text(text.format(actuators=actuators, joints=joints))
        return path

    return write


@pytest.mark.parametrize(("name", "joints"), [("Reacher-v5", 2), ("Ant-v5", 8), ("Pusher-v5", 7)])
def test_gymnasium_robots_can_be_recorded(small, name, joints):
    data = datasets.inverse_dynamics(name, small)
    assert data.train.inputs.shape == (400, 3 * joints)
    assert data.train.targets.shape == (400, joints)
    assert data.meta["robot"] == name
    assert not np.allclose(data.shifted.targets, data.test.targets)


def test_environments_of_the_arm_are_the_arm(small, recorded, same):
    assert same(datasets.inverse_dynamics("nprobot/ArmReach-v0", small), recorded)


def test_mjcf_without_actuators_moves_hinges_and_slides_and_holds_the_floating_base(small, mjcf):
    path = mjcf()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = datasets.inverse_dynamics(path, small)
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
    assert find_robot(path).joints == ("shoulder",)
    assert find_robot(path, joints=["elbow"]).joints == ("elbow",)
    tendon = (
        '<tendon><fixed name="t"><joint joint="elbow" coef="1"/></fixed></tendon>'
        '<actuator><motor tendon="t"/></actuator>'
    )
    assert find_robot(mjcf(tendon)).joints == ("elbow",)


def test_end_effector_is_the_last_link_or_what_is_named(mjcf):
    path = mjcf()
    last, hand = find_robot(path), find_robot(path, end_effector="hand")
    assert last.model.body(last.body).name == hand.model.body(hand.body).name == "lower"
    assert np.allclose(last.offset, 0) and np.allclose(hand.offset, [0, 0, -0.4])
    for wrong in ("nose", "floating"):
        with pytest.raises(RobotError, match="hand"):
            find_robot(path, end_effector=wrong)


def test_robots_that_cannot_be_used_say_why(mjcf):
    with pytest.raises(RobotError, match="shoulder"):
        find_robot(mjcf(), joints=["root"])
    with pytest.raises(RobotError, match="Free and ball"):
        find_robot(mjcf(joints=("", "")))
    for broken in ('<mujoco><worldbody><body><geom size="-1"/></body></worldbody></mujoco>', "no"):
        with pytest.raises(RobotError, match=r"robot\.xml"):
            find_robot(mjcf(text=broken))
    for name, message in (
        ("gone.xml", r"gone\.xml"),
        ("Reachr-v5", "did you mean .*'Reacher-v5'"),
        ("CartPole-v1", "MuJoCo"),
    ):
        with pytest.raises(RobotError, match=message):
            find_robot(name)


def test_columns_out_of_the_plane_are_warned_of_and_standardise_to_zero(small):
    with pytest.warns(DataWarning, match="z .*R31 .*R32 "):
        data = datasets.forward_kinematics("Reacher-v5", small)
    mean, scale = datasets.moments(data.train.targets)
    assert np.isfinite((data.train.targets - mean) / scale).all()
    assert np.abs((data.train.targets - mean) / scale)[:, 2].max() < 1e-9
    error = datasets.linear_regression(data)["test"]
    assert np.isnan(error[2]) and np.isfinite(np.nanmean(error))
