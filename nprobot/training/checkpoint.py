"""What a checkpoint of a training run holds: a policy file, and everything needed to resume.

step_000100000/
    policy.json, policy.safetensors         to evaluate and deploy
    training.json, training.safetensors     what the algorithm remembers, the normaliser, first
                                            observations, random generators, place in the logs
    checkpoint.json                         checksums (see `nprobot.runs.checkpoints`)

A checkpoint ends the running episodes and begins new ones, with separate seeds: in a run that is
never stopped just as in one that is. So both end bit for bit alike for every environment whose
episodes follow from their seed, whatever else the environment hides.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecNormalize

from nprobot.policies.files import policy_file
from nprobot.policies.files.policy import Policy
from nprobot.runs.checkpoints import as_damaged, write_checkpoint
from nprobot.runs.seeds import Seeds
from nprobot.runs.state import load_state, restore_generator, restore_numpy, save_state

from .build import Model
from .vector import restore_normaliser, save_normaliser, side_by_side

STATE = "training"


def save_checkpoint(
    folder: Path,
    model: Model,
    policy: Callable[[], Policy],
    run: Callable[[], Mapping[str, Any]],
    seeds: Seeds,
) -> Path:
    """Begin new episodes, and write the checkpoint of a model, whole or not at all.

    Args:
        folder: the folder of the run's checkpoints.
        model: between two updates.
        policy: makes the policy of that model, for deployment.
        run: tells what the run itself has to remember: numbers, strings, arrays, containers of
            these.
        seeds: the seeds of the run.

    Returns:
        The checkpoint; the one that is there if the model has not moved since.

    Raises:
        StorageError: the disk is full, the folder read-only, …; earlier checkpoints are as before.
    """

    def fill(path: Path) -> None:
        observations = begin_episodes(model, seeds)
        policy_file.save(policy(), path)
        # The hardware is not new with every episode: what has drifted stays drifted.
        capsules = [
            None if capsule is None else np.frombuffer(capsule, np.uint8)
            for capsule in side_by_side(vector_of(model)).save_actuators()
        ]
        own = {**run(), "first_observations": observations, "actuators": capsules}
        own["progress"] = side_by_side(vector_of(model)).save_progress()
        save_state(path / STATE, {"run": own, **training_state(model)})

    return write_checkpoint(folder, model.num_timesteps, fill)


def load_checkpoint(
    path: Path, model: Model, seeds: Seeds, report: Callable[[str], None]
) -> dict[str, Any]:
    """Put a model, its environments and all generators where a checkpoint was written.

    Args:
        path: the checkpoint.
        model: new, with the configuration of the run.
        seeds: the seeds of the run.
        report: told, in a line, if the run does not continue bit for bit.

    Returns:
        What the run had to remember.

    Raises:
        ArchitectureError: it is a checkpoint of another network.
        DamagedFileError: its contents are not what this software writes.
    """
    state = load_state(path / STATE)
    with as_damaged(path):
        restore(model, state)
        run = dict(state["run"])
        if progress := run.get("progress"):
            side_by_side(vector_of(model)).restore_progress(progress)
        observations = np.asarray(_restart(model, seeds))
        capsules = [None if c is None else c.tobytes() for c in run.get("actuators", [])]
        if capsules:
            side_by_side(vector_of(model)).restore_actuators(capsules)
        before = run.get("first_observations")
        if before is None:
            report("this checkpoint was written by an earlier version: new episodes begin")
        elif observations.tobytes() != before.tobytes():
            report("this environment does not follow from its seed: the run is not bit for bit")
        if before is None or observations.tobytes() != before.tobytes():
            model._last_obs = vector_of(model).normalize_obs(observations)
        return run


def begin_episodes(model: Model, seeds: Seeds) -> np.ndarray[Any, Any]:
    """End the running episodes and begin new ones; returns their first observations."""
    vector = side_by_side(vector_of(model))
    vector.seed_each(seeds.episodes_after(model.num_timesteps, vector.num_envs))
    return model.restart_episodes()


def training_state(model: Model) -> dict[str, Any]:
    """Everything a model needs to continue, but for its environments."""
    return {
        **model.state_dict(),
        "normaliser": save_normaliser(vector_of(model)),
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
    model.load_state_dict(state)
    restore_normaliser(vector_of(model), state["normaliser"])
    generators = state["generators"]
    torch.set_rng_state(generators["torch"])
    if generators["cuda"] is not None and _on_cuda(model):
        torch.cuda.set_rng_state(generators["cuda"], model.device)
    restore_numpy(generators["numpy"])
    random.setstate(generators["python"])
    restore_generator(model.action_space.np_random.bit_generator, generators["actions"])


def vector_of(model: Model) -> VecNormalize:
    """The normaliser around a model's environments."""
    vector = model.get_vec_normalize_env()
    assert vector is not None, "a run always has its normaliser"
    return vector


def _restart(model: Model, seeds: Seeds) -> Any:  # noqa: ANN401 - observations of any space
    """Begin the episodes of a checkpoint again, past the normaliser, which has seen them."""
    vector = side_by_side(vector_of(model))
    vector.seed_each(seeds.episodes_after(model.num_timesteps, vector.num_envs))
    return vector.reset()


def _on_cuda(model: Model) -> bool:
    return bool(model.device.type == "cuda")
