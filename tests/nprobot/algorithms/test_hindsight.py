"""Transitions learn from goals that were reached later in their episode, and from no other."""

import dataclasses
import shutil

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from nprobot.algorithms.hindsight import Goals, HindsightBuffer
from nprobot.errors import EnvironmentUnavailableError
from nprobot.policies.files import policy_file
from nprobot.training import environments
from nprobot.training.run_config import AlgorithmOptions, NetworkOptions, RunConfig
from nprobot.training.training_run import resume, train


class Walk(gymnasium.Env):
    """Walk along a line to a point, worth 0 there and −1 elsewhere."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self):
        goal = spaces.Box(-9, 9, (1,), np.float64)
        parts = {"observation": spaces.Box(-9, 9, (2,), np.float64)}
        self.observation_space = spaces.Dict(parts | {"achieved_goal": goal, "desired_goal": goal})
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)

    def compute_reward(self, achieved, desired, info):
        return -(np.abs(achieved - desired).max(-1) > 0.2).astype(np.float32)

    def _seen(self):
        x = np.array([self.x])
        return {
            "observation": np.array([self.x, 1.0]),
            "achieved_goal": x,
            "desired_goal": self.goal,
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.goal = 0.0, self.np_random.uniform(-2, 2, 1)
        return self._seen(), {}

    def step(self, action):
        self.x += 0.3 * float(np.clip(action[0], -1, 1))
        seen = self._seen()
        reward = self.compute_reward(seen["achieved_goal"], self.goal, {})
        return seen, float(reward), False, False, {}


gymnasium.register("Tests/Walk-v0", Walk, max_episode_steps=12)


def test_goals_are_found_in_a_flattened_observation():
    env = environments.make("Tests/Walk-v0")
    goals = Goals.of(env)
    assert (goals.achieved, goals.desired) == (slice(0, 1), slice(1, 2))
    assert goals.reward(np.array([[1.0], [1.0]]), np.array([[1.1], [2.0]])).tolist() == [0, -1]
    with pytest.raises(EnvironmentUnavailableError, match="environments with goals"):
        Goals.of(environments.make("Pendulum-v1"))


@pytest.mark.parametrize("size", [40, 400])  # the smaller one is overwritten
def test_new_goals_were_reached_later_in_the_same_episode(size):
    env = environments.make("Tests/Walk-v0")
    goals = Goals.of(env)
    buffer = HindsightBuffer(
        2 * size, env.observation_space, env.action_space, n_envs=2, goals=goals, share=1.0
    )
    generator = np.random.default_rng(0)
    # An observation says in which episode and when it was: achieved = 100 · episode + step.
    episode, step, old = np.array([0, 50]), np.zeros(2), -5.0
    for _ in range(100):
        now = 100.0 * episode + step
        seen = np.stack([now, np.full(2, old), now, now], 1)
        then = np.add(seen, [1, 0, 1, 1])
        step += 1
        done = generator.random(2) < 0.15
        buffer.add(seen, then, np.zeros((2, 1)), np.full(2, -7.0), done, [{}, {}])
        episode, step = episode + done, np.where(done, 0, step)
    np.random.seed(0)  # noqa: NPY002 - SB3 samples from it
    batch = buffer.sample(2000)
    seen, then, rewards = (
        x.numpy() for x in (batch.observations, batch.next_observations, batch.rewards)
    )
    given = seen[:, 1] != old
    assert given.mean() > 0.5
    assert (seen[:, 1] == then[:, 1]).all()
    later = seen[given, 1] - seen[given, 0]
    assert (later >= 1).all()
    assert (seen[given, 1] // 100 == seen[given, 0] // 100).all()
    assert (later > 1).any()
    expected = np.where(np.abs(then[given, 0] - then[given, 1]) > 0.2, -1, 0)
    assert np.array_equal(rewards[given, 0], expected)
    assert (rewards[~given, 0] == -7).all()  # of episodes that have not ended


CONFIG = RunConfig(
    env="Tests/Walk-v0",
    algo="sac",
    rule="np+feedback",
    steps=192,
    envs=2,
    checkpoint_every=64,
    network=NetworkOptions(hidden=(8,)),
    algorithm=AlgorithmOptions(
        hindsight=0.8, learning_starts=32, batch_size=16, train_freq=4, buffer_size=1000
    ),
)


def test_a_resumed_run_ends_as_one_that_was_never_stopped(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(CONFIG, whole)
    shutil.copytree(whole, cut, symlinks=True)
    for checkpoint in (cut / "checkpoints").glob("step_*"):
        if int(checkpoint.name[5:]) > 64:
            shutil.rmtree(checkpoint)
    resume(cut)
    policies = [policy_file.load(path / "checkpoints" / "last") for path in (whole, cut)]
    for one, other in zip(policies[0].operations, policies[1].operations, strict=True):
        for name, array in one.arrays.items():
            assert np.array_equal(array, other.arrays[name])


def test_environments_without_goals_are_refused(tmp_path):
    with pytest.raises(EnvironmentUnavailableError, match="environments with goals"):
        train(dataclasses.replace(CONFIG, env="Pendulum-v1"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
