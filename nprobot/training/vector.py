"""A run's environments side by side: in this process or in workers, checked for NaN, normalised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)
from typing_extensions import override

from nprobot.errors import ConfigError, NonFiniteError
from nprobot.runs.seeds import Seeds

from .groups import EnvRecipe, GroupDescription
from .run_config import RunConfig
from .workers import GroupRunner, InProcess, Worker

Array = NDArray[Any]


def make_vec(
    env_id: str,
    count: int,
    *,
    workers: int = 0,
    envpool: bool = False,
    env_timeout: float = 300.0,
    **kwargs: Any,
) -> SideBySide:
    """Environments side by side, as stable-baselines3 takes them.

    Robots and arms of this package are simulated at once, by threads that share one model, where
    that gives the same rows; what is told of an episode is as `Monitor` has it.

    Args:
        env_id: gymnasium id.
        count: how many.
        workers: processes to spread them over; 0 for none but this one.
        envpool: simulate gymnasium's robots by envpool.
        env_timeout: seconds after which an environment that does not return is given up.
        **kwargs: arguments of the environment.

    Raises:
        UnknownNameError: there is no such environment.
        EnvironmentUnavailableError: it cannot be made.
        ConfigError: a number is not allowed.
    """
    if count < 1 or not 0 <= workers <= count:
        raise ConfigError(
            "make_vec needs a count of 1 or more, and from 0 to count workers; got "
            f"{count} and {workers}"
        )
    recipe = EnvRecipe(env_id, kwargs, envpool=envpool)
    return SideBySide(recipe, count, workers, env_timeout)


def make_vector(config: RunConfig) -> VecNormalize:
    """The training environments of a run.

    Returns of episodes are counted beneath the normaliser, so that those stay in the environment's
    own units.
    """
    vector = SideBySide(recipe(config), config.env_count, config.workers, config.env_timeout)
    return VecNormalize(
        FiniteCheck(vector),
        norm_obs=config.normalise_observations,
        norm_reward=config.normalise_rewards,
    )


def recipe(config: RunConfig) -> EnvRecipe:
    """How the environments of a run are made."""
    seed = Seeds.spawn(config.seed).actuators
    return EnvRecipe(
        *(config.env, dict(config.env_kwargs), config.actuators, seed, config.sensor),
        envpool=config.envpool,
    )


def side_by_side(vector: VecEnv) -> SideBySide:
    """The environments under the normaliser."""
    inner = vector.unwrapped
    assert isinstance(inner, SideBySide), "a run's environments are made by make_vector"
    return inner


class SideBySide(VecEnv):
    """Environments in this process, or spread over workers; with the same results.

    Args:
        recipe: makes them.
        count: how many.
        workers: processes to spread them over; 0 for none but this one.
        timeout: seconds after which an environment that does not return is given up.

    Raises:
        EnvironmentFailedError: (all methods) an environment raised an exception or did not return,
            or a worker died; the message names it.
    """

    def __init__(self, recipe: EnvRecipe, count: int, workers: int, timeout: float) -> None:
        numbers = np.arange(count)
        self._in_process: InProcess | None = None
        self._runners: list[GroupRunner] = []
        if workers == 0:
            self._in_process = InProcess(recipe, numbers.tolist(), timeout)
            self._runners.append(self._in_process)
        else:
            shares = np.array_split(numbers, min(workers, count))
            self._runners += [
                Worker(number, recipe, share.tolist(), timeout)
                for number, share in enumerate(shares)
            ]
        try:
            self.description: GroupDescription = self._ask("describe")[0]
        except Exception:
            self.close()
            raise
        super().__init__(count, self.description.observation_space, self.description.action_space)

    @override
    def reset(self) -> VecEnvObs:
        observations = self._ask("reset", *self._split(self._seeds))
        self._reset_seeds()  # used once
        return np.concatenate(observations)

    @override
    def step_async(self, actions: Array) -> None:
        for runner, part in zip(self._runners, self._split(actions), strict=True):
            runner.send("step", part)

    @override
    def step_wait(self) -> VecEnvStepReturn:
        answers = [runner.receive() for runner in self._runners]
        observations, rewards, dones = (
            np.concatenate([answer[i] for answer in answers]) for i in range(3)
        )
        return observations, rewards, dones, [info for answer in answers for info in answer[3]]

    def seed_each(self, seeds: Sequence[int]) -> None:
        """Set the seed of each environment for the next `reset`."""
        self._seeds = list(seeds)

    def save_actuators(self) -> list[bytes | None]:
        """The sealed state of each environment's noisy actuators; None where there are none."""
        return [capsule for part in self._ask("save_actuators") for capsule in part]

    def restore_actuators(self, capsules: Sequence[bytes | None]) -> None:
        """Put states from `save_actuators` into environments that have just been reset.

        Raises:
            DamagedFileError: they were altered, or are of other actuators.
        """
        self._ask("restore_actuators", *self._split(capsules))

    def save_progress(self) -> list[dict[str, float]]:
        """How far each environment's curricula have come; empty where there are none."""
        return [progress for part in self._ask("save_progress") for progress in part]

    def restore_progress(self, progress: Sequence[dict[str, float]]) -> None:
        """Let curricula continue from there, in the episodes that begin next."""
        self._ask("restore_progress", *self._split(progress))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Give up environments of this process, too, when they do not return."""
        if self._in_process is None:
            yield
        else:
            with self._in_process.watched():
                yield

    @override
    def close(self) -> None:
        for runner in self._runners:
            runner.close()

    @override
    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        values = [value for part in self._ask_all("attribute", attr_name) for value in part]
        return [values[index] for index in self._chosen(indices)]

    @override
    def set_attr(self, attr_name: str, value: object, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError("the environments of a run are changed by stepping them only")

    @override
    def env_method(
        self,
        method_name: str,
        *method_args: object,
        indices: VecEnvIndices = None,
        **method_kwargs: object,
    ) -> list[Any]:
        raise NotImplementedError("the environments of a run are changed by stepping them only")

    @override
    def env_is_wrapped(
        self,
        wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]],
        indices: VecEnvIndices = None,
    ) -> list[bool]:
        return [False for _ in self._chosen(indices)]

    def _chosen(self, indices: VecEnvIndices) -> Iterable[int]:
        return self._get_indices(indices)

    def _split(self, items: Sequence[Any] | Array) -> list[Any]:
        """What belongs to the environments of each runner."""
        return [items[runner.indices[0] : runner.indices[-1] + 1] for runner in self._runners]

    def _ask(self, command: str, *parts: object) -> list[Any]:
        """Have a method of every group called, with a part of the arguments each."""
        for number, runner in enumerate(self._runners):
            runner.send(command, *parts[number : number + 1])
        return [runner.receive() for runner in self._runners]

    def _ask_all(self, command: str, argument: object) -> list[Any]:
        return self._ask(command, *[argument for _ in self._runners])


class FiniteCheck(VecEnvWrapper):
    """Stops a run at the first NaN or infinity that goes into or comes out of an environment."""

    @override
    def reset(self) -> VecEnvObs:
        observations = self.venv.reset()
        self._check("observation", np.asarray(observations))
        return observations

    @override
    def step_async(self, actions: Array) -> None:
        _refuse("action for", actions, "the policy has diverged")
        self.venv.step_async(actions)

    @override
    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self._check("observation", np.asarray(observations))
        self._check("reward", rewards)
        for index in np.flatnonzero(dones):
            last = np.asarray(infos[index]["terminal_observation"])
            self._check("last observation of an episode", last[None])
        return observations, rewards, dones, infos

    def _check(self, what: str, values: Array) -> None:
        cause = "the simulation has become unstable or the environment has a fault"
        _refuse(f"{what} of", values, cause)


def _refuse(what: str, values: Array, cause: str) -> None:
    """Raise `NonFiniteError` at the first value that is not finite; one row an environment."""
    # The sum is finite if all are, and one number is quicker to look at.
    if np.isfinite(values.sum()) or np.isfinite(values).all():
        return
    bad = np.argwhere(~np.isfinite(values))[0]
    where = f" at index {bad[1:].tolist()}" if len(bad) > 1 else ""
    raise NonFiniteError(f"the {what} environment {bad[0]} is {values[tuple(bad)]}{where}; {cause}")


def save_normaliser(vector: VecNormalize) -> dict[str, Any]:
    """Everything that a normaliser has learned."""
    state: dict[str, Any] = {
        "returns": _save(vector.ret_rms),
        "discounted_returns": np.asarray(vector.returns),
    }
    if vector.norm_obs:
        state["observations"] = _save(_observations(vector))
    return state


def restore_normaliser(vector: VecNormalize, state: Mapping[str, Any]) -> None:
    """Continue from there."""
    _restore(vector.ret_rms, state["returns"])
    vector.returns = state["discounted_returns"].copy()
    if vector.norm_obs:
        _restore(_observations(vector), state["observations"])


def check_normaliser(vector: VecNormalize) -> None:
    """Raise `NonFiniteError` if a statistic is NaN or infinite."""
    checked = {"returns": vector.ret_rms}
    if vector.norm_obs:
        checked["observations"] = _observations(vector)
    for name, running in checked.items():
        if not (np.isfinite(running.mean).all() and np.isfinite(running.var).all()):
            raise NonFiniteError(f"the mean or variance of the {name} is not finite any more")


def _observations(vector: VecNormalize) -> RunningMeanStd:
    running = vector.obs_rms
    assert isinstance(running, RunningMeanStd), "observations are one vector, not a dict of them"
    return running


def _save(running: RunningMeanStd) -> dict[str, Any]:
    mean, var = np.asarray(running.mean), np.asarray(running.var)
    return {"mean": mean, "var": var, "count": float(running.count)}


def _restore(running: RunningMeanStd, state: Mapping[str, Any]) -> None:
    running.mean, running.var = state["mean"].copy(), state["var"].copy()
    running.count = state["count"]
