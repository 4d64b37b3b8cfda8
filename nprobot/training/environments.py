"""Gymnasium environments by id: found with near matches, made with plain errors, described."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.wrappers import FlattenObservation, FrameStackObservation

from nprobot.catalogue import named_object
from nprobot.envs import ActionChunks, NoisyActuators, time_step
from nprobot.errors import (
    ActuatorError,
    ConfigError,
    EnvironmentFailedError,
    EnvironmentUnavailableError,
    NprobotError,
    UnknownNameError,
)
from nprobot.user_code import described, import_named

Env = gymnasium.Env[Any, Any]

PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "gymnasium_robotics": ("Fetch", "Hand", "Adroit", "Franka", "PointMaze", "AntMaze"),
    "shimmy": ("dm_control/",),
    "metaworld": ("Meta-World/",),
}
"""Packages that register environments when they are imported, and how the names of those begin."""
WRAPPER, LIMIT = "wrapper", "max_episode_steps"
FRAMES, CHUNK = "frame_stack", "action_chunk"
AROUND = (WRAPPER, FRAMES, CHUNK)
"""Those of them that put something around the environment."""
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
            import_named(module)
        except ConfigError as error:
            raise EnvironmentUnavailableError(
                f"environment {env_id!r} cannot be made: {error}"
            ) from error
    if name not in gymnasium.registry:
        hint = "`nprobot envs` lists all."
        own = [s.id for s in gymnasium.registry.values() if module and _module_of(s) == module]
        if module:
            hint = f"The module {module!r} registers {', '.join(own) or 'none'}."
        raise UnknownNameError("environment", name, own or [s.id for s in newest_versions()], hint)
    return gymnasium.registry[name]


def check_kwargs(env_id: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments, from a file, that an environment does not take or should not be given.

    Raises:
        UnknownNameError: the environment's constructor has no such argument.
        ConfigError: a value is none that a file may ask for.
    """
    spec = find_spec(env_id)
    creator: Any = spec.entry_point
    if isinstance(creator, str):
        creator = load_env_creator(creator)
    parameters = {} if creator is None else dict(inspect.signature(creator).parameters)
    takes_all = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name, value in kwargs.items():
        if name == "render_mode":
            raise ConfigError(f"the policy says how {env_id} is drawn (render_mode); only you may")
        if name not in parameters and name not in FILE_BOUNDS and not takes_all:
            raise UnknownNameError(f"argument of {env_id}", name, [*parameters, *FILE_BOUNDS])
        most = FILE_BOUNDS.get(name)
        if most is not None and not (type(value) is int and 1 <= value <= most):
            raise ConfigError(
                f"the policy gives {env_id} the {name} {value!r:.40}; 1 to {most:,} is allowed"
            )
        if isinstance(value, str) and _leads_astray(value):
            raise ConfigError(
                f"the policy gives {env_id} the {name} {value!r:.200}, which is no file"
            )


def _leads_astray(value: str) -> bool:
    """Whether a word is the path of a pipe, a device, or a folder that no mere name means."""
    if os.path.isdir(value):  # a robot of the package may share its name with a folder here
        return os.path.dirname(value) != "" or os.path.splitext(value)[1] != ""
    return os.path.exists(value) and not os.path.isfile(value)


FILE_BOUNDS = {
    **{"max_episode_steps": 100_000, "frame_skip": 1000},
    **{"width": 4096, "height": 4096, "max_geom": 100_000},
    **{FRAMES: 1000, CHUNK: 1000},
}
"""Arguments with which a file could keep a machine busy, or fill it, and the most it may ask for.
All but the second are understood by `make`, or by every MuJoCo environment."""


def _module_of(spec: EnvSpec) -> str:
    """The module of an environment's class."""
    entry = spec.entry_point
    return entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")


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
        kwargs: arguments of the environment's constructor; ``max_episode_steps``; ``wrapper``:
            names ``module:Class`` of wrappers to put around it, the innermost first, with commas;
            ``frame_stack``: how many observations, the last ones, oldest first, make one;
            ``action_chunk``: how many actions are taken at once (`nprobot.envs.ActionChunks`).
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
    frames, chunk = (_whole(arguments, name) for name in (FRAMES, CHUNK))
    try:
        check_limit(arguments)
        env = _made(env_id, arguments)
        for wrapper in wrappers:
            env = wrapper(env)
        if isinstance(env.observation_space, spaces.Dict | spaces.Tuple):
            env = FlattenObservation(env)
        if frames > 1:
            env = with_history(env, frames)
        if actuators is None:
            models = getattr(env.unwrapped, "randomised_actuators", None)
        else:
            models = actuators
        if options.get("render_mode") == "rgb_array" and not CAMERA & arguments.keys():
            _follow_robot(env)
        if models is not None:
            seed = None if actuators_seed is None else np.random.SeedSequence(list(actuators_seed))
            env = NoisyActuators(env, models, sensor=sensor, seed=seed)
        return ActionChunks(env, chunk) if chunk > 1 else env
    except (gymnasium.error.Error, ImportError, ActuatorError) as error:
        raise EnvironmentUnavailableError(
            f"environment {env_id!r} cannot be made: {str(error) or repr(error)}"
        ) from error
    except NprobotError:
        raise
    except USERS_ERRORS as error:  # a constructor is a user's code, and may raise anything
        told = f"it raised {described(error)}"
        if unknown := re.search(r"unexpected keyword argument ('\w+')", str(error)):
            told = f"it takes no argument {unknown[1]}"
        raise EnvironmentUnavailableError(
            f"environment {env_id!r} cannot be made: {told}"
        ) from error


