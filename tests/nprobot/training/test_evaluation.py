"""Evaluation: the returns of the policy file's policy, the same ones each time."""

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from nprobot.errors import (
    ConfigError,
    EnvironmentFailedError,
    EnvironmentUnavailableError,
    NonFiniteError,
)
from nprobot.policies.files.policy import ControlTask, DiscreteAction
from nprobot.training import evaluation
from nprobot.training.evaluation import Evaluation, evaluate, run_episodes

from ..deploy.helpers import box, linear_policy


class Countdown(gymnasium.Env):
    """Starts at a random number, gives the action as reward, ends when the number is used up."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Box(-10, 10, (1,))
    dt = 0.1

    def __init__(self, scale=1.0, endless=False, bad=False):
        self.scale, self.endless, self.bad = scale, endless, bad

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 9))
        return self.observation(), {}

    def step(self, action):
        self.left -= not self.endless
        reward = math.nan if self.bad else self.scale * float(action[0])
        return self.observation(), reward, self.left <= 0, False, {"left": self.left}

    def observation(self):
        return np.array([self.left, 1.0], np.float32)


gymnasium.register("Tests/Countdown-v0", Countdown)


TASK = ControlTask("Tests/Countdown-v0")
# The action is the number that is left, so an episode of n steps returns n + (n - 1) + … + 1.
POLICY = linear_policy([[1.0, 0.0]], box(10), TASK)


def test_returns_are_the_sums_of_the_rewards():
    result = evaluate(POLICY, episodes=30)
    assert result.env == "Tests/Countdown-v0"
    assert len(result.returns) == len(result.lengths) == 30
    assert result.returns == tuple(n * (n + 1) / 2 for n in result.lengths)
    assert len(set(result.lengths)) > 4
    assert result.mean == pytest.approx(np.mean(result.returns))
    assert result.sd == pytest.approx(np.std(result.returns, ddof=1))
    assert str(result) == f"{result.mean:.1f} ± {result.sd:.1f}"


def test_episodes_do_not_depend_on_how_many_there_are():
    many = evaluate(POLICY, episodes=45)
    assert evaluate(POLICY, episodes=45) == many
    assert evaluate(POLICY, episodes=3).returns == many.returns[:3]
    assert evaluate(POLICY, episodes=45, seed=1).returns != many.returns


def test_arguments_of_the_environment():
    twice = dataclasses.replace(POLICY, task=ControlTask("Tests/Countdown-v0", {"scale": 2.0}))
    plain = evaluate(POLICY, episodes=4)
    assert evaluate(twice, episodes=4).mean == 2 * plain.mean
    assert evaluate(twice, env_kwargs={"scale": 3.0}, episodes=4).mean == 3 * plain.mean


def test_agrees_with_a_loop_over_one_mujoco_environment():
    policy = linear_policy([[2.0, 4.0, 0.5, 1.0]], box(3))
    result = evaluate(policy, "InvertedPendulum-v5", episodes=2)
    env = gymnasium.make("InvertedPendulum-v5")
    for seed, expected in zip(evaluation.episode_seeds(0, 2), result.returns, strict=True):
        observation, _ = env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(policy.predict(observation))
            total, done = total + reward, terminated or truncated
        assert total == expected
    assert result.mean > 20  # that policy does something


@pytest.mark.parametrize(
    ("env", "message"),
    [("Reacher-v5", "does not fit Reacher-v5"), ("Pendulum-v1", "takes"), (None, "--env")],
)
def test_an_environment_that_does_not_fit(env, message):
    with pytest.raises((EnvironmentUnavailableError, ConfigError), match=message):
        evaluate(dataclasses.replace(POLICY, task=None), env)


def test_actions_of_another_kind():
    with pytest.raises(EnvironmentUnavailableError, match="actions"):
        evaluate(linear_policy([[1.0, 0.0]], DiscreteAction((1,)), TASK))


@pytest.mark.parametrize("key", ["actuators", "hardware"])
def test_actuators_are_those_of_the_training(key):
    trained = dataclasses.replace(POLICY, provenance={key: "servo"})
    result = evaluate(trained, episodes=2)
    assert result.actuators == "servo"
    assert result == evaluate(POLICY, actuators="servo", episodes=2)
    ideal = evaluate(trained, actuators="ideal", episodes=2)
    assert ideal.returns == evaluate(POLICY, episodes=2).returns != result.returns


def test_environments_of_ones_own():
    made = []

    def make(number):
        made.append(number)
        return Countdown(scale=2.0)

    result = evaluate(POLICY, "mine", make=make, episodes=23)
    assert (result.env, made) == ("mine", list(range(20)))
    assert result.returns == evaluate(POLICY, env_kwargs={"scale": 2.0}, episodes=23).returns


class TestRunEpisodes:
    def test_observer_is_told_of_every_step(self):
        told = []
        envs = [Countdown(), Countdown()]
        results = run_episodes(POLICY.predict, envs, [3, 4, 5], lambda *step: told.append(step))
        assert len(told) == sum(length for _, length in results)
        for episode, (total, length) in enumerate(results):
            own = [step for step in told if step[0] == episode]
            assert [step[1] for step in own] == list(range(1, length + 1))
            assert own[-1][2:] == (total, {"left": 0})

    def test_whose_fault_an_error_is(self):
        def predict(observations):
            raise ValueError("no idea")

        with pytest.raises(ValueError, match="no idea"):
            run_episodes(predict, [Countdown()], [0])
        with pytest.raises(EnvironmentFailedError, match=r"raised IndexError \(test_evaluation"):
            run_episodes(lambda observations: [[]], [Countdown()], [0])


def test_no_episodes():
    with pytest.raises(ConfigError, match="episodes"):
        evaluate(POLICY, episodes=0)


def test_an_endless_episode(monkeypatch):
    monkeypatch.setattr(evaluation, "LONGEST_EPISODE", 50)
    with pytest.raises(EnvironmentUnavailableError, match="max_episode_steps"):
        evaluate(POLICY, env_kwargs={"endless": True})


@pytest.mark.filterwarnings("ignore:.*NaN value")
def test_a_reward_that_is_not_a_number():
    with pytest.raises(NonFiniteError, match="reward at step 1"):
        evaluate(POLICY, env_kwargs={"bad": True})


def test_spread_of_one_episode_is_unknown():
    result = Evaluation("x", 0, (3.0,), (1,))
    assert math.isnan(result.sd)
    assert str(result) == "3.0"
