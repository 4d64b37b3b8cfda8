"""What is found in a model: actuators' ranges, feet, bases, tips; and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from nprobot.envs.robots import ROBOTS, inspect_robot
from nprobot.errors import RobotError, UnknownNameError


@pytest.mark.parametrize(
    ("name", "base", "joints", "actuators", "feet", "suits"),
    [
        ("quadruped", "free", 12, 12, 4, "velocity"),
        ("biped", "free", 12, 12, 2, "velocity"),
        ("hopper", "planar", 2, 2, 1, "velocity"),
        ("quadrotor", "free", 0, 4, 0, "hover"),
        ("arm", "fixed", 7, 7, 0, "reach"),
    ],
)
def test_robots_of_the_package_are_what_they_are(name, base, joints, actuators, feet, suits):
    robot = inspect_robot(name)
    assert (robot.base, len(robot.joints), len(robot.actuators)) == (base, joints, actuators)
    assert (len(robot.feet), robot.suits[0]) == (feet, suits)
    assert not robot.findings or name == "arm", robot.findings
    assert set(ROBOTS) == {"quadruped", "biped", "hopper", "quadrotor", "arm"}


def test_every_actuator_gets_a_range_or_is_named(odd):
    robot = inspect_robot(odd("crab"))
    ranges = {a.name: (a.kind, a.low, a.high, a.source) for a in robot.actuators}
    assert ranges["joint range"] == ("position", -1.0, 1.0, "joint range")
    assert ranges["force range"] == ("motor", -4.0, 4.0, "force range")
    assert ranges["own range"] == ("motor", -3.0, 3.0, "control range")
    assert ranges["tendon"] == ("position", -0.5, 0.5, "control range")
    assert ranges["no range"][1:3] == pytest.approx((-np.pi, np.pi))
    force = {a.name: a.force for a in robot.actuators}
    assert (force["force range"], force["own range"]) == (4.0, 3.0)
    (mute,) = inspect_robot(odd("unusable")).actuators
    assert not mute.usable
    assert any("mute" in finding for finding in inspect_robot(odd("unusable")).findings)


def test_angles_that_were_meant_in_radians_and_shaking_servos_are_named(tmp_path):
    path = tmp_path / "arm.xml"
    path.write_text(
        """<mujoco><worldbody><body><joint name="turn" range="-2 2" limited="true"/>
        <geom type="capsule" fromto="0 0 0 .2 0 0" size=".02" mass=".1"/></body></worldbody>
        <actuator><position joint="turn" kp="1" kv="2"/></actuator></mujoco>"""
    )
    findings = " ".join(inspect_robot(str(path)).findings)
    assert "range of turn is less than 7° wide" in findings
    assert "too much damping for a physics step of 0.002 s: turn_actuator" in findings


def test_a_robot_without_keyframe_stands_on_a_floor_that_is_added(odd, robot):
    path = odd("crab")
    found = inspect_robot(path)
    assert found.feet == ("fl_foot", "fr_foot", "rl_foot", "rr_foot")
    # Legs of 0.2 m and feet of 12 mm, put down on the ground whatever the file says.
    assert found.home_height == pytest.approx(0.212, abs=1e-6)
    assert found.home[2] == pytest.approx(0.213, abs=1e-6)
    assert not found.has_floor
    env = robot(path, "stand", **{"start.joint_noise": 0.0, "start.tilt_noise": 0.0})
    env.reset(seed=0)
    env.step(np.zeros(5))
    assert env.unwrapped._state().contacts.sum() >= 3


def test_a_tip_is_found_by_name_or_by_the_longest_chain(odd):
    assert inspect_robot(odd("crane")).end_effector == "site:tool"
    assert inspect_robot("arm").end_effector == "site:end_effector"
    assert inspect_robot("biped").end_effector == "body:right_foot"


def test_a_missing_mesh_that_is_only_looked_at_is_left_out(odd):
    robot = inspect_robot(odd("crane"))
    assert robot.mass == pytest.approx(7.35)
    assert any("cover.stl is missing" in finding for finding in robot.findings)
    with pytest.raises(RobotError, match=r"cover\.stl is missing, and the body 'carriage' touches"):
        inspect_robot(odd("solid"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.xml", "There is no model file"),
        ("quadrupet", r"did you mean 'quadruped'"),
        ("scene.stl", "neither a robot of the package"),
    ],
)
def test_what_is_no_model_is_refused(name, message):
    with pytest.raises(RobotError, match=message):
        inspect_robot(name)


def test_a_broken_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "broken.xml"
    path.write_text("<mujoco><worldbody><bod/></worldbody></mujoco>")
    with pytest.raises(RobotError, match="MuJoCo cannot") as error:
        inspect_robot(path)
    assert "\n" not in str(error.value)


def test_keyframes_and_poses_are_found_by_name(robot):
    env = robot("quadruped", "stand", **{"start.pose.FL_knee": -2.0})
    joints = [j.name for j in env.unwrapped.layout.robot.joints]
    assert env.unwrapped.layout.home[joints.index("FL_knee")] == -2.0
    with pytest.raises(UnknownNameError, match="home"):
        robot("quadruped", "stand", **{"start.keyframe": "hom"})
    with pytest.raises(UnknownNameError, match="FL_knee"):
        robot("quadruped", "stand", **{"start.pose.FL_kne": -2.0})


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        ("arm", "velocity", "fixed base"),
        ("quadruped", "hover", "does not fly"),
        ("hopper", "hover", "does not fly"),
        ("crab", "track", "'?tendon'?|several|Others: tendon"),
        ("unusable", "reach", "no range of mute"),
    ],
)
def test_a_task_that_a_robot_cannot_do_is_refused_by_name(odd, robot, model, task, message):
    path = odd(model) if model in ("crab", "unusable") else model
    with pytest.raises(RobotError, match=message):
        robot(path, task)


def test_a_base_that_lies_on_its_side_in_the_file_is_upright_at_home(odd, robot, tmp_path):
    """Its frame has y up, as files from motion capture have."""
    path = tmp_path / "turned.xml"
    upright = '<body name="shell" pos="0 0 7">'
    text = Path(odd("crab")).read_text()
    assert upright in text
    path.write_text(text.replace(upright, '<body name="shell" euler="1.5707963 0 0">'))
    env = robot(str(path), "stand", **{"start.joint_noise": 0.0, "start.tilt_noise": 0.0})
    env.reset(seed=0)
    state = env.unwrapped._state()
    assert state.gravity == pytest.approx([0, 0, -1], abs=1e-6)
    assert not state.fallen


def test_motors_are_added_where_a_file_knows_none(tmp_path):
    path = tmp_path / "two.urdf"
    path.write_text(
        """<robot name="two"><link name="base"/><link name="arm"><inertial><mass value="1"/>
        <inertia ixx=".01" iyy=".01" izz=".01" ixy="0" ixz="0" iyz="0"/></inertial></link>
        <joint name="turn" type="revolute"><parent link="base"/><child link="arm"/>
        <axis xyz="0 1 0"/><limit lower="-1" upper="1" effort="20" velocity="3"/></joint></robot>"""
    )
    robot = inspect_robot(path)
    (motor,) = robot.actuators
    assert (motor.kind, motor.drives, motor.low, motor.high) == ("motor", "turn", -20, 20)
    assert any("1 motors are added" in finding for finding in robot.findings)