def make_vector_env(
    env_id: str, count: int, kwargs: Mapping[str, Any]
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Make environments of ours that are simulated at once.

    Args:
        env_id: gymnasium id of one that has a vector entry point.
        count: how many.
        kwargs: arguments of its vector environment.

    Raises:
        EnvironmentUnavailableError: it does not take an argument.
    """
    mode = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
    try:
        return gymnasium.make_vec(env_id, count, vectorization_mode=mode, **kwargs)
    except (gymnasium.error.Error, TypeError) as error:
        raise EnvironmentUnavailableError(
            f"environment {env_id!r} cannot be made {count} times: {error}"
        ) from error


def _whole(arguments: dict[str, Any], name: str) -> int:
    """Take a count out of arguments; 1 where it is not given."""
    count = arguments.pop(name, 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"{name} must be a whole number of 1 or more, got {count!r}")
    return count


def with_history(env: Env, frames: int) -> Env:
    """An environment whose observation is its last ones side by side, oldest first.

    Before the first one of an episode that is repeated.

    Raises:
        ConfigError: a part of the observation is for the critic alone, which would be mixed in.
    """
    if getattr(env.unwrapped, "privileged_size", 0):
        raise ConfigError(
            f"{FRAMES} does not go with privileged observations; the task's own history does"
        )
    return FlattenObservation(FrameStackObservation(env, frames, padding_type="reset"))


def _made(env_id: str, arguments: dict[str, Any]) -> Env:
    """An environment; one on MuJoCo need not draw itself to be filmed."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not in the possible render_modes.*")
            return gymnasium.make(env_id, **arguments)
    except Exception:
        if arguments.get("render_mode") != "rgb_array":
            raise
        blind = False
        with suppress(Exception):
            rest = {name: value for name, value in arguments.items() if name != "render_mode"}
            env = gymnasium.make(env_id, **rest)
            if hasattr(env.unwrapped, "model") and hasattr(env.unwrapped, "data"):
                return env
            env.close()
            blind = True
        if blind:
            raise EnvironmentUnavailableError(
                f"environment {env_id!r} draws no pictures (no rgb_array among its render modes), "
                "so there can be no film of it"
            ) from None
        raise


def check_limit(arguments: Mapping[str, Any]) -> None:
    """Refuse a step limit that is none.

    An environment that ends its episodes itself gets a second limit, the shorter of the two counts.
    """
    steps = arguments.get(LIMIT)
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ConfigError(f"{LIMIT} must be a whole number of 1 or more, got {steps!r}")


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
    except USERS_ERRORS as error:
        raise failure(who, error) from error


USERS_ERRORS = (Exception, SystemExit)
"""What an environment may raise; ``sys.exit()`` in one must not end a run without a word."""


def failure(who: str, error: BaseException) -> EnvironmentFailedError:
    """What an environment raised, in one line."""
    return EnvironmentFailedError(f"{who} raised {described(error)}")


def check_spaces(env: Env, *, continuous: bool = False) -> None:
    """Refuse an environment that no policy here can control, before any work is done.

    Args:
        env: the environment.
        continuous: whether the algorithm takes bounded continuous actions alone.

    Raises:
        EnvironmentUnavailableError: observations are not a `Box` of real numbers, or actions not
            `Box`, `Discrete`, `MultiDiscrete` or `MultiBinary`.
    """
    observation, action = env.observation_space, env.action_space
    if not isinstance(observation, spaces.Box) or observation.dtype.kind != "f":
        told = "Wrap it, for example in gymnasium's FlattenObservation."
        if isinstance(observation, spaces.Box) and len(observation.shape) == 3:
            told = "In Python, nprobot.PPO with stable-baselines3's CnnPolicy takes pictures."
        elif isinstance(observation, spaces.Dict):
            told = (
                "In Python, nprobot.PPO with stable-baselines3's MultiInputPolicy takes it; or "
                "wrap it in gymnasium's FlattenObservation."
            )
        raise EnvironmentUnavailableError(
            f"observations of this environment are {_short(observation)}; the command line takes "
            f"vectors of real numbers. {told}"
        )
    discrete = spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    if not isinstance(action, spaces.Box | discrete):
        raise EnvironmentUnavailableError(
            f"actions of this environment are {action}; policies here give Box, Discrete, "
            "MultiDiscrete or MultiBinary actions"
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


def _short(space: spaces.Space[Any], most: int = 200) -> str:
    text = str(space)
    return text if len(text) <= most else f"{text[:most]} …"


def control_rate(env: Env) -> float | None:
    """How often a policy acts in it, Hz of simulated time; None if it does not say.

    By `nprobot.envs.time_step`, which says what it reads; a chunk of actions is one act.
    """
    step = time_step(env.unwrapped)
    chunk = env.size if isinstance(env, ActionChunks) else 1
    return None if step is None else 1 / step.seconds / chunk


def silence_mujoco() -> None:
    """Show each kind of MuJoCo warning once instead of at every step and for every environment.

    Without this MuJoCo also writes `MUJOCO_LOG.TXT` into the working directory.
    """
    try:
        import mujoco
    # Loading it loads a drawing back end, which can fail for other reasons.
    except Exception as error:
        chosen = os.environ.get("MUJOCO_GL")
        told = (
            f" The variable MUJOCO_GL is {chosen!r}: unset it, or choose another." if chosen else ""
        )
        raise EnvironmentUnavailableError(f"MuJoCo cannot be loaded: {error}.{told}") from error

    seen: set[str] = set()

    def show(text: str) -> None:
        kind = text.partition(" Time =")[0]
        # Gymnasium's models still use attributes that MuJoCo means to drop; not a user's business.
        if kind not in seen and "is deprecated" not in kind:
            print(f"MuJoCo: {text.strip()}", file=sys.stderr)
        seen.add(kind)

    mujoco.set_mju_user_warning(show)
