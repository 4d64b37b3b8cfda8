"""Hindsight experience replay on observations that are one vector (Andrychowicz et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from typing_extensions import override

from nprobot.errors import EnvironmentUnavailableError

Array = NDArray[Any]
_PARTS = ("achieved_goal", "desired_goal", "observation")


@dataclass(frozen=True, eq=False)
class Goals:
    """Where goals stand in a flattened observation, and what reaching them is worth.

    Attributes:
        achieved: place of the goal that was reached.
        desired: place of the goal that was to be reached.
        reward: from goals reached and wanted, (B, goal) each, to rewards (B,).
    """

    achieved: slice
    desired: slice
    reward: Callable[[Array, Array], Array]

    @classmethod
    def of(cls, env: gymnasium.Env[Any, Any]) -> Goals:
        """Those of an environment whose observations of several parts were flattened.

        Raises:
            EnvironmentUnavailableError: it has no goals, or something else changes its
                observations.
        """
        inner: Any = env.unwrapped
        space = inner.observation_space
        if not (
            isinstance(space, spaces.Dict)
            and set(space.spaces) == set(_PARTS)
            and hasattr(inner, "compute_reward")
        ):
            raise EnvironmentUnavailableError(
                "hindsight is for environments with goals: observations that are a Dict of "
                f"{', '.join(_PARTS)}, and a method compute_reward; this one has {space}"
            )
        places, first = {}, 0
        for name, part in space.spaces.items():
            places[name] = slice(first, first + spaces.flatdim(part))
            first += spaces.flatdim(part)
        if env.observation_space.shape != (first,):
            raise EnvironmentUnavailableError(
                "hindsight cannot find the goals: a wrapper changes the observations"
            )
        shape = space.spaces["desired_goal"].shape or ()

        def reward(achieved: Array, desired: Array) -> Array:
            pairs = achieved.reshape(-1, *shape), desired.reshape(-1, *shape)
            return np.asarray(inner.compute_reward(*pairs, [{}] * len(achieved)))

        return cls(places["achieved_goal"], places["desired_goal"], reward)


class HindsightBuffer(ReplayBuffer):
    """A replay buffer that gives transitions goals that were reached later in their episode.

    The strategy "future" of the paper (section 4.5). Transitions of episodes that have not ended
    keep their goals.

    Args:
        *arguments: of `ReplayBuffer`.
        goals: where they stand.
        share: the share of the transitions of a batch that get another goal.
        **settings: arguments of `ReplayBuffer`.
    """

    def __init__(self, *arguments: Any, goals: Goals, share: float, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.goals, self.share = goals, share
        self._first = np.zeros(self.n_envs, np.int64)
        self._end = np.full((self.buffer_size, self.n_envs), -1, np.int64)

    @override
    def add(self, *arguments: Any, **settings: Any) -> None:
        place = self.pos
        self._end[place] = -1
        super().add(*arguments, **settings)
        for env in np.flatnonzero(self.dones[place]):
            self._close(int(env), place)

    def break_episodes(self) -> None:
        """The running episodes were broken off; their transitions keep their goals."""
        self._first[:] = self.pos

    def episodes(self, filled: int) -> dict[str, Array]:
        """Where episodes begin and end, for a checkpoint with this number of transitions."""
        return {"episode_first": self._first, "episode_end": self._end[:filled]}

    def restore_episodes(self, saved: Mapping[str, Array]) -> None:
        """The inverse of `episodes`."""
        self._first[:] = saved["episode_first"]
        self._end[: len(saved["episode_end"])] = saved["episode_end"]

    def _close(self, env: int, place: int) -> None:
        """Take note that the episode of an environment ends at `place`."""
        length = (place - self._first[env]) % self.buffer_size + 1
        self._end[(self._first[env] + np.arange(length)) % self.buffer_size, env] = place
        self._first[env] = (place + 1) % self.buffer_size

    @override
    def _get_samples(
        self, batch_inds: Array, env: VecNormalize | None = None
    ) -> ReplayBufferSamples:
        # As in SB3, from the same generator.
        envs = np.random.randint(0, high=self.n_envs, size=len(batch_inds))  # noqa: NPY002
        seen = self.observations[batch_inds, envs].copy()
        then = self.next_observations[batch_inds, envs].copy()
        rewards = self.rewards[batch_inds, envs].copy()
        ends = self._end[batch_inds, envs]
        chosen = (np.random.random(len(batch_inds)) < self.share) & (ends >= 0)  # noqa: NPY002
        if chosen.any():
            left = (ends - batch_inds)[chosen] % self.buffer_size
            later = np.random.randint(0, left + 1)  # noqa: NPY002
            later = (batch_inds[chosen] + later) % self.buffer_size
            reached = self.next_observations[later, envs[chosen], self.goals.achieved]
            seen[chosen, self.goals.desired] = reached
            then[chosen, self.goals.desired] = reached
            rewards[chosen] = self.goals.reward(then[chosen, self.goals.achieved], reached)
        ended = self.dones[batch_inds, envs] * (1 - self.timeouts[batch_inds, envs])
        data = (
            self._normalize_obs(seen, env),
            self.actions[batch_inds, envs],
            self._normalize_obs(then, env),
            ended.reshape(-1, 1),
            self._normalize_reward(rewards.reshape(-1, 1), env),
        )
        return ReplayBufferSamples(*map(self.to_torch, data))
