"""What our algorithms share: rule, arguments of stable-baselines3, state for a checkpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.utils import LinearSchedule
from torch import Tensor

from nprobot import catalogue
from nprobot.errors import ArchitectureError, RuleError
from nprobot.learning.rule import LearningRule
from nprobot.learning.rules import learning_rule
from nprobot.runs.state import restore_optimizer


def make_rule(
    rule: str | LearningRule | None,
    settings: Mapping[str, Any] | None,
    seed: int | None,
    default: str = catalogue.DEFAULT_RULE,
) -> LearningRule:
    """The rule that a name and settings mean, or the rule itself.

    Args:
        rule: a name for `nprobot.learning_rule`, a rule, or None for the default.
        settings: of a rule given by name.
        seed: of its noise, unless the settings have one.
        default: name of the rule where none is given.

    Raises:
        RuleError: unknown rule, a setting out of range, or settings for a rule that is made.
    """
    if isinstance(rule, LearningRule):
        if settings:
            raise RuleError("rule_kwargs is for a rule given by name; set them on the rule itself")
        return rule
    return learning_rule(rule or default, **{"seed": seed, **(settings or {})})


def sb3_arguments(algorithm: str, rule: LearningRule, given: Mapping[str, Any]) -> dict[str, Any]:
    """What to make stable-baselines3's algorithm with.

    Args:
        algorithm: name in the catalogue.
        rule: where its estimate is noisy, some defaults are others than stable-baselines3's.
        given: arguments by name; None for the default.
    """
    arguments = {name: value for name, value in given.items() if value is not None}
    if rule.entry.guided:
        return arguments
    own = dict(catalogue.ALGORITHMS[algorithm].unguided)
    if own.pop("lr_schedule", None) == "linear":
        own["learning_rate"] = LinearSchedule(own["learning_rate"], 0.0, 1.0)
    if hidden := own.pop("hidden", None):
        network = {"net_arch": list(hidden)} | dict(arguments.get("policy_kwargs", {}))
        arguments["policy_kwargs"] = network
    return own | arguments


class Resumable(BaseAlgorithm):
    """A stable-baselines3 algorithm that learns by a rule and can be stopped between two updates.

    `state_dict` holds everything but the environments and the generators of the process: weights,
    optimisers, the rule, counters, and what the algorithm remembers beside.
    """

    rule: LearningRule

    @property
    def forward_passes(self) -> int:
        """Network passes of one sample that learning took so far."""
        return self.rule.forward_passes

    @property
    def backward_passes(self) -> int:
        """The same backwards; 0 under the perturbation rules."""
        return self.rule.backward_passes

    def state_dict(self) -> dict[str, Any]:
        """The state between two updates: tensors, arrays, numbers, strings, containers of these."""
        return {
            "parameters": self.get_parameters(),
            "memory": self._memory(),
            "rule": self.rule.state_dict(),
            "algorithm": {
                "num_timesteps": self.num_timesteps,
                "n_updates": self._n_updates,
                "episodes_begun": self._episode_num,
                "progress_remaining": self._current_progress_remaining,
                "episodes": list(self.ep_info_buffer or ()),
                "successes": list(self.ep_success_buffer or ()),
                "observations": self._last_obs,
                "raw_observations": self._last_original_obs,
                "episode_starts": self._last_episode_starts,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state.

        Raises:
            ArchitectureError: the weights are those of another network.
            ValueError: it does not fit otherwise.
        """
        self._check_architecture(state["parameters"]["policy"])
        for name in self._get_torch_save_params()[0]:
            part: Any = recursive_getattr(self, name)
            saved = state["parameters"][name]
            if isinstance(part, torch.optim.Optimizer):
                restore_optimizer(part, saved)
            else:
                part.load_state_dict(saved, strict=True)
        self._restore_memory(state["memory"])
        self.rule.load_state_dict(state["rule"])
        counters = state["algorithm"]
        self.num_timesteps = counters["num_timesteps"]
        self._n_updates = counters["n_updates"]
        self._episode_num = counters["episodes_begun"]
        self._current_progress_remaining = counters["progress_remaining"]
        window = self._stats_window_size
        self.ep_info_buffer = deque(counters["episodes"], maxlen=window)
        self.ep_success_buffer = deque(counters["successes"], maxlen=window)
        self._last_obs = counters["observations"]
        self._last_original_obs = counters["raw_observations"]
        self._last_episode_starts = counters["episode_starts"]

    def restart_episodes(self) -> np.ndarray[Any, Any]:
        """End the running episodes as at a time limit, and begin new ones.

        The critic has valued, or will value, what would have come.

        Returns:
            The first observations, before any normaliser.
        """
        assert self.env is not None, "set up with its environments"
        self._last_obs = self.env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones(self.env.num_envs, np.bool_)
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()
        return np.asarray(self._last_original_obs if self._vec_normalize_env else self._last_obs)

    def _memory(self) -> dict[str, Any]:
        """What is kept from one update to the next beside weights, optimisers and counters."""
        names = self._get_torch_save_params()[1]
        return {"variables": {name: recursive_getattr(self, name) for name in names}}

    def _restore_memory(self, memory: Mapping[str, Any]) -> None:
        for name in self._get_torch_save_params()[1]:
            recursive_getattr(self, name).data.copy_(memory["variables"][name])

    def _check_architecture(self, weights: Mapping[str, Tensor]) -> None:
        expected = {name: tuple(t.shape) for name, t in self.policy.state_dict().items()}
        given = {name: tuple(t.shape) for name, t in weights.items()}
        for name in sorted(expected.keys() | given.keys()):
            if expected.get(name) != given.get(name):
                raise ArchitectureError(
                    f"the checkpoint is of another network: its {name} has shape "
                    f"{given.get(name)}, in the run's configuration it has {expected.get(name)} "
                    "(None: there is none)"
                )
