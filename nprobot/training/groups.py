"""Groups of environments that are stepped together: one by one, or all at once where they can be.

They import neither torch nor stable-baselines3, so that a worker starts fast and stays small.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from numpy.typing import NDArray

from nprobot.envs import VECTOR_ENTRY_POINTS, time_step
from nprobot.envs.actuators import READING
from nprobot.errors import ActuatorError, NprobotError

from . import environments
from .environments import USERS_ERRORS, failure

Array = NDArray[Any]
StepResults = tuple[Array, Array, Array, list[dict[str, Any]]]
"""Observations, rewards, ends of episodes, information."""

TERMS = "reward_terms"
"""Key of what an environment tells of its reward at the end of an episode, by name."""
_PASSED_ON = ("is_success", READING, TERMS)
"""What algorithms want to know of an environment's information."""


@dataclass(frozen=True)
class EnvRecipe:
    """How to make the environments of a run; can be sent to another process.

    Attributes:
        env: id.
        kwargs: arguments of the constructor.
        actuators: preset of noisy actuators before each; None for none.
        seed: the seed of their noise.
        sensor: of what they did; None for none.
        envpool: whether envpool simulates them.
    """

    env: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    actuators: str | None = None
    seed: int = 0
    sensor: str | None = None
    envpool: bool = False

    def make(self, index: int = 0) -> environments.Env:
        """Make environment number `index`; those with other numbers have other noise."""
        seed = (self.seed, index)
        return environments.make(self.env, self.kwargs, self.actuators, seed, sensor=self.sensor)


class Watched(Protocol):
    """An integer that others can watch, perhaps from another process."""

    value: int


@dataclass(frozen=True)
class GroupDescription:
    """What the environments of a group have in common.

    Attributes:
        observation_space: the observation space of each environment.
        action_space: the action space of each environment.
        render_mode: the render mode of each environment.
        control_rate: actions a second of simulated time, Hz, if known.
        rate_source: what says so.
        privileged: how many numbers at the end of an observation the actor may not see.
        together: how they are simulated at once, or why they are not; None where nobody asked.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    render_mode: str | None
    control_rate: float | None
    rate_source: str | None = None
    privileged: int = 0
    together: str | None = None


class AnyGroup(Protocol):
    """Some of the environments of a run; see `EnvironmentGroup` for each method."""

    def describe(self) -> GroupDescription:
        """What they have in common."""

    def reset(self, seeds: Sequence[int | None]) -> Array:
        """Start an episode in each."""

    def step(self, actions: Array) -> StepResults:
        """A step of each."""

    def save_actuators(self) -> list[bytes | None]:
        """The sealed state of each environment's noisy actuators."""

    def restore_actuators(self, capsules: Sequence[bytes | None]) -> None:
        """Put those states back."""

    def save_progress(self) -> list[dict[str, float]]:
        """How far each environment's curricula have come."""

    def restore_progress(self, progress: Sequence[dict[str, float]]) -> None:
        """Let curricula continue from there."""

    def attribute(self, name: str) -> list[Any]:
        """An attribute of each environment."""

    def close(self) -> None:
        """Close all."""


