"""What the tests of NRL share: an environment, and models on it in every mode."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import nprobot
from nprobot.envs import NoisyActuators
from nprobot.envs.actuators import WhiteNoise

BOX = spaces.Box(-1, 1, (3,))


class Reach(gymnasium.Env):
    """Reward for an action near a linear function of the observation; four steps an episode."""

    def __init__(self, observation_space=BOX, action_space=None):
        self.observation_space = observation_space
        self.action_space = spaces.Box(-2.0, 6.0, (2,)) if action_space is None else action_space

    def _observe(self):
        self.seen = self.observation_space.sample()
        return self.seen

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        seen = self.seen["a"] if isinstance(self.seen, dict) else self.seen
        target = 2.0 + 2.0 * np.array([seen[0], -seen[1]])
        reward = -float(np.square((action.ravel() - target) / 4).sum())
        self.steps += 1
        return self._observe(), reward, False, self.steps == 4, {}


def reach(n_envs=4, seed=0, wrapper=None):
    def make(rank):
        def made():
            env = Monitor(Reach())
            return env if wrapper is None else wrapper(env, rank)

        return made

    env = DummyVecEnv([make(rank) for rank in range(n_envs)])
    env.seed(seed)
    return env


def noisy_actuators(env, rank):
    return NoisyActuators(env, WhiteNoise(0.2), sensor="current-sense", seed=rank, dt=0.1)


SMALL = {"n_steps": 8, "policy_kwargs": {"net_arch": [16]}, "device": "cpu", "seed": 0}


def made(make=nprobot.NRL, n_envs=4, sensor=False, **kwargs):
    sensor = sensor or kwargs.get("noise_source") == "actuators"
    env = reach(n_envs, wrapper=noisy_actuators if sensor else None)
    return make("MlpPolicy", env, **SMALL | kwargs)


def weights(model, network="actor"):
    return torch.cat([p.detach().flatten() for p in getattr(model.policy, network).parameters()])


MODES = {
    "network": {"noise_source": "network"},
    "network and actuators": {"noise_source": "network", "sensor": True},
    "actuators": {"noise_source": "actuators"},
    "injected": {"noise_source": "injected"},
    "running mean": {"baseline": "running-mean"},
    "three references": {"references": 3},
    "no decorrelation": {"rule": "np"},
    "with feedback": {"rule": "np+feedback"},
    "decorrelated, with feedback": {"rule": "dnp+feedback"},
    "strictly on-line": {"n_steps": 1},
}
