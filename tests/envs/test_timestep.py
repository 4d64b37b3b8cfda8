"""How long an action lasts: any kind of number, from what is documented, and nothing else."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from nprobot.envs import NoisyActuators, time_step
from nprobot.training.environments import control_rate


class Robot(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    metadata = {"render_fps": 20}  # noqa: RUF012 - as gymnasium has it


@pytest.mark.parametrize("value", [0.01, np.float32(0.01), np.float64(0.01), np.array(0.01)])
def test_a_time_step_is_any_kind_of_number(value):
    """As `np.float32`, 0.01 s was none, and a robot of 100 Hz ran at its frame rate, 20 Hz."""
    robot = Robot()
    robot.dt = value
    assert control_rate(robot) == 100.0
    assert time_step(robot).source == "its dt"
    assert NoisyActuators(robot, "servo", seed=0).unwrapped is robot


@pytest.mark.parametrize("value", [0, -0.1, float("nan"), True, "fast", None, [0.1]])
def test_what_is_no_time_is_not_read(value):
    robot = Robot()
    robot.dt = value
    step = time_step(robot)
    assert (step.seconds, step.source) == (0.05, "its frame rate, metadata['render_fps']")


def test_only_documented_attributes_are_read():
    robot = Robot()
    robot.tau = 0.3  # a time constant, or a torque
    assert control_rate(robot) == 20.0
    assert control_rate(gymnasium.make("CartPole-v1")) == 50.0  # its tau is documented
    assert time_step(SimpleNamespace(metadata={})) is None
