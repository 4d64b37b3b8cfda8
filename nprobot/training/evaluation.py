"""Evaluation of a policy file's policy: deterministic episodes on seeds of their own."""

from __future__ import annotations

import importlib
import math
import os
import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nprobot.errors import (
    ConfigError,
    EnvironmentUnavailableError,
    NonFiniteError,
    NprobotError,
    ObservationError,
)
from nprobot.policies.files.policy import Array, Policy

from . import environments
from .config import EVALUATION_EPISODES
from .workers import failure

SIDE_BY_SIDE = 20
"""Episodes that share one batched call of the policy."""
LONGEST_EPISODE = 100_000
"""Steps after which an episode is taken to be endless."""


@dataclass(frozen=True)
class Evaluation:
    """What a policy achieved.

    Attributes:
        env: id of the environment.
        seed: that the seeds of the episodes come from.
        returns: undiscounted return of each episode, in the environment's own reward.
        lengths: steps of each episode.
        hardware: preset of the actuators; None for none.
    """

    env: str
    seed: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    hardware: str | None = None

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
    policy: Policy,
    env: str | None = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    hardware: str | None = None,
    episodes: int = EVALUATION_EPISODES,
    seed: int = 0,
) -> Evaluation:
    """Run a policy without exploration noise and without learning.

    Args:
        policy: the policy; its normaliser stays as it is.
        env: environment id; by default the one the policy was trained on.
        env_kwargs: arguments of that environment; by default those of the training.
        hardware: preset of noisy actuators before it; by default those of the training, and
            "ideal" for none.
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
    hardware = hardware or hardware_of(policy, env)
    env, kwargs = task_of(policy, env, env_kwargs)
    if episodes < 1:
        raise ConfigError(f"episodes must be 1 or more, got {episodes}")
    seeds = episode_seeds(seed, episodes)
    returns: list[float] = []
    lengths: list[int] = []
    with ExitStack() as stack:
        envs = [
            environments.make_robot(env, kwargs, hardware, (seed, i))
            for i in range(min(episodes, SIDE_BY_SIDE))
        ]
        for made in envs:
            stack.callback(made.close)
        check_fit(policy, envs[0], env)
        for first in range(0, episodes, SIDE_BY_SIDE):
            batch = run_episodes(policy, envs, seeds[first : first + SIDE_BY_SIDE])
            returns += [total for total, _ in batch]
            lengths += [length for _, length in batch]
    return Evaluation(env, seed, tuple(returns), tuple(lengths), hardware)


def run_episodes(
    policy: Policy, envs: list[environments.Env], seeds: list[int]
) -> list[tuple[float, int]]:
    """One episode for each seed, side by side: the return and length of each."""
    try:
        return _run_episodes(policy, envs, seeds)
    except (NprobotError, ObservationError):
        raise
    except Exception as error:
        raise failure("an environment of the evaluation", error) from error


def _run_episodes(
    policy: Policy, envs: list[environments.Env], seeds: list[int]
) -> list[tuple[float, int]]:
    observations = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=False)]
    totals, lengths = [0.0] * len(seeds), [0] * len(seeds)
    running = list(range(len(seeds)))
    while running:
        actions = policy.predict(np.stack([observations[i] for i in running]))
        still_running = []
        for i, action in zip(running, actions, strict=True):
            observations[i], reward, terminated, truncated, _ = envs[i].step(action)
            totals[i] += float(reward)
            lengths[i] += 1
            if not math.isfinite(totals[i]):
                raise NonFiniteError(f"the reward at step {lengths[i]} of an episode is {reward}")
            if not (terminated or truncated):
                still_running.append(i)
            if lengths[i] >= LONGEST_EPISODE:
                raise EnvironmentUnavailableError(
                    f"an episode has not ended after {LONGEST_EPISODE:,} steps; register the "
                    "environment with max_episode_steps"
                )
        running = still_running
    return list(zip(totals, lengths, strict=True))


def record(
    policy: Policy,
    video: Path,
    env: str | None = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    hardware: str | None = None,
    seed: int = 0,
) -> None:
    """Film the first episode that `evaluate` runs with the same seed.

    Args:
        policy: the policy.
        video: file to write, such as ``out.mp4``.
        env: environment id; by default the one the policy was trained on.
        env_kwargs: arguments of that environment.
        hardware: preset of noisy actuators, as in `evaluate`.
        seed: as in `evaluate`.

    Raises:
        ConfigError: the file is there already, or the package for videos is not installed.
    """
    hardware = hardware or hardware_of(policy, env)
    env, kwargs = task_of(policy, env, env_kwargs)
    if video.exists():
        raise ConfigError(f"{video} is there already; choose another name")
    try:
        imageio = importlib.import_module("imageio.v2")
        importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise ConfigError(f"videos need `pip install 'nprobot[video]'` ({error})") from error
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # no screen: render off-screen
    made = environments.make_robot(env, kwargs, hardware, (seed, 0), render_mode="rgb_array")
    check_fit(policy, made, env)
    video.parent.mkdir(parents=True, exist_ok=True)
    rate = made.metadata.get("render_fps") or environments.control_rate(made) or 30
    try:
        with imageio.get_writer(video, fps=rate, macro_block_size=8) as film:
            observation, _ = made.reset(seed=episode_seeds(seed, 1)[0])
            done = False
            while not done:
                film.append_data(made.render())
                observation, _, terminated, truncated, _ = made.step(policy.predict(observation))
                done = terminated or truncated
    finally:
        made.close()


def task_of(
    policy: Policy, env: str | None, env_kwargs: Mapping[str, Any] | None
) -> tuple[str, Mapping[str, Any]]:
    """The environment to evaluate on: the given one, or the one the policy was trained on."""
    if env is not None and (policy.task is None or env != policy.task.id):
        return env, env_kwargs or {}
    if policy.task is None:
        raise ConfigError("this policy does not say what it controls; name an environment (--env)")
    return policy.task.id, policy.task.kwargs if env_kwargs is None else env_kwargs


def hardware_of(policy: Policy, env: str | None) -> str | None:
    """The noisy actuators that the policy was trained with; none on another environment."""
    if policy.task is None or env not in (None, policy.task.id):
        return None
    hardware = policy.provenance.get("hardware")
    return None if hardware is None else str(hardware)


def episode_seeds(seed: int, episodes: int) -> list[int]:
    """Seeds of the episodes; the first ones do not depend on how many there are."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(episodes)]


def check_fit(policy: Policy, env: environments.Env, env_id: str) -> None:
    """Refuse an environment whose observations or actions are not those of the policy.

    Raises:
        EnvironmentUnavailableError: they differ in shape.
    """
    space = env.action_space
    try:
        action: Array = policy.predict(np.zeros(env.observation_space.shape or ()))
    except ObservationError as error:
        raise EnvironmentUnavailableError(f"the policy does not fit {env_id}: {error}") from None
    if action.shape != space.shape or action.dtype.kind != np.dtype(space.dtype).kind:
        raise EnvironmentUnavailableError(
            f"the policy does not fit {env_id}: its actions have shape {action.shape} "
            f"({action.dtype}), the environment takes {space}"
        )