class EnvironmentGroup:
    """Some of the environments of a run, stepped one after the other.

    An environment whose episode has ended is reset at once, as stable-baselines3 expects it; the
    return and length of that episode, in the environment's own units, are in its information.

    Args:
        recipe: makes them.
        indices: their numbers in the run.
        busy: is set to the number of the environment at work, −1 for none.
        together: why they are not simulated at once, for `describe`.

    Raises:
        EnvironmentUnavailableError: they cannot be made.
        EnvironmentFailedError: (all methods) one of them raised an exception.
    """

    def __init__(
        self,
        recipe: EnvRecipe,
        indices: Sequence[int],
        busy: Watched,
        together: str | None = None,
    ) -> None:
        self._indices = list(indices)
        self._busy = busy
        self._together = together
        self._envs = [recipe.make(index) for index in self._indices]
        self._returns = [0.0] * len(self._envs)
        self._lengths = [0] * len(self._envs)
        space = self._envs[0].observation_space
        self._shape, self._dtype = space.shape or (), space.dtype

    def describe(self) -> GroupDescription:
        """What they have in common."""
        env = self._envs[0]
        rate = environments.control_rate(env)
        # A copy: an algorithm draws from it, and the environment must not notice.
        actions = copy.deepcopy(env.action_space)
        step = time_step(env.unwrapped)
        return GroupDescription(
            env.observation_space,
            actions,
            env.render_mode,
            rate,
            rate_source=None if step is None else step.source,
            privileged=int(getattr(env.unwrapped, "privileged_size", 0)),
            together=self._together,
        )

    def reset(self, seeds: Sequence[int | None]) -> Array:
        """Start an episode in each; the first observations, shape (E, *observation)."""
        observations = self._empty()
        for row, seed in enumerate(seeds):
            with self._at_work(row):
                observations[row] = self._begin(row, seed)
        return observations

    def step(self, actions: Array) -> StepResults:
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
            except USERS_ERRORS as error:
                raise failure(f"environment {self._indices[row]}", error) from error
            infos.append(info)
        self._busy.value = -1
        return observations, rewards, dones, infos

    def save_actuators(self) -> list[bytes | None]:
        """The sealed state of each environment's noisy actuators; None where there are none."""
        return [_sealed(env) for env in self._envs]

    def restore_actuators(self, capsules: Sequence[bytes | None]) -> None:
        """Put states from `save_actuators` into environments that have just been reset.

        Raises:
            DamagedFileError: they were altered, or are of other actuators.
        """
        for env, capsule in zip(self._envs, capsules, strict=True):
            if capsule is not None:
                env.get_wrapper_attr("restore_actuators")(capsule)

    def save_progress(self) -> list[dict[str, float]]:
        """How far each environment's curricula have come; empty where there are none."""
        return [
            env.unwrapped.save_progress() if hasattr(env.unwrapped, "save_progress") else {}
            for env in self._envs
        ]

    def restore_progress(self, progress: Sequence[dict[str, float]]) -> None:
        """Let curricula continue from there, in the episodes that begin next."""
        for env, own in zip(self._envs, progress, strict=True):
            if own:
                env.unwrapped.restore_progress(own)  # type: ignore[attr-defined]

    def attribute(self, name: str) -> list[Any]:
        """An attribute of each environment or of what it wraps."""
        return [env.get_wrapper_attr(name) for env in self._envs]

    def close(self) -> None:
        """Close all."""
        for env in self._envs:
            env.close()

    @contextmanager
    def _at_work(self, row: int) -> Iterator[None]:
        self._busy.value = self._indices[row]
        try:
            yield
        except NprobotError:
            raise
        except USERS_ERRORS as error:
            raise failure(f"environment {self._indices[row]}", error) from error
        self._busy.value = -1

    def _begin(self, row: int, seed: int | None) -> Any:  # noqa: ANN401
        self._returns[row], self._lengths[row] = 0.0, 0
        observation, _ = self._envs[row].reset(seed=seed)
        return observation

    def _empty(self) -> Array:
        return np.empty((len(self._envs), *self._shape), self._dtype)


def _sealed(env: environments.Env) -> bytes | None:
    if not env.has_wrapper_attr("save_actuators"):
        return None
    with suppress(ActuatorError):  # a user's own, without a seed: nobody can save it
        capsule: bytes = env.get_wrapper_attr("save_actuators")()
        return capsule
    return None


