"""What a robot is told while it works: the same by options as by the page's controls."""

import json

import gymnasium
import numpy as np
import pytest

from nprobot.cli import main
from nprobot.deploy import make_robot
from nprobot.deploy.conditions import Conditions, EquippedRobot
from nprobot.deploy.steering import Push, SteeredEnv, Steering
from nprobot.errors import ConfigError, UnknownNameError
from nprobot.policies import zoo


def quadruped(**steering):
    env = gymnasium.make("nprobot/Robot-v0", model="quadruped", task="velocity")
    return SteeredEnv(env, Steering(**steering), "the quadruped")


def test_a_command_holds_in_every_episode_and_the_robot_sees_it():
    env = quadruped(command=("forward=0.4",))
    inner = env.unwrapped
    place = list(inner.command_ranges).index("forward")
    for seed in range(2):
        env.reset(seed=seed)
        drawn = inner.command.copy()
        for _ in range(3):
            seen, *_ = env.step(np.zeros(env.action_space.shape))
        assert inner.command[place] == 0.4
        np.testing.assert_array_equal(inner.command, drawn)  # the others are as the task drew them
        assert np.isclose(seen, 0.4).any()


def test_a_push_moves_a_body_while_it_lasts_and_leaves_no_force_behind():
    places = []
    for push in ((), ("trunk=60,0,0@0.04-0.2",), ("trunk=60,0,0@5-6",)):
        env = quadruped(command=("forward=0",), push=push)
        env.reset(seed=1)
        for _ in range(15):
            env.step(np.zeros(env.action_space.shape))
        places.append(env.unwrapped.data.qpos.copy())
        assert not env.unwrapped.data.xfrc_applied.any()
    still, pushed, later = places
    assert pushed[0] > still[0] + 0.01
    np.testing.assert_array_equal(later, still)


def test_a_target_stays_where_it_is_told_to_be():
    robot = make_robot(zoo.load_policy("Reacher"))
    steering = Steering(target=(0.1, 0.05, 0.0))
    env = EquippedRobot(robot, Conditions(), steering=steering).robot.env
    for seed in range(2):
        env.reset(seed=seed)
        seen, *_ = env.step(np.zeros(2))
        np.testing.assert_allclose(seen[4:6], [0.1, 0.05], atol=1e-6)


def test_the_command_line_steers(capsys):
    returns = {}
    for words in ((), ("--target", "0.1", "0.05", "0"), ("--push", "fingertip=0,3,0")):
        assert main(["deploy", "zoo:Reacher", "--json", *words]) == 0
        returns[words] = json.loads(capsys.readouterr().out)["returns"]
    assert len({tuple(found) for found in returns.values()}) == 3


def test_a_push_is_read():
    assert Push.parse("tip=1,-2,3") == Push("tip", (1.0, -2.0, 3.0))
    assert Push.parse("tip=1e-1,0,0@0.5-2").end == 2.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"command": ("forward",)}, "NAME=NUMBER"),
        ({"command": ("forward=nan",)}, "NAME=NUMBER"),
        ({"push": ("trunk=1,2",)}, "BODY=X,Y,Z"),
        ({"push": ("trunk=1,2,3@2-1",)}, "BODY=X,Y,Z"),
        ({"command": ("forward=99",)}, "goes from"),
        ({"target": (0.0, 0.0, 0.0)}, "no target"),
    ],
)
def test_what_cannot_be_steered_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        quadruped(**settings)


def test_unknown_names_are_answered_with_what_there_is():
    with pytest.raises(UnknownNameError, match="did you mean forward"):
        quadruped(command=("foward=0.1",))
    with pytest.raises(UnknownNameError, match="trunk"):
        quadruped(push=("trnk=1,0,0",))
