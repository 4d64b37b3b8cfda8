"""From a model of stable-baselines3 to a `Policy`: the actor alone, R folded into it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from ...errors import ArchitectureError
from ..asymmetric_policy import AsymmetricPolicy
from ..chip.crossbar import off_chip_copy
from ..direct_policy import DirectPolicy
from ..layers import fold
from .policy import BoxAction, ControlTask, DiscreteAction, Normaliser, Operation, Policy
from .torch_policy import operations


def export_policy(
    model: BaseAlgorithm,
    task: ControlTask | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Policy:
    """The deterministic policy of a model, with the observation normaliser of its environment.

    Args:
        model: of nprobot (`PPO`, `NRL`, `SAC`, `TD3`) or stable-baselines3, with an MlpPolicy.
        task: the environment that the policy was trained on.
        provenance: how it was trained; JSON values.

    Returns:
        A policy that gives the actions of ``model.predict(…, deterministic=True)`` for raw
        observations; of a network on a chip, those that it gives without the chip's noise.

    Raises:
        ArchitectureError: an observation space, action space or layer is not supported.
    """
    space = model.observation_space
    if not isinstance(space, gymnasium.spaces.Box) or is_image_space(space):
        raise ArchitectureError(
            f"observation space {space} cannot be exported; only a Box that is no image can"
        )
    assert isinstance(model.policy, BasePolicy), "set by the constructor"
    shape = tuple(int(size) for size in space.shape)
    layers = list(operations(actor(model.policy)))
    if isinstance(model.action_space, gymnasium.spaces.MultiBinary):
        layers[-1] = _of_two(layers[-1])
    normaliser = _normaliser(model.get_vec_normalize_env())
    if isinstance(model.policy, AsymmetricPolicy):
        # What only the critic sees is no part of the policy.
        seen = shape[0] - model.policy.privileged
        flatten, first, *others = layers
        weight = first.arrays["weight"][:, :seen]
        layers = [flatten, replace(first, arrays={**first.arrays, "weight": weight}), *others]
        shape = (seen,)
        if normaliser is not None:
            mean, var = normaliser.mean[:seen], normaliser.var[:seen]
            normaliser = replace(normaliser, mean=mean, var=var)
    return Policy(
        observation_shape=shape,
        operations=tuple(layers),
        action=_action(model.action_space, squashed=model.policy.squash_output),
        normaliser=normaliser,
        task=task,
        provenance=dict(provenance or {}),
    )


def load_trusted_sb3_zip(
    path: str | Path,
    algorithm: type[BaseAlgorithm],
    *,
    vec_normalize: str | Path | None = None,
    task: ControlTask | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Policy:
    """Read a model that stable-baselines3 saved, as a policy that needs neither of the two.

    Warning:
        Both files hold pickles: **their author can run any code on this machine.** Use this
        only for your own files, or from somebody whose programs you would run.
        Afterwards `nprobot.policies.save(policy, folder)` makes a policy file that can be shared.

    Args:
        path: the ``.zip``.
        algorithm: class that saved it, such as `stable_baselines3.SAC`; the file does not say. PPO,
            A2C and `nprobot.PPO`, SAC, TD3, DDPG and DQN work, with an MlpPolicy.
        vec_normalize: the pickle of the `VecNormalize` it was trained behind, if there was one.
            Without it the policy gets observations of the wrong scale.
        task: the environment it was trained on, for the policy file.
        provenance: how it was trained, for the policy file; JSON values.

    Raises:
        ArchitectureError: the model has something that a policy file cannot describe.
    """
    policy = export_policy(algorithm.load(path, device="cpu"), task, provenance)
    if vec_normalize is None:
        return policy
    with Path(vec_normalize).open("rb") as file:
        statistics = pickle.load(file)
    if not isinstance(statistics, VecNormalize):
        raise ArchitectureError(f"vec_normalize is the pickle of a {type(statistics).__name__}")
    return replace(policy, normaliser=_normaliser(statistics))


def actor(policy: BasePolicy) -> nn.Sequential:
    """The layers from observation to action mean (or logits), plain, on the CPU.

    Raises:
        ArchitectureError: it is none of PPO, NRL, SAC, TD3 or DQN on flat observations.
    """
    features, *layers = network_of(policy)
    if not isinstance(features, FlattenExtractor):
        raise ArchitectureError(
            f"feature extractor {type(features).__name__} cannot be exported; use an MlpPolicy"
        )
    # New layers draw initial weights; exporting must not change a run's random stream.
    with torch.random.fork_rng(devices=[]):
        return fold(off_chip_copy(nn.Sequential(nn.Flatten(), *layers))).cpu()


def network_of(policy: BasePolicy) -> list[nn.Module]:
    """Feature extractor and layers, up to actions (±1 for the bounds, if squashed) or logits."""
    if isinstance(policy, DirectPolicy):
        return list(policy.actor)
    if isinstance(policy, SACPolicy):
        stochastic = policy.actor
        return [stochastic.features_extractor, stochastic.latent_pi, stochastic.mu, nn.Tanh()]
    if isinstance(policy, TD3Policy):
        return [policy.actor.features_extractor, policy.actor.mu]
    if isinstance(policy, DQNPolicy):
        return [policy.q_net.features_extractor, policy.q_net.q_net]
    if isinstance(policy, ActorCriticPolicy):
        extractor = policy.pi_features_extractor
        squashing = [nn.Tanh()] if policy.squash_output else []  # of gSDE
        return [extractor, policy.mlp_extractor.policy_net, policy.action_net, *squashing]
    raise ArchitectureError(f"policies of class {type(policy).__name__} cannot be exported")


def _action(space: gymnasium.Space[Any], *, squashed: bool) -> BoxAction | DiscreteAction:
    if isinstance(space, gymnasium.spaces.Box):
        mapping = "rescale" if squashed else "clip"
        return BoxAction(space.low.copy(), space.high.copy(), mapping)
    if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
        return DiscreteAction((int(space.n),))
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return DiscreteAction(tuple(int(n) for n in space.nvec), several=True)
    if isinstance(space, gymnasium.spaces.MultiBinary) and len(space.shape) == 1:
        return DiscreteAction((2,) * int(space.shape[0]), several=True)
    raise ArchitectureError(f"action space {space} cannot be exported")


def _of_two(layer: Operation) -> Operation:
    """A layer of logits of "on" with an output of 0 for "off" before each: choices between two."""
    arrays = {
        name: np.stack([np.zeros_like(array), array], 1).reshape(-1, *array.shape[1:])
        for name, array in layer.arrays.items()
    }
    return replace(layer, arrays=arrays)


def _normaliser(statistics: VecNormalize | None) -> Normaliser | None:
    if statistics is None or not statistics.norm_obs:
        return None
    running = statistics.obs_rms
    if not isinstance(running, RunningMeanStd):
        raise ArchitectureError("observations that are dicts cannot be exported")
    return Normaliser(
        mean=running.mean.copy(),
        var=running.var.copy(),
        epsilon=float(statistics.epsilon),
        clip=float(statistics.clip_obs),
    )
