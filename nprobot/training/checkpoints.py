"""Checkpoints: policy and training state, written whole and renamed into place."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nprobot.policies import policy_file
from nprobot.policies.policy import Policy

from .build import Model
from .errors import RunNotFoundError
from .state import load_state, save_state
from .vector import restore_vector, vector_state

LAST = "last"
STATE = "training"


def save_checkpoint(folder: Path, model: Model, policy: Policy, counters: dict[str, Any]) -> Path:
    """Write ``step_<steps>`` with the policy file and everything needed to go on.

    Nobody sees half a checkpoint: it is written under another name, then renamed; after that
    ``last`` points to it.

    Args:
        folder: of the run's checkpoints.
        model: between two updates.
        policy: of that model, for deployment.
        counters: of the run, JSON values.

    Returns:
        The checkpoint; the one that is there if the model has not moved since.
    """
    final = folder / f"step_{model.num_timesteps:09d}"
    if final.exists():
        return final
    writing = folder / f".writing_{final.name}"
    shutil.rmtree(writing, ignore_errors=True)  # left by a run that was killed
    writing.mkdir(parents=True)
    policy_file.save(policy, writing)
    save_state(writing / STATE, {"run": counters, **training_state(model)})
    for file in writing.iterdir():
        _sync(file)
    os.rename(writing, final)
    link = folder / f".{LAST}"
    link.unlink(missing_ok=True)
    link.symlink_to(final.name)
    os.replace(link, folder / LAST)
    _sync(folder)
    return final


def last_checkpoint(folder: Path) -> Path:
    """The newest complete checkpoint.

    Raises:
        RunNotFoundError: there is none.
    """
    complete = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    if not complete:
        raise RunNotFoundError(f"there is no checkpoint in {folder}; start the run anew")
    return max(complete, key=lambda path: int(path.name.removeprefix("step_")))


def load_checkpoint(path: Path, model: Model) -> dict[str, Any]:
    """Put a model, its environments and all generators where a checkpoint was written.

    Args:
        path: the checkpoint.
        model: new, with the configuration of the run.

    Returns:
        The counters of the run.
    """
    state = load_state(path / STATE)
    restore(model, state)
    counters: dict[str, Any] = state["run"]
    return counters


def training_state(model: Model) -> dict[str, Any]:
    """Everything a model needs to go on learning: weights, optimiser, counters, generators."""
    vector = model.get_vec_normalize_env()
    assert vector is not None, "a run always has its normaliser"
    return {
        "parameters": model.get_parameters(),
        "rule": model.rule.state_dict(),
        "environments": vector_state(vector),
        "algorithm": {
            "num_timesteps": model.num_timesteps,
            "n_updates": model._n_updates,
            "episodes": list(model.ep_info_buffer or ()),
        },
        "generators": {
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state(),  # noqa: NPY002 - SB3 draws minibatches from it
            "python": random.getstate(),
        },
    }


def restore(model: Model, state: dict[str, Any]) -> None:
    """The inverse of `training_state`."""
    vector = model.get_vec_normalize_env()
    assert vector is not None, "a run always has its normaliser"
    model.set_parameters(state["parameters"])
    model.rule.load_state_dict(state["rule"])
    restore_vector(vector, state["environments"])
    algorithm, generators = state["algorithm"], state["generators"]
    model.num_timesteps = algorithm["num_timesteps"]
    model._n_updates = algorithm["n_updates"]
    model.ep_info_buffer = deque(algorithm["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    torch.set_rng_state(generators["torch"])
    np.random.set_state(generators["numpy"])  # noqa: NPY002
    random.setstate(generators["python"])


def _sync(path: Path) -> None:
    """Make sure a file or folder is on the disk before it gets its final name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
