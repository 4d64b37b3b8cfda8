"""A robot that does nothing but remember what its actuators did, and a way to drive it."""

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
def drive():
    """Drives a still robot through one episode: realised actions, shape (T, d)."""

    def run(models, commands, *, seed=0, clip="none", size=None, **robot):
        commands = np.asarray(commands, np.float64)
        if commands.ndim == 1:
            commands = commands[:, None]
        env = Still(size or commands.shape[1], **robot)
        wrapped = NoisyActuators(env, models, clip=clip)
        wrapped.reset(seed=seed)
        for command in commands:
            wrapped.step(command)
        return np.array(env.received)

    return run
