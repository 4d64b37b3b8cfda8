"""Robots of gymnasium-robotics: one vector to see, our length of episodes, an error without it."""

import sys
import types

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

from nprobot.envs import OPTIONAL_ENVIRONMENTS

ARM = """<mujoco><worldbody><body><joint name="elbow" type="hinge"/><geom size=".1"/></body>
</worldbody></mujoco>"""


class GoalEnv(gymnasium.Env):
    """An environment as that package has them: a goal, and a joint that is set when it is made."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = spaces.Box(-1, 1, (4,))
    observation_space = spaces.Dict(
        {
            name: spaces.Box(-np.inf, np.inf, (size,), np.float64)
            for name, size in (("observation", 10), ("achieved_goal", 3), ("desired_goal", 3))
        }
    )

    def __init__(self, reward_type="sparse", render_mode=None):
        self.reward_type = reward_type
        self.dt = 0.04
        tools = sys.modules["gymnasium_robotics.utils.mujoco_utils"]
        model = mujoco.MjModel.from_xml_string(ARM)
        assert tools.is_simple_joint(model.jnt_type[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {name: np.full(s.shape, len(name), float) for name, s in self.parts()}, {}

    def step(self, action):
        return self.reset()[0], -1.0, False, False, {}

    def parts(self):
        return self.observation_space.spaces.items()


@pytest.fixture
def package(monkeypatch):
    """A stand-in for the package, with the comparison that newer MuJoCo versions break."""

    def is_simple_joint(joint_type):
        names = tools.mujoco.mjtJoint
        assert tools.mujoco.mj_name2id is mujoco.mj_name2id
        return joint_type in (names.mjJNT_HINGE, names.mjJNT_SLIDE)

    tools = types.ModuleType("gymnasium_robotics.utils.mujoco_utils")
    tools.mujoco = mujoco
    tools.is_simple_joint = is_simple_joint
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", types.ModuleType("gymnasium_robotics"))
    monkeypatch.setitem(sys.modules, "gymnasium_robotics.utils", types.ModuleType("utils"))
    monkeypatch.setitem(sys.modules, "gymnasium_robotics.utils.mujoco_utils", tools)
    spec = gymnasium.envs.registration.EnvSpec("FetchReach-v4", GoalEnv, max_episode_steps=7)
    monkeypatch.setitem(gymnasium.registry, spec.id, spec)
    return tools


def test_observation_is_one_vector_and_reward_dense(package):
    for _ in range(2):  # the second finds the package as the first left it
        env = gymnasium.make("nprobot/FetchReach-v0")
        assert env.observation_space == spaces.Box(-np.inf, np.inf, (16,), np.float64)
        observation, _ = env.reset(seed=0)
        assert observation.tolist() == [13.0] * 3 + [12.0] * 3 + [11.0] * 10
        assert env.unwrapped.reward_type == "dense"
        assert env.unwrapped.dt == 0.04
    assert gymnasium.make("nprobot/FetchReach-v0", reward_type="sparse").unwrapped.reward_type


def test_episodes_have_our_length(package):
    env = gymnasium.make("nprobot/FetchReach-v0")
    env.reset(seed=0)
    steps, done = 0, False
    while not done:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        steps, done = steps + 1, terminated or truncated
    assert steps == OPTIONAL_ENVIRONMENTS["nprobot/FetchReach-v0"][1] == 50


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    for name in OPTIONAL_ENVIRONMENTS:
        with pytest.raises(gymnasium.error.DependencyNotInstalled, match=r"nprobot\[robots\]"):
            gymnasium.make(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONAL_ENVIRONMENTS)
def test_the_real_robots_move(name):
    pytest.importorskip("gymnasium_robotics")
    env = gymnasium.make(name)
    before, _ = env.reset(seed=0)
    for _ in range(10):
        after, reward, *_ = env.step(env.action_space.sample())
    assert after.shape == before.shape == env.observation_space.shape
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 1e-3
    assert reward < 0
    env.close()
