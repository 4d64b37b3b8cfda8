"""Environments that run one after the other, in this process or in a worker.

A group of environments imports neither torch nor stable-baselines3, so that a worker starts fast
and stays small. Messages between processes are pickled by `multiprocessing`; nothing of them
reaches a disk.
"""

from __future__ import annotations

import copy
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from nprobot.envs import time_step
from nprobot.envs.actuators import READING
from nprobot.errors import (
    ActuatorError,
    DamagedFileError,
    EnvironmentFailedError,
    EnvironmentUnavailableError,
    NprobotError,
)

from . import environments
from .environments import USERS_ERRORS, failure, silence_mujoco

Array = NDArray[Any]
StepResults = tuple[Array, Array, Array, list[dict[str, Any]]]
"""Observations, rewards, ends of episodes, information."""

TICK = 1.0
"""Seconds between two looks at an environment that has not answered yet."""
START = 120.0
"""Seconds that a worker has at least to load its libraries and make its environments."""

TERMS = "reward_terms"
"""Key of what an environment tells of its reward at the end of an episode, by name."""
_PASSED_ON = ("is_success", READING, TERMS)
"""What algorithms want to know of an environment's information."""

_RAISED_THERE: dict[str, type[NprobotError]] = {
    cls.__name__: cls
    for cls in (DamagedFileError, EnvironmentFailedError, EnvironmentUnavailableError)
}


@dataclass(frozen=True)
class EnvRecipe:
    """How to make the environments of a run; can be sent to another process.

    Attributes:
        env: id.
        kwargs: arguments of the constructor.
        actuators: preset of noisy actuators before each; None for none.
        seed: the seed of their noise.
        sensor: of what they did; None for none.
    """

    env: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    actuators: str | None = None
    seed: int = 0
    sensor: str | None = None

    def make(self, index: int = 0) -> environments.Env:
        """Make environment number `index`; those with other numbers have other noise."""
        seed = (self.seed, index)
        return environments.make(self.env, self.kwargs, self.actuators, seed, sensor=self.sensor)


class Watched(Protocol):
    """An integer that others can watch, perhaps from another process."""

    value: int


@dataclass
class LocalNumber:
    """A `Watched` number in this process."""

    value: int = -1


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
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    render_mode: str | None
    control_rate: float | None
    rate_source: str | None = None
    privileged: int = 0


class EnvironmentGroup:
    """Some of the environments of a run, stepped one after the other.

    An environment whose episode has ended is reset at once, as stable-baselines3 expects it; the
    return and length of that episode, in the environment's own units, are in its information.

    Args:
        recipe: makes them.
        indices: their numbers in the run.
        busy: is set to the number of the environment at work, −1 for none.

    Raises:
        EnvironmentUnavailableError: they cannot be made.
        EnvironmentFailedError: (all methods) one of them raised an exception.
    """

    def __init__(self, recipe: EnvRecipe, indices: Sequence[int], busy: Watched) -> None:
        self._indices = list(indices)
        self._busy = busy
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


class GroupRunner(Protocol):
    """Runs a group of environments somewhere.

    Attributes:
        indices: numbers of its environments.
    """

    indices: Sequence[int]

    def send(self, command: str, *arguments: Any) -> None:
        """Ask for a method of the group; `receive` is next."""

    def receive(self) -> Any:  # noqa: ANN401
        """What the method returned, or the error that it raised."""

    def close(self) -> None:
        """Close the environments."""


class InProcess:
    """A group in this process.

    Args:
        recipe: makes the environments.
        indices: their numbers.
        timeout: seconds after which an environment that does not return is given up.
    """

    def __init__(self, recipe: EnvRecipe, indices: Sequence[int], timeout: float) -> None:
        self.indices = indices
        self.timeout = timeout
        self._busy = LocalNumber()
        self._group = EnvironmentGroup(recipe, indices, self._busy)
        self._call: tuple[str, tuple[Any, ...]] = ("", ())
        self._calls = 0

    def send(self, command: str, *arguments: Any) -> None:
        """Remember what is to be done."""
        self._call = (command, arguments)

    def receive(self) -> Any:  # noqa: ANN401
        """Do it."""
        command, arguments = self._call
        self._calls += 1
        return getattr(self._group, command)(*arguments)

    def close(self) -> None:
        """Close the environments."""
        self._group.close()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Interrupt an environment that does not return.

        It works in the main thread, where the system has alarms, and while the environment runs
        Python code or sleeps; only a worker can be stopped whatever it does.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        if not hasattr(signal, "setitimer"):
            yield
            return
        patience = _Patience(self.timeout)
        calls = self._calls

        def look(number: int, frame: FrameType | None) -> None:
            nonlocal calls
            if calls != self._calls or self._busy.value < 0:
                calls = self._calls
                patience.renew()
            elif patience.ends():
                raise EnvironmentFailedError(patience.complaint(f"environment {self._busy.value}"))

        before = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, patience.tick, patience.tick)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


