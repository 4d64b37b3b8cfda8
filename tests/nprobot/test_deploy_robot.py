"""Policies on simulated robots: the evaluation's returns, the right rate, actuators, films."""

import math
import sys

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest
from gymnasium import spaces

from nprobot.deploy import (
    Controller,
    FaultKind,
    Film,
    Safety,
    choose_backend,
    fly,
    make_robot,
    rendering,
)
from nprobot.errors import DeployError, DeployWarning, EnvironmentUnavailableError, UnknownNameError
from nprobot.policies import zoo
from nprobot.policies.files.policy import BoxAction, ControlTask, DiscreteAction, Operation, Policy
from nprobot.training.evaluation import evaluate

POLICY = zoo.load_policy("InvertedPendulum")


def constant_policy(env_id, observation, action, rate=None):
    """A policy whose outputs are all zero."""
    layer = Operation(
        "linear",
        {
            "weight": np.zeros((action.outputs, observation), np.float32),
            "bias": np.zeros(action.outputs, np.float32),
        },
    )
    return Policy((observation,), (layer,), action, task=ControlTask(env_id, {}, rate))


BOX = BoxAction(np.full(1, -3, np.float32), np.full(1, 3, np.float32))


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


class TestFlight:
    def test_returns_are_those_of_the_evaluation(self):
        weak = constant_policy("InvertedPendulum-v5", 4, BOX)
        expected = evaluate(weak, episodes=4, seed=3)
        robot = make_robot(weak)
        episodes = list(fly(robot, Controller(weak), episodes=4, seed=3))
        assert tuple(episode.total for episode in episodes) == expected.returns
        assert tuple(episode.length for episode in episodes) == expected.lengths
        assert all(episode.fault is None for episode in episodes)

    def test_discrete_actions_are_numbers(self):
        policy = constant_policy("Counter-v0", 2, DiscreteAction((3,)))
        (episode,) = fly(make_robot(policy), Controller(policy))
        assert (episode.total, episode.length) == (10, 10)

    def test_a_fault_ends_the_flight_after_the_episode(self, robot):
        safety = Safety(observation_low=-1e-3, observation_high=1e-3)  # soon left
        controller = Controller(POLICY, safety=safety)
        episodes = list(fly(robot, controller, episodes=5))
        assert len(episodes) == 1
        assert episodes[0].fault.kind == FaultKind.OUT_OF_RANGE
        record = controller.recorder.record()
        assert len(record) == episodes[0].length > 1  # safe actions to the end
        assert (record.arrays["action"][episodes[0].fault.step :] == 0).all()

    def test_faults_can_be_cleared_between_episodes(self, robot):
        controller = Controller(POLICY, safety=Safety(observation_high=1e-3))
        episodes = list(fly(robot, controller, episodes=3, clear_faults=True))
        assert len(episodes) == 3
        assert all(episode.fault for episode in episodes)
        assert controller.fault is None

    def test_an_unstable_simulation_is_a_fault(self, monkeypatch):
        monkeypatch.setattr(Counter, "rewards", math.nan)
        policy = constant_policy("Counter-v0", 2, DiscreteAction((3,)))
        (episode,) = fly(make_robot(policy), Controller(policy))
        assert episode.fault.kind == FaultKind.EXTERNAL

    def test_real_time_takes_the_time_of_the_robot(self):
        policy = constant_policy("InvertedPendulum-v5", 4, BOX, 25.0)
        now = [0.0]

        def sleep(seconds):
            now[0] += seconds

        robot = make_robot(policy)
        controller = Controller(policy)
        (episode,) = fly(robot, controller, realtime=True, clock=lambda: now[0], sleep=sleep)
        assert now[0] == pytest.approx((episode.length - 1) / 25)
        assert episode.late == 0
        assert (controller.recorder.record().arrays["age"] == 0).all()

    def test_a_slow_robot_is_late(self):
        policy = constant_policy("InvertedPendulum-v5", 4, BOX, 25.0)
        now = [0.0]

        def clock():
            now[0] += 0.03  # every look at it; two a step
            return now[0]

        (episode,) = fly(
            make_robot(policy), Controller(policy), realtime=True, clock=clock, sleep=lambda s: None
        )
        assert episode.late > 0

    def test_real_time_needs_a_rate(self):
        policy = constant_policy("Counter-v0", 2, DiscreteAction((3,)))
        with pytest.raises(DeployError, match="name a --rate"):
            list(fly(make_robot(policy), Controller(policy), realtime=True))

    def test_episodes(self, robot):
        with pytest.raises(DeployError, match="1 or more"):
            list(fly(robot, Controller(POLICY), episodes=0))


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
        robot = make_robot(POLICY, env_kwargs={"frame_skip": 1})
        assert robot.rate == 25
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
        policy = constant_policy("CartPole-v1", 4, DiscreteAction((2,)), 50.0)
        assert make_robot(policy).rate == 50
        other = constant_policy("CartPole-v1", 4, DiscreteAction((2,)), 20.0)
        with pytest.raises(DeployError, match="its rate cannot be changed"):
            make_robot(other)

    @pytest.mark.parametrize("rate", [0, -5, math.nan])
    def test_impossible(self, rate):
        with pytest.raises(DeployError, match="above 0"):
            make_robot(POLICY, rate=rate)


