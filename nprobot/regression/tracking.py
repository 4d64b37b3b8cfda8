"""How well a feed-forward controller lets the arm follow its references: rad and N·m."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nprobot.envs import ARM_TRACK
from nprobot.envs.arm import JOINTS
from nprobot.envs.arm_track import ArmTrackEnv
from nprobot.errors import ConfigError
from nprobot.policies.files import policy_file
from nprobot.policies.files.policy import Policy
from nprobot.training import environments
from nprobot.training.evaluation import check_fit, episode_seeds, run_episodes

from .model import FittedModel
from .model_export import feedforward_policy

Array = NDArray[Any]
ArmController = Callable[[ArmTrackEnv, Array], Array]
"""From the environment and an observation (35,) to an action (7,)."""

NOMINAL: Mapping[str, float] = {"payload": 0.0, "friction_scale": 1.0}
SHIFTED: Mapping[str, float] = {"payload": 0.5, "friction_scale": 1.5}
"""The robots that the training data and its shifted split come from; kg, and a factor."""


@dataclass(frozen=True)
class Tracking:
    """How well a controller followed the references of some episodes.

    Root mean squares are over steps, joints and episodes.

    Attributes:
        position_error: reference minus position, rad RMS.
        feedback_torque: what the PD controller had to add, N·m RMS: the part of the torque that
            the feed-forward got wrong.
        torque_error: feed-forward torque minus exact inverse dynamics of the robot that is
            simulated, at the reference, N·m RMS.
        joint_errors: position error of each joint, rad RMS, `(7,)`.
        joint_feedback: feedback torque of each joint, N·m RMS, `(7,)`.
        episode_errors: position error of each episode, rad RMS.
    """

    position_error: float
    feedback_torque: float
    torque_error: float
    joint_errors: tuple[float, ...]
    joint_feedback: tuple[float, ...]
    episode_errors: tuple[float, ...]


def track(
    controller: ArmController | Policy | FittedModel | str | Path | None,
    *,
    episodes: int = 20,
    seed: int = 0,
    payload: float | None = None,
    friction_scale: float | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Tracking:
    """Follow random references on `nprobot/ArmTrack-v0` with PD control and a feed-forward.

    Args:
        controller: a model of the arm's inverse dynamics, a policy or the folder of one, "exact"
            for exact inverse dynamics, "nominal" for that of the arm without payload and with its
            own friction, a function of environment and observation; None for PD control alone.
        episodes: how many references.
        seed: where references and starts come from; the same ones for every controller.
        payload: mass in the hand, kg; None: the environment's own.
        friction_scale: factor on joint friction; None: the environment's own.
        env_kwargs: further arguments of the environment.

    Raises:
        ConfigError: there is no such controller, or `episodes` is below 1.
        ArchitectureError: the model is not one of the arm's inverse dynamics.
        EnvironmentUnavailableError: the policy does not fit the environment.
    """
    if episodes < 1:
        raise ConfigError(f"episodes must be 1 or more, got {episodes}")
    shift = {"payload": payload, "friction_scale": friction_scale}
    kwargs = {**(env_kwargs or {}), **{k: v for k, v in shift.items() if v is not None}}
    made = environments.make(ARM_TRACK, kwargs)
    env = cast("ArmTrackEnv", made.unwrapped)
    exact: list[Array] = []
    infos: list[Mapping[str, Array]] = []
    try:
        act = _controller(controller, made)

        def predict(observations: Array) -> Array:
            (observation,) = observations
            exact.append(env.inverse_dynamics(*np.split(observation[ArmTrackEnv.REFERENCE], 3)))
            return np.asarray(act(env, observation))[None]

        def observe(episode: int, length: int, total: float, info: Mapping[str, Any]) -> None:
            infos.append(info)

        run_episodes(predict, [env], episode_seeds(seed, episodes), observe)
    finally:
        made.close()
    error, feedback, feedforward = (
        np.reshape([info[name] for info in infos], (episodes, -1, JOINTS))
        for name in ("joint_error", "feedback_torque", "feedforward_torque")
    )
    torque = feedforward - np.reshape(exact, feedforward.shape)
    return Tracking(
        position_error=_rms(error),
        feedback_torque=_rms(feedback),
        torque_error=_rms(torque),
        joint_errors=tuple(_rms(error[..., j]) for j in range(JOINTS)),
        joint_feedback=tuple(_rms(feedback[..., j]) for j in range(JOINTS)),
        episode_errors=tuple(_rms(run) for run in error),
    )


def _controller(
    given: ArmController | Policy | FittedModel | str | Path | None, made: environments.Env
) -> ArmController:
    if given is None:
        return lambda env, observation: np.zeros(JOINTS, dtype=np.float32)
    if given in ("exact", "nominal"):
        return lambda env, observation: env.exact_action(nominal=given == "nominal")
    if isinstance(given, FittedModel):
        given = feedforward_policy(given)
    elif isinstance(given, str | Path):
        given = policy_file.load(given)
    if isinstance(given, Policy):
        check_fit(given, made, ARM_TRACK)
        predict = given.predict
        return lambda env, observation: predict(observation)
    if not callable(given):
        raise ConfigError(
            "a controller is a model, a policy, a folder, 'exact', 'nominal', a function of "
            f"environment and observation, or None; got {type(given).__name__}"
        )
    return given


def _rms(values: Sequence[float] | Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
