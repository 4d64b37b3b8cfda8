"""What a checkpoint of a training run holds: a policy file, and everything needed to go on.

step_000100000/
    policy.json, policy.safetensors         to evaluate and deploy
    training.json, training.safetensors     weights, optimiser, rule, normaliser, environments,
                                            what the algorithm remembers (traces, replay buffer),
                                            counters, random generators, place in the logs
    checkpoint.json                         checksums (see `checkpoint_folder`)
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.save_util import recursive_getattr

from nprobot.errors import ArchitectureError
from nprobot.policies.files import policy_file
from nprobot.policies.files.policy import Policy
from nprobot.runs.checkpoints import making_sense, write_checkpoint
from nprobot.runs.generators import restore_generator, restore_numpy
from nprobot.runs.state import load_state, restore_optimizer, save_state

from .algorithms import Model, restore_memory, save_memory
from .vector import restore_normaliser, save_normaliser

STATE = "training"


def save_checkpoint(folder: Path, model: Model, policy: Policy, run: Mapping[str, Any]) -> Path:
    """Write the checkpoint of a model, whole or not at all.

    Args:
        folder: of the run's checkpoints.
        model: between two updates.
        policy: of that model, for deployment.
        run: what the run itself has to remember: numbers, strings, arrays, containers of these.

    Returns:
        The checkpoint; the one that is there if the model has not moved since.

    Raises:
        StorageError: the disk is full, the folder read-only, …; earlier checkpoints are as before.
    """

    def fill(path: Path) -> None:
        policy_file.save(policy, path)
        save_state(path / STATE, {"run": dict(run), **training_state(model)})

    return write_checkpoint(folder, model.num_timesteps, fill)


def load_checkpoint(path: Path, model: Model) -> dict[str, Any]:
    """Put a model and all generators where a checkpoint was written; not the environments.

    Args:
        path: the checkpoint.
        model: new, with the configuration of the run.

    Returns:
        What the run had to remember.

    Raises:
        ArchitectureError: it is a checkpoint of another network.
        DamagedFileError: it makes no sense.
    """
    state = load_state(path / STATE)
    with making_sense(path):
        restore(model, state)
        return dict(state["run"])


def training_state(model: Model) -> dict[str, Any]:
    """Everything a model needs to go on learning, but for its environments."""
    vector = model.get_vec_normalize_env()
    assert vector is not None, "a run always has its normaliser"
    return {
        "parameters": model.get_parameters(),
        "memory": save_memory(model),
        "rule": model.rule.state_dict(),
        "normaliser": save_normaliser(vector),
        "algorithm": {
            "num_timesteps": model.num_timesteps,
            "n_updates": model._n_updates,
            "episodes_begun": model._episode_num,
            "progress_remaining": model._current_progress_remaining,
            "episodes": list(model.ep_info_buffer or ()),
            "successes": list(model.ep_success_buffer or ()),
            "observations": model._last_obs,
            "raw_observations": model._last_original_obs,
            "episode_starts": model._last_episode_starts,
        },
        "generators": {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(model.device) if _on_cuda(model) else None,
            "numpy": np.random.get_state(),  # noqa: NPY002 - SB3 draws minibatches from it
            "python": random.getstate(),
            "actions": model.action_space.np_random.bit_generator.state,
        },
    }


def restore(model: Model, state: Mapping[str, Any]) -> None:
    """The inverse of `training_state`.

    Raises:
        ArchitectureError: the weights are those of another network.
    """
    vector = model.get_vec_normalize_env()
    assert vector is not None, "a run always has its normaliser"
    check_architecture(model, state["parameters"]["policy"])
    for name in model._get_torch_save_params()[0]:
        part: Any = recursive_getattr(model, name)
        saved = state["parameters"][name]
        if isinstance(part, torch.optim.Optimizer):
            restore_optimizer(part, saved)
        else:
            part.load_state_dict(saved, strict=True)
    restore_memory(model, state["memory"])
    model.rule.load_state_dict(state["rule"])
    restore_normaliser(vector, state["normaliser"])
    algorithm, generators = state["algorithm"], state["generators"]
    window = model._stats_window_size
    model.num_timesteps = algorithm["num_timesteps"]
    model._n_updates = algorithm["n_updates"]
    model._episode_num = algorithm["episodes_begun"]
    model._current_progress_remaining = algorithm["progress_remaining"]
    model.ep_info_buffer = deque(algorithm["episodes"], maxlen=window)
    model.ep_success_buffer = deque(algorithm["successes"], maxlen=window)
    model._last_obs = algorithm["observations"]
    model._last_original_obs = algorithm["raw_observations"]
    model._last_episode_starts = algorithm["episode_starts"]
    torch.set_rng_state(generators["torch"])
    if generators["cuda"] is not None and _on_cuda(model):
        torch.cuda.set_rng_state(generators["cuda"], model.device)
    restore_numpy(generators["numpy"])
    random.setstate(generators["python"])
    restore_generator(model.action_space.np_random.bit_generator, generators["actions"])


def check_architecture(model: Model, weights: Mapping[str, Any]) -> None:
    """Raise `ArchitectureError` if weights are those of another network."""
    expected = {name: tuple(t.shape) for name, t in model.policy.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in weights.items()}
    for name in sorted(expected.keys() | given.keys()):
        if expected.get(name) != given.get(name):
            raise ArchitectureError(
                f"the checkpoint is of another network: its {name} has shape {given.get(name)}, "
                f"in the run's configuration it has {expected.get(name)} (None: there is none)"
            )


def _on_cuda(model: Model) -> bool:
    return bool(model.device.type == "cuda")
