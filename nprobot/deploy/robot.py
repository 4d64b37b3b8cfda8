"""The simulated robot: an environment that fits the policy, at its rate, behind real actuators."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces

from nprobot.errors import ActuatorError, DeployError, DeployWarning, NprobotError
from nprobot.training import environments
from nprobot.training.evaluation import check_fit, task_of

from .controller import DeployablePolicy

SAME_RATE = 0.01
"""Relative difference of two rates that counts as none."""


@dataclass(frozen=True)
class Robot:
    """A simulated robot.

    Attributes:
        env: takes the actions; with noisy actuators if some were asked for.
        id: of the environment.
        rate: how often it takes an action, Hz of simulated time; None if it does not say.
        hardware: name of the actuators; None for ideal ones.
    """

    env: environments.Env
    id: str
    rate: float | None
    hardware: str | None


def make_robot(
    policy: DeployablePolicy,
    env: str | None = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    rate: float | None = None,
    any_rate: bool = False,
    hardware: str | None = None,
    render_mode: str | None = None,
) -> Robot:
    """Make a simulated robot for a policy.

    A policy is a function of what it sees *and* of how long its actions last, so the robot takes
    actions at the rate at which the policy learned to give them. An environment on MuJoCo that runs
    at another one is adapted (`frame_skip`) where its physics step allows.

    Args:
        policy: what will control it.
        env: environment id; by default the one it was trained on.
        env_kwargs: arguments of the environment; by default those of the training.
        rate: Hz; by default the policy's own.
        any_rate: allow another rate than the policy's, with a `DeployWarning`.
        hardware: actuators, a preset of `nprobot.envs.NoisyActuators` such as "servo".
        render_mode: of gymnasium: "rgb_array" to film it, "human" to watch it.

    Raises:
        DeployError: `rate` is not the policy's, or the simulator cannot run at it.
        DeployError: the actuators are unknown or do not fit the robot.
        NprobotError: the environment is unknown, cannot be made, or does not fit the policy.
    """
    id, kwargs = task_of(policy, env, env_kwargs)  # type: ignore[arg-type]
    options = {} if render_mode is None else {"render_mode": render_mode}
    made = environments.make(id, kwargs, **options)
    try:
        check_fit(policy, made, id)  # type: ignore[arg-type]
        wanted = _wanted_rate(policy, rate, any_rate, environments.control_rate(made))
        if not _same(environments.control_rate(made), wanted):
            made = _at_rate(made, id, kwargs, wanted, options)
        if hardware is not None:
            made = _with_actuators(made, id, hardware)
    except Exception:
        made.close()
        raise
    return Robot(made, id, environments.control_rate(made), hardware)


def check_rate(policy: DeployablePolicy, rate: float | None, any_rate: bool = False) -> None:
    """Refuse another rate than the policy's.

    Raises:
        DeployError: they differ, and `any_rate` is off.
    """
    own = policy.task.control_rate if policy.task else None
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise DeployError(f"the control rate must be above 0 Hz, got {rate:g}")
    if own is None or rate is None or _same(own, rate):
        return
    message = (
        f"the policy was trained at {own:g} Hz and would act at {rate:g} Hz; its actions would "
        f"last {own / rate:.3g} times as long as it has learned"
    )
    if not any_rate:
        raise DeployError(f"{message}. Leave --rate away, or insist with --any-rate.")
    warnings.warn(message, DeployWarning, stacklevel=2)


def _wanted_rate(
    policy: DeployablePolicy, rate: float | None, any_rate: bool, env_rate: float | None
) -> float | None:
    """The rate of robot and loop."""
    check_rate(policy, rate, any_rate)
    own = policy.task.control_rate if policy.task else None
    if rate is None and any_rate:
        check_rate(policy, env_rate, any_rate)
        return env_rate
    return rate or own or env_rate


def _at_rate(
    made: environments.Env,
    id: str,
    kwargs: Mapping[str, Any],
    rate: float | None,
    options: Mapping[str, Any],
) -> environments.Env:
    """The same environment with as many physics steps in a control step as the rate asks for."""
    assert rate is not None, "an environment without a rate is taken at any"
    env_rate = environments.control_rate(made)
    model = getattr(made.unwrapped, "model", None)
    timestep = getattr(getattr(model, "opt", None), "timestep", None)
    made.close()
    problem = (
        f"{id} takes an action every {1 / (env_rate or math.nan):.4g} s ({env_rate:g} Hz), not at "
        f"{rate:g} Hz"
    )
    if timestep is None:
        raise DeployError(f"{problem}, and its rate cannot be changed")
    skip = max(round(1 / (rate * timestep)), 1)
    if not _same(1 / (skip * timestep), rate):
        possible = ", ".join(f"{1 / (n * timestep):.4g}" for n in (1, 2, 3, 4, 5))
        raise DeployError(
            f"{problem}; with physics steps of {timestep:g} s it can run at {possible}, … Hz"
        )
    try:
        return environments.make(id, {**kwargs, "frame_skip": skip}, **options)
    except NprobotError as error:
        raise DeployError(f"{problem}, and it takes no `frame_skip`: {error}") from error


def _with_actuators(made: environments.Env, id: str, hardware: str) -> environments.Env:
    from nprobot.envs import NoisyActuators

    if not isinstance(made.action_space, spaces.Box):
        raise DeployError(f"{id} has discrete actions; --hardware is for motors")
    try:
        return NoisyActuators(made, hardware)
    except ActuatorError as error:
        raise DeployError(f"--hardware: {error}") from error


def _same(a: float | None, b: float | None) -> bool:
    return a is None or b is None or abs(a - b) <= SAME_RATE * b
