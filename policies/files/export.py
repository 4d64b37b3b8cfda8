"""From a trained stable-baselines3 model to a `Policy`: the actor alone, R folded into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from ...errors import ArchitectureError
from ..chip.crossbar import digital
from ..direct_policy import DirectPolicy
from ..layers import fold
from .operations import SETTINGS, Operation
from .policy import BoxAction, DiscreteAction, Normaliser, Policy, Task

ACTIVATION_NAMES: dict[type[nn.Module], str] = {
    nn.Identity: "identity",
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.ELU: "elu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Sigmoid: "sigmoid",
}


def export_policy(
    model: BaseAlgorithm,
    task: Task | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Policy:
    """The deterministic policy of a model, with the observation normaliser of its environment.

    Args:
        model: of `nprobot.PPO`, `NRL`, `SAC`, `TD3`, or of stable-baselines3's.
        task: the environment that the policy was trained on.
        provenance: how it was trained; JSON values.

    Returns:
        A policy that gives the actions of ``model.predict(…, deterministic=True)`` for raw
        observations; of a network on a chip, those that it gives without the chip's noise.

    Raises:
        ArchitectureError: an observation space, action space or layer is not supported.
    """
    space = model.observation_space
    if not isinstance(space, gymnasium.spaces.Box) or space.dtype.kind != "f":
        raise ArchitectureError(
            f"observation space {space} cannot be exported; only a Box of real numbers can"
        )
    operations = tuple(_operations(actor(model.policy)))
    squashed = isinstance(model.policy, BasePolicy) and model.policy.squash_output
    return Policy(
        observation_shape=tuple(int(size) for size in space.shape),
        operations=operations,
        action=_action(model.action_space, squashed=squashed),
        normaliser=_normaliser(model),
        task=task,
        provenance=dict(provenance or {}),
    )


def actor(policy: BasePolicy) -> nn.Sequential:
    """The layers from observation to action mean (or logits), plain, on the CPU.

    Raises:
        ArchitectureError: it is none of PPO, NRL, SAC or TD3 on flat observations.
    """
    features, *layers = _layers(policy)
    if not isinstance(features, FlattenExtractor):
        raise ArchitectureError(
            f"feature extractor {type(features).__name__} cannot be exported; use an MlpPolicy"
        )
    # New layers draw initial weights; exporting must not change what a run goes on to do.
    with torch.random.fork_rng(devices=[]):
        return fold(digital(nn.Sequential(nn.Flatten(), *layers))).cpu()


def _layers(policy: BasePolicy) -> list[nn.Module]:
    """Feature extractor and layers, up to actions (±1 for the bounds, if squashed) or logits."""
    if isinstance(policy, DirectPolicy):
        return list(policy.actor)
    if isinstance(policy, SACPolicy):
        stochastic = policy.actor
        return [stochastic.features_extractor, *stochastic.latent_pi, stochastic.mu, nn.Tanh()]
    if isinstance(policy, TD3Policy):
        return [policy.actor.features_extractor, *policy.actor.mu]
    if isinstance(policy, ActorCriticPolicy):
        extractor = policy.pi_features_extractor
        squashing = [nn.Tanh()] if policy.squash_output else []  # of gSDE
        return [extractor, *policy.mlp_extractor.policy_net, policy.action_net, *squashing]
    raise ArchitectureError(f"policies of class {type(policy).__name__} cannot be exported")


def _operations(network: nn.Sequential) -> Iterator[Operation]:
    for module in network:
        if isinstance(module, nn.Sequential):
            yield from _operations(module)
        elif isinstance(module, nn.Flatten):
            yield Operation("flatten")
        elif isinstance(module, nn.Linear):
            bias = torch.zeros(module.out_features) if module.bias is None else module.bias
            arrays = {"weight": module.weight, "bias": bias}
            yield Operation(
                "linear", {k: v.detach().float().numpy().copy() for k, v in arrays.items()}
            )
        else:
            yield _activation(module)


def _activation(module: nn.Module) -> Operation:
    name = ACTIVATION_NAMES.get(type(module))
    if name is None or getattr(module, "approximate", "none") != "none":
        raise ArchitectureError(
            f"layer {module} cannot be exported; known: Linear, Flatten, "
            + ", ".join(kind.__name__ for kind in ACTIVATION_NAMES)
        )
    return Operation(
        name, settings={key: float(getattr(module, key)) for key in SETTINGS.get(name, ())}
    )


def _action(space: gymnasium.Space[Any], *, squashed: bool = False) -> BoxAction | DiscreteAction:
    if isinstance(space, gymnasium.spaces.Box):
        mapping = "rescale" if squashed else "clip"
        return BoxAction(space.low.copy(), space.high.copy(), mapping)
    if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
        return DiscreteAction((int(space.n),))
    if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return DiscreteAction(tuple(int(n) for n in space.nvec), several=True)
    raise ArchitectureError(f"action space {space} cannot be exported")


def _normaliser(model: BaseAlgorithm) -> Normaliser | None:
    statistics = model.get_vec_normalize_env()
    if statistics is None or not statistics.norm_obs:
        return None
    running = statistics.obs_rms
    assert isinstance(running, RunningMeanStd), "one observation, not a dict of them"
    return Normaliser(
        mean=running.mean.copy(),
        var=running.var.copy(),
        epsilon=float(statistics.epsilon),
        clip=float(statistics.clip_obs),
    )
