"""Evaluation: episodes without exploration, on separate seeds, and what a policy achieves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from nprobot.catalogue import import_trusted
from nprobot.errors import (
    ConfigError,
    EnvironmentUnavailableError,
    NonFiniteError,
    ObservationError,
)
from nprobot.policies.files.onnx_file import OnnxPolicy
from nprobot.policies.files.policy import Array, Policy

from . import environments
from .run_config import EVALUATION_EPISODES

SIDE_BY_SIDE = 20
"""Episodes that share one batched call of the policy."""
LONGEST_EPISODE = 10_000
"""Steps after which an episode that does not end by itself is cut, as by a time limit."""

Predict = Callable[[Array], Array]
"""From raw observations (B, *observation) to actions (B, *action), without exploration."""
StepObserver = Callable[[int, int, float, Mapping[str, Any]], None]
"""Is told of every step: number of the episode, its steps and return so far, the step's info."""
DeployablePolicy = Policy | OnnxPolicy
"""A policy that acts without the library that trained it."""


@dataclass(frozen=True)
class Evaluation:
    """What a policy achieved.

    Attributes:
        env: id of the environment.
        seed: that the seeds of the episodes come from.
        returns: undiscounted return of each episode, in the environment's own reward.
        lengths: steps of each episode.
        actuators: preset of the noisy actuators; None for none.
        chip: noisy chip that the policy's network ran on; None for none.
    """

    env: str
    seed: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    actuators: str | None = None
    chip: str | None = None

    @property
    def mean(self) -> float:
        """Mean return."""
        return statistics.fmean(self.returns)

    @property
    def sd(self) -> float:
        """Standard deviation of the return over the episodes (of the sample: divided by n − 1)."""
        return statistics.stdev(self.returns) if len(self.returns) > 1 else math.nan

    def __str__(self) -> str:
        spread = f" ± {self.sd:.1f}" if len(self.returns) > 1 else ""
        return f"{self.mean:.1f}{spread}"


def evaluate(
    policy: DeployablePolicy,
    env: str | None = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    actuators: str | None = None,
    chip: str | None = None,
    make: Callable[[int], environments.Env] | None = None,
    episodes: int = EVALUATION_EPISODES,
    seed: int = 0,
) -> Evaluation:
    """Run a policy without exploration noise and without learning.

    Args:
        policy: the policy; its normaliser stays as it is.
        env: environment id; by default the one the policy was trained on.
        env_kwargs: arguments of that environment; by default those of the training.
        actuators: preset of noisy actuators before it; by default those of the training, and
            "ideal" for none.
        chip: noisy chip to run the network on; by default that of the training, the same device,
            and "ideal" for none.
        make: makes environment number 0, 1, …, for one that no id and preset describe.
        episodes: how many episodes.
        seed: the seeds of the episodes come from it, so that two policies meet the same starts.

    Returns:
        The return and length of each episode.

    Raises:
        ConfigError: there is no environment, or `episodes` is below 1.
        EnvironmentUnavailableError: the environment cannot be made, or does not fit the policy.
        EnvironmentFailedError: it raised an exception.
        NonFiniteError: a reward or observation is not finite.
    """
    id, kwargs = task_of(policy, env, env_kwargs)
    if make is None:
        actuators = actuators or actuators_of(policy, env)
        chip = chip or recorded(policy, env, "chip")
    if episodes < 1:
        raise ConfigError(f"episodes must be 1 or more, got {episodes}")
    with ExitStack() as stack:
        envs: list[environments.Env] = []
        for n in range(min(episodes, SIDE_BY_SIDE)):
            envs.append(make(n) if make else environments.make(id, kwargs, actuators, (seed, n)))
            stack.callback(envs[-1].close)
        check_fit(policy, envs[0], id)
        predict = policy.predict if chip is None else put_on_chip(policy, chip, seed)
        results = run_episodes(predict, envs, episode_seeds(seed, episodes))
    returns, lengths = zip(*results, strict=True)
    return Evaluation(id, seed, returns, lengths, actuators, chip)


def put_on_chip(policy: DeployablePolicy, chip: str, seed: int) -> Predict:
    """What a policy does on a noisy chip: emulated, or a device that holds it.

    Args:
        policy: the policy.
        chip: what is wrong with it, or its address, as in a run's configuration. An emulated one
            is the device that the policy was trained on, if it was trained on one; a chip at an
            address must hold the policy, and is not written.
        seed: the seed of its noise.

    Raises:
        ConfigError: the policy cannot be put on a chip, there is no such chip, or it holds another
            policy.
        ChipError: the chip does not answer.
    """
    from nprobot.policies.chip import crossbar  # torch takes a second to load
    from nprobot.policies.chip.remote import SCHEMES
    from nprobot.policies.files.torch_policy import TorchPolicy

    if isinstance(policy, OnnxPolicy):
        raise ConfigError(
            "an ONNX policy cannot be put on a chip: give the policy folder (policy.json and "
            "policy.safetensors)"
        )
    twin = TorchPolicy(policy)
    device = int(policy.provenance.get("device_seed", 0))
    crossbar.put_on_chip(twin.network, chip, seed=seed, device_seed=device)
    if chip.startswith(SCHEMES):
        crossbar.recognise(twin.network)
    return twin.predict


