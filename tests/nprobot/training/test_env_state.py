"""The state of an environment: saved without its help, put into a new one, the same ever after."""

import copy
import dataclasses
import enum
import functools
import random
from collections import OrderedDict, deque, namedtuple
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco import inverted_pendulum_v5
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nprobot.envs import NoisyActuators
from nprobot.envs.actuators import PRESETS
from nprobot.errors import NprobotError
from nprobot.runs.state import from_bytes, to_bytes
from nprobot.training import environments
from nprobot.training.env_recorder import type_name
from nprobot.training.env_state import Template, restore_environment, save_environment
from nprobot.training.env_trial import saves_exactly

EXACT = [
    *("Pendulum-v1", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"),
    *("InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5", "Swimmer-v5"),
    *("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5"),
    *("nprobot/ArmReach-v0", "nprobot/ArmTrack-v0"),
]

Pair = namedtuple("Pair", ["left", "right"])


class Phase(enum.Enum):
    REACH = 1
    GRASP = 2


@dataclasses.dataclass(frozen=True)
class Goal:
    at: np.ndarray
    name: str


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Box:
    """A plain object; refers back to its owner."""

    def __init__(self, owner):
        self.owner, self.weight = owner, 1.0

    def __call__(self):
        return self.weight


class Everything(gymnasium.Env):
    """Has an attribute of each kind."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self):
        self.numbers = [1, 2.5, True, None, "text", b"bytes"]
        self.scalar = np.float32(0.1)
        self.memory = np.zeros(6)
        self.window = self.memory[2:5]
        self.shared = self.alias = np.zeros(3)
        self.queue = deque(maxlen=3)
        self.table = OrderedDict(a=1)
        self.choices = {1, 2}
        self.pair = Pair(1, np.zeros(1))
        self.phase = Phase.REACH
        self.goal = Goal(np.zeros(2), "a")
        self.slotted = Slotted(1)
        self.box = Box(self)
        self.luck = random.Random(0)
        self.old_luck = np.random.RandomState(0)
        self.keyed = {(1, "a"): [np.zeros(1)], None: 2}
        self.function = np.sin

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.queue.clear()
        self.late = None
        return self._observation(), {}

    def step(self, action):
        self.numbers.append(len(self.numbers))
        self.scalar *= np.float32(1.1)
        self.window += self.np_random.normal(size=3)
        self.shared += self.luck.random()
        self.queue.append(self.old_luck.normal())
        self.table["b"] = self.table.get("b", 0) + 1
        self.choices ^= {self.table["b"]}
        self.pair = Pair(self.pair.left + 1, self.pair.right + 0.5)
        self.phase = Phase(3 - self.phase.value)
        self.goal = Goal(self.goal.at + 1, self.goal.name + "b")
        self.slotted.value += 1
        self.box.weight *= 1.5
        self.keyed[1, "a"][0] += 1
        self.late = np.full(2, self.box())
        return self._observation(), float(self.scalar), False, False, {}

    def _observation(self):
        parts = [
            self.memory,
            self.alias,
            self.queue,
            self.pair.right,
            self.goal.at,
            self.keyed[1, "a"][0],
        ]
        parts += [[self.table.get("b", 0), sum(self.choices), self.phase.value, self.slotted.value]]
        total = sum(float(np.sum(part)) for part in parts)
        return np.array([total, self.box.owner.box.weight, len(self.numbers)])


gymnasium.register("Tests/Everything-v0", Everything, max_episode_steps=13)


def walk(env, steps):
    return [env.step(env.action_space.low)[0].tobytes() for _ in range(steps)]


def through_disk(state):
    return from_bytes(*to_bytes(state))


class TestExactly:
    @pytest.mark.parametrize("env", EXACT)
    def test_gymnasiums_and_ours(self, env):
        assert saves_exactly(functools.partial(environments.make, env))

    @pytest.mark.parametrize("hardware", PRESETS)
    def test_noisy_actuators(self, hardware):
        make = functools.partial(environments.make, "Reacher-v5", {}, hardware, [1])
        assert saves_exactly(make)

    def test_every_kind_of_attribute(self):
        assert saves_exactly(functools.partial(gymnasium.make, "Tests/Everything-v0"))

    def test_wrappers_that_count_and_average(self):
        def make():
            env = gymnasium.make("Pendulum-v1")
            env = gymnasium.wrappers.RecordEpisodeStatistics(env)
            env = gymnasium.wrappers.NormalizeObservation(env)
            env = gymnasium.wrappers.FrameStackObservation(env, 3)
            return gymnasium.wrappers.DelayObservation(env, 2)

        assert saves_exactly(make)

    def test_a_randomised_model(self):
        class Randomised(gymnasium.Wrapper):
            def reset(self, **kwargs):
                observation, info = super().reset(**kwargs)
                model = self.unwrapped.model
                model.body_mass[1:] *= self.np_random.uniform(0.5, 2.0)
                model.opt.gravity[2] = self.np_random.uniform(-12, -8)
                model.opt.timestep *= 0.99
                return observation, info

        assert saves_exactly(lambda: Randomised(gymnasium.make("InvertedDoublePendulum-v5")))

    def test_one_that_saves_itself(self):
        class Closed(gymnasium.Wrapper):
            def __init__(self, env):
                super().__init__(env)
                self._count = iter(range(10**6))
                self.counted = 0

            def step(self, action):
                self.counted = next(self._count)
                observation, *rest = super().step(action)
                return observation + self.counted, *rest

        class Open(Closed):
            def state_dict(self):
                return {"counted": self.counted, "array": np.zeros(2)}

            def load_state_dict(self, state):
                self._count = iter(range(state["counted"] + 1, 10**6))

        assert saves_exactly(lambda: Open(gymnasium.make("Pendulum-v1")))
        assert not saves_exactly(lambda: Closed(gymnasium.make("Pendulum-v1")))


class TestInexactly:
    """What cannot be saved is noticed, not assumed."""

    def test_random_numbers_from_elsewhere(self):
        class Elsewhere(gymnasium.Wrapper):
            def step(self, action):
                observation, *rest = super().step(action)
                return observation + np.random.rand(), *rest  # noqa: NPY002

        assert not saves_exactly(lambda: Elsewhere(gymnasium.make("Pendulum-v1")))

    def test_more_and_more_objects(self):
        class Growing(gymnasium.Wrapper):
            objects = ()

            def step(self, action):
                self.objects = [*self.objects, Slotted(1)]
                return super().step(action)

        assert not saves_exactly(lambda: Growing(gymnasium.make("Pendulum-v1")))

    def test_too_much(self):
        class Hoarder(gymnasium.Wrapper):
            def __init__(self, env):
                super().__init__(env)
                self.hoard = [np.zeros(2**22) for _ in range(3)]

        assert not saves_exactly(lambda: Hoarder(gymnasium.make("Pendulum-v1")))

    def test_actuators_without_a_secret(self):
        assert not saves_exactly(lambda: NoisyActuators(gymnasium.make("Pendulum-v1"), "servo"))


def saved(env_id):
    env, template = gymnasium.make(env_id), Template(gymnasium.make(env_id))
    env.reset(seed=3)
    walk(env, 5)
    return env, save_environment(env, template)


def test_who_shared_still_shares():
    _, state = saved("Tests/Everything-v0")
    env = gymnasium.make("Tests/Everything-v0")
    restore_environment(env, through_disk(state))
    inner = env.unwrapped
    assert inner.alias is inner.shared
    assert np.shares_memory(inner.window, inner.memory)
    assert inner.box.owner is inner
    assert type(inner.scalar) is np.float32
    assert inner.queue.maxlen == 3


class Common(gymnasium.Env):
    """All have one table, until somebody puts a state into one of them."""

    observation_space = action_space = spaces.Box(-1, 1, (1,))
    table: ClassVar = {"low": [0.0]}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.rows = self.table
        return np.zeros(1, np.float32), {}


def test_what_others_have_in_common_is_left_alone():
    """A state is of one environment: what a class or a module holds for all does not change."""
    env = Common()
    env.reset(seed=0)
    state = save_environment(env, Template(Common()))
    state["members"]["rows"]["entries"][0][1]["items"][0] = 5.0
    restore_environment(env, state)
    assert (env.rows, Common.table) == ({"low": [5.0]}, {"low": [0.0]})

    _, state = saved("InvertedPendulum-v5")
    env = gymnasium.make("InvertedPendulum-v5")
    renderer = state
    while renderer["type"] != type_name(env.unwrapped.mujoco_renderer):
        inside = renderer["members"]
        renderer = inside.get("mujoco_renderer") or inside["env"]
    renderer["members"]["default_cam_config"]["entries"] = [["distance", 9.0]]
    before = dict(inverted_pendulum_v5.DEFAULT_CAMERA_CONFIG)
    restore_environment(env, state)
    assert env.unwrapped.mujoco_renderer.default_cam_config == {"distance": 9.0}
    assert before == inverted_pendulum_v5.DEFAULT_CAMERA_CONFIG


def test_saving_disturbs_nothing():
    first, _ = saved("Ant-v5")
    second = gymnasium.make("Ant-v5")
    second.reset(seed=3)
    walk(second, 5)
    assert walk(first, 20) == walk(second, 20)


def test_another_environment_is_refused():
    _, state = saved("Reacher-v5")
    with pytest.raises(NprobotError):
        restore_environment(gymnasium.make("Pusher-v5"), through_disk(state))
    _, state = saved("Pendulum-v1")
    with pytest.raises(NprobotError, match="another kind of object"):
        restore_environment(gymnasium.make("CartPole-v1"), through_disk(state))


def nodes(tree):
    """Every dict and list of a tree."""
    if isinstance(tree, dict | list | tuple):
        yield tree
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from nodes(child)


STATES = {env: saved(env)[1] for env in ("Tests/Everything-v0", "InvertedPendulum-v5")}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(STATES)),
    st.integers(0),
    st.integers(0),
    st.sampled_from(
        [
            *(
                None,
                3,
                -1,
                2**70,
                625,
                "x",
                "PCG64",
                [],
                {},
                np.zeros(3),
                np.zeros((2, 2), np.int8),
            ),
            *({"kind": "left"}, {"kind": "nonsense"}, {"kind": "same", "path": "env"}),
            {"kind": "object", "type": "x", "members": {}},
            {"kind": "sequence", "type": "deque", "items": []},
        ]
    ),
)
def test_a_forged_state_is_refused_or_harmless(env_id, which, key, value):
    state = copy.deepcopy(STATES[env_id])
    places = [n for n in nodes(state) if n and isinstance(n, dict | list)]
    place = places[which % len(places)]
    place[sorted(place)[key % len(place)] if isinstance(place, dict) else key % len(place)] = value
    env = gymnasium.make(env_id)
    try:
        restore_environment(env, state)
    except NprobotError as error:
        assert str(error)
