"""Tasks by name, for the command line: `nprobot fit --task NAME`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from ...errors import DataError
from .data import Dataset
from .generate import Recording, forward_kinematics, inverse_dynamics, inverse_kinematics

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
            ("", None, "robot=: an MJCF file or a MuJoCo environment"),
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
        DataError: unknown task or setting.
    """
    if name not in TASKS:
        raise DataError(
            f"There is no task {name!r}{_nearest(name, TASKS)}; there are {', '.join(TASKS)}."
        )
    task = TASKS[name]
    unknown = [key for key in settings if key not in task.settings]
    if unknown:
        key = unknown[0]
        raise DataError(
            f"Task {name!r} has no setting {key!r}{_nearest(key, task.settings)}; it has "
            f"{', '.join(task.settings)}."
        )
    robot = settings.pop("robot", task.robot)
    if robot is None:
        raise DataError(
            f"Task {name!r} needs robot=: the path of an MJCF file or the id of a gymnasium "
            "environment that runs MuJoCo."
        )
    try:
        recording = Recording(
            **{key: settings.pop(key) for key in [*settings] if key in _RECORDING}
        )
        return task.generate(robot, recording, **settings)
    except TypeError as error:
        raise DataError(f"A setting of task {name!r} has the wrong type: {error}") from error


def _nearest(name: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
