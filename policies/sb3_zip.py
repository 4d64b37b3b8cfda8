"""A stable-baselines3 ``.zip`` as a policy. Reading one can run code: only for files you trust."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from ..errors import ArchitectureError
from .files import export
from .files.export import export_policy
from .files.policy import BoxAction, Normaliser, Policy, Task
from .layers import fold


def load_trusted_sb3_zip(
    path: str | Path,
    algorithm: type[BaseAlgorithm],
    *,
    vec_normalize: str | Path | None = None,
    task: Task | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Policy:
    """Read a model that stable-baselines3 saved, as a policy that needs neither of the two.

    Warning:
        Both files hold pickles: **whoever made them can run any code on this machine.** Use this
        only for files of your own, or from somebody you would also let send you a program.
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
    model = algorithm.load(path, device="cpu")
    if isinstance(model.policy, SACPolicy | TD3Policy | DQNPolicy):
        policy = _off_policy(model, task, provenance)
    else:
        policy = export_policy(model, task, provenance)
    if vec_normalize is None:
        return policy
    with Path(vec_normalize).open("rb") as file:
        statistics = pickle.load(file)
    return replace(policy, normaliser=_normaliser(statistics, policy))


def _off_policy(
    model: BaseAlgorithm, task: Task | None, provenance: Mapping[str, Any] | None
) -> Policy:
    network, features = _actor(model.policy)
    if not isinstance(features.features_extractor, FlattenExtractor):
        raise ArchitectureError(
            f"feature extractor {type(features.features_extractor).__name__} cannot be exported; "
            "use an MlpPolicy"
        )
    action = export._action(model.action_space)
    if isinstance(action, BoxAction):
        action = replace(action, mapping="rescale")  # these squash their actions into [-1, 1]
    with torch.random.fork_rng(devices=[]):  # new layers draw initial weights
        folded = fold(nn.Sequential(nn.Flatten(), *network))
    shape = model.observation_space.shape or ()
    return Policy(
        observation_shape=tuple(int(size) for size in shape),
        operations=tuple(export._operations(folded)),
        action=action,
        task=task,
        provenance=dict(provenance or {}),
    )


def _actor(policy: BasePolicy) -> tuple[list[nn.Module], BaseModel]:
    """Layers from flat observations to outputs, and the module that holds them."""
    if isinstance(policy, SACPolicy):
        return [policy.actor.latent_pi, policy.actor.mu, nn.Tanh()], policy.actor
    if isinstance(policy, TD3Policy):
        return [policy.actor.mu], policy.actor
    assert isinstance(policy, DQNPolicy), "checked by the caller"
    return [policy.q_net.q_net], policy.q_net


def _normaliser(statistics: object, policy: Policy) -> Normaliser | None:
    if not isinstance(statistics, VecNormalize):
        raise ArchitectureError(f"vec_normalize is the pickle of a {type(statistics).__name__}")
    if not statistics.norm_obs:
        return policy.normaliser
    running = statistics.obs_rms
    if not isinstance(running, RunningMeanStd):
        raise ArchitectureError("observations that are dicts cannot be exported")
    return Normaliser(
        mean=running.mean.copy(),
        var=running.var.copy(),
        epsilon=float(statistics.epsilon),
        clip=float(statistics.clip_obs),
    )
