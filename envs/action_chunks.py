"""`ActionChunks`: a wrapper that carries out several actions, in order, for each look."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from ..errors import ConfigError


class ActionChunks(gymnasium.Wrapper[Any, NDArray[Any], Any, NDArray[Any]], RecordConstructorArgs):
    """Takes `size` actions at once and steps the robot by each of them, in order.

    The policy does not see the observations in between (action chunking, Zhao et al. 2023, without
    its ensemble). Rewards are summed; an episode that ends within a chunk drops the rest of it.
    Information is that of the last step.

    Args:
        env: with continuous actions.
        size: actions in a chunk.

    Attributes:
        size: as given.

    Raises:
        ConfigError: `size` is not a whole number above 0, or actions are not a `Box`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], size: int) -> None:
        RecordConstructorArgs.__init__(self, size=size)
        super().__init__(env)
        space = env.action_space
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"a chunk has a whole number of actions, 1 or more; got {size!r}")
        if not isinstance(space, spaces.Box):
            raise ConfigError(f"chunks are of continuous actions; this environment takes {space}")
        self.size = size
        low, high = (np.tile(bound.reshape(-1), size) for bound in (space.low, space.high))
        self.action_space = spaces.Box(low, high, dtype=space.dtype.type)
        self._shape = space.shape

    def step(self, action: NDArray[Any]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Carry out a chunk, `(size · actions,)`."""
        total = 0.0
        for one in np.asarray(action).reshape(self.size, *self._shape):
            observation, reward, terminated, truncated, info = self.env.step(one)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, bool(terminated), bool(truncated), info