class Worker:
    """A group in a separate process.

    Args:
        number: the number of the worker, for messages.
        recipe: makes the environments.
        indices: their numbers.
        timeout: seconds after which an environment that does not return is given up.
    """

    def __init__(
        self, number: int, recipe: EnvRecipe, indices: Sequence[int], timeout: float
    ) -> None:
        self.indices = indices
        self._number = number
        self._patience = _Patience(max(timeout, START))
        self._timeout = timeout
        # Not forked: torch and MuJoCo have threads, and a fork would copy their locks.
        context = multiprocessing.get_context("spawn")
        self._busy = context.RawValue("i", -1)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, recipe, list(indices), self._busy), daemon=True
        )
        self._process.start()
        theirs.close()  # so that its end is noticed here

    def send(self, command: str, *arguments: Any) -> None:
        """Send a request."""
        try:
            self._connection.send((command, arguments))
        except OSError:
            raise self._death() from None

    def receive(self) -> Any:  # noqa: ANN401
        """Wait for the answer."""
        self._patience.renew()
        try:
            while not self._connection.poll(self._patience.tick):
                if self._patience.ends():
                    complaint = self._patience.complaint(self._who())
                    self._process.kill()
                    raise EnvironmentFailedError(complaint)
            error, answer = self._connection.recv()
            self._patience = _Patience(self._timeout)
        except (EOFError, OSError):
            raise self._death() from None
        if error is not None:
            raise _RAISED_THERE.get(error, EnvironmentFailedError)(
                answer.replace("environment ", f"worker {self._number}, environment ", 1)
            )
        return answer

    def close(self) -> None:
        """End the process, politely at first."""
        self._connection.close()
        self._process.join(TICK)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _who(self) -> str:
        at_work = self._busy.value
        if at_work >= 0:
            return f"worker {self._number}, environment {at_work},"
        return f"worker {self._number} (environments {self.indices[0]} to {self.indices[-1]})"

    def _death(self) -> EnvironmentFailedError:
        who = self._who()
        self._process.join(TICK)
        code = self._process.exitcode
        how = "by itself" if not code else f"with exit code {code}"
        if code is not None and code < 0:
            how = f"of signal {-code} ({signal.strsignal(-code)})"
        return EnvironmentFailedError(f"{who} has died {how}")


class _Patience:
    """Time that runs only while this process does: not while it is stopped or the machine sleeps.

    Args:
        timeout: seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.tick = min(TICK, timeout)
        self._waited = 0.0

    def renew(self) -> None:
        """Start anew."""
        self._waited = 0.0

    def ends(self) -> bool:
        """Whether this tick was the last."""
        self._waited += self.tick
        return self._waited >= self._timeout

    def complaint(self, who: str) -> str:
        """What to say then."""
        return f"{who} has not returned for {self._timeout:g} s (--env-timeout)"


def _serve(connection: Connection, recipe: EnvRecipe, indices: list[int], busy: Watched) -> None:
    """The life of a worker: it ends when the other end of the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    silence_mujoco()
    group: EnvironmentGroup | None = None
    while True:
        try:
            command, arguments = connection.recv()
        except (EOFError, OSError):
            break
        try:
            if group is None:
                group = EnvironmentGroup(recipe, indices, busy)
            answer: tuple[str | None, Any] = None, getattr(group, command)(*arguments)
        except NprobotError as error:
            answer = type(error).__name__, str(error)
        except USERS_ERRORS as error:
            answer = "", str(failure(f"environment {indices[0]}", error))
        try:
            connection.send(answer)
        except OSError:  # nobody waits for it any more
            break
    if group is not None:
        group.close()
