"""Gymnasium environments by id: found with near matches, made with plain errors, described."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import FlattenObservation

from nprobot.catalogue import named_object
from nprobot.envs import NoisyActuators
from nprobot.errors import (
    ActuatorError,
    ConfigError,
    EnvironmentFailedError,
    EnvironmentUnavailableError,
    NprobotError,
    UnknownNameError,
)

Env = gymnasium.Env[Any, Any]

PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "gymnasium_robotics": ("Fetch", "Hand", "Adroit", "Franka", "PointMaze", "AntMaze"),
    "shimmy": ("dm_control/",),
    "metaworld": ("Meta-World/",),
}
"""Packages that register environments when they are imported, and how the names of those begin."""
WRAPPER, LIMIT = "wrapper", "max_episode_steps"
"""Arguments of an environment that are not its constructor's."""
CAMERA = {"camera_id", "camera_name", "default_camera_config"}
"""Arguments by which a user says where to look from."""


def find_spec(env_id: str) -> EnvSpec:
    """The registration of an environment.

    Args:
        env_id: gymnasium id, also in the form ``module:id``, which imports the module first. What
            the packages of `PROVIDERS` register is found without.

    Raises:
        UnknownNameError: it is not registered; with near matches.
        EnvironmentUnavailableError: the module cannot be imported.
    """
    module, _, name = env_id.rpartition(":")
    if not module and name not in gymnasium.registry:
        _import_provider(name)
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise EnvironmentUnavailableError(
                f"environment {env_id!r} needs the module {module!r}: {error}"
            ) from error
    if name not in gymnasium.registry:
        hint = "`nprobot envs` lists all."
        raise UnknownNameError("environment", name, [s.id for s in newest_versions()], hint)
    return gymnasium.registry[name]


def _import_provider(name: str) -> None:
    """Import the package that registers an environment, if it is one of a known family.

    Raises:
        EnvironmentUnavailableError: the package is not installed.
    """
    for package, beginnings in PROVIDERS.items():
        if not name.startswith(beginnings):
            continue
        try:
            module = importlib.import_module(package)
        except ImportError as error:
            raise EnvironmentUnavailableError(
                f"environment {name!r} needs `pip install 'nprobot[robots]'` ({error})"
            ) from error
        if package == "gymnasium_robotics":
            from nprobot.envs.gymnasium_robotics import compare_joints_as_numbers

            compare_joints_as_numbers()
        gymnasium.register_envs(module)


def newest_versions() -> list[EnvSpec]:
    """The registered environments, each in its newest version."""
    newest: dict[tuple[str | None, str], EnvSpec] = {}
    for spec in gymnasium.registry.values():
        other = newest.setdefault((spec.namespace, spec.name), spec)
        if (spec.version or 0) > (other.version or 0):
            newest[spec.namespace, spec.name] = spec
    return list(newest.values())


def make(
    env_id: str,
    kwargs: Mapping[str, Any] | None = None,
    actuators: str | None = None,
    actuators_seed: Sequence[int] | None = None,
    sensor: str | None = None,
    **options: Any,
) -> Env:
    """Make one environment, with noisy actuators before it if asked for.

    A robot that randomises its actuators itself has those where no others are asked for.
    Observations of several parts become one vector, parts in the order of their names.

    Args:
        env_id: gymnasium id.
        kwargs: arguments of the environment's constructor; ``max_episode_steps``, and ``wrapper``:
            names ``module:Class`` of wrappers to put around it, the innermost first, with commas.
        actuators: preset of `nprobot.envs.NoisyActuators`; None for none.
        actuators_seed: what their secret noise follows from; None: from the seed of the reset.
        sensor: preset of the sensor that tells what they did; None for none.
        **options: further arguments of `gymnasium.make`, such as ``render_mode``.

    Raises:
        UnknownNameError: it is not registered.
        EnvironmentUnavailableError: something it needs is not installed, it does not take an
            argument, or it has no actuators that could be noisy.
    """
    find_spec(env_id)
    arguments = {**(kwargs or {}), **options}
    wrappers = [
        named_object(name.strip(), "wrapper")
        for name in str(arguments.pop(WRAPPER, "")).split(",")
        if name
    ]
    try:
        env = _with_limit(env_id, arguments)
        for wrapper in wrappers:
            env = wrapper(env)
        if isinstance(env.observation_space, spaces.Dict | spaces.Tuple):
            env = FlattenObservation(env)
        if actuators is None:
            models = getattr(env.unwrapped, "randomised_actuators", None)
        else:
            models = actuators
        if options.get("render_mode") == "rgb_array" and not CAMERA & arguments.keys():
            _follow_robot(env)
        if models is None:
            return env
        seed = None if actuators_seed is None else np.random.SeedSequence(list(actuators_seed))
        return NoisyActuators(env, models, sensor=sensor, seed=seed)
    except (gymnasium.error.Error, ImportError, TypeError, ActuatorError) as error:
        raise EnvironmentUnavailableError(
            f"environment {env_id!r} cannot be made: {error}"
        ) from error
    except NprobotError:
        raise
    except Exception as error:  # whatever the environment's own code raises
        raise EnvironmentUnavailableError(str(failure(f"environment {env_id!r}", error))) from error


