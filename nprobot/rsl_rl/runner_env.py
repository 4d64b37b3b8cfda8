"""Gymnasium's vector environments, ours among them, as environments for rsl_rl's runners."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from rsl_rl.env import VecEnv
from tensordict import TensorDict
from torch import Tensor
from typing_extensions import override

from nprobot.errors import ConfigError, EnvironmentUnavailableError

Array = NDArray[Any]


class RunnerEnv(VecEnv):  # type: ignore[misc]
    """A vector environment with flat observations, as rsl_rl's `VecEnv`.

    Observations are the group ``"policy"``. Where their last numbers are such as an actor may not
    see (`privileged_size`), these are the group ``"privileged"``, for the critic. Actions are cut
    to the bounds of the action space. The log gets what robots tell at the end of their episodes.

    Args:
        envs: a vector environment that starts a new episode in the step that ends one, or the id of
            an environment.
        num_envs: how many, with an id.
        seed: of the first; the others have the numbers after it.
        device: where the runner learns.
        **settings: of the environment, with an id.

    Attributes:
        num_envs: how many.
        num_actions: numbers of an action.
        max_episode_length: in steps.
        step_dt: time between two actions, s; 1 where the environment does not tell.
        cfg: what was given, for the runner's log.

    Raises:
        ConfigError: the environment resets in another step, or does not tell how long episodes are.
        EnvironmentUnavailableError: its observations or actions are not flat arrays.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any] | str,
        num_envs: int = 1,
        *,
        seed: int | None = None,
        device: str = "cpu",
        **settings: Any,
    ) -> None:
        self.cfg = {"env": str(envs), "num_envs": num_envs, "seed": seed, **settings}
        self.envs = _made(envs, num_envs, settings) if isinstance(envs, str) else envs
        mode = self.envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"rsl_rl needs environments that start anew in the step that ends an episode, and "
                f"these have {mode}; make them with autoreset_mode=AutoresetMode.SAME_STEP"
            )
        seen, acts = self.envs.single_observation_space, self.envs.single_action_space
        for space in (seen, acts):
            if not isinstance(space, spaces.Box) or len(space.shape) != 1:
                raise EnvironmentUnavailableError(
                    f"rsl_rl here takes flat arrays as observations and actions, not {space}"
                )
        assert isinstance(acts, spaces.Box)
        self._low, self._high = acts.low, acts.high
        self.num_envs = self.envs.num_envs
        self.num_actions = int(acts.shape[0])
        self.device = device
        self.step_dt = float(getattr(self.envs, "dt", 1.0))
        self._hidden = int(getattr(self.envs, "privileged_size", 0))
        self.max_episode_length = _episode_steps(self.envs)
        # Of robots of this package these are their own, so that a runner can let them start late.
        own: Array | None = getattr(self.envs, "steps", None)
        self._counted_here = own is None
        self._steps = torch.from_numpy(np.zeros(self.num_envs, np.int64) if own is None else own)
        self._observations, _ = self.envs.reset(seed=seed)

    @property
    def unwrapped(self) -> RunnerEnv:
        """Itself; rsl_rl asks it for `step_dt`."""
        return self

    @property
    def episode_length_buf(self) -> Tensor:
        """Steps of each episode until now; may be set."""
        return self._steps.to(self.device, copy=True)

    @episode_length_buf.setter
    def episode_length_buf(self, steps: Tensor) -> None:
        self._steps.copy_(steps)

    @override
    def get_observations(self) -> TensorDict:
        """The last observations, float32, by group."""
        seen = torch.from_numpy(np.asarray(self._observations, np.float32)).to(self.device)
        size = seen.shape[-1] - self._hidden
        groups = {"policy": seen[:, :size]}
        if self._hidden:
            groups["privileged"] = seen[:, size:]
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)

    @override
    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Act once everywhere; see rsl_rl's `VecEnv.step`."""
        acts = np.clip(actions.detach().cpu().numpy(), self._low, self._high)
        self._observations, reward, terminated, truncated, info = self.envs.step(acts)
        over = terminated | truncated
        if self._counted_here:
            self._steps += 1
            self._steps[torch.from_numpy(over)] = 0
        extras: dict[str, Any] = {
            "time_outs": torch.from_numpy(truncated & ~terminated).float().to(self.device)
        }
        if over.any():
            extras["log"] = _told(info.get("final_info", {}), over)
        rewards = torch.from_numpy(np.asarray(reward, np.float32)).to(self.device)
        dones = torch.from_numpy(over).long().to(self.device)
        return self.get_observations(), rewards, dones, extras

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()


def _made(env: str, num_envs: int, settings: dict[str, Any]) -> VectorEnv[Any, Any, Any]:
    spec = gymnasium.spec(env)
    if spec.vector_entry_point is not None:
        return gymnasium.make_vec(
            spec, num_envs, vectorization_mode="vector_entry_point", **settings
        )
    return gymnasium.make_vec(
        spec,
        num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        **settings,
    )


def _episode_steps(envs: VectorEnv[Any, Any, Any]) -> int:
    spec = envs.spec
    steps = getattr(envs, "episode_steps", None) or (spec and spec.max_episode_steps)
    if not steps:
        raise ConfigError(
            f"{envs} does not tell how long an episode is, which rsl_rl wants to know; give its "
            "registered environment max_episode_steps"
        )
    return int(steps)


def _told(final: dict[str, Any], over: NDArray[np.bool_]) -> dict[str, float]:
    """Means over the episodes that have ended, of all that is a number."""
    means = {}
    for name, values in final.items():
        known = final.get(f"_{name}", over)
        array = np.asarray(values)
        if name.startswith("_") or array.dtype.kind not in "fiub" or array.ndim != 1:
            continue
        if (own := array[known & over]).size:
            means[f"/{name}"] = float(own.mean())
    return means
