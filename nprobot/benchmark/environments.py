"""The environments of a run: for training side by side, for evaluation in episodes of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from nprobot.envs import NoisyActuators
from nprobot.training import environments

from .spec import IDEAL, RunSpec

Array = npt.NDArray[Any]
Env = environments.Env
Predict = Callable[[Array], Array]
"""From raw observations (B, d) to actions (B, n), without exploration."""

FINAL_STARTS, CURVE_STARTS = 0, 1
"""Where the starts of evaluation episodes come from: the same ones for every learner and seed."""


@dataclass(frozen=True)
class Seeds:
    """Seeds of the parts of a run, all from its one seed.

    Attributes:
        environments: of the first training environment; the next ones count up.
        hardware: of the actuators' noise in training, likewise.
        rule: of the node noise.
        torch: of torch, numpy and Python: initial weights, exploration, minibatches.
        evaluation: of the actuators' noise in evaluations.
    """

    environments: int
    hardware: int
    rule: int
    torch: int
    evaluation: int

    @classmethod
    def spawn(cls, seed: int) -> Seeds:
        """All seeds of a run."""
        children = np.random.SeedSequence(seed).spawn(5)
        # Below 2³¹, with room to count up: some generators take no more.
        return cls(*(int(child.generate_state(1)[0]) >> 2 for child in children))


def make(spec: RunSpec, hardware_seed: int) -> Env:
    """One environment with the actuators of the run."""
    env = environments.make(spec.env, spec.env_kwargs)
    if spec.hardware == IDEAL:
        return env
    return NoisyActuators(env, spec.hardware, seed=hardware_seed)


def make_vector(spec: RunSpec, *, normalise: str, gamma: float) -> VecNormalize:
    """The training environments, scaled by running statistics as far as asked.

    Args:
        spec: the run.
        normalise: ``"on"``, ``"off"``, ``"observations"`` or ``"rewards"``.
        gamma: discount factor: rewards are scaled by the spread of the discounted return.
    """
    seeds = Seeds.spawn(spec.seed)

    def environment(index: int) -> Callable[[], Env]:
        return lambda: Monitor(make(spec, seeds.hardware + index))

    vector = DummyVecEnv([environment(index) for index in range(spec.envs)])
    return VecNormalize(
        vector,
        norm_obs=normalise in ("on", "observations"),
        norm_reward=normalise in ("on", "rewards"),
        gamma=gamma,
    )


class Evaluator:
    """Measures policies of one run, in environments of their own.

    Args:
        spec: the run.
    """

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self._envs: list[Env] = []

    def curve_point(self, predict: Predict) -> list[float]:
        """Returns of the episodes that make one point of the curve."""
        return self._returns(predict, self.spec.point_episodes, CURVE_STARTS)

    def final(self, predict: Predict) -> list[float]:
        """Returns of the episodes that measure the finished policy."""
        return self._returns(predict, self.spec.episodes, FINAL_STARTS)

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _returns(self, predict: Predict, episodes: int, starts: int) -> list[float]:
        noise = Seeds.spawn(self.spec.seed).evaluation
        while len(self._envs) < episodes:
            self._envs.append(make(self.spec, noise + len(self._envs)))
        envs = self._envs[:episodes]
        seeds = np.random.SeedSequence(starts).generate_state(episodes)
        observations = [env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds, strict=True)]
        returns = [0.0] * episodes
        running = list(range(episodes))
        while running:
            actions = predict(np.stack([observations[i] for i in running]))
            going_on = []
            for i, action in zip(running, actions, strict=True):
                observations[i], reward, terminated, truncated, _ = envs[i].step(action)
                returns[i] += float(reward)
                if not (terminated or truncated):
                    going_on.append(i)
            running = going_on
        if not all(map(math.isfinite, returns)):
            raise FloatingPointError("the return of an evaluation episode is not finite")
        return returns