class BatchGroup:
    """The same for environments that a `VectorEnv` of ours steps at once: the same rows, faster.

    Args:
        recipe: the recipe of environments that `one_by_one` does not object to.
        indices: their numbers in the run.
        busy: is set to the number of the first of them while they are at work.
        threads: that simulate; None: see `nprobot.envs.simulations.thread_count`.

    Raises:
        EnvironmentUnavailableError: they cannot be made.
        EnvironmentFailedError: (all methods) one of them raised an exception.
    """

    def __init__(
        self,
        recipe: EnvRecipe,
        indices: Sequence[int],
        busy: Watched,
        threads: int | None = None,
    ) -> None:
        self._indices, self._busy = list(indices), busy
        self._vector: Any = environments.make_vector_env(
            recipe.env, len(self._indices), {**recipe.kwargs, "threads": threads}
        )
        self._spec = copy.deepcopy(environments.find_spec(recipe.env))
        self._spec.kwargs.update(recipe.kwargs)
        self._returns = np.zeros(len(self._indices))
        self._lengths = np.zeros(len(self._indices), np.int64)

    def describe(self) -> GroupDescription:
        """What they have in common."""
        vector = self._vector
        step = time_step(vector)
        return GroupDescription(
            vector.single_observation_space,
            copy.deepcopy(vector.single_action_space),
            None,
            None if step is None else 1 / step.seconds,
            rate_source=None if step is None else step.source,
            privileged=int(getattr(vector, "privileged_size", 0)),
            together=f"simulated at once by {vector.threads} thread{'s'[: vector.threads > 1]}",
        )

    def reset(self, seeds: Sequence[int | None]) -> Array:
        """Start an episode in each; the first observations, shape (E, *observation)."""
        self._returns[:], self._lengths[:] = 0.0, 0
        with self._at_work():
            observations: Array = self._vector.reset(seed=list(seeds))[0]
        return observations

    def step(self, actions: Array) -> StepResults:
        """A step of each, as `EnvironmentGroup.step` has it."""
        with self._at_work():
            observations, exact, terminated, truncated, told = self._vector.step(actions)
        rewards = exact.astype(np.float32)
        self._returns += exact
        self._lengths += 1
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in self._indices]
        for row in map(int, np.flatnonzero(dones)):
            infos[row] = {
                **_told_of(told["final_info"], row),
                "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
                "terminal_observation": told["final_obs"][row],
                "episode": {
                    "r": round(float(self._returns[row]), 6),
                    "l": int(self._lengths[row]),
                },
            }
        self._returns[dones], self._lengths[dones] = 0.0, 0
        return observations, rewards, dones, infos

    def save_actuators(self) -> list[bytes | None]:
        """None: there are no noisy actuators."""
        return [None for _ in self._indices]

    def restore_actuators(self, capsules: Sequence[bytes | None]) -> None:
        """Nothing to restore."""

    def save_progress(self) -> list[dict[str, float]]:
        """How far each environment's curricula have come; empty where there are none."""
        progress: list[dict[str, float]] = self._vector.save_progress()
        return progress

    def restore_progress(self, progress: Sequence[dict[str, float]]) -> None:
        """Let curricula continue from there, in the episodes that begin next."""
        self._vector.restore_progress(progress)

    def attribute(self, name: str) -> list[Any]:
        """An attribute that all environments share; "spec" is that of one of them."""
        value = self._spec if name == "spec" else getattr(self._vector, name)
        return [value for _ in self._indices]

    def close(self) -> None:
        """Close all."""
        self._vector.close()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._busy.value = self._indices[0]
        try:
            yield
        except NprobotError:
            raise
        except USERS_ERRORS as error:
            raise failure(f"environment {self._indices[0]} or one beside it", error) from error
        self._busy.value = -1


def _told_of(told: dict[str, Any], row: int) -> dict[str, Any]:
    """What algorithms want to know of an episode, out of the information of many."""
    own: dict[str, Any] = {}
    for name in _PASSED_ON:
        if name in told and told[f"_{name}"][row]:
            value = told[name]
            own[name] = _row_of(value, row) if isinstance(value, dict) else value[row].item()
    return own


def _row_of(told: dict[str, Any], row: int) -> dict[str, float]:
    """Numbers by name, of one environment."""
    return {
        name: float(values[row])
        for name, values in told.items()
        if not name.startswith("_") and told[f"_{name}"][row]
    }


def make_group(
    recipe: EnvRecipe, indices: Sequence[int], busy: Watched, threads: int | None = None
) -> AnyGroup:
    """Environments that are simulated at once where that gives the same rows, else one by one.

    Args:
        recipe: makes them.
        indices: their numbers in the run.
        busy: as for `EnvironmentGroup`.
        threads: that simulate at once; None: see `nprobot.envs.simulations.thread_count`.
    """
    if recipe.envpool:
        from nprobot.envs.simulations import thread_count

        from .pooled import EnvpoolGroup

        return EnvpoolGroup(recipe, indices, busy, threads or thread_count())
    entry = environments.find_spec(recipe.env).vector_entry_point
    if entry not in VECTOR_ENTRY_POINTS.values() or len(indices) == 1:
        return EnvironmentGroup(recipe, indices, busy)
    if objection := _objection(recipe):
        told = f"simulated one after the other: {objection}"
        return EnvironmentGroup(recipe, indices, busy, told)
    return BatchGroup(recipe, indices, busy, threads)


def _objection(recipe: EnvRecipe) -> str | None:
    """Why environments cannot be simulated at once; None if they can."""
    if recipe.actuators is not None:
        return "noisy actuators are before each"
    if around := [n for n in environments.AROUND if recipe.kwargs.get(n, 1) not in (1, "")]:
        return f"{', '.join(around)} is around each"
    spec = environments.find_spec(recipe.env)
    creator: Any = load_env_creator(str(spec.vector_entry_point))
    objection: str | None = creator.objection(**{**spec.kwargs, **recipe.kwargs})
    return objection
