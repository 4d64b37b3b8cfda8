"""Evaluation: the returns of the policy file's policy, the same ones each time."""

import math

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from nprobot.errors import ConfigError, EnvironmentUnavailableError, NonFiniteError
from nprobot.policies.files.policy import BoxAction, ControlTask, DiscreteAction, Operation, Policy
from nprobot.training import evaluation
from nprobot.training.evaluation import Evaluation, evaluate, record


class Countdown(gymnasium.Env):
    """Starts at a random number, gives the action as reward, ends when the number is used up."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-np.inf, np.inf, (2,))
    action_space = spaces.Box(-10, 10, (1,))

    def __init__(self, render_mode=None, scale=1.0, endless=False, bad=False):
        self.render_mode, self.scale, self.endless, self.bad = render_mode, scale, endless, bad

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 9))
        return self.observation(), {}

    def step(self, action):
        self.left -= not self.endless
        reward = math.nan if self.bad else self.scale * float(action[0])
        return self.observation(), reward, self.left <= 0, False, {}

    def observation(self):
        return np.array([self.left, 1.0], np.float32)

    def render(self):
        return np.full((32, 48, 3), 20 * self.left, np.uint8)


gymnasium.register("Tests/Countdown-v0", Countdown)


def linear(weight):
    weight = np.array([weight], np.float32)
    return Operation("linear", {"weight": weight, "bias": np.zeros(len(weight), np.float32)})


BOUNDS = BoxAction(np.array([-10], np.float32), np.array([10], np.float32))
# The action is the number that is left, so an episode of n steps returns n + (n - 1) + … + 1.
POLICY = Policy((2,), (linear([1.0, 0.0]),), BOUNDS, task=ControlTask("Tests/Countdown-v0"))


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
    twice = Policy(
        (2,), POLICY.operations, BOUNDS, task=ControlTask("Tests/Countdown-v0", {"scale": 2.0})
    )
    plain = evaluate(POLICY, episodes=4)
    assert evaluate(twice, episodes=4).mean == 2 * plain.mean
    assert evaluate(twice, env_kwargs={"scale": 3.0}, episodes=4).mean == 3 * plain.mean


def test_agrees_with_a_loop_over_one_mujoco_environment():
    weight = [2.0, 4.0, 0.5, 1.0]
    bounds = BoxAction(np.array([-3], np.float32), np.array([3], np.float32))
    policy = Policy((4,), (linear(weight),), bounds)
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
    policy = Policy((2,), POLICY.operations, BOUNDS)
    with pytest.raises((EnvironmentUnavailableError, ConfigError), match=message):
        evaluate(policy, env)


def test_actions_of_another_kind():
    policy = Policy((2,), (linear([1.0, 0.0]),), DiscreteAction((1,)))
    with pytest.raises(EnvironmentUnavailableError, match="actions"):
        evaluate(policy, "Tests/Countdown-v0")


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


def test_films_the_first_episode(tmp_path):
    import imageio.v2 as imageio

    video = tmp_path / "films" / "first.mp4"
    record(POLICY, video)
    frames = imageio.mimread(video)
    assert len(frames) == evaluate(POLICY, episodes=1).lengths[0]
    assert frames[0].shape == (32, 48, 3)
    assert frames[0].mean() > frames[-1].mean()
    with pytest.raises(ConfigError, match="choose another name"):
        record(POLICY, video)
