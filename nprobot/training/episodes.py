"""What becomes of the running episodes at a checkpoint: they are kept, or new ones begin.

Where the state of the environments can be saved exactly they are kept. Where it cannot, every
checkpoint begins new episodes with seeds of its own, *also in the run that is never stopped*: so a
resumed run is bit-identical to that one for every environment that its seed determines. The rollout
before such a checkpoint ends as at a time limit: the critic has valued what would have come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecNormalize

from nprobot.errors import NprobotError
from nprobot.runs.seeds import Seeds

from .algorithms import Model, forget_episodes
from .vector import side_by_side


def save_episodes(model: Model, seeds: Seeds, *, keep: bool) -> dict[str, Any]:
    """The state of a model's environments; between two updates.

    Args:
        model: goes on in new episodes if the running ones cannot be kept.
        seeds: of the run.
        keep: whether to try to keep the running episodes.

    Returns:
        For `restore_episodes`; ``kept`` tells which it was.
    """
    environments = side_by_side(_vector(model))
    states = environments.save() if keep else None
    if states is not None:
        return {"kept": True, "states": states}
    return {"kept": False, "observations": begin_episodes(model, seeds)}


def restore_episodes(
    model: Model, state: Mapping[str, Any], seeds: Seeds, report: Callable[[str], None]
) -> None:
    """Put a model's environments, newly made, where they were; the model is restored already.

    Args:
        model: restored from the same checkpoint.
        state: from `save_episodes`.
        seeds: of the run.
        report: told, in a line, if the run does not go on bit for bit.
    """
    vector = _vector(model)
    environments = side_by_side(vector)
    if state["kept"]:
        try:
            environments.restore(state["states"])
        except NprobotError as error:
            report(f"the running episodes are lost, new ones begin: {error}")
            begin_episodes(model, seeds)
        return
    environments.seed_each(seeds.episodes_after(model.num_timesteps, vector.num_envs))
    observations = np.asarray(environments.reset())
    if observations.tobytes() != state["observations"].tobytes():
        report("this environment is not determined by its seed: the run goes on, not bit for bit")
        model._last_obs = vector.normalize_obs(observations)


def begin_episodes(model: Model, seeds: Seeds) -> np.ndarray[Any, Any]:
    """Begin new episodes in all environments; returns their first observations, as they are."""
    vector = _vector(model)
    side_by_side(vector).seed_each(seeds.episodes_after(model.num_timesteps, vector.num_envs))
    forget_episodes(model)
    model._last_obs = vector.reset()
    model._last_episode_starts = np.ones(vector.num_envs, np.bool_)
    observations = np.asarray(vector.get_original_obs())
    model._last_original_obs = observations
    return observations


def _vector(model: Model) -> VecNormalize:
    vector = model.get_vec_normalize_env()
    assert vector is not None, "a run always has its normaliser"
    return vector
