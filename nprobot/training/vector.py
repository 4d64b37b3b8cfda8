"""A run's environments side by side: checked for NaN, normalised, with state to save."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from typing_extensions import override

from . import environments
from .config import RunConfig
from .errors import NonFiniteError


def make_vector(config: RunConfig) -> VecNormalize:
    """The training environments of a run.

    Each counts its episode returns (`Monitor`), so that those stay in the environment's own units
    whatever is normalised.
    """

    def environment() -> Callable[[], Monitor[Any, Any]]:
        return lambda: Monitor(environments.make(config.env, config.env_kwargs))

    vector = DummyVecEnv([environment() for _ in range(config.envs)])
    return VecNormalize(
        FiniteCheck(vector),
        norm_obs=config.normalise_observations,
        norm_reward=config.normalise_rewards,
    )


class FiniteCheck(VecEnvWrapper):
    """Stops a run at the first NaN or infinity that an environment returns."""

    @override
    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        self._check("observation", np.asarray(observations))
        return observations

    @override
    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self._check("observation", np.asarray(observations))
        self._check("reward", rewards)
        for index in np.flatnonzero(dones):
            last = np.asarray(infos[index]["terminal_observation"])
            self._check("last observation of an episode", last[None])
        return observations, rewards, dones, infos

    def _check(self, what: str, values: np.ndarray[Any, np.dtype[Any]]) -> None:
        # The sum is finite if all are, and one number is quicker to look at.
        if np.isfinite(values.sum()) or np.isfinite(values).all():
            return
        bad = np.argwhere(~np.isfinite(values))[0]
        raise NonFiniteError(
            f"the {what} of environment {bad[0]} is {values[tuple(bad)]}"
            + (f" at index {bad[1:].tolist()}" if len(bad) > 1 else "")
            + "; the simulation has become unstable or the environment has a fault"
        )


def vector_state(vector: VecNormalize) -> dict[str, Any]:
    """Statistics of the normaliser and the random generator of each environment."""
    state: dict[str, Any] = {
        "returns": _statistics(vector.ret_rms),
        "discounted_returns": vector.returns,
        "generators": [generator.bit_generator.state for generator in vector.get_attr("np_random")],
    }
    if vector.norm_obs:
        state["observations"] = _statistics(_observations(vector))
    return state


def restore_vector(vector: VecNormalize, state: dict[str, Any]) -> None:
    """Go on from a saved state; the next reset draws from the restored generators."""
    vector.training = False
    vector.reset()  # uses up the seeds, which would restart the generators
    vector.training = True
    _restore_statistics(vector.ret_rms, state["returns"])
    if vector.norm_obs:
        _restore_statistics(_observations(vector), state["observations"])
    vector.returns = state["discounted_returns"].copy()
    for generator, saved in zip(vector.get_attr("np_random"), state["generators"], strict=True):
        generator.bit_generator.state = saved


def _observations(vector: VecNormalize) -> RunningMeanStd:
    running = vector.obs_rms
    assert isinstance(running, RunningMeanStd), "observations are one vector, not a dict of them"
    return running


def _statistics(running: RunningMeanStd) -> dict[str, Any]:
    return {
        "mean": np.asarray(running.mean),
        "var": np.asarray(running.var),
        "count": float(running.count),
    }


def _restore_statistics(running: RunningMeanStd, state: dict[str, Any]) -> None:
    running.mean, running.var = state["mean"].copy(), state["var"].copy()
    running.count = state["count"]
