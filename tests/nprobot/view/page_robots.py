"""Robots whose pages are tested; another process imports this module by its own name."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from nprobot.deploy import SimulatedRobot
from nprobot.deploy.conditions import Conditions
from nprobot.policies.files.policy import (
    BoxAction,
    ControlTask,
    Normaliser,
    Operation,
    Policy,
)
from nprobot.view.live_robot import LiveRobot

CART = """
<mujoco model="cart"><option timestep=".01" gravity="0 0 -9.81"/><worldbody>
  <light pos="0 0 3"/><geom type="plane" size="5 5 .1" rgba=".8 .8 .8 1"/>
  <body name="cart" pos="0 0 .1"><joint name="slide" type="slide" axis="1 0 0" damping=".1"/>
    <geom name="hull" type="box" size=".4 .3 .1" rgba=".2 .4 .8 1" mass="1"/></body>
</worldbody><actuator><motor joint="slide" ctrlrange="-5 5" ctrllimited="true"/></actuator></mujoco>
"""


class Cart(gymnasium.Env):
    """A cart that is told a velocity; the reward is less the squared error."""

    command_ranges = {"velocity": (-1.0, 1.0)}  # noqa: RUF012
    action_space = spaces.Box(-5.0, 5.0, (1,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    dt = 0.02

    def __init__(self, episode=50):
        self.model = mujoco.MjModel.from_xml_string(CART)
        self.data = mujoco.MjData(self.model)
        self.command = np.zeros(1)
        self.target = np.array([0.0, 1.0, 0.5])
        self.episode = episode

    def move_target(self, place):
        self.target = np.array(place)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)
        self.steps = 0
        return self._look(), {}

    def step(self, action):
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, 2)
        self.steps += 1
        reward = -float((self.data.qvel[0] - self.command[0]) ** 2)
        return self._look(), reward, False, self.steps == self.episode, {}

    def _look(self):
        return np.array([self.data.qvel[0], self.command[0]])


def cart_policy():
    """Accelerates towards the velocity that it is told."""
    layer = Operation("linear", {"weight": np.array([[-4.0, 4.0]]), "bias": np.zeros(1)})
    action = BoxAction(np.full(1, -5.0, np.float32), np.full(1, 5.0, np.float32))
    return Policy((2,), (layer,), action)


def cart(conditions=None, episode=50, **options):
    env = Cart(episode)
    robot = SimulatedRobot(env, "Cart", 1 / env.dt, None)
    return LiveRobot(cart_policy(), robot, conditions or Conditions(), **options)


class Dial(gymnasium.Env):
    """Turn two dials to where the observation says; the reward is less the squared error."""

    dt = 0.1
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-2.0, 2.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action):
        reward = -float(np.square(action - self.goal).mean())
        self.steps += 1
        return self._look(), reward, False, self.steps == 10, {}

    def _look(self):
        self.goal = self.np_random.uniform(-0.5, 0.5, 2)
        return 3.0 + 2.0 * self.goal


DIAL = "page_robots:PageDial-v0"
if "PageDial-v0" not in gymnasium.registry:
    gymnasium.register("PageDial-v0", Dial, disable_env_checker=True)


def dial_policy():
    """Knows what to do with healthy dials."""
    layers = (
        Operation("linear", {"weight": np.eye(2), "bias": np.zeros(2)}),
        Operation("identity"),
        Operation("linear", {"weight": np.eye(2) * 0.5, "bias": np.zeros(2)}),
    )
    action = BoxAction(np.full(2, -2.0, np.float32), np.full(2, 2.0, np.float32))
    seen = Normaliser(np.full(2, 3.0), np.ones(2), 1e-8, 10.0)
    return Policy((2,), layers, action, seen, ControlTask(DIAL, {}, 10.0))


HERE = Path(__file__).parent
