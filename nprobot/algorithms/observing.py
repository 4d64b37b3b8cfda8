"""Observations as their space says: copied before a reset, and refused where they do not fit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from nprobot.errors import NonFiniteError, ObservationError


class ObservedVecEnv(DummyVecEnv):
    """stable-baselines3's `DummyVecEnv`, which looks at what its environments observe.

    It differs in two ways. An observation of another shape than its space has, or that is no real
    number, raises `ObservationError`; `DummyVecEnv` spreads ``(1,)`` over ``(3,)`` and drops
    imaginary parts. One with NaN or infinity, or such a reward, raises `NonFiniteError`, before it
    reaches a weight. And the last observation of an episode is copied before the reset, which an
    environment that writes into the same array every time would overwrite.
    """

    _steps = 0

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step; see `DummyVecEnv`."""
        self._steps += 1
        for i, env in enumerate(self.envs):
            obs, self.buf_rews[i], terminated, truncated, self.buf_infos[i] = env.step(
                self.actions[i]
            )
            for name, value in (("terminated", terminated), ("truncated", truncated)):
                if not isinstance(value, _TRUTH):
                    raise ObservationError(
                        f"environment {i} said {name}={value!r} in step {self._steps}; it has to "
                        "be True or False"
                    )
            if not np.isfinite(self.buf_rews[i]):
                raise NonFiniteError(
                    f"environment {i} in step {self._steps}: its reward is {self.buf_rews[i]}; "
                    "look into the environment, nothing was learned from it"
                )
            self.buf_dones[i] = terminated or truncated
            self.buf_infos[i]["TimeLimit.truncated"] = truncated and not terminated
            if self.buf_dones[i]:
                self._check(i, obs)
                self.buf_infos[i]["terminal_observation"] = copy.deepcopy(obs)
                obs, self.reset_infos[i] = env.reset()
            self._save_obs(i, obs)
        infos = [_copied(info) for info in self.buf_infos]
        return self._obs_from_buf(), np.copy(self.buf_rews), np.copy(self.buf_dones), infos

    def _save_obs(self, env_idx: int, obs: VecEnvObs) -> None:
        self._check(env_idx, obs)
        super()._save_obs(env_idx, obs)

    def _check(self, index: int, observation: Any) -> None:  # noqa: ANN401 - an environment's
        space = self.observation_space
        for key in self.keys:
            if key is None:
                self._check_leaf(index, "its observation", observation, space)
            else:
                part: Any = space[key]  # type: ignore[index]
                self._check_leaf(index, f"its observation {key!r}", observation[key], part)

    def _check_leaf(self, index: int, what: str, value: Any, space: spaces.Space[Any]) -> None:  # noqa: ANN401
        array = np.asarray(value)
        if array.shape == space.shape and array.dtype.kind in "fiub":
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = np.argwhere(~np.isfinite(array))[0]
                raise NonFiniteError(
                    f"environment {index} in step {self._steps}: {what} is {array[tuple(bad)]} at "
                    f"index {bad.tolist()}; look into the environment, nothing was learned from it"
                )
            return
        raise ObservationError(
            f"environment {index} in step {self._steps}: {what} has shape {array.shape} and type "
            f"{array.dtype}, and its space, {space}, has real numbers of shape {space.shape}"
        )


def _copied(info: dict[str, Any]) -> dict[str, Any]:
    """What `copy.deepcopy` gives, which asks of every number how to copy it."""
    return {
        key: value if type(value) in _CONSTANT else copy.deepcopy(value)
        for key, value in info.items()
    }


_TRUTH = (bool, np.bool_, int, np.ndarray)
_CONSTANT = frozenset({bool, int, float, str, type(None), np.float64, np.float32, np.bool_})


def observe(env: VecEnv) -> None:
    """Let the `DummyVecEnv` inside some wrappers, if there is one, look at its observations.

    In place, because users keep their environments; a wrapper of their class is left alone.
    """
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    if type(env) is DummyVecEnv:
        env.__class__ = ObservedVecEnv
