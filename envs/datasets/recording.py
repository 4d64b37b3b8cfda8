"""Regression recorded from a robot's model: inverse dynamics, forward and inverse kinematics.

What was recorded lies on disk, under a hash of everything that it depends on.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, DataError, DataWarning, UnknownNameError
from ...options import Count, Options, Positive, Seed, Share
from ..dynamics import InverseDynamics, check_shift, shift
from ..trajectories import Trajectory, point_to_point, rhythmic, synergies
from .dataset import Dataset, Split
from .robot_models import RobotLike, RobotModel, active_constraints, find_robot

Array = NDArray[np.float64]
Columns = list[tuple[str, str]]
Rows = Callable[[list[Trajectory], bool], list[tuple[Array, Array]]]

#: Raised with every change that makes other data from the same settings.
GENERATOR = 1
_POSE: Columns = [
    *((axis, "m") for axis in ("x", "y", "z")),
    *((f"R{i}{j}", "") for j in (1, 2) for i in (1, 2, 3)),
]


@dataclass(frozen=True)
class Recording(Options):
    """What is recorded: how many trajectories of what kind, and of which joints.

    The shifted split repeats the test trajectories on the changed robot, so the two differ in the
    robot alone. Trajectories alternate between rhythmic and point-to-point in the given share.

    Attributes:
        train: number of training trajectories.
        validation: number of validation trajectories.
        test: number of test trajectories.
        duration: length of each, s.
        rate: samples a second, Hz.
        rhythmic: share of rhythmic trajectories, 0 to 1.
        synergy: share of each joint's motion that follows patterns common to all joints (see
            `nprobot.envs.trajectories.synergies`); the higher, the more correlated the inputs.
        speed: pace, as a share of the robot's speed limits.
        seed: the seed of all trajectories. More training trajectories leave the others as they are.
        joints: names of the joints that move; None: those that actuators drive.
        end_effector: a site or body; None: a site "end_effector", else the last moving body.

    Raises:
        ConfigError: (when made) a value is not allowed.
    """

    train: Count = 66
    validation: Count = 12
    test: Count = 12
    duration: Positive = 5.0
    rate: Positive = 100.0
    rhythmic: Share = 0.5
    synergy: Share = 0.8
    speed: Positive = 1.0
    seed: Seed = 0
    joints: tuple[str, ...] | None = None
    end_effector: str | None = None

    def check(self) -> None:
        """Refuse recordings without two rows."""
        if self.duration * self.rate < 2:
            raise ConfigError(
                f"{self.duration} s at {self.rate} Hz is less than two rows; record for longer."
            )


def inverse_dynamics(
    robot: RobotLike = "arm7",
    recording: Recording | None = None,
    *,
    payload: float | None = None,
    friction_scale: float = 1.5,
    cache: bool = True,
) -> Dataset:
    """Joint positions, velocities, accelerations → joint torques, by MuJoCo's `mj_inverse`.

    Columns are laid out as in SARCOS: all positions, all velocities, all accelerations; then all
    torques, friction and damping included. The robot moves in free space: no contacts, joint limits
    or equality constraints.

    Args:
        robot: "arm7", an MJCF file, a gymnasium MuJoCo environment's id, or a compiled model.
        recording: what to record; None: 66 + 12 + 12 trajectories of 5 s at 100 Hz.
        payload: what the shifted robot carries at its end effector, kg; None: 0.5 for our arm, for
            others 3 % of the mass that moves.
        friction_scale: factor on the shifted robot's joint friction.
        cache: keep the data on disk and use what lies there.

    Returns:
        Inputs (3 · joints) in rad, rad/s, rad/s² (m for slides), targets (joints) in N·m (N).
    """
    found, recording = _start(robot, recording)
    payload = found.payload if payload is None else payload
    check_shift(payload, friction_scale)

    def rows(trajectories: list[Trajectory], shifted: bool) -> list[tuple[Array, Array]]:
        # `InverseDynamics` copies the model, and `found.model` is ours alone.
        exact = InverseDynamics(found.model, found.dofs, found.qpos)
        if shifted:
            shift(
                exact.model,
                payload=payload,
                friction_scale=friction_scale,
                body=found.body,
                offset=found.offset,
            )
        return [
            (
                np.hstack([t.position, t.velocity, t.acceleration]),
                exact(t.position, t.velocity, t.acceleration),
            )
            for t in trajectories
        ]

    inputs = [
        (f"{name}{suffix}", f"{unit}{per}")
        for suffix, per in (("", ""), (".velocity", "/s"), (".acceleration", "/s²"))
        for name, unit in zip(found.joints, found.position_units, strict=True)
    ]
    targets = [
        (f"{name}.torque", "N·m") if unit == "rad" else (f"{name}.force", "N")
        for name, unit in zip(found.joints, found.position_units, strict=True)
    ]
    extra = {"payload": payload, "friction_scale": friction_scale}
    return _record("inverse-dynamics", found, recording, extra, inputs, targets, rows, cache)


def forward_kinematics(
    robot: RobotLike = "arm7",
    recording: Recording | None = None,
    *,
    tool_shift: float = 0.05,
    cache: bool = True,
) -> Dataset:
    """Joint positions → pose of the end effector.

    The pose is the position and the first two columns of the rotation matrix, world frame: a
    continuous description of rotation (Zhou et al., "On the continuity of rotation representations
    in neural networks", CVPR 2019).

    Args:
        robot: as for `inverse_dynamics`.
        recording: as for `inverse_dynamics`.
        tool_shift: how much longer the shifted robot's tool is, along the end effector's z axis, m.
        cache: as for `inverse_dynamics`.

    Returns:
        Inputs (joints) in rad (m for slides), targets (9) in m and without unit.
    """
    found, recording = _start(robot, recording)

    def rows(trajectories: list[Trajectory], shifted: bool) -> list[tuple[Array, Array]]:
        tip = _Tip(found, tool_shift if shifted else 0.0)
        return [(t.position, tip(t.position)) for t in trajectories]

    inputs = list(zip(found.joints, found.position_units, strict=True))
    extra = {"tool_shift": _finite("tool_shift", tool_shift)}
    return _record("forward-kinematics", found, recording, extra, inputs, _POSE, rows, cache)


def inverse_kinematics(
    robot: RobotLike = "arm7",
    recording: Recording | None = None,
    *,
    lookahead: float = 0.5,
    tool_shift: float = 0.05,
    cache: bool = True,
) -> Dataset:
    """Desired pose of the end effector and current joint positions → joint positions.

    The desired pose is the one that the trajectory reaches after `lookahead`. The current positions
    make the answer of a redundant arm unique enough to be learned.

    Args:
        robot: as for `inverse_dynamics`.
        recording: as for `inverse_dynamics`; rows are those that have a future within it.
        lookahead: how far ahead the desired pose lies, s.
        tool_shift: as for `forward_kinematics`.
        cache: as for `inverse_dynamics`.

    Returns:
        Inputs (9 + joints) in m, without unit and in rad, targets (joints) in rad (m for slides).
    """
    found, recording = _start(robot, recording)
    ahead = round(_finite("lookahead", lookahead) * recording.rate)
    steps = round(recording.duration * recording.rate)
    if not 1 <= ahead < steps:
        raise ConfigError(
            f"lookahead must be at least one step and shorter than a recording: between "
            f"{1 / recording.rate} and {(steps - 1) / recording.rate} s; got {lookahead}."
        )

    def rows(trajectories: list[Trajectory], shifted: bool) -> list[tuple[Array, Array]]:
        tip = _Tip(found, tool_shift if shifted else 0.0)
        return [
            (np.hstack([tip(t.position[ahead:]), t.position[:-ahead]]), t.position[ahead:])
            for t in trajectories
        ]

    joints = list(zip(found.joints, found.position_units, strict=True))
    inputs = [*((f"desired.{name}", unit) for name, unit in _POSE), *joints]
    targets = [(f"{name}.desired", unit) for name, unit in joints]
    extra = {"lookahead": lookahead, "tool_shift": _finite("tool_shift", tool_shift)}
    return _record("inverse-kinematics", found, recording, extra, inputs, targets, rows, cache)


class _Tip:
    """Poses (rows, 9) of a robot's end effector at joint positions (rows, joints)."""

    def __init__(self, robot: RobotModel, tool_shift: float) -> None:
        self.robot, self.data = robot, mujoco.MjData(robot.model)
        self.offset = robot.offset + tool_shift * robot.rotation[:, 2]

    def __call__(self, position: Array) -> Array:
        robot, data = self.robot, self.data
        mujoco.mj_resetData(robot.model, data)
        place, turn = data.xpos[robot.body], data.xmat[robot.body]
        pose = np.empty((len(position), 9))
        for row, q in zip(pose, position, strict=True):
            data.qpos[robot.qpos] = q
            mujoco.mj_kinematics(robot.model, data)
            axes = turn.reshape(3, 3)
            row[:3] = place + axes @ self.offset
            row[3:] = (axes @ robot.rotation)[:, :2].T.reshape(6)
        return pose


def _finite(name: str, value: float) -> float:
    if not np.isfinite(value):
        raise ConfigError(f"{name} must be a finite number; got {value}.")
    return float(value)


def _start(robot: RobotLike, recording: Recording | None) -> tuple[RobotModel, Recording]:
    recording = recording or Recording()
    found = find_robot(robot, joints=recording.joints, end_effector=recording.end_effector)
    if constraints := active_constraints(found.model):
        warnings.warn(
            f"{found.name} has {len(constraints)} equality constraint(s), "
            f"{', '.join(constraints)}. Recordings move its joints as if there were none: torques "
            "lack the forces of the constraints, and poses do not keep to them. What is learned is "
            "the open chain, not the robot.",
            DataWarning,
            stacklevel=3,
        )
    return found, recording


def _trajectories(robot: RobotModel, recording: Recording) -> dict[str, list[Trajectory]]:
    limits = robot.limits.scaled(recording.speed)
    mixing = synergies(len(limits), recording.synergy)
    counts = {name: getattr(recording, name) for name in ("train", "validation", "test")}
    seeds = np.random.SeedSequence(recording.seed).spawn(len(counts))
    drawn = {}
    for (name, count), parent in zip(counts.items(), seeds, strict=True):
        share = recording.rhythmic
        drawn[name] = [
            # The share is kept in every run of trajectories, not just on average.
            (rhythmic if int((i + 1) * share) > int(i * share) else point_to_point)(
                np.random.default_rng(seed),
                limits,
                duration=recording.duration,
                rate=recording.rate,
                mixing=mixing,
            )
            for i, seed in enumerate(parent.spawn(count))
        ]
    return drawn


def _record(
    task: str,
    robot: RobotModel,
    recording: Recording,
    extra: dict[str, Any],
    inputs: Columns,
    targets: Columns,
    rows: Rows,
    cache: bool,
) -> Dataset:
    versions = {
        "generator": GENERATOR,
        "mujoco": mujoco.__version__,
        "numpy": np.__version__,
    }
    settings = {
        "task": task,
        "robot": robot.fingerprint,
        "recording": asdict(recording),
        **extra,
        "versions": versions,
    }

    def build() -> Dataset:
        trajectories = _trajectories(robot, recording)
        splits, first = {}, 0
        for name, drawn in trajectories.items():
            splits[name] = _split(rows(drawn, False), first)
            if name == "test":
                splits["shifted"] = _split(rows(drawn, True), first)
            first += len(drawn)
        meta = {
            "task": task,
            "robot": robot.name,
            "joints": robot.joints,
            "rate": recording.rate,
            "split": "by trajectory; the shifted split repeats the test trajectories",
            "settings": settings,
            "settings_hash": _settings_hash(settings),
            "versions": {
                **versions,
                "nprobot": metadata.version("nprobot"),
                "python": platform.python_version(),
            },
        }
        input_names, input_units = zip(*inputs, strict=True)
        target_names, target_units = zip(*targets, strict=True)
        return Dataset(
            **splits,
            input_names=input_names,
            input_units=input_units,
            target_names=target_names,
            target_units=target_units,
            meta=meta,
        )

    data = _cached(task, settings, build) if cache else build()
    # Not part of what is kept: the same robot may lie elsewhere the next time.
    return replace(data, meta={**data.meta, "model": robot.file})


def _split(parts: list[tuple[Array, Array]], first: int) -> Split:
    return Split(
        np.concatenate([x for x, _ in parts]),
        np.concatenate([y for _, y in parts]),
        np.repeat(np.arange(first, first + len(parts)), [len(x) for x, _ in parts]),
    )


_RECORDING = {field.name for field in fields(Recording)}


@dataclass(frozen=True)
class Task:
    """A named regression task.

    Attributes:
        name: as the command line knows it.
        description: one line.
        generate: what records it.
        robot: the robot, or None where the user must name one with `robot=`.
    """

    name: str
    description: str
    generate: Callable[..., Dataset]
    robot: str | None

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings that `make` takes for this task."""
        own = set(inspect.signature(self.generate).parameters) - {"recording"}
        return tuple(sorted((own - ({"robot"} if self.robot else set())) | _RECORDING))


_KINDS: dict[str, tuple[Callable[..., Dataset], str]] = {
    "inverse-dynamics": (
        inverse_dynamics,
        "joint positions, velocities and accelerations → torques",
    ),
    "forward-kinematics": (forward_kinematics, "joint positions → pose of the end effector"),
    "inverse-kinematics": (
        inverse_kinematics,
        "desired pose and current positions → joint positions",
    ),
}

#: Every task: those of our arm (`arm-…`), and the same of any robot, named with `robot=`.
TASKS: Mapping[str, Task] = MappingProxyType(
    {
        name: Task(name, f"{words} ({whose})", generate, robot)
        for prefix, robot, whose in (
            ("arm-", "arm7", "seven-joint arm"),
            ("", None, "any robot: an MJCF file or a MuJoCo environment"),
        )
        for name, (generate, words) in (
            (f"{prefix}{kind}", entry) for kind, entry in _KINDS.items()
        )
    }
)


def make(name: str, **settings: Any) -> Dataset:
    """The data of a named task.

    Args:
        name: a key of `TASKS`.
        settings: fields of `Recording` (`train`, `seed`, …) and arguments of the task's function
            (`payload`, `cache`, …); see `TASKS[name].settings`.

    Raises:
        UnknownNameError: there is no such task or setting.
        ConfigError: a value is not allowed, or there is no robot.
        RobotError: the robot cannot be used.
    """
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    task = TASKS[name]
    for key in settings:
        if key not in task.settings:
            raise UnknownNameError(f"setting of task {name}", key, task.settings)
    robot = settings.pop("robot", task.robot)
    if robot is None:
        raise ConfigError(
            f"Task {name!r} needs a robot: the path of an MJCF file or the id of a gymnasium "
            "environment that runs MuJoCo."
        )
    recording = Recording(**{key: settings.pop(key) for key in [*settings] if key in _RECORDING})
    try:
        return task.generate(robot, recording, **settings)
    except TypeError as error:
        raise ConfigError(f"A setting of task {name!r} has the wrong type: {error}") from error


def cache_folder() -> Path:
    """Where nprobot keeps what it can make again.

    `NPROBOT_CACHE`, else `nprobot` in `XDG_CACHE_HOME`, else the platform's cache folder.
    """
    if chosen := os.environ.get("NPROBOT_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser() / "nprobot"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nprobot"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        return Path(local) / "nprobot" / "Cache"
    return Path.home() / ".cache" / "nprobot"


def _settings_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings that JSON can hold, whatever their order."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _cached(name: str, settings: Mapping[str, Any], build: Callable[[], Dataset]) -> Dataset:
    """The data set of `settings`: from disk where a sound copy lies there, else built and stored.

    Safe with several processes: each writes its own file and renames it into place. A damaged file
    is reported and replaced; a folder that cannot be written costs a warning and no data.

    Args:
        name: start of the file name.
        settings: everything the data depends on; `build` must put their hash in `meta`.
        build: makes the data set.
    """
    key = _settings_hash(settings)
    path = cache_folder() / "datasets" / f"{name}-{key[:20]}.npz"
    if path.exists():
        try:
            found = Dataset.load(path)
            if found.meta.get("settings_hash") == key:
                return found
            problem = "it holds other settings than its name says"
        except DataError as error:
            problem = str(error)
        warnings.warn(
            f"The cached data set {path} cannot be used and is made again: {problem}",
            DataWarning,
            stacklevel=4,
        )
    built = build()
    try:
        built.save(path)
    except OSError as error:
        warnings.warn(
            f"The data set could not be stored in {path.parent} ({error}); it will be made again "
            "next time. Set NPROBOT_CACHE to a folder that can be written.",
            DataWarning,
            stacklevel=4,
        )
    return built
