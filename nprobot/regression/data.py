"""Where the rows of a fit come from: a task by name, a file, a data set, or plain arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from numpy.typing import ArrayLike

from nprobot.errors import ConfigError
from nprobot.options import Options

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
    data: Path | None = None
    """A file instead of a task: .npz, .csv or .parquet, SARCOS .mat, or a folder with a Minari data
    set."""
    test_data: Path | None = None
    """The test file that belongs to a SARCOS .mat."""
    inputs: tuple[str, ...] = ()
    """Columns that are the inputs (.csv, .parquet), or the array (.npz)."""
    targets: tuple[str, ...] = ()
    """Columns that are the targets, or the array."""
    trajectory: str | None = None
    """Column or array that says which recording a row belongs to, for a split without leaks."""
    split: Literal["auto", "trajectory", "blocks", "rows"] = "auto"
    """How rows are split: whole trajectories, contiguous blocks, or single rows."""

    def check(self) -> None:
        """Refuse options that contradict each other."""
        if self.data is None:
            for name in ("test_data", "inputs", "targets", "trajectory"):
                if getattr(self, name):
                    raise ConfigError(f"--{name.replace('_', '-')} belongs to a file: name --data")
        elif self.task or self.robot or self.task_kwargs:
            raise ConfigError("give a task (--task, --robot, --task-kwargs) or --data, not both")

    @property
    def name(self) -> str:
        """The task, or what the file is called."""
        return (self.task or DEFAULT_TASK) if self.data is None else self.data.stem

    def load(self) -> Dataset:
        """The data.

        Raises:
            DataError: there is no such task or file, or it cannot be used.
            RobotError: the robot cannot be used.
            ConfigError: options that the file does not have.
        """
        from nprobot.envs import datasets

        if self.data is None:
            robot = {} if self.robot is None else {"robot": self.robot}
            return datasets.make(self.task or DEFAULT_TASK, **robot, **self.task_kwargs)
        kind = "".join(self.data.suffixes[-2:]).lower()
        if self.data.is_dir():
            self._refuse("test_data", "inputs", "targets", "trajectory")
            return datasets.from_minari(self.data)
        if kind.endswith(".mat"):
            self._refuse("inputs", "targets", "trajectory")
            return datasets.load_sarcos(self.data, self.test_data)
        self._refuse("test_data")
        if kind.endswith(".npz"):
            return datasets.load_npz(
                self.data,
                inputs=_only(self.inputs, "--inputs"),
                targets=_only(self.targets, "--targets"),
                trajectory=self.trajectory,
                how=self.split,
            )
        return datasets.load_table(
            self.data,
            inputs=self.inputs,
            targets=self.targets,
            trajectory=self.trajectory,
            how=self.split,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads; paths are absolute."""
        paths = {"data": self.data, "test_data": self.test_data}
        return super().to_dict() | {k: v and str(v.resolve()) for k, v in paths.items()}

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object with paths in place of their names."""
        paths = {k: Path(v) for k, v in values.items() if v and k in ("data", "test_data")}
        return super().upgraded(values) | paths

    def _refuse(self, *names: str) -> None:
        for name in names:
            if getattr(self, name):
                raise ConfigError(
                    f"--{name.replace('_', '-')} does not belong to {self.data}: its format says "
                    "what its columns are"
                )


def as_dataset(data: Data) -> Dataset:
    """A data set from what a user has.

    Args:
        data: a `Dataset`, or arrays (inputs, targets) or (inputs, targets, trajectory), which
            `nprobot.envs.datasets.split_rows` splits.

    Raises:
        DataError: the arrays are no data.
        ConfigError: it is neither.
    """
    from nprobot.envs.datasets import Dataset, split_rows

    if isinstance(data, Dataset):
        return data
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        raise ConfigError(
            "data must be a Dataset from nprobot.envs.datasets, or arrays (inputs, targets) or "
            f"(inputs, targets, trajectory); got {type(data).__name__}"
        )
    splits = split_rows(*data)
    inputs, targets = splits.train.inputs.shape[1], splits.train.targets.shape[1:]
    names = ("label",) if not targets else tuple(f"y{i}" for i in range(targets[0]))
    return Dataset(
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        shifted=None,
        input_names=tuple(f"x{i}" for i in range(inputs)),
        input_units=("",) * inputs,
        target_names=names,
        target_units=("",) * len(names),
        meta={"task": "arrays", "split": splits.how},
    )


def fingerprint(data: Dataset) -> str:
    """A hash of the rows that learning sees, so that a resumed fit meets the same ones."""
    digest = hashlib.sha256()
    for split in (data.train, data.validation):
        for array in (split.inputs, split.targets):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _only(names: tuple[str, ...], option: str) -> str | None:
    if len(names) > 1:
        raise ConfigError(f"{option}: an .npz has one array of them; got {', '.join(names)}")
    return names[0] if names else None
