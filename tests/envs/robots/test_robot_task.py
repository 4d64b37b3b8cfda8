"""Tasks from names, tables and TOML; options by name; refusals with the nearest."""

import pytest

from nprobot.envs.robots import PARTS, TASKS, TERMS, RobotTask, load_task
from nprobot.envs.robots.robot_env import task_for
from nprobot.errors import ConfigError, NprobotError, UnknownNameError


@pytest.mark.parametrize("name", TASKS)
def test_a_task_survives_its_toml(name, tmp_path):
    task = load_task(name)
    assert task.task == name
    assert set(task.observations) <= set(PARTS)
    assert set(task.reward) <= set(TERMS)
    assert load_task(task.to_toml()) == task
    file = tmp_path / "task.toml"
    file.write_text(task.to_toml())
    assert load_task(file) == load_task(task.to_dict()) == task


def test_a_table_says_what_differs_and_all_weights():
    task = load_task(
        'task = "stand"\ncontrol_rate = 100\n[reward]\nupright = 2\n"my:lean" = -0.5\n'
    )
    assert task.reward == {"upright": 2.0, "my:lean": -0.5}
    assert (task.task, task.control_rate) == ("stand", 100.0)
    assert task.observations == load_task("stand").observations
    assert load_task("[command.ranges]\nforward = [0, 1]\n").reward == load_task("velocity").reward


def test_options_are_set_by_name():
    task = load_task("velocity").with_settings(
        {
            **{"reward.energy": -0.2, "reward.my.terms:lean": 0.5, "command.every": 2},
            **{"command.ranges.forward": "[0, 1]", "randomise": True, "privileged": '["height"]'},
            "start": {"pose": {"knee": 1}},
        }
    )
    assert (task.reward["energy"], task.reward["my.terms:lean"]) == (-0.2, 0.5)
    assert task.command.ranges == {"forward": (0.0, 1.0)}
    assert (task.command.every, task.randomise.on) == (2.0, True)
    assert (task.privileged, task.start.pose) == (("height",), {"knee": 1.0})
    assert load_task(task.to_toml()) == task


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"control_rte": 5}, UnknownNameError, "control_rate"),
        ({"command.evry": 5}, UnknownNameError, r"command\.every"),
        ({"control_rate": -5}, ConfigError, "above 0"),
        ({"randomise.mass": [1.2, 0.8]}, ConfigError, "low ≤ high"),
        ({"command.ranges.forward": [1, 0]}, ConfigError, r"\[low, high\]"),
        ({"command": 3}, ConfigError, "a table of"),
        ({"terrain.kind": "swamp"}, UnknownNameError, "steps"),
        ({"reward.energi": 1}, UnknownNameError, "energy"),
        ({"observations": ["gravitty"]}, UnknownNameError, "gravity"),
        ({"reward.no_such_module:lean": 1}, ConfigError, "there is no module"),
        ({"reward.json:lean": 1}, ConfigError, "has no 'lean'"),
        ({"command.ranges.x": [0, 1]}, UnknownNameError, "forward"),
        ({"observations": []}, ConfigError, "no observations"),
    ],
)
def test_what_cannot_be_is_refused(robot, settings, error, message):
    with pytest.raises(error, match=message):
        robot("quadruped", "velocity", **settings)


@pytest.mark.parametrize("task", ["velocty", "no/such.toml", "task = ["])
def test_what_is_no_task_is_refused(task):
    with pytest.raises(NprobotError):
        load_task(task)


def test_a_robot_without_task_gets_what_suits_it():
    assert isinstance(task_for("quadrotor"), RobotTask)
    assert task_for("quadrotor").task == "hover"