def run_episodes(
    predict: Predict,
    envs: Sequence[environments.Env],
    seeds: Sequence[int],
    observer: StepObserver | None = None,
) -> list[tuple[float, int]]:
    """Run an episode for each seed, as many side by side as there are environments.

    When all of these have ended the next ones begin, so that an environment meets the same episodes
    whatever the policy does. Without a step limit an episode is cut after `LONGEST_EPISODE` steps.

    Args:
        predict: the policy; is given the observations of the episodes that still run.
        envs: one or more.
        seeds: the seeds of the resets.
        observer: is told of every step.

    Returns:
        The return and length of each episode.

    Raises:
        EnvironmentFailedError: an environment raised an exception.
        NonFiniteError: a reward is not finite.
    """
    totals, lengths = [0.0] * len(seeds), [0] * len(seeds)
    longest = LONGEST_EPISODE if step_limit(envs[0]) is None else math.inf
    for first in range(0, len(seeds), len(envs)):
        running = dict(zip(range(first, len(seeds)), envs, strict=False))
        observations = {}
        for i, env in running.items():
            with environments.reporting_failure("an environment of the evaluation"):
                observations[i], _ = env.reset(seed=seeds[i])
        while running:
            actions = predict(np.stack([observations[i] for i in running]))
            for (i, env), action in zip(list(running.items()), actions, strict=True):
                with environments.reporting_failure("an environment of the evaluation"):
                    observations[i], reward, terminated, truncated, info = env.step(action)
                totals[i] += float(reward)
                lengths[i] += 1
                if not math.isfinite(totals[i]):
                    raise NonFiniteError(
                        f"the reward at step {lengths[i]} of an episode is {reward}"
                    )
                if observer is not None:
                    observer(i, lengths[i], totals[i], info)
                if terminated or truncated or lengths[i] >= longest:
                    del running[i]
    return list(zip(totals, lengths, strict=True))


def step_limit(env: environments.Env) -> int | None:
    """The steps after which gymnasium ends an episode; None if the environment has no limit."""
    return None if env.spec is None else env.spec.max_episode_steps


def episode_seeds(seed: int, episodes: int) -> list[int]:
    """Seeds of the episodes; the first ones do not depend on how many there are."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(episodes)]


def task_of(
    policy: DeployablePolicy, env: str | None, env_kwargs: Mapping[str, Any] | None
) -> tuple[str, Mapping[str, Any]]:
    """The environment to evaluate on: the given one, or the one the policy was trained on.

    Raises:
        ConfigError: there is neither; or the policy alone names a module that would be imported.
        UnknownNameError: the environment does not take the arguments that the policy gives it.
    """
    if env is not None and (policy.task is None or env != policy.task.id):
        return env, env_kwargs or {}
    if policy.task is None:
        raise ConfigError("this policy does not say what it controls; name an environment (--env)")
    if env is None:
        import_trusted(policy.task.id, "the policy", kwargs=policy.task.kwargs)
    if env_kwargs is not None:
        return policy.task.id, env_kwargs
    import_trusted("", "the policy", kwargs=policy.task.kwargs)
    environments.check_kwargs(policy.task.id, policy.task.kwargs)
    return policy.task.id, policy.task.kwargs


def trust(policy: DeployablePolicy) -> None:
    """Import the modules that a policy names, which runs code of its author.

    Raises:
        ConfigError: one cannot be imported.
    """
    if policy.task is not None:
        import_trusted(policy.task.id, "the policy", True, policy.task.kwargs)


def actuators_of(policy: DeployablePolicy, env: str | None) -> str | None:
    """The noisy actuators that the policy was trained with; none on another environment."""
    earlier = recorded(policy, env, "hardware")  # as earlier versions wrote it
    return recorded(policy, env, "actuators") or earlier


def recorded(policy: DeployablePolicy, env: str | None, name: str) -> str | None:
    """A piece of hardware that the policy was trained with; none on another environment."""
    if policy.task is None or env not in (None, policy.task.id):
        return None
    value = policy.provenance.get(name)
    return None if value is None else str(value)


def check_fit(policy: DeployablePolicy, env: environments.Env, env_id: str) -> None:
    """Refuse an environment whose observations or actions are not those of the policy.

    Raises:
        EnvironmentUnavailableError: they differ in shape.
    """
    space = env.action_space
    try:
        action = policy.predict(np.zeros(env.observation_space.shape or ()))
    except ObservationError as error:
        raise EnvironmentUnavailableError(f"the policy does not fit {env_id}: {error}") from None
    if action.shape != space.shape or action.dtype.kind != np.dtype(space.dtype).kind:
        raise EnvironmentUnavailableError(
            f"the policy does not fit {env_id}: its actions have shape {action.shape} "
            f"({action.dtype}), the environment takes {space}"
        )
