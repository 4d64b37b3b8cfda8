"""What a robot is to do: frozen options, ready-made for five tasks, from and to TOML."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta

from ...errors import ConfigError, UnknownNameError
from ...options import Count, NotNegative, Options, Positive, Share

TaskName = Literal["velocity", "stand", "reach", "track", "hover"]
TASKS: Mapping[TaskName, str] = {
    "velocity": "walk, hop or drive at a commanded velocity",
    "stand": "stay upright in the home posture, whatever pushes",
    "reach": "bring the end effector to a commanded point",
    "track": "follow joint trajectories, by feed-forward to servos or motors",
    "hover": "fly to a commanded point and stay there",
}
Bounds = tuple[float, float]
Ends = Literal["fall", "success"]
TerrainKind = Literal["none", "slopes", "steps", "rough", "mixed"]


@dataclass(frozen=True)
class StartOptions(Options):
    """Where episodes start.

    Attributes:
        keyframe: name of a keyframe; None: "home", else the first, else the initial posture.
        pose: positions of joints that differ from that, by name, rad or m.
        joint_noise: largest displacement of a joint, rad or m.
        velocity_noise: largest speed of a joint, rad/s or m/s.
        tilt_noise: largest tilt of a free base, rad.
        speed_noise: largest speed of a free base, m/s along each axis.
    """

    keyframe: str | None = None
    pose: dict[str, float] = field(default_factory=dict)
    joint_noise: NotNegative = 0.05
    velocity_noise: NotNegative = 0.1
    tilt_noise: NotNegative = 0.0
    speed_noise: NotNegative = 0.0


@dataclass(frozen=True)
class ActionOptions(Options):
    """What an action of ±1 means.

    Attributes:
        scale: how far from home a position servo is sent, rad or m (rad at the joint).
        effort: share of its range that a motor gives.
        servo: hold joints that motors drive by position servos made of them.
        stiffness: of those servos, N·m/rad; None: half as much again as the motor's force.
        damping: damping ratio that servos on joints have at least, integrated implicitly; 0: all as
            in the model.
        gravity_compensation: carry the robot's weight, as the torque interfaces of arms do.
    """

    scale: Positive = 0.3
    effort: Annotated[float, Meta(gt=0, le=1)] = 1.0
    servo: bool = False
    stiffness: Positive | None = None
    damping: NotNegative = 0.0
    gravity_compensation: bool = False


@dataclass(frozen=True)
class CommandOptions(Options):
    """What is asked of the robot, and when it changes.

    Attributes:
        ranges: by name; empty: what suits the robot's size.
        every: seconds between two commands; None: one an episode.
        zero: share of commands that are zero.
        grow: begin with a part of the ranges, and widen them as they are mastered.
    """

    ranges: dict[str, Bounds] = field(default_factory=dict)
    every: Positive | None = None
    zero: Share = 0.0
    grow: bool = False

    def check(self) -> None:
        """Refuse ranges whose ends are in the wrong order."""
        for name, (low, high) in self.ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ConfigError(f"command.ranges.{name} must be [low, high], got [{low}, {high}]")


@dataclass(frozen=True)
class EndOptions(Options):
    """When an episode ends before its time.

    Attributes:
        on: "fall" (or a flight out of bounds), "success".
        tilt: of the base that is a fall, rad.
        height: of the base, as a share of that at home, below which it is a fall.
        distance: m, from the commanded point, that is out of bounds (hover).
        tolerance: m, from the commanded point, that counts as there (reach, hover).
        hold: seconds there that are a success.
    """

    on: tuple[Ends, ...] = ("fall",)
    tilt: Positive = 1.0
    height: Share = 0.5
    distance: Positive = 3.0
    tolerance: Positive = 0.05
    hold: NotNegative = 0.5


@dataclass(frozen=True)
class TerrainOptions(Options):
    """The ground.

    Attributes:
        kind: the model's own, or a field of slopes, of steps, of rough ground, or of all three.
        roughness: of the hardest ground: height of a step as a share of the base's, and slope.
        levels: from flat to the hardest.
        curriculum: start flat; a robot that gets along meets harder ground next time.
    """

    kind: TerrainKind = "none"
    roughness: Positive = 0.3
    levels: Count = 5
    curriculum: bool = True


@dataclass(frozen=True)
class RandomiseOptions(Options):
    """How much the robot differs from its model, drawn anew for each episode.

    Attributes:
        on: whether it does.
        mass: factors on the mass of each body, from … to.
        centre_of_mass: largest displacement of the base's, m.
        friction: factors on that of everything that touches.
        gains: factors on the servos' stiffness and the motors' strength.
        damping: factors on that of the joints, friction included.
        push: largest change of the base's velocity by a push, m/s.
        push_every: seconds between two pushes.
        sensor_noise: factor on the noise of the sensors (see `robot_sensing.PARTS`).
        actuators: also put noisy, slow actuators before it.
    """

    on: bool = False
    mass: Bounds = (0.85, 1.15)
    centre_of_mass: NotNegative = 0.01
    friction: Bounds = (0.6, 1.4)
    gains: Bounds = (0.85, 1.15)
    damping: Bounds = (0.7, 1.3)
    push: NotNegative = 0.3
    push_every: Positive = 5.0
    sensor_noise: NotNegative = 1.0
    actuators: bool = True

    def check(self) -> None:
        """Refuse factors that no robot can have."""
        for name in ("mass", "friction", "gains", "damping"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ConfigError(f"randomise.{name} must be 0 < low ≤ high, got {low} to {high}")


@dataclass(frozen=True)
class TrackOptions(Options):
    """The references of the tracking task.

    Attributes:
        motion: rhythmic, point-to-point, or each episode one of the two.
        speed: pace, as a share of the joints' limits.
        synergy: share of the joints' motion that follows common patterns.
    """

    motion: Literal["mixed", "rhythmic", "point-to-point"] = "mixed"
    speed: Annotated[float, Meta(gt=0, le=1)] = 1.0
    synergy: Share = 0.8


@dataclass(frozen=True)
class RobotTask(Options):
    """A task for any robot.

    Attributes:
        task: velocity, stand, reach, track or hover.
        control_rate: actions a second, Hz; rounded to whole physics steps.
        duration: of an episode, s.
        timestep: of the physics, s; None: the model's.
        observations: parts of the observation, by name (see `robot_sensing.PARTS`).
        history: how many steps an observation shows, the newest first.
        privileged: parts that the critic sees and the actor does not.
        floor: the least that a step is worth; 0 keeps a robot from falling to end its costs.
        reward: weights of reward terms, by name; ``module:function`` for one of your own.
        start: see `StartOptions`; so are the others.

    Raises:
        ConfigError: a value is not allowed.
        UnknownNameError: there is no option, or no task, of that name.
    """

    task: TaskName = "velocity"
    control_rate: Positive = 50.0
    duration: Positive = 20.0
    timestep: Positive | None = None
    observations: tuple[str, ...] = ()
    history: Count = 1
    privileged: tuple[str, ...] = ()
    floor: float = -1.0
    reward: dict[str, float] = field(default_factory=dict)
    start: StartOptions = field(default_factory=StartOptions)
    actions: ActionOptions = field(default_factory=ActionOptions)
    command: CommandOptions = field(default_factory=CommandOptions)
    ends: EndOptions = field(default_factory=EndOptions)
    terrain: TerrainOptions = field(default_factory=TerrainOptions)
    randomise: RandomiseOptions = field(default_factory=RandomiseOptions)
    track: TrackOptions = field(default_factory=TrackOptions)

    def with_settings(self, settings: Mapping[str, Any]) -> RobotTask:
        """The task with some options set.

        Args:
            settings: by name, such as ``control_rate`` or ``reward.energy``; tables may be nested.
                Values may be text that TOML would read, such as ``"[-1, 1]"``.

        Raises:
            UnknownNameError: there is no such option.
            ConfigError: a value is not allowed.
        """
        values = self.to_dict()
        for name, value in _flat(settings).items():
            _put(values, name.split("."), value, name)
        return type(self).from_dict(values)

    def to_toml(self) -> str:
        """The task as TOML that `load_task` reads."""
        return _toml(self.to_dict())


TaskLike: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | RobotTask"
#: Tables whose keys are names of the user's choice.
_OPEN = ("reward", "ranges", "pose")


def load_task(task: TaskLike, fallback: str | None = None) -> RobotTask:
    """A task from what a user has.

    Args:
        task: its name, a TOML file or its text, a mapping, or a task. A table need not be complete:
            what it leaves out is as in the ready-made task of its name.
        fallback: name of the task where a table does not say.

    Raises:
        UnknownNameError: there is no such task or option.
        ConfigError: the file is not there or no TOML, or a value is not allowed.
    """
    if isinstance(task, RobotTask):
        return task
    if isinstance(task, Mapping):
        table = dict(task)
    else:
        text = os.fspath(task)
        if text in TASKS:
            return ready_made(text)
        if "=" not in text:
            path = Path(text).expanduser()
            if path.suffix != ".toml":
                hint = f"Known: {', '.join(TASKS)}; or give a .toml file."
                raise UnknownNameError("task", text, TASKS, hint)
            if not path.is_file():
                raise ConfigError(f"there is no task file {text}")
            text = path.read_text(encoding="utf-8")
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"the task is no TOML: {error}") from None
    name = table.pop("task", fallback or "velocity")
    weights = table.get("reward")
    chosen = ready_made(str(name)).with_settings(table)
    if isinstance(weights, Mapping):
        # A table of weights says all of them: a term that it leaves out is not wanted.
        wanted = {n: w for n, w in chosen.reward.items() if n in weights}
        chosen = chosen.replace(reward=wanted)
    return chosen


_BASE = ("linear_velocity", "angular_velocity", "gravity")
_BODY = ("joint_positions", "joint_velocities", "last_action")


def ready_made(name: str) -> RobotTask:
    """The task of a name, with weights that work with stable-baselines3's settings.

    Raises:
        UnknownNameError: there is no such task.
    """
    if name == "velocity":
        return RobotTask(
            task="velocity",
            observations=(*_BASE, *_BODY, "command"),
            floor=0.0,
            reward={
                **{
                    "alive": 0.25,
                    "velocity": 1.0,
                    "turn": 0.4,
                    "bounce": -0.5,
                    "rocking": -0.01,
                    "tilt": -1.0,
                },
                **{"energy": -0.03, "action_rate": -0.03, "joint_limits": -1.0, "pose": -0.3},
                **{"air_time": 0.5, "slip": -0.05},
            },
            command=CommandOptions(every=5.0, zero=0.1),
        )
    if name == "stand":
        return RobotTask(
            task="stand",
            duration=10.0,
            observations=(*_BASE, *_BODY),
            floor=0.0,
            reward={"upright": 0.5, "height": 0.3, "posture": 0.2, "energy": -0.03}
            | {"action_rate": -0.03, "rocking": -0.005},
            start=StartOptions(
                joint_noise=0.2, velocity_noise=0.5, tilt_noise=0.1, speed_noise=0.3
            ),
            randomise=RandomiseOptions(push=0.5, push_every=2.5),
        )
    if name == "reach":
        return RobotTask(
            task="reach",
            duration=4.0,
            observations=("joint_positions", "joint_velocities", "tip", "command", "tip_error"),
            reward={"distance": 1.0, "action_rate": -0.02, "action": -0.02, "joint_limits": -0.5},
            actions=ActionOptions(gravity_compensation=True, scale=1.5),
            ends=EndOptions(on=()),
        )
    if name == "track":
        return RobotTask(
            task="track",
            control_rate=100.0,
            duration=5.0,
            observations=("joint_angles", "joint_velocities", "reference"),
            reward={"tracking": 1.0, "action": -0.01},
            start=StartOptions(joint_noise=0.01, velocity_noise=0.0),
            ends=EndOptions(on=()),
        )
    if name == "hover":
        return RobotTask(
            task="hover",
            duration=8.0,
            observations=("tip_error", *_BASE, "heading", "last_action"),
            floor=0.0,
            reward={"alive": 0.25, "distance": 1.0, "spin": -0.003, "heading": -0.1, "tilt": -0.1}
            | {"action_rate": -0.02},
            start=StartOptions(tilt_noise=0.2, speed_noise=0.3, velocity_noise=0.3),
            actions=ActionOptions(effort=0.4),  # the whole thrust tips it over in a few steps
            command=CommandOptions(every=4.0),
            ends=EndOptions(tilt=1.5, tolerance=0.1),
        )
    raise UnknownNameError("task", name, TASKS, f"Known: {', '.join(TASKS)}.")


# -- tables ----------------------------------------------------------------------------------------


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value
    return flat


def _put(values: dict[str, Any], path: list[str], value: Any, name: str) -> None:  # noqa: ANN401
    """Set an option of a nested table in place; says what there is if there is no such option."""
    here, where = values, ""
    for index, part in enumerate(path):
        if part not in here and where.rstrip(".").rpartition(".")[2] in _OPEN:
            here[".".join(path[index:])] = _read(value)  # module names have dots
            return
        if part not in here:
            raise UnknownNameError("option of the task", name, [where + known for known in here])
        if index == len(path) - 1:
            if isinstance(here[part], dict):
                if part == "randomise" and isinstance(value, bool):
                    here[part]["on"] = value
                    return
                raise ConfigError(f"{name} is a table of {', '.join(here[part])}; set one of them")
            here[part] = _read(value)
            return
        if not isinstance(here[part], dict):
            raise UnknownNameError("option of the task", name, [where + known for known in here])
        here, where = here[part], f"{where}{part}."


def _read(value: Any) -> Any:  # noqa: ANN401
    """Text that stands for a list, as what it stands for."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            return value
    return value


def _toml(table: Mapping[str, Any], before: str = "") -> str:
    """A table as TOML; None is left out, as TOML has no word for it."""
    lines, tables = [], []
    for name, value in table.items():
        if value is None:
            continue
        key = name if name.replace("_", "").isalnum() else json.dumps(name)
        if isinstance(value, Mapping):
            tables.append(f"\n[{before}{key}]\n{_toml(value, f'{before}{key}.')}")
        elif isinstance(value, list | tuple):
            lines.append(f"{key} = {json.dumps(list(value))}\n")
        else:
            lines.append(f"{key} = {json.dumps(value)}\n")
    return "".join(lines + tables)


def option_names() -> list[str]:
    """All options of a task, such as ``command.every``."""

    def names(options: type[Any], before: str) -> list[str]:
        found = []
        for option in dataclasses.fields(options):
            inner = option.default_factory
            if isinstance(inner, type) and issubclass(inner, Options):
                found += names(inner, f"{before}{option.name}.")
            else:
                found.append(f"{before}{option.name}")
        return found

    return names(RobotTask, "")
