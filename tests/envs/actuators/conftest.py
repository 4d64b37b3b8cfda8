"""A robot that does nothing but remember what its actuators did, and ways to drive it."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from nprobot.envs.actuators import NoisyActuators


class Still(gymnasium.Env):
    """A robot with `size` actuators that never moves; `received` is what it was told to do."""

    metadata: ClassVar = {"render_modes": [], "render_fps": 50}

    def __init__(self, size=1, low=-1.0, high=1.0, dt=0.02, steps=None, dtype=np.float64):
        self.action_space = Box(low, high, (size,), dtype)
        self.observation_space = Box(-1.0, 1.0, (1,), np.float64)
        self.dt = dt
        self.steps = steps
        self.elapsed = 0
        self.received = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.elapsed = 0
        return np.zeros(1), {}

    def step(self, action):
        self.received.append(np.array(action))
        self.elapsed += 1
        return np.zeros(1), 0.0, False, self.elapsed == self.steps, {}


@pytest.fixture
def still():
    return Still


@pytest.fixture
def episodes():
    """Realised actions of several episodes, one for each reset seed, shape (count, steps, size)."""

    def run(models, seeds=(0,), *, size=1, steps=1, command=0.0, secret=None):
        env = Still(size)
        wrapped = NoisyActuators(env, models, clip="none", seed=secret)
        for seed in seeds:
            wrapped.reset(seed=seed)
            for _ in range(steps):
                wrapped.step(np.full(size, command))
        return np.array(env.received).reshape(len(seeds), steps, size)

    return run


@pytest.fixture
def received():
    """What a robot is told in one episode of commands, one array a step."""

    def run(models, commands, env, **arguments):
        wrapped = NoisyActuators(env, models, **arguments)
        wrapped.reset(seed=0)
        for command in commands:
            wrapped.step(command)
        return env.received

    return run


@pytest.fixture
def drive(received):
    """The same of a still robot, unclipped, from and as one array of shape (T, d)."""

    def run(models, commands, **robot):
        commands = np.asarray(commands, np.float64)
        commands = commands[:, None] if commands.ndim == 1 else commands
        env = Still(commands.shape[1], **robot)
        return np.array(received(models, commands, env, clip="none"))

    return run
