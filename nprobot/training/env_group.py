"""Environments that run one after the other in one process, be it this one or a worker.

Imports neither torch nor stable-baselines3, so that a worker starts fast and stays small.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from nprobot.envs.actuators.wrapper import READING
from nprobot.errors import EnvironmentFailedError, NprobotError

from . import environments
from .env_recorder import Node
from .env_state import Env, Template, restore_environment, save_environment

Array = NDArray[Any]
Results = tuple[Array, Array, Array, list[dict[str, Any]]]
"""Observations, rewards, ends of episodes, information."""

_PASSED_ON = ("is_success", READING)
"""What algorithms want to know of an environment's information."""


@dataclass(frozen=True)
class Maker:
    """How to make the environments of a run; can be sent to another process.

    Attributes:
        env: id.
        kwargs: arguments of the constructor.
        hardware: preset of noisy actuators before each; None for none.
        seed: of their noise.
        sensor: of what they did; None for none.
    """

    env: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    hardware: str | None = None
    seed: int = 0
    sensor: str | None = None

    def __call__(self, index: int = 0) -> Env:
        """Make environment number `index`; those with other numbers have other noise."""
        seed = (self.seed, index)
        return environments.make(self.env, self.kwargs, self.hardware, seed, sensor=self.sensor)


class Number(Protocol):
    """An integer that others can watch, perhaps from another process."""

    value: int


@dataclass
class Local:
    """A `Number` in this process."""

    value: int = -1


@dataclass(frozen=True)
class Description:
    """What the parts of a group have in common.

    Attributes:
        observation_space: of each environment.
        action_space: of each environment.
        render_mode: of each environment.
        control_rate: actions a second of simulated time, Hz, if known.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    render_mode: str | None
    control_rate: float | None


class EnvironmentGroup:
    """Some of the environments of a run, stepped one after the other.

    An environment whose episode has ended is reset at once, as stable-baselines3 expects it; the
    return and length of that episode, in the environment's own units, are in its information.

    Args:
        make: makes them.
        indices: their numbers in the run.
        busy: is set to the number of the environment at work, −1 for none.

    Raises:
        EnvironmentUnavailableError: they cannot be made.
        EnvironmentFailedError: (all methods) one of them raised an exception.
    """

    def __init__(self, make: Maker, indices: Sequence[int], busy: Number) -> None:
        self._make = make
        self._indices = list(indices)
        self._busy = busy
        self._envs = [make(index) for index in self._indices]
        self._returns = [0.0] * len(self._envs)
        self._lengths = [0] * len(self._envs)
        self._template: Template | None = None
        space = self._envs[0].observation_space
        self._shape, self._dtype = space.shape or (), space.dtype

    def describe(self) -> Description:
        """What they have in common."""
        env = self._envs[0]
        rate = environments.control_rate(env)
        # A copy: an algorithm draws from it, and the environment must not notice.
        actions = copy.deepcopy(env.action_space)
        return Description(env.observation_space, actions, env.render_mode, rate)

    def reset(self, seeds: Sequence[int | None]) -> Array:
        """Start an episode in each; the first observations, shape (E, *observation)."""
        observations = self._empty()
        for row, seed in enumerate(seeds):
            self._busy.value = self._indices[row]
            try:
                observations[row] = self._begin(row, seed)
            except NprobotError:
                raise
            except Exception as error:
                raise failure(f"environment {self._indices[row]}", error) from error
        self._busy.value = -1
        return observations

    def step(self, actions: Array) -> Results:
        """A step of each: observations, rewards (E,), whether the episode ended (E,), information.

        Where an episode ended the observation is the first of the next one, and the last one is
        the information's "terminal_observation".
        """
        observations = self._empty()
        rewards = np.empty(len(self._envs), np.float32)
        dones = np.empty(len(self._envs), np.bool_)
        infos = []
        for row, env in enumerate(self._envs):
            self._busy.value = self._indices[row]
            try:
                observation, reward, terminated, truncated, told = env.step(actions[row])
                rewards[row] = reward
                dones[row] = done = terminated or truncated
                info = {name: told[name] for name in _PASSED_ON if name in told}
                info["TimeLimit.truncated"] = truncated and not terminated
                self._returns[row] += float(reward)
                self._lengths[row] += 1
                if done:
                    ended = {"r": round(self._returns[row], 6), "l": self._lengths[row]}
                    info |= {"terminal_observation": observation, "episode": ended}
                    observation = self._begin(row, None)
                observations[row] = observation
            except NprobotError:
                raise
            except Exception as error:
                raise failure(f"environment {self._indices[row]}", error) from error
            infos.append(info)
        self._busy.value = -1
        return observations, rewards, dones, infos

    def save(self) -> list[Node] | None:
        """The state of each, to go on bit for bit; None if it cannot be saved at present."""
        try:
            if self._template is None:
                new = self._make(self._indices[0])
                self._template = Template(new)
                new.close()
            return [
                {"return": total, "length": length, "env": save_environment(env, self._template)}
                for env, total, length in zip(self._envs, self._returns, self._lengths, strict=True)
            ]
        except NprobotError:
            return None

    def restore(self, states: Sequence[Node]) -> None:
        """Put states from `save` into environments that have just been made.

        Raises:
            NprobotError: they do not fit.
        """
        try:
            for row, state in enumerate(states):
                restore_environment(self._envs[row], state["env"])
                self._returns[row] = float(state["return"])
                self._lengths[row] = int(state["length"])
        except NprobotError:
            self.close()  # who knows what they are now
            self._envs = [self._make(index) for index in self._indices]
            raise

    def attribute(self, name: str) -> list[Any]:
        """An attribute of each environment or of what it wraps."""
        return [env.get_wrapper_attr(name) for env in self._envs]

    def close(self) -> None:
        """Close all."""
        for env in self._envs:
            env.close()

    def _begin(self, row: int, seed: int | None) -> Any:  # noqa: ANN401
        self._returns[row], self._lengths[row] = 0.0, 0
        observation, _ = self._envs[row].reset(seed=seed)
        return observation

    def _empty(self) -> Array:
        return np.empty((len(self._envs), *self._shape), self._dtype)


def failure(who: str, error: Exception) -> EnvironmentFailedError:
    """What an environment raised, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return EnvironmentFailedError(f"{who} raised {type(error).__name__} ({where}): {error}")
