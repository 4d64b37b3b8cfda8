"""A chunk is carried out in order, its rewards are summed, and it ends with the episode."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from nprobot.envs import ActionChunks
from nprobot.errors import ConfigError


class Counting(gymnasium.Env):
    """Two actions; the reward is the first; the episode ends after five steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Box(np.float32([-1, -2]), np.float32([1, 2]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = []
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.seen.append(action.tolist())
        n = len(self.seen)
        return np.full(1, n, np.float32), float(action[0]), n == 5, False, {"n": n}


def test_actions_of_a_chunk_are_carried_out_in_order():
    env = ActionChunks(Counting(), 3)
    assert env.action_space.shape == (6,)
    assert env.action_space.high.tolist() == [1, 2, 1, 2, 1, 2]
    env.reset(seed=0)
    chunk = np.float32([0.1, 1, 0.2, 1.5, 0.4, -1])
    observation, reward, terminated, truncated, info = env.step(chunk)
    np.testing.assert_allclose(env.unwrapped.seen, chunk.reshape(3, 2))
    assert reward == pytest.approx(0.7) and observation.tolist() == [3] and info == {"n": 3}
    assert not terminated and not truncated
    observation, reward, terminated, *_ = env.step(chunk)
    assert terminated and len(env.unwrapped.seen) == 5 and reward == pytest.approx(0.3)
    assert ActionChunks(Counting(), 3)._saved_kwargs == {"size": 3}


@pytest.mark.parametrize("size", [0, 1.5, True])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ConfigError, match="whole number"):
        ActionChunks(Counting(), size)


def test_discrete_actions_are_refused():
    with pytest.raises(ConfigError, match="continuous"):
        ActionChunks(gymnasium.make("CartPole-v1"), 2)
