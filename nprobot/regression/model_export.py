"""From a learned model to a policy file: a controller that needs numpy alone.

A model of our arm's inverse dynamics becomes the feed-forward controller of `nprobot/ArmTrack-v0`:
the torques that the model predicts for the reference one step ahead, as shares of the limits. Any
other model becomes a policy with the model's own inputs and outputs (a cloned policy is one).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nprobot.envs import ARM_TRACK
from nprobot.envs.arm import JOINT_NAMES, JOINTS, TORQUE_LIMITS
from nprobot.envs.arm_track import ArmTrackEnv
from nprobot.errors import ArchitectureError
from nprobot.policies.files.policy import (
    BoxAction,
    ControlTask,
    DiscreteAction,
    Normaliser,
    Operation,
    Policy,
)
from nprobot.policies.files.torch_policy import operations
from nprobot.policies.layers import fold

from .model import FittedModel, describe_network

# Standardised inputs are not clipped, as in the model; a policy file needs a number.
_NO_CLIP = 1e9
_EPSILON = 1e-12
_DESCRIPTION = (
    "Each action is the torque that a learned model of the arm's inverse dynamics predicts for the "
    "reference one step ahead: a feed-forward, to which the environment's PD controller adds what "
    "is missing."
)

Array = NDArray[np.float64]


def export_model(model: FittedModel, provenance: Mapping[str, Any] | None = None) -> Policy:
    """The policy that does what a model does.

    Args:
        model: its network must be one that `nprobot.policies.mlp` could have built.
        provenance: how it was learned; JSON values.

    Returns:
        For an inverse-dynamics model of our arm, the controller `feedforward_policy`. Otherwise,
        raw inputs to targets in their units, or to labels.

    Raises:
        ArchitectureError: the network cannot be described.
    """
    if is_arm_model(model):
        return feedforward_policy(model, provenance)
    mean, scale = _numpy(model.input_mean), _numpy(model.input_scale)
    action: BoxAction | DiscreteAction
    if model.classes:
        action = DiscreteAction((model.classes,))
    else:
        bound = np.full(len(model.target_mean), np.inf, dtype=np.float32)
        action = BoxAction(-bound, bound)
    return Policy(
        observation_shape=mean.shape,
        operations=_operations(model, unit=np.ones(1)),
        action=action,
        normaliser=_normaliser(mean, scale),
        provenance=dict(provenance or {}),
    )


def is_arm_model(model: FittedModel) -> bool:
    """Whether a model predicts the torques of our arm from its positions and their derivatives."""
    names = model.description["input_names"], model.description["target_names"]
    inputs = [f"{j}{part}" for part in ("", ".velocity", ".acceleration") for j in JOINT_NAMES]
    return names == (inputs, [f"{joint}.torque" for joint in JOINT_NAMES])


def feedforward_policy(model: FittedModel, provenance: Mapping[str, Any] | None = None) -> Policy:
    """The controller of `nprobot/ArmTrack-v0` that a model of the arm's inverse dynamics makes.

    Args:
        model: inputs (21) q, q̇, q̈ in rad, rad/s, rad/s²; targets (7) torques in N·m.
        provenance: how it was learned; JSON values.

    Returns:
        Observation (35) to action (7), shares of the torque limits in [-1, 1].

    Raises:
        ArchitectureError: the model is of another kind.
    """
    if not is_arm_model(model):
        raise ArchitectureError(
            f"a feed-forward controller of {ARM_TRACK} needs a model of the arm's inverse dynamics "
            f"(task arm-inverse-dynamics); this one was fitted to "
            f"{model.description['task']!r}, {len(model.input_mean)} inputs to "
            f"{len(model.target_mean)} outputs"
        )
    reference = np.arange(5 * JOINTS)[ArmTrackEnv.REFERENCE]
    size = 5 * JOINTS
    mean, scale = np.zeros(size), np.ones(size)
    mean[reference], scale[reference] = _numpy(model.input_mean), _numpy(model.input_scale)
    first, *rest = _operations(model, unit=TORQUE_LIMITS)
    # The measured positions and velocities have no weight: the model is asked about the reference.
    weight = np.zeros((len(first.arrays["weight"]), size), dtype=np.float32)
    weight[:, reference] = first.arrays["weight"]
    operations = Operation("linear", {"weight": weight, "bias": first.arrays["bias"]}), *rest
    bound = np.ones(JOINTS, dtype=np.float32)
    return Policy(
        observation_shape=(size,),
        operations=operations,
        action=BoxAction(-bound, bound),
        normaliser=_normaliser(mean, scale),
        task=ControlTask(ARM_TRACK, {}, float(ArmTrackEnv.metadata["render_fps"])),
        provenance={"description": _DESCRIPTION, **(provenance or {})},
    )


def _operations(model: FittedModel, unit: Array) -> tuple[Operation, ...]:
    """The network in numpy, its last layer giving targets in `unit` instead of standardised."""
    if describe_network(model.network) is None:
        raise ArchitectureError(
            "this network cannot be exported: it is not one that nprobot.policies.mlp builds"
        )
    *hidden, last = fold(copy.deepcopy(model.network).cpu().double()).children()
    assert isinstance(last, nn.Linear)
    scale, mean = _numpy(model.target_scale) / unit, _numpy(model.target_mean) / unit
    weight, bias = _numpy(last.weight), _numpy(last.bias)
    first = operations(nn.Sequential(*hidden))
    return (*first, _linear(weight * scale[:, None], bias * scale + mean))


def _linear(weight: Array, bias: Array) -> Operation:
    arrays = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
    return Operation("linear", arrays)


def _normaliser(mean: Array, scale: Array) -> Normaliser:
    return Normaliser(mean, scale**2, _EPSILON, _NO_CLIP)


def _numpy(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().double().numpy().copy()
