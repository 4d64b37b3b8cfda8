"""Where demonstrations come from, and the environment that a clone of them controls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from nprobot.catalogue import import_trusted
from nprobot.envs.datasets import (
    Demonstration,
    Demonstrations,
    is_lerobot,
    read_lerobot,
    read_minari,
)
from nprobot.envs.datasets.loaders import find_files
from nprobot.errors import ConfigError, DataError, EnvironmentUnavailableError, FileError
from nprobot.options import Count
from nprobot.training import environments
from nprobot.training.environments import CHUNK, FRAMES

if TYPE_CHECKING:
    from nprobot.envs.datasets import Dataset

CONTROL = "control"
"""Where the `meta` of a data set says what a clone controls; see `ClonedControl`."""
RECORD_SUFFIX = ".npz"


@dataclass(frozen=True)
class ClonedControl:
    """What a clone controls, as a data set records it, JSON values.

    Attributes:
        id: the id of the environment; None for a robot that nothing here simulates.
        kwargs: its arguments, with those that stack observations and chunk actions.
        rate: how often the clone acts, Hz; None if not known.
        actuators: preset that stood before the robot in the demonstrations; None for none.
        observation_shape: the shape of one observation.
        action_shape: the shape of one action, or chunk of actions.
        low: lowest actions, flat; None where actions are discrete or have no bounds.
        high: highest ones.
    """

    id: str | None
    kwargs: Mapping[str, Any]
    rate: float | None
    actuators: str | None
    observation_shape: Sequence[int]
    action_shape: Sequence[int]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> ClonedControl | None:
        """What the `meta` of a data set says; None if the data are no demonstrations."""
        return cls(**meta[CONTROL]) if CONTROL in meta else None


@dataclass(frozen=True)
class CloneShape:
    """What a clone sees and gives.

    Attributes:
        history: observations that an action is learned from.
        chunk: actions that are predicted at once.
        execute: how many of them are carried out before the next look; all where it is None.
    """

    history: Count = 1
    chunk: Count = 1
    execute: Count | None = None

    @property
    def executed(self) -> int:
        """How many actions are carried out before the next look."""
        return self.chunk if self.execute is None else self.execute


def read_demonstrations(
    references: Sequence[str], *, inputs: Sequence[str] = (), targets: Sequence[str] = ()
) -> Demonstrations:
    """Demonstrations on disk, whatever their format.

    Args:
        references: flight records, or patterns such as ``"flights/*.npz"``; or one folder of
            LeRobot's or Minari's; or the id of a Minari data set on this machine.
        inputs: LeRobot: the features that make the observation.
        targets: LeRobot: those that make the action.

    Raises:
        DataError: there are none, or they cannot be used.
        MissingPackageError: a package for the format is not installed.
    """
    first = references[0]
    folder = Path(first)
    if len(references) == 1 and is_lerobot(folder):
        return read_lerobot(folder, inputs=inputs, targets=targets)
    if inputs or targets:
        raise ConfigError(
            "--inputs and --targets choose features of LeRobot's data sets; the demonstrations at "
            f"{first} say what their observations and actions are"
        )
    if len(references) == 1 and not first.endswith(RECORD_SUFFIX):
        return read_minari(folder if folder.exists() else first)
    if folders := [name for name in references if Path(name).is_dir()]:
        raise DataError(f"{folders[0]} is one of several; give one folder, or flight records.")
    return read_flights(find_files(list(references)))


def read_flights(files: Sequence[Path]) -> Demonstrations:
    """Demonstrations in flight records of `nprobot deploy --flight`.

    A record is cut into episodes, and where a fault or an unusable observation stood between: what
    the robot was told then was the supervisor's. Actions are those that it was told, before noisy
    actuators.

    Raises:
        DataError: a file is no flight record, or they are of different robots.
    """
    # The recorder belongs to what deploys; only its files are read here.
    from nprobot.deploy.flight_recorder import FlightRecord

    parts: list[Demonstration] = []
    robots: list[tuple[Any, ...]] = []
    for file in files:
        try:
            record = FlightRecord.load(file)
        except FileError as error:
            raise DataError(
                f"{error}. Demonstrations are recorded by nprobot deploy --flight."
            ) from error
        about, arrays = record.about, record.arrays
        robots.append(
            tuple(about.get(n) for n in ("environment", "environment_kwargs", "actuators", "rate"))
        )
        if robots[-1] != robots[0]:
            raise DataError(
                f"{file} is of another robot than {files[0]}: {robots[-1]}, not {robots[0]}. Clone "
                "one at a time."
            )
        good = arrays["usable"] & (arrays["fault"] < 0)
        cuts = arrays["begins"] | (good != np.roll(good, 1))
        observations = arrays["observation"].reshape(len(record), -1)
        actions = arrays["action"]
        actions = actions if actions.dtype.kind == "i" else actions.reshape(len(record), -1)
        if actions.dtype.kind == "i" and actions.ndim > 1:
            raise DataError(f"{file} has several discrete actions a step, which cannot be cloned.")
        for rows in np.split(np.arange(len(record)), np.flatnonzero(cuts[1:]) + 1):
            if len(rows) and good[rows[0]]:
                whole = bool(arrays["begins"][rows[0]])
                parts.append(Demonstration(observations[rows], actions[rows], whole))
    env, kwargs, actuators, rate = robots[0]
    name = files[0].stem if len(files) == 1 else f"{len(files)} flights"
    return Demonstrations(name, parts, env, kwargs or {}, actuators, rate)


def cloning_rows(
    found: Demonstrations,
    shape: CloneShape,
    env: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Dataset:
    """The rows to learn from, with what the clone controls.

    The environment is made once, to see that it fits and which actions it takes.

    Args:
        found: the demonstrations.
        shape: the shape of what the clone sees and gives.
        env: id of the environment; by default what the data say.
        env_kwargs: its arguments; by default what the data say, if they say the environment.
        trust: whether modules that the data name may be imported.

    Raises:
        ConfigError: options that contradict each other; or the data name a module.
        DataError: the data do not fit the environment.
        EnvironmentUnavailableError: the environment cannot be made.
        UnknownNameError: there is none of that name, or it has no such argument.
    """
    executed = shape.executed
    if executed > shape.chunk:
        raise ConfigError(
            f"--execute {executed} of a chunk of {shape.chunk} action(s): as many at most"
        )
    own = found.kwargs if env in (None, found.env) else {}
    kwargs = dict(own if env_kwargs is None else env_kwargs)
    for name, count in ((FRAMES, shape.history), (CHUNK, executed)):
        if count > 1 and kwargs.get(name, 1) != 1:
            raise ConfigError(
                f"the demonstrations have {name} {kwargs[name]} already; leave --history and "
                "--chunk away, and the clone gets the same"
            )
        if count > 1:
            kwargs[name] = count
    id = env or found.env
    discrete = found.episodes[0].actions.ndim == 1
    if id is None:
        size = found.episodes[0].observations.shape[1] * shape.history
        actions = 0 if discrete else found.episodes[0].actions.shape[1] * executed
        rate = None if found.rate is None else found.rate / executed
        control = ClonedControl(None, {}, rate, None, (size,), (actions,))
    else:
        if env is None:
            import_trusted(id, "the data", trust, kwargs)
            environments.check_kwargs(id, kwargs)
        control = _control(found, id, kwargs, discrete)
    told: dict[str, Any] = {CONTROL: dataclasses.asdict(control)}
    data = found.rows(history=shape.history, chunk=shape.chunk, **told)
    if id is not None:
        _check_widths(data, control, found, shape, discrete)
    return data


def _control(
    found: Demonstrations, id: str, kwargs: Mapping[str, Any], discrete: bool
) -> ClonedControl:
    try:
        made = environments.make(id, kwargs)
    except EnvironmentUnavailableError as error:
        raise EnvironmentUnavailableError(
            f"{error}. The demonstrations are of this environment; name one that is here by --env."
        ) from error
    try:
        environments.check_spaces(made)
        space, rate = made.action_space, environments.control_rate(made)
    finally:
        made.close()
    control = ClonedControl(
        *(id, kwargs, rate, found.actuators, made.observation_space.shape or (), space.shape or ())
    )
    if isinstance(space, spaces.Discrete) and space.start == 0 and discrete:
        return control
    if not isinstance(space, spaces.Box) or discrete:
        kind = "discrete" if discrete else "continuous"
        raise DataError(
            f"The actions of {found.source} are {kind}; those of {id} are {space}, which does not "
            "fit."
        )
    low, high = (bound.reshape(-1).tolist() for bound in (space.low, space.high))
    return replace(control, low=_or_none(low), high=_or_none(high))


def _or_none(bounds: list[float]) -> list[float] | None:
    """Bounds as JSON has them, which knows no infinity."""
    return bounds if all(map(math.isfinite, bounds)) else None


def _check_widths(
    data: Dataset, control: ClonedControl, found: Demonstrations, shape: CloneShape, discrete: bool
) -> None:
    taken = math.prod(control.action_shape)
    given = taken if discrete else data.target_size * shape.executed // shape.chunk
    for what, here, there in (
        ("observations", data.input_size, math.prod(control.observation_shape)),
        ("actions", given, taken),
    ):
        if here != there:
            raise DataError(
                f"The {what} of {found.source} have {here} numbers, those of {control.id} {there}. "
                "Name the environment that they are of by --env and --env-kwargs."
            )
