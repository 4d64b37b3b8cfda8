"""Policies on simulated robots: the evaluation's returns, the right rate, actuators, an hour."""

import gc
import math
import resource
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from nprobot.deploy import Controller, FaultKind, Safety, deploy_episodes, make_robot
from nprobot.errors import DeployError, DeployWarning, EnvironmentUnavailableError, UnknownNameError
from nprobot.policies import zoo
from nprobot.policies.files.policy import DiscreteAction
from nprobot.training.evaluation import evaluate

from .helpers import FakeClock, box, zero_policy

POLICY = zoo.load_policy("InvertedPendulum")
FALLING = zero_policy("InvertedPendulum-v5", 4, box(3), 25.0)
COUNTING = zero_policy("Counter-v0", 2, DiscreteAction((3,)))


class Counter(gymnasium.Env):
    """Ten steps with reward 1; an action that is a number and not an array."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(3)
    rewards = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert {0: True}[action]  # unhashable arrays would fail
        self.steps += 1
        return np.full(2, self.steps / 20, np.float32), self.rewards, self.steps == 10, False, {}


@pytest.fixture(scope="module", autouse=True)
def _counter():
    gymnasium.register("Counter-v0", Counter)
    yield
    del gymnasium.registry["Counter-v0"]


@pytest.fixture
def robot():
    robot = make_robot(POLICY)
    yield robot
    robot.env.close()


def run(policy, robot=None, safety=None, **options):
    """The episodes, and the controller."""
    controller = Controller(policy, safety=safety)
    return [*deploy_episodes(robot or make_robot(policy), controller, **options)], controller


class TestEpisodes:
    def test_returns_are_those_of_the_evaluation(self):
        expected = evaluate(FALLING, episodes=4, seed=3)
        told = []
        episodes, _ = run(FALLING, episodes=4, seed=3, observers=[lambda *step: told.append(step)])
        assert tuple(episode.total for episode in episodes) == expected.returns
        assert tuple(episode.length for episode in episodes) == expected.lengths
        assert all(episode.fault is None for episode in episodes)
        assert len(told) == sum(expected.lengths)
        assert told[-1][:3] == (3, expected.lengths[-1], expected.returns[-1])

    def test_discrete_actions_are_numbers(self):
        (episode,), _ = run(COUNTING)
        assert (episode.total, episode.length) == (10, 10)

    def test_a_fault_ends_it_after_the_episode(self, robot):
        safety = Safety(observation_low=-1e-3, observation_high=1e-3)  # soon left
        (episode,), controller = run(POLICY, robot, safety, episodes=5)
        assert episode.fault.kind == FaultKind.OUT_OF_RANGE
        record = controller.recorder.record()
        assert len(record) == episode.length > 1  # safe actions to the end
        assert (record.arrays["action"][episode.fault.step :] == 0).all()

    def test_faults_can_be_cleared_between_episodes(self, robot):
        safety = Safety(observation_high=1e-3)
        episodes, controller = run(POLICY, robot, safety, episodes=3, clear_faults=True)
        assert len(episodes) == 3
        assert all(episode.fault for episode in episodes)
        assert controller.fault is None

    def test_an_unstable_simulation_is_a_fault(self, monkeypatch):
        monkeypatch.setattr(Counter, "rewards", math.nan)
        (episode,), _ = run(COUNTING)
        assert episode.fault.kind == FaultKind.EXTERNAL

    def test_real_time_takes_the_time_of_the_robot(self):
        clock = FakeClock()
        (episode,), controller = run(FALLING, realtime=True, clock=clock, sleep=clock.sleep)
        assert clock.now == pytest.approx((episode.length - 1) / 25)
        assert episode.late == 0
        assert (controller.recorder.record().arrays["age"] == 0).all()

    def test_a_slow_robot_is_late(self):
        clock = FakeClock(lag=0.03)  # at every look; two a step
        (episode,), _ = run(FALLING, realtime=True, clock=clock, sleep=lambda seconds: None)
        assert episode.late > 0

    def test_what_cannot_be_run(self, robot):
        with pytest.raises(DeployError, match="name a --rate"):
            run(COUNTING, realtime=True)
        with pytest.raises(DeployError, match="1 or more"):
            run(POLICY, robot, episodes=0)


class TestRate:
    def test_is_that_of_the_training(self, robot):
        assert robot.rate == 25

    def test_another_is_refused(self):
        with pytest.raises(DeployError, match=r"trained at 25 Hz .* 0\.5 times .* --any-rate"):
            make_robot(POLICY, rate=50)

    def test_another_can_be_insisted_on(self):
        with pytest.warns(DeployWarning, match="would act at 50 Hz"):
            robot = make_robot(POLICY, rate=50, any_rate=True)
        assert robot.rate == 50
        assert robot.env.unwrapped.frame_skip == 1

    def test_an_environment_at_another_rate_is_adapted(self):
        robot = make_robot(POLICY, env_kwargs={"frame_skip": 1}, actuators="servo")
        assert robot.rate == 25
        assert robot.env.models  # the actuators are still there
        with pytest.warns(DeployWarning):
            fast = make_robot(POLICY, env_kwargs={"frame_skip": 1}, any_rate=True)
        assert fast.rate == 50

    def test_what_the_physics_cannot_do_is_refused(self):
        with (
            pytest.raises(DeployError, match=r"it can run at 50, 25, 16\.67"),
            pytest.warns(DeployWarning),
        ):
            make_robot(POLICY, rate=100, any_rate=True)

    def test_an_environment_without_physics_steps(self):
        cart = zero_policy("CartPole-v1", 4, DiscreteAction((2,)), 50.0)
        assert make_robot(cart).rate == 50
        with pytest.raises(DeployError, match="its rate cannot be changed"):
            make_robot(zero_policy("CartPole-v1", 4, DiscreteAction((2,)), 20.0))

    @pytest.mark.parametrize("rate", [0, -5, math.nan])
    def test_impossible(self, rate):
        with pytest.raises(DeployError, match="above 0"):
            make_robot(POLICY, rate=rate)


class TestActuators:
    def test_they_change_what_the_robot_does(self, robot):
        noisy = make_robot(POLICY, actuators="servo")
        x, _ = noisy.env.reset(seed=0)
        y, _ = robot.env.reset(seed=0)
        assert (x == y).all()
        for _ in range(5):
            x, *_ = noisy.env.step(POLICY.predict(x))
            y, *_ = robot.env.step(POLICY.predict(y))
        assert (x != y).any()

    def test_policy_still_balances_on_servos(self):
        (episode,), _ = run(POLICY, make_robot(POLICY, actuators="servo"))
        assert episode.total == 1000

    def test_what_does_not_fit(self):
        with pytest.raises(UnknownNameError, match="did you mean servo"):
            make_robot(POLICY, actuators="srevo")
        with pytest.raises(EnvironmentUnavailableError, match="CartPole"):
            make_robot(zero_policy("CartPole-v1", 4, DiscreteAction((2,))), actuators="servo")


def test_robots_that_do_not_fit():
    with pytest.raises(UnknownNameError, match="InvertedPendulum-v5"):
        make_robot(POLICY, "InvertedPendulm-v5")
    with pytest.raises(EnvironmentUnavailableError, match="does not fit"):
        make_robot(POLICY, "InvertedDoublePendulum-v5", any_rate=True)


def resident_memory():
    """Bytes of this process in memory; the most there ever were where the system says no more."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@pytest.mark.slow
def test_an_hour_at_100_hz_without_a_fault_and_without_growth():
    policy, hour = zoo.load_policy("ArmTrack"), 3600 * 100
    # How busy this machine is must not decide: no number of late actions is a fault here.
    safety = Safety(
        slew=50.0, observation_low=-100.0, observation_high=100.0, max_missed_deadlines=hour
    )
    controller = Controller(policy, safety=safety)
    robot = make_robot(policy, env_kwargs={"duration": 60.0}, actuators="servo")
    episodes = deploy_episodes(robot, controller, episodes=61)
    next(episodes)  # a minute for everything that is made on first use
    memory = []
    for episode in episodes:
        assert episode.fault is None, episode.fault
        assert np.isfinite(episode.total)
        gc.collect()
        memory.append(resident_memory() / 2**20)
    # The arm plans a minute's motion at once: memory goes up and down by some MiB. The high points
    # of the first and the last twenty minutes are what can be compared.
    before, after = max(memory[:20]), max(memory[-20:])
    print(f"{controller.steps:,} steps, memory {before:.1f} to {after:.1f} MiB")
    print(controller.latency.summary())
    assert len(memory) == 60
    assert controller.steps == hour + hour // 60
    assert after - before < 2
