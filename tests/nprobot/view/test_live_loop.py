"""The loop that owns the simulation, without a browser: time, wishes, frames."""

import numpy as np
import pytest
from page_robots import CART, cart

from nprobot.cli import main
from nprobot.deploy import Hold, Safety, make_robot
from nprobot.deploy.conditions import Conditions
from nprobot.errors import NotFoundError, RobotError
from nprobot.policies import zoo
from nprobot.view import LiveLoop, LiveRobot
from nprobot.view.page_content import Pull, Wish
from nprobot.view.scene_env import scene_loop


class Clock:
    """Seconds that pass only in `sleep`."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def loop_of(*robots, **options):
    clock = Clock()
    loop = LiveLoop(robots, clock=clock, sleep=clock.sleep, **options)
    loop.content()
    return loop, clock


def run(loop, clock, page, seconds, *wishes):
    page.asked = list(wishes)
    until = clock.now + seconds
    loop.run(page, lambda: clock.now >= until)


def test_it_runs_in_real_time_slower_or_not_at_all(still_page):
    robot = cart()
    loop, clock = loop_of(robot)
    run(loop, clock, still_page, 2.0)
    assert robot.controller.steps == pytest.approx(100, abs=2)
    run(loop, clock, still_page, 2.0, Wish("run", "speed", "1/4"))
    assert robot.controller.steps == pytest.approx(125, abs=3)
    before = robot.controller.steps
    run(loop, clock, still_page, 2.0, Wish("run", "pause", True), Wish("run", "step"))
    assert robot.controller.steps == before + 1
    assert len(still_page.frames) > 100


def test_a_command_becomes_a_velocity_and_is_seen(still_page):
    robot = cart(episode=1_000)
    loop, clock = loop_of(robot)
    slider = {g.key: g for g in loop.groups()}["command"].controls[0]
    assert (slider.name, slider.low, slider.high) == ("velocity", -1.0, 1.0)
    run(loop, clock, still_page, 3.0, Wish("command", "velocity", 0.6))
    assert robot.observation[0] == pytest.approx(0.6, abs=0.03)
    place = [frame.poses[0].qpos[0] for frame in still_page.frames]
    assert place[-1] == pytest.approx(1.6, abs=0.2)
    rows = np.concatenate([f.samples["actions"] for f in still_page.frames if f.samples])
    np.testing.assert_allclose(np.diff(rows[:, 0]), 0.02, atol=1e-9)


def test_what_a_visitor_breaks_is_broken_until_it_is_repaired(still_page):
    robot = cart(episode=1_000)
    loop, clock = loop_of(robot)
    robot.command[:] = 0.6
    wishes = [
        Wish("fault", "kind", "stuck"),
        Wish("fault", "size", 0.5),
        Wish("fault", "break"),
    ]
    run(loop, clock, still_page, 0.2, *wishes)
    assert robot.equipped.conditions.fault == ("stuck:0=0.5",)
    np.testing.assert_allclose(robot.realised(), 2.5)  # half of the half range
    assert robot.commanded()[0] != robot.realised()[0]
    run(loop, clock, still_page, 0.2, Wish("fault", "repair"))
    assert robot.realised()[0] == pytest.approx(robot.commanded()[0])


def test_each_noise_of_the_actuators_has_a_slider(still_page):
    robot = cart(Conditions(actuators="torque-motor"))
    loop, clock = loop_of(robot)
    noise = {g.key: g for g in loop.groups()}["noise"].controls
    assert [c.name for c in noise] == ["SignalDependentNoise.k", "OrnsteinUhlenbeckNoise.std"]
    run(loop, clock, still_page, 0.1, Wish("noise", "OrnsteinUhlenbeckNoise.std", 0.0))
    assert robot.equipped.conditions.noise_strength == ("OrnsteinUhlenbeckNoise.std=0",)
    assert robot.env.models[2].std == 0.0
    run(loop, clock, still_page, 0.1, Wish("conditions", "actuators", None))
    assert robot.env.models == ()
    emptied = [g for f in still_page.frames for g in f.groups if g.key == "noise"][-1]
    assert emptied.controls == ()


def test_stop_holds_the_robot_and_limits_are_felt(still_page):
    robot = cart(episode=1_000, safety=Safety(safe_action=Hold()))
    loop, clock = loop_of(robot)
    robot.command[:] = 1.0
    run(loop, clock, still_page, 0.1, Wish("safety", "action_high", 0.5))
    assert robot.controller.previous_action == pytest.approx(0.5)
    assert robot.limits_touched() == 1
    wishes = Wish("safety", "safe_action", "zero"), Wish("stop", "emergency_stop")
    run(loop, clock, still_page, 0.2, *wishes)
    assert robot.controller.previous_action == 0.0
    assert "emergency stop" in still_page.frames[-1].alarm
    run(loop, clock, still_page, 0.2, Wish("stop", "clear_fault"))
    assert robot.controller.fault is None


def test_a_wish_that_cannot_be_is_answered_and_the_control_shows_what_holds(still_page):
    robot = cart()
    loop, clock = loop_of(robot)
    run(loop, clock, still_page, 0.2, Wish("safety", "action_high", -9.0))
    assert any("no action is inside" in frame.notice for frame in still_page.frames)
    assert robot.controller.safety == Safety()
    assert [g.key for f in still_page.frames for g in f.groups] == ["safety"]


def test_a_pull_is_a_force_towards_the_mouse_until_it_lets_go(still_page):
    robot = cart(episode=1_000)
    loop, clock = loop_of(robot)
    pull = Pull(0, robot.model.body("cart").id, (0.0, 0.0, 0.1), (0.2, 0.0, 0.1))
    run(loop, clock, still_page, 0.02, Wish("pull", "pull", pull))
    force = robot.env.unwrapped.data.xfrc_applied[pull.body]
    assert force[0] == pytest.approx(40.0 * 0.2, rel=0.2)  # a cart of 1 kg
    np.testing.assert_allclose(force[1:], 0.0, atol=1e-9)
    loose = Pull(0, pull.body, pull.grip, None)
    run(loop, clock, still_page, 0.1, Wish("pull", "pull", loose))
    assert not robot.env.unwrapped.data.xfrc_applied.any()
    run(loop, clock, still_page, 0.1, Wish("target", "target", (1.0, 2.0, 0.3)))
    assert still_page.frames[-1].target == (1.0, 2.0, 0.3)


def test_a_page_that_is_behind_gets_nothing_and_nobody_waits(still_page):
    robot = cart()
    loop, clock = loop_of(robot)
    still_page.ready = lambda: False
    run(loop, clock, still_page, 20.0)
    assert robot.controller.steps == pytest.approx(1_000, abs=2)
    assert still_page.frames == []
    still_page.ready = lambda: True
    run(loop, clock, still_page, 0.1)
    assert len(still_page.frames[0].samples["reward"]) == 500  # the last ones


@pytest.mark.parametrize("name", ["Reacher", "ArmReach", "ArmTrack"])
def test_targets_of_the_zoo_can_be_moved(name):
    policy = zoo.load_policy(name)
    robot = LiveRobot(policy, make_robot(policy), Conditions())
    robot.move_target((0.1, 0.05, 0.01) if name == "Reacher" else (0.45, 0.15, 0.5))
    for _ in range(1 if name != "ArmTrack" else 300):
        robot.step()
    expected = (0.1, 0.05) if name == "Reacher" else (0.45, 0.15)
    np.testing.assert_allclose(robot.target[:2], expected, atol=2e-3)
    if name == "ArmTrack":
        tip = robot.env.unwrapped.end_effector_at(robot.env.unwrapped.data.qpos)
        np.testing.assert_allclose(tip, robot.target, atol=0.02)


def test_the_same_conditions_by_hand_and_on_the_command_line_are_the_same():
    policy = zoo.load_policy("Reacher")
    conditions = Conditions(
        actuators="servo", noise_strength=("WhiteNoise.std=0.2",), fault=("gain:1=0.3",), load=0.01
    )
    chip = Conditions(chip="0.3", dead_nodes=0.5)
    robot = LiveRobot(policy, make_robot(policy), conditions)
    later = LiveRobot(policy, make_robot(policy), Conditions())
    later.change_conditions(conditions)
    assert robot.env.models == later.env.models
    assert robot.model.body_mass.sum() == pytest.approx(later.model.body_mass.sum())
    ideal = later.controller.policy
    later.change_conditions(chip)
    observation = later.observation
    answers = {tuple(later.controller.policy.predict(observation)) for _ in range(3)}
    assert len(answers) == 3
    later.change_conditions(Conditions())
    assert later.controller.policy is ideal


def test_any_model_can_be_moved_by_its_motors(tmp_path, still_page):
    file = tmp_path / "cart.xml"
    file.write_text(CART)
    clock = Clock()
    loop = scene_loop(file, Conditions(fault=("gain:0=0.5",)))
    loop._clock, loop._sleep = clock, clock.sleep
    loop.content()
    groups = {group.key: group for group in loop.groups()}
    (motor,) = groups["motors"].controls
    assert (motor.name, motor.low, motor.high) == ("motor_0", -5.0, 5.0)
    assert "chip" not in [control.name for control in groups["conditions"].controls]
    run(loop, clock, still_page, 1.0, Wish("motors", "motor_0", 4.0))
    data = loop.first.env.unwrapped.data
    assert data.ctrl == pytest.approx(2.0)  # a motor with half its gain
    assert data.qvel[0] == pytest.approx(2.0, rel=0.1)  # 2 N on 1 kg for a second
    assert len(still_page.frames[-1].poses) == 1


def test_what_cannot_be_viewed_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match="no model"):
        scene_loop(tmp_path / "none.xml", Conditions())
    (tmp_path / "bad.xml").write_text("<mujoco><worldbody><geom/></worldbody></mujoco>")
    with pytest.raises(RobotError, match="not a model"):
        scene_loop(tmp_path / "bad.xml", Conditions())


def test_pages_do_not_go_with_what_contradicts_them(monkeypatch, capsys):
    assert main(["deploy", "zoo:Reacher", "--web", "--record", "x.mp4"]) == 2
    assert main(["adapt", "zoo:Reacher", "--web", "--fault", "gain:0=0.4"]) == 2
    assert "break motors on the page" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["train", "--web", "--steps", "64"]) == 2
    assert "pip install 'nprobot[view]'" in capsys.readouterr().err
