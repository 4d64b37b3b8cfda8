"""From a learned model to a policy file: a controller that needs numpy alone.

A model of our arm's inverse dynamics becomes the feed-forward controller of `nprobot/ArmTrack-v0`:
the torques that the model predicts for the reference one step ahead, as shares of the limits. Any
other model becomes a policy with the model's own inputs and outputs (a cloned policy is one).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nprobot.envs import ARM_TRACK, ROBOT
from nprobot.envs.arm import JOINT_NAMES, JOINTS, TORQUE_LIMITS
from nprobot.envs.arm_track import ArmTrackEnv
from nprobot.envs.datasets.robot_models import ARM
from nprobot.envs.robots import RobotEnv
from nprobot.errors import ArchitectureError, RobotError
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

from .demonstrated import ClonedControl
from .model import FittedModel, describe_network

# Standardised inputs are not clipped, as in the model; a policy file needs a number.
_NO_CLIP = 1e9
_EPSILON = 1e-12
_DESCRIPTION = (
    "Each action is the torque that a learned model of the robot's inverse dynamics predicts for "
    "the reference one step ahead: a feed-forward, to which the environment's PD controller adds "
    "what is missing."
)

Array = NDArray[np.float64]


def export_model(model: FittedModel, provenance: Mapping[str, Any] | None = None) -> Policy:
    """The policy that does what a model does.

    Args:
        model: its network must be one that `nprobot.policies.mlp` could have built.
        provenance: how it was learned; JSON values.

    Returns:
        For an inverse-dynamics model of our arm, the controller `feedforward_policy`; for one of
        another robot that can follow trajectories, `tracking_policy`. Otherwise, raw inputs to
        targets in their units, or to labels.

    Raises:
        ArchitectureError: the network cannot be described.
    """
    if is_arm_model(model):
        return feedforward_policy(model, provenance)
    if (follower := tracker_of(model)) is not None:
        return tracking_policy(model, follower, provenance)
    if (control := ClonedControl.of(model.description["meta"])) is not None:
        return cloned_policy(model, control, provenance)
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


def cloned_policy(
    model: FittedModel, control: ClonedControl, provenance: Mapping[str, Any] | None = None
) -> Policy:
    """The policy that a model of demonstrations is, on the environment that these are of.

    Args:
        model: observations, perhaps several in a row, to actions, or to logits of actions.
        control: what it controls. Of a chunk of actions those that are carried out are kept.
        provenance: how it was learned; JSON values.
    """
    shape, count = tuple(control.observation_shape), math.prod(control.action_shape)
    action: BoxAction | DiscreteAction
    layers = _operations(model, unit=np.ones(1))
    if model.classes:
        action = DiscreteAction((model.classes,))
    else:
        bound = np.full(count, np.inf)
        low, high = (
            np.asarray(default if given is None else given, np.float32).reshape(
                control.action_shape
            )
            for given, default in ((control.low, -bound), (control.high, bound))
        )
        action = BoxAction(low, high)
        *others, last = layers
        kept = {name: array[:count] for name, array in last.arrays.items()}
        layers = (*others, Operation("linear", kept))
    flatten = () if len(shape) == 1 else (Operation("flatten"),)
    task = None
    if control.id is not None:
        task = ControlTask(control.id, dict(control.kwargs), control.rate)
    return Policy(
        observation_shape=shape,
        operations=(*flatten, *layers),
        action=action,
        normaliser=_normaliser(
            _numpy(model.input_mean).reshape(shape), _numpy(model.input_scale).reshape(shape)
        ),
        task=task,
        provenance=dict(provenance or {}),
    )


def is_arm_model(model: FittedModel) -> bool:
    """Whether a model predicts the torques of our arm from its positions and their derivatives.

    Other arms have joints of the same names (SARCOS has), so the data has to say whose it is.
    """
    about = model.description
    inputs = [f"{j}{part}" for part in ("", ".velocity", ".acceleration") for j in JOINT_NAMES]
    outputs = [f"{joint}.torque" for joint in JOINT_NAMES]
    named = (about["input_names"], about["target_names"]) == (inputs, outputs)
    return named and about["meta"].get("robot") == ARM


def tracker_of(model: FittedModel) -> RobotEnv | None:
    """The tracking task of the robot whose inverse dynamics a model has learned; None for others.

    None, too, where the robot's file is gone, or where the robot cannot follow trajectories.
    """
    about = model.description
    file = about["meta"].get("model")
    if about["task"] != "inverse-dynamics" or not file:
        return None
    try:
        return RobotEnv(file, "track")
    except RobotError:
        return None


def tracking_policy(
    model: FittedModel, env: RobotEnv, provenance: Mapping[str, Any] | None = None
) -> Policy:
    """The feed-forward controller of a robot that a model of its inverse dynamics makes.

    Args:
        model: inputs (3 · driven joints) q, q̇, q̈; targets (driven joints) torques or forces.
        env: `nprobot/Robot-v0` with the task track on that robot.
        provenance: how it was learned; JSON values.

    Returns:
        Observations of `env` to shares of its actuators' largest forces, in [-1, 1].
    """
    names = [joint.name for joint in env.layout.robot.joints]
    driven, count = model.description["meta"]["joints"], len(names)
    place = np.array([names.index(joint) for joint in driven])
    # The reference is the last part of an observation: positions, velocities, accelerations.
    size = 5 * count
    inputs = np.concatenate([place + k * count for k in (2, 3, 4)])
    follower = env.follower
    # Targets are in the order of the driven joints, actions in that of the actuators.
    order = np.array([list(place).index(joint) for joint in follower.joint])
    unit = np.empty(len(driven))
    unit[order] = follower.force * follower.gear
    mean, scale = np.zeros(size), np.ones(size)
    mean[inputs], scale[inputs] = _numpy(model.input_mean), _numpy(model.input_scale)
    first, *between, last = _operations(model, unit=unit)
    weight = np.zeros((len(first.arrays["weight"]), size), dtype=np.float32)
    weight[:, inputs] = first.arrays["weight"]
    bound = np.ones(len(order), dtype=np.float32)
    return Policy(
        observation_shape=(size,),
        operations=(
            Operation("linear", {"weight": weight, "bias": first.arrays["bias"]}),
            *between,
            Operation("linear", {name: array[order] for name, array in last.arrays.items()}),
        ),
        action=BoxAction(-bound, bound),
        normaliser=_normaliser(mean, scale),
        task=ControlTask(
            ROBOT, {"model": model.description["meta"]["model"], "task": "track"}, 1 / env.dt
        ),
        provenance={"description": _DESCRIPTION, **(provenance or {})},
    )


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