class TestHardware:
    def test_noisy_actuators_change_what_the_robot_does(self, robot):
        noisy = make_robot(POLICY, actuators="servo")
        x, _ = noisy.env.reset(seed=0)
        y, _ = robot.env.reset(seed=0)
        assert (x == y).all()
        for _ in range(5):
            x, *_ = noisy.env.step(POLICY.predict(x))
            y, *_ = robot.env.step(POLICY.predict(y))
        assert (x != y).any()

    def test_policy_still_balances_on_servos(self):
        robot = make_robot(POLICY, actuators="servo")
        (episode,) = fly(robot, Controller(POLICY))
        assert episode.total == 1000

    def test_unknown(self):
        with pytest.raises(DeployError, match="did you mean 'servo'"):
            make_robot(POLICY, actuators="srevo")

    def test_needs_motors(self):
        policy = constant_policy("CartPole-v1", 4, DiscreteAction((2,)))
        with pytest.raises(DeployError, match="is for motors"):
            make_robot(policy, actuators="servo")


def test_robots_that_do_not_fit():
    with pytest.raises(UnknownNameError, match="InvertedPendulum-v5"):
        make_robot(POLICY, "InvertedPendulm-v5")
    with pytest.raises(EnvironmentUnavailableError, match="does not fit"):
        make_robot(POLICY, "InvertedDoublePendulum-v5", any_rate=True)


def unset_backend(monkeypatch):
    """Have no back end chosen, and none that a test chooses afterwards."""
    monkeypatch.setenv("MUJOCO_GL", "")  # so that its absence is what comes back
    monkeypatch.delenv("MUJOCO_GL")


class TestRendering:
    def test_a_back_end_that_was_chosen_is_kept(self, monkeypatch):
        monkeypatch.setenv("MUJOCO_GL", "osmesa")
        monkeypatch.setattr(rendering, "_probe", pytest.fail)
        assert choose_backend() == "osmesa"

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems have one back end")
    def test_the_first_that_works_is_chosen(self, monkeypatch):
        unset_backend(monkeypatch)
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.setattr(rendering, "_probe", {"egl": "no driver", "osmesa": None}.get)
        assert choose_backend() == "osmesa"
        unset_backend(monkeypatch)
        monkeypatch.setattr(rendering, "_probe", lambda backend: f"no {backend}")
        with pytest.raises(DeployError, match=r"egl: no egl; osmesa: no osmesa.*apt install"):
            choose_backend()

    def test_a_broken_back_end_is_found_broken(self):
        assert "MUJOCO_GL" in rendering._probe("nonsense")

    def test_windows_need_a_display(self, monkeypatch):
        monkeypatch.setattr(rendering, "has_display", lambda: False)
        with pytest.raises(DeployError, match="--record"):
            rendering.require_display()
        monkeypatch.setattr(rendering, "has_display", lambda: True)
        monkeypatch.setenv("MUJOCO_GL", "egl")
        with pytest.raises(DeployError, match="unset MUJOCO_GL"):
            rendering.require_display()

    def test_film_shows_a_pole_that_stands(self, tmp_path, monkeypatch):
        """Two films, of a policy that balances and of none: the pole stands, the pole falls."""
        unset_backend(monkeypatch)
        backend = choose_backend()
        if backend is not None:
            monkeypatch.setenv("MUJOCO_GL", backend)
        heights = {}
        for name, policy in (
            ("balanced", POLICY),
            ("fallen", constant_policy("InvertedPendulum-v5", 4, BOX, 25.0)),
        ):
            size = {"width": 160, "height": 160}
            robot = make_robot(policy, env_kwargs=size, render_mode="rgb_array")
            with Film(tmp_path / f"{name}.mp4", robot) as film:
                observation, _ = robot.env.reset(seed=0)
                for step in range(30):
                    observation, *_ = robot.env.step(policy.predict(observation))
                    film.moved(0, step, 0.0)
            robot.env.close()
            frames = [*map(np.asarray, imageio.get_reader(tmp_path / f"{name}.mp4"))]
            assert len(frames) == film.frames == 30
            heights[name] = [pole_top(frame) for frame in (frames[0], frames[-1])]
        assert abs(np.subtract(*heights["balanced"])) <= 3
        assert heights["fallen"][1] > heights["fallen"][0] + 7

    def test_films_are_not_written_over(self, tmp_path):
        file = tmp_path / "film.mp4"
        file.write_text("precious")
        with pytest.raises(DeployError, match="choose another name"):
            rendering.check_film(file)
        with pytest.raises(DeployError, match=r"a film is an \.mp4"):
            rendering.check_film(tmp_path / "film.avi")

    def test_missing_package(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
        with pytest.raises(DeployError, match=r"nprobot\[video\]"):
            rendering.check_film(tmp_path / "film.mp4")


def pole_top(frame):
    """Row of the highest blue-green pixel: the pole's end."""
    red, green, blue = (frame[..., i].astype(int) for i in range(3))
    return int(np.argwhere((green > red + 30) & (blue > red + 30))[:, 0].min())
