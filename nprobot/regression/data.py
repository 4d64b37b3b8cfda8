"""Where the rows of a fit come from: a task by name, a file, a data set, or plain arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from numpy.typing import ArrayLike

from nprobot.errors import ConfigError
from nprobot.options import Count, Options, Positive

if TYPE_CHECKING:
    from nprobot.envs.datasets import Dataset

DEFAULT_TASK = "arm-inverse-dynamics"

Data: TypeAlias = "Dataset | tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike]"


@dataclass(frozen=True)
class Source(Options):
    """What to learn: a task by name, or a file.

    Raises:
        ConfigError: the options contradict each other.
    """

    task: str | None = None
    """Name of a task: arm-inverse-dynamics, which is also the default, arm-forward-kinematics,
    arm-inverse-kinematics; without arm- for the robot named by --robot."""
    robot: str | None = None
    """An MJCF file, or the id of a gymnasium MuJoCo environment."""
    task_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Settings of the task, as name value pairs: `train 200 synergy 0.9`."""
    data: tuple[Path, ...] = ()
    """Files instead of a task: tables of text (.csv, .tsv, .txt, .dat; what separates the columns,
    decimal commas, comments and units are found out), .parquet, .npz, .mat; or a folder with a
    Minari data set. Several files, or a pattern such as 'runs/*.csv', are a trajectory each."""
    test_data: tuple[Path, ...] = ()
    """Files with the test rows, of the same format."""
    inputs: tuple[str, ...] = ()
    """Columns (.npz, .mat: arrays) that are the inputs; patterns such as 'vel_*' name several."""
    targets: tuple[str, ...] = ()
    """Columns or arrays that are the targets."""
    trajectory: str | None = None
    """Column or array that says which recording a row belongs to, for a split without leaks."""
    time: str | None = None
    """Column of times, to check that rows follow each other evenly. Left out: one called time, t or
    timestamp."""
    rate: Positive | None = None
    """Rows a second, where no column tells."""
    derivatives: tuple[str, ...] = ()
    """Columns whose derivative in time is one more input, such as velocities where accelerations
    are missing; smoothed."""
    smoothing: Positive = 0.1
    """Seconds that a derivative is smoothed over (Savitzky-Golay)."""
    missing: Literal["refuse", "drop"] = "refuse"
    """What to do with rows that lack a number."""
    split: Literal["auto", "trajectory", "blocks", "rows"] = "auto"
    """How rows are split: whole trajectories, contiguous blocks, or single rows."""
    demonstrations: tuple[str, ...] = ()
    """What a robot saw and was told, to clone into a policy: flight records of nprobot deploy
    --flight (.npz), a folder of LeRobot's or Minari's, or the id of a Minari data set that is on
    this machine. Of LeRobot's, --inputs and --targets may name the features."""
    history: Count = 1
    """Of demonstrations: how many observations, the last ones, an action is learned from."""
    chunk: Count = 1
    """Of demonstrations: how many actions, from the present one on, are predicted at once."""
    execute: Count | None = None
    """How many actions of a chunk are carried out before the next look. Left out: all."""
    env: str | None = None
    """Environment that the demonstrations are of. Left out: what they say."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Arguments of that environment, as name value pairs. Left out: what they say."""

    def check(self) -> None:
        """Refuse options that contradict each other."""
        if self.demonstrations:
            allowed = ("inputs", "targets", *_OF_DEMONSTRATIONS)
            others = [n for n in (*_ABOUT_TASKS, *self._given()) if n not in allowed]
            for name in others:
                if getattr(self, name):
                    raise ConfigError(
                        f"--{name.replace('_', '-')} does not go with --demonstrations"
                    )
            return
        for name in _OF_DEMONSTRATIONS:
            if name in self._given():
                raise ConfigError(
                    f"--{name.replace('_', '-')} belongs to demonstrations: name --demonstrations"
                )
        if not self.data:
            for name in self._given():
                raise ConfigError(f"--{name.replace('_', '-')} belongs to a file: name --data")
        elif self.task or self.robot or self.task_kwargs:
            raise ConfigError("give a task (--task, --robot, --task-kwargs) or --data, not both")

    def _given(self) -> list[str]:
        """Options about files that differ from their defaults."""
        plain = {
            f.name: f.default if f.default_factory is MISSING else f.default_factory()
            for f in fields(Source)
            if f.name not in _ABOUT_TASKS
        }
        return [name for name, default in plain.items() if getattr(self, name) != default]

    @property
    def name(self) -> str:
        """The task, or what the file is called; for several, their folder."""
        if self.demonstrations:
            return f"clone-{Path(self.demonstrations[0].rstrip('/')).stem.strip('*?') or 'flights'}"
        if not self.data:
            return self.task or DEFAULT_TASK
        first = self.data[0]
        several = len(self.data) > 1 or any(c in first.name for c in "*?[")
        return (first.parent.resolve().name if several else first.stem) or "data"

    def load(self, trust: bool = False) -> Dataset:
        """The data.

        Args:
            trust: whether modules that demonstrations name, for their environment, may be imported.

        Raises:
            DataError: there is no such task or file, or it cannot be used.
            RobotError: the robot cannot be used.
            ConfigError: options that the file does not have.
            EnvironmentUnavailableError: that of the demonstrations cannot be made.
        """
        from nprobot.envs import datasets

        if self.demonstrations:
            from .demonstrated import CloneShape, cloning_rows, read_demonstrations

            found = read_demonstrations(
                self.demonstrations, inputs=self.inputs, targets=self.targets
            )
            shape = CloneShape(self.history, self.chunk, self.execute)
            return cloning_rows(found, shape, self.env, self.env_kwargs or None, trust)
        if not self.data:
            robot = {} if self.robot is None else {"robot": self.robot}
            return datasets.make(self.task or DEFAULT_TASK, **robot, **self.task_kwargs)
        if len(self.data) == 1 and self.data[0].is_dir():
            if given := [f"--{name.replace('_', '-')}" for name in self._given()]:
                raise ConfigError(
                    f"{', '.join(given)} does not belong to {self.data[0]}: a Minari data set says "
                    "what its columns are"
                )
            return datasets.from_minari(self.data[0])
        return datasets.load(
            self.data,
            inputs=self.inputs,
            targets=self.targets,
            trajectory=self.trajectory,
            time=self.time,
            rate=self.rate,
            derivatives=self.derivatives,
            smoothing=self.smoothing,
            missing=self.missing,
            test=self.test_data,
            how=self.split,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads; paths are absolute."""
        paths = {"data": self.data, "test_data": self.test_data}
        made = {name: [os.path.abspath(path) for path in value] for name, value in paths.items()}
        # What is no path is the id of a Minari data set.
        made["demonstrations"] = [
            os.path.abspath(name) if _is_path(name) else name for name in self.demonstrations
        ]
        return super().to_dict() | made

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object with paths in place of their names; earlier versions had one of each."""
        upgraded = super().upgraded(values)
        for name in ("data", "test_data"):
            given = upgraded.pop(name, None) or ()
            upgraded[name] = tuple(map(Path, [given] if isinstance(given, str) else given))
        return upgraded


_ABOUT_TASKS = ("task", "robot", "task_kwargs", "data")
_OF_DEMONSTRATIONS = ("demonstrations", "history", "chunk", "execute", "env", "env_kwargs")


def _is_path(name: str) -> bool:
    return os.path.exists(name) or name.endswith(".npz") or any(c in name for c in "*?[")


def as_dataset(data: Data) -> Dataset:
    """A data set from what a user has.

    Args:
        data: a `Dataset`, or arrays (inputs, targets) or (inputs, targets, trajectory), which
            `nprobot.envs.datasets.split_rows` splits.

    Raises:
        DataError: the arrays are no data.
        ConfigError: it is neither.
    """
    from nprobot.envs.datasets import Dataset, look_over, split_rows

    if isinstance(data, Dataset):
        return data
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        raise ConfigError(
            "data must be a Dataset from nprobot.envs.datasets, or arrays (inputs, targets) or "
            f"(inputs, targets, trajectory); got {type(data).__name__}"
        )
    splits = split_rows(*data)
    inputs, targets = splits.train.inputs.shape[1], splits.train.targets.shape[1:]
    names = [f"y{i}" for i in range(targets[0])] if targets else ["label"]
    made = splits.as_dataset("arrays", [f"x{i}" for i in range(inputs)], names)
    look_over(made)
    return made


def fingerprint(data: Dataset) -> str:
    """A hash of the rows that learning sees, so that a resumed fit meets the same ones."""
    digest = hashlib.sha256()
    for split in (data.train, data.validation):
        for array in (split.inputs, split.targets):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
