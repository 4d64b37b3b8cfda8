"""Noisy robots side by side, a learner that learns on them, and what it then does there."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from nprobot.envs import NoisyActuators
from nprobot.envs.actuators import ActuatorModel

from ..rows import Row, Rows

ROBOTS, EPISODES = 8, 20
EVERY = 2_000
"""Steps between two points of a curve."""
Actuators = str | ActuatorModel | list[ActuatorModel]


def robots(
    task: str, actuators: Actuators | None, *, seed: int, sensor: str | None = None
) -> VecNormalize:
    """Robots, each with its own actuators; None for what the task has.

    Args:
        task: environment id.
        actuators: of `NoisyActuators`.
        seed: of their noise.
        sensor: what tells of it.
    """

    def make(rank: int) -> Callable[[], gymnasium.Env[Any, Any]]:
        def made() -> gymnasium.Env[Any, Any]:
            env: gymnasium.Env[Any, Any] = gymnasium.make(task)
            if actuators is not None:
                secret = np.random.SeedSequence((seed, rank))
                env = NoisyActuators(env, actuators, sensor=sensor, seed=secret)
            return Monitor(env)

        return made

    return VecNormalize(DummyVecEnv([make(rank) for rank in range(ROBOTS)]))


class Curve(BaseCallback):
    """Notes the mean return of the last 20 episodes now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.points: Rows = []

    def _on_step(self) -> bool:
        episodes = list(self.model.ep_info_buffer or ())[-20:]
        if episodes and self.num_timesteps % EVERY < ROBOTS:
            mean = round(fmean(e["r"] for e in episodes), 2)
            self.points.append({"step": self.num_timesteps, "return": mean})
        return True


def learn(model: OnPolicyAlgorithm, steps: int) -> Row:
    """Learn; what it took, and the curve."""
    curve = Curve()
    start = time.process_time()
    model.learn(steps, callback=curve)
    return {
        "steps": steps,
        "forward_passes": model.rule.forward_passes,
        "backward_passes": model.rule.backward_passes,
        "cpu_seconds": round(time.process_time() - start, 1),
        "curve": curve.points,
    }


def measure(model: OnPolicyAlgorithm, env: VecNormalize, seed: int) -> Row:
    """Returns of episodes on the robots, noise and all, with learning switched off."""
    env.training = env.norm_reward = False
    env.seed(10_000 + seed)
    returns, _ = evaluate_policy(model, env, EPISODES, return_episode_rewards=True)
    return {
        "return_mean": round(fmean(returns), 3),
        "return_min": round(min(returns), 3),
        "episodes": EPISODES,
    }
