"""gymnasium's robots simulated at once by envpool, a C++ library with environments of its own.

Its environments have the names, spaces and rewards of gymnasium's, and other random numbers: the
same seed is another episode. Rewards are float32, and it brings its own MuJoCo.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from nprobot.envs import time_step
from nprobot.errors import EnvironmentUnavailableError, UnknownNameError

from . import environments
from .environments import USERS_ERRORS, failure
from .groups import EnvRecipe, GroupDescription, StepResults, Watched

Array = NDArray[Any]

_SEEDS = 2**31
"""envpool's seeds are below."""


class EnvpoolGroup:
    """A group of a run (see `EnvironmentGroup`), simulated by envpool.

    Args:
        recipe: of environments that envpool has.
        indices: their numbers in the run.
        busy: is set to the number of the first of them while they are at work.
        threads: of envpool.

    Raises:
        EnvironmentUnavailableError: envpool is not installed, or does not take an argument.
        UnknownNameError: envpool has no such environment.
        EnvironmentFailedError: (reset, step) it raised an exception.
    """

    def __init__(
        self, recipe: EnvRecipe, indices: Sequence[int], busy: Watched, threads: int
    ) -> None:
        self._envpool = _library()
        name = recipe.env.rpartition(":")[2]
        known = self._envpool.list_all_envs()
        if name not in known:
            raise UnknownNameError(
                "environment of envpool", name, known, "Leave --envpool away for others."
            )
        self._name, self._kwargs = name, dict(recipe.kwargs)
        self._indices, self._busy, self._threads = list(indices), busy, threads
        one = environments.make(recipe.env, recipe.kwargs)
        if not isinstance(one.action_space, spaces.Box):
            one.close()
            raise EnvironmentUnavailableError(
                f"--envpool is for robots; the actions of {name} are {one.action_space}"
            )
        step = time_step(one.unwrapped)
        self._description = GroupDescription(
            one.observation_space,
            copy.deepcopy(one.action_space),
            None,
            environments.control_rate(one),
            rate_source=None if step is None else step.source,
            together=f"simulated at once by envpool {self._envpool.__version__}",
        )
        self._spec = one.spec
        one.close()
        self._pool: Any = None
        self._returns = np.zeros(len(self._indices))
        self._lengths = np.zeros(len(self._indices), np.int64)

    def describe(self) -> GroupDescription:
        """What they have in common."""
        return self._description

    def reset(self, seeds: Sequence[int | None]) -> Array:
        """Start an episode in each; with seeds, in a new pool, as those of one are fixed."""
        self._returns[:], self._lengths[:] = 0.0, 0
        with self._at_work():
            if self._pool is None or any(seed is not None for seed in seeds):
                self._pool = self._made([int(seed or 0) % _SEEDS for seed in seeds])
            observations: Array = self._pool.reset()[0]
        return observations

    def step(self, actions: Array) -> StepResults:
        """A step of each, as `EnvironmentGroup.step` has it."""
        with self._at_work():
            wanted = np.ascontiguousarray(actions, self._pool.action_space.dtype)
            observations, rewards, terminated, truncated, _ = self._pool.step(wanted)
            dones = terminated | truncated
            over = np.flatnonzero(dones)
            self._returns += rewards
            self._lengths += 1
            infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in self._indices]
            for row in over:
                infos[row] = {
                    "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
                    "terminal_observation": observations[row].copy(),
                    "episode": {
                        "r": round(float(self._returns[row]), 6),
                        "l": int(self._lengths[row]),
                    },
                }
            if len(over):
                observations = observations.copy()
                observations[over] = self._pool.reset(over.astype(np.int32))[0]
                self._returns[over], self._lengths[over] = 0.0, 0
        return observations, rewards.astype(np.float32), dones, infos

    def save_actuators(self) -> list[bytes | None]:
        """None: there are no noisy actuators."""
        return [None for _ in self._indices]

    def restore_actuators(self, capsules: Sequence[bytes | None]) -> None:
        """Nothing to restore."""

    def save_progress(self) -> list[dict[str, float]]:
        """Empty: there are no curricula."""
        return [{} for _ in self._indices]

    def restore_progress(self, progress: Sequence[dict[str, float]]) -> None:
        """Nothing to restore."""

    def attribute(self, name: str) -> list[Any]:
        """`spec` and `render_mode`; envpool's environments have no other."""
        value = {"spec": self._spec, "render_mode": None}[name]
        return [value for _ in self._indices]

    def close(self) -> None:
        """Close all."""
        self._pool = None

    def _made(self, seeds: list[int]) -> Any:  # noqa: ANN401 - envpool has no types
        try:
            return self._envpool.make(
                self._name,
                env_type="gymnasium",
                num_envs=len(seeds),
                num_threads=self._threads,
                env_seed=seeds,
                **self._kwargs,
            )
        except TypeError as error:
            raise EnvironmentUnavailableError(
                f"environment {self._name!r} cannot be made by envpool: {error}"
            ) from error

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._busy.value = self._indices[0]
        try:
            yield
        except (EnvironmentUnavailableError, UnknownNameError):
            raise
        except USERS_ERRORS as error:
            raise failure(f"envpool's {self._name}", error) from error
        self._busy.value = -1


def _library() -> Any:  # noqa: ANN401 - envpool has no types
    try:
        import envpool  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise EnvironmentUnavailableError(
            f"--envpool needs `pip install 'nprobot[envpool]'` ({error})"
        ) from error
    return envpool
