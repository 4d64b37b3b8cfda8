"""From a policy file back to a model that learns: its network, its numbers, its normaliser."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from nprobot.errors import ArchitectureError
from nprobot.policies.direct_policy import DirectPolicy
from nprobot.policies.files.from_sb3 import network_of
from nprobot.policies.files.policy import BoxAction, Operation, Policy
from nprobot.policies.files.torch_policy import MODULES


def network_arguments(policy: Policy) -> dict[str, Any]:
    """``policy_kwargs`` that make actor and critic with the policy's hidden layers and activation.

    Raises:
        ArchitectureError: it has other layers than linear ones with one activation between them.
    """
    linear, others = linear_layers(policy.operations), hidden_activations(policy)
    activation: Callable[[], nn.Module] = nn.Tanh
    if others:
        activation = functools.partial(MODULES[others[0].name], **others[0].settings)
    sizes = [len(operation.arrays["bias"]) for operation in linear[:-1]]
    return {"net_arch": sizes, "activation_fn": activation}


def linear_layers(operations: Sequence[Operation]) -> list[Operation]:
    """The linear ones, in order."""
    return [operation for operation in operations if operation.name == "linear"]


def hidden_activations(policy: Policy) -> list[Operation]:
    """Those between the linear layers, all of one kind.

    Raises:
        ArchitectureError: there are other layers, or several kinds.
    """
    names = [o.name for o in policy.operations if o.name != "flatten"]
    if squashes(policy):
        names.pop()
    activations = [o for o in policy.operations if o.name not in ("linear", "flatten")]
    activations = activations[: len(names) // 2]
    if len(names) % 2 == 0 or {*names[::2]} != {"linear"} or len({*names[1::2]}) > 1:
        raise ArchitectureError(
            "a policy learns further if it has linear layers with one kind of activation between "
            f"them; this one has {', '.join(names)}"
        )
    return activations


def squashes(policy: Policy) -> bool:
    """Whether its last operation is the tanh of SAC and TD3."""
    return policy.operations[-1].name == "tanh"


def write_policy(model: BaseAlgorithm, policy: Policy) -> None:
    """Make a model act as a policy does; what a policy file does not hold stays as it is.

    That is the critic and the spread of the exploration. If the policy scales its observations, so
    must the model's environment (`VecNormalize`); it takes over the policy's statistics.

    Args:
        model: with the layers of `network_arguments`.
        policy: what it shall do.

    Raises:
        ArchitectureError: they differ in layers, in the way of their actions, or in the normaliser.
    """
    write_network(model, policy)
    _write_normaliser(model.get_vec_normalize_env(), policy)


@torch.no_grad()
def write_network(model: BaseAlgorithm, policy: Policy) -> None:
    """The same without the normaliser.

    Raises:
        ArchitectureError: they differ in layers or in the way of their actions.
    """
    assert isinstance(model.policy, BasePolicy), "set by the constructor"
    modules = nn.Sequential(*network_of(model.policy)).modules()
    layers: list[Any] = [module for module in modules if hasattr(module, "weight")]
    arrays = [
        (operation.arrays["weight"], operation.arrays["bias"])
        for operation in linear_layers(policy.operations)
    ]
    if isinstance(model.action_space, spaces.MultiBinary):  # "on" less "off"
        arrays[-1] = tuple(array[1::2] - array[::2] for array in arrays[-1])
    given = [tuple(weight.shape) for weight, _ in arrays]
    if given != [tuple(layer.weight.shape) for layer in layers]:
        raise ArchitectureError(f"the policy's layers are {given}; the model has others")
    arrays[-1] = _last_layer(model.policy, policy, *arrays[-1])
    for layer, (weight, bias) in zip(layers, arrays, strict=True):
        layer.weight.copy_(torch.as_tensor(weight))
        layer.bias.copy_(torch.as_tensor(bias))
    if isinstance(model.policy, TD3Policy):
        model.policy.actor_target.load_state_dict(model.policy.actor.state_dict())


def _last_layer(target: BasePolicy, policy: Policy, weight: Any, bias: Any) -> tuple[Any, Any]:  # noqa: ANN401 - arrays
    """Weight and bias of the outputs, in the units of the target's actions."""
    relative = isinstance(target, DirectPolicy)  # ±1 for the bounds, cut off beyond
    if squashes(policy) != (target.squash_output and not relative):
        kinds = ("SAC and TD3", "PPO and NRL")
        raise ArchitectureError(
            f"the policy is of the kind that {kinds[not squashes(policy)]} learn, with outputs "
            f"{'squashed by' if squashes(policy) else 'without'} tanh; choose one of these"
        )
    if squashes(policy) or not isinstance(policy.action, BoxAction):
        return weight, bias
    low, high = policy.action.low.reshape(-1), policy.action.high.reshape(-1)
    half, middle = (high - low) / 2, (high + low) / 2
    if relative and policy.action.mapping == "clip":
        return weight / half[:, None], (bias - middle) / half
    if not relative and policy.action.mapping == "rescale":
        return weight * half[:, None], bias * half + middle
    return weight, bias


def _write_normaliser(vector: VecNormalize | None, policy: Policy) -> None:
    known = policy.normaliser
    if (known is None) != (vector is None or not vector.norm_obs):
        raise ArchitectureError(
            "the policy was trained on plain observations; the environment scales them"
            if known is None
            else "the policy scales its observations; put the environment into a VecNormalize"
        )
    if known is None or vector is None:
        return
    statistics = RunningMeanStd(epsilon=0.0, shape=known.mean.shape)
    statistics.mean, statistics.var = known.mean.copy(), known.var.copy()
    statistics.count = SEEN
    vector.obs_rms = statistics  # type: ignore[assignment]  # SB3's type is that of dicts
    vector.epsilon, vector.clip_obs = known.epsilon, known.clip


SEEN = 1e6
"""Observations that a policy's statistics count as, as the file does not say how many they were:
new ones change them slowly, and the policy with them."""