def _with_limit(env_id: str, arguments: Mapping[str, Any]) -> Env:
    """The environment; told how long its episodes are where that is asked for.

    An environment that ends its episodes itself gets a second limit, the shorter of the two counts.
    """
    steps = arguments.get(LIMIT)
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ConfigError(f"{LIMIT} must be a whole number of 1 or more, got {steps!r}")
    env: Env = gymnasium.make(env_id, **arguments)
    return env


def _follow_robot(env: Env) -> None:
    """Look through the camera that follows the robot, if its model has one and none is chosen.

    gymnasium 1.4 looks from a fixed place instead, and a robot that walks leaves the picture.
    """
    robot: Any = env.unwrapped
    if not hasattr(robot, "mujoco_renderer") or robot.mujoco_renderer.camera_id >= 0:
        return
    import mujoco

    camera = mujoco.mj_name2id(robot.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    if camera >= 0:
        robot.mujoco_renderer.camera_id = camera


@contextmanager
def reporting_failure(who: str) -> Iterator[None]:
    """Turn whatever an environment raises here into an `EnvironmentFailedError` of one line."""
    try:
        yield
    except NprobotError:
        raise
    except Exception as error:
        raise failure(who, error) from error


def failure(who: str, error: Exception) -> EnvironmentFailedError:
    """What an environment raised, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return EnvironmentFailedError(f"{who} raised {type(error).__name__} ({where}): {error}")


def check_spaces(env: Env, *, continuous: bool = False) -> None:
    """Refuse an environment that no policy here can control, before any work is done.

    Args:
        env: the environment.
        continuous: whether the algorithm takes bounded continuous actions alone.

    Raises:
        EnvironmentUnavailableError: observations are not a `Box` of real numbers, or actions not
            `Box`, `Discrete` or `MultiDiscrete`.
    """
    observation, action = env.observation_space, env.action_space
    if not isinstance(observation, spaces.Box) or observation.dtype.kind != "f":
        raise EnvironmentUnavailableError(
            f"observations of this environment are {observation}; policies here take vectors of "
            "real numbers (Box). Wrap it, for example in FlattenObservation."
        )
    if not isinstance(action, spaces.Box | spaces.Discrete | spaces.MultiDiscrete):
        raise EnvironmentUnavailableError(
            f"actions of this environment are {action}; policies here give Box, Discrete or "
            "MultiDiscrete actions"
        )
    if isinstance(action, spaces.Box) and (flat := np.flatnonzero(action.low >= action.high)).size:
        raise EnvironmentUnavailableError(
            f"actions {', '.join(map(str, flat))} of this environment have no width: "
            f"{action.low.flat[flat[0]]:g} to {action.high.flat[flat[0]]:g}. Give the actuators of "
            "its model a ctrlrange; or train the model by --robot FILE, which finds one."
        )
    if continuous and not (isinstance(action, spaces.Box) and action.is_bounded()):
        raise EnvironmentUnavailableError(
            f"actions of this environment are {action}; this algorithm takes continuous actions "
            "between bounds. Train it with --algo ppo."
        )


def control_rate(env: Env) -> float | None:
    """How often the environment takes an action, Hz of simulated time.

    Its frame rate where it does not say how long a step is; None if it has neither.
    """
    inner = env.unwrapped
    for name in ("dt", "tau"):
        step = getattr(inner, name, None)
        if isinstance(step, int | float) and step > 0:
            return float(1 / step)
    rate = inner.metadata.get("render_fps")
    return float(rate) if rate else None


def silence_mujoco() -> None:
    """Show each kind of MuJoCo warning once instead of at every step and for every environment.

    Without this MuJoCo also writes `MUJOCO_LOG.TXT` into the working directory.
    """
    import mujoco

    seen: set[str] = set()

    def show(text: str) -> None:
        kind = text.partition(" Time =")[0]
        # Gymnasium's models still use attributes that MuJoCo means to drop; not a user's business.
        if kind not in seen and "is deprecated" not in kind:
            print(f"MuJoCo: {text.strip()}", file=sys.stderr)
        seen.add(kind)

    mujoco.set_mju_user_warning(show)
