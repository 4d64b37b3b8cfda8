"""What a robot is told to do while it works: commands, a target, and pushes. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from nprobot.errors import ConfigError, UnknownNameError
from nprobot.options import Options

_PUSH = re.compile(r"(?P<body>.+)=(?P<force>[^@]+)(@(?P<start>[^-@]+)-(?P<end>[^@]+))?")


@dataclass(frozen=True)
class Push:
    """A force on a body.

    Attributes:
        body: its name.
        force: (3,), N, world frame, at its centre of mass.
        start: seconds of the episode at which it begins.
        end: seconds at which it ends.
    """

    body: str
    force: tuple[float, float, float]
    start: float = 0.0
    end: float = np.inf

    @classmethod
    def parse(cls, text: str) -> Push:
        """Read a text such as ``torso=20,0,0@1-1.5``; without ``@`` it lasts the whole episode.

        Raises:
            ConfigError: the text cannot be read.
        """
        found = _PUSH.fullmatch(text)
        try:
            if found is None:
                raise ValueError(text)
            x, y, z = map(float, found["force"].split(","))
            start, end = (0.0, np.inf)
            if found["start"] is not None:
                start, end = float(found["start"]), float(found["end"])
            if not np.isfinite([x, y, z, start]).all() or not 0 <= start < end:
                raise ValueError(text)
        except ValueError:
            raise ConfigError(
                f"cannot read the push {text!r}; write BODY=X,Y,Z in N, or BODY=X,Y,Z@FROM-TO with "
                "seconds of the episode, such as torso=20,0,0@1-1.5"
            ) from None
        return cls(found["body"], (x, y, z), start, end)


@dataclass(frozen=True)
class Steering(Options):
    """What the robot is told to do, and what pushes it.

    Raises:
        ConfigError: a command or a push cannot be read.
    """

    command: tuple[str, ...] = ()
    """A command that holds in every episode, such as forward=0.5. Left out: drawn by the task."""
    target: tuple[float, float, float] | None = None
    """Where the target is in every episode: x y z, m, world frame. Left out: drawn by the task."""
    push: tuple[str, ...] = ()
    """A force on a body, such as torso=20,0,0 (N, world frame), or torso=20,0,0@1-1.5 from second 1
    to 1.5 of every episode."""

    def check(self) -> None:
        """Refuse what cannot be read."""
        self.commands()
        self.pushes()

    def commands(self) -> dict[str, float]:
        """The commands by name."""
        found = {}
        for text in self.command:
            name, _, number = text.partition("=")
            try:
                found[name] = float(number)
            except ValueError:
                found[name] = np.nan
            if not np.isfinite(found[name]):
                raise ConfigError(f"cannot read the command {text!r}; write NAME=NUMBER")
        return found

    def pushes(self) -> tuple[Push, ...]:
        """The pushes."""
        return tuple(map(Push.parse, self.push))


class Steerable:
    """The commands and the target of an environment.

    An environment has commands if it has an array `command` and `command_ranges`, a mapping from
    the name of each to its range. It has a target if it has `target`, (3,) in m, and
    `move_target(point)`; the target of gymnasium's Reacher can be moved too.

    Args:
        env: without its wrappers.
        id: for messages.
    """

    def __init__(self, env: Any, id: str) -> None:  # noqa: ANN401 - any environment
        self._inner, self._id = env, id
        self._held: dict[str, float] = {}

    @property
    def model(self) -> Any:  # noqa: ANN401 - an MjModel
        """MuJoCo's model; None if another simulator is at work."""
        return getattr(self._inner, "model", None) if hasattr(self._inner, "data") else None

    @property
    def command_ranges(self) -> dict[str, tuple[float, float]]:
        """Names and ranges of the commands; empty for most environments."""
        return dict(getattr(self._inner, "command_ranges", {}))

    @property
    def command(self) -> npt.NDArray[np.float64]:
        """The commands now, in the order of `command_ranges`; can be written to."""
        command: npt.NDArray[np.float64] = self._inner.command
        return command

    def hold_command(self, name: str, value: float) -> None:
        """Give a command that holds in the next episodes too.

        Raises:
            UnknownNameError: the environment has no such command.
            ConfigError: the environment has no commands, or the value is outside the range.
        """
        ranges = self.command_ranges
        if not ranges:
            raise ConfigError(f"{self._id} takes no commands")
        if name not in ranges:
            raise UnknownNameError("command", name, ranges)
        low, high = ranges[name]
        if not low <= value <= high:
            raise ConfigError(f"the command {name} goes from {low:g} to {high:g}, got {value:g}")
        self._held[name] = value
        self.repeat_commands()

    def repeat_commands(self) -> None:
        """Give the commands that are held again, after a reset."""
        names = list(self.command_ranges)
        for name, value in self._held.items():
            self.command[names.index(name)] = value

    @property
    def target(self) -> tuple[float, float, float] | None:
        """Where the target is that can be moved, (3,), m; None if there is none."""
        if hasattr(self._inner, "move_target"):
            place = self._inner.target
        elif self._reacher_target() is not None:
            place = self._inner.data.body("target").xpos
        else:
            return None
        return float(place[0]), float(place[1]), float(place[2])

    def move_target(self, place: tuple[float, float, float]) -> None:
        """Put the target elsewhere, until the end of the episode.

        Raises:
            ConfigError: there is none, or it cannot be there.
        """
        if hasattr(self._inner, "move_target"):
            self._inner.move_target(place)
        elif (joints := self._reacher_target()) is not None:
            # gymnasium's Reacher has its target on two slides, within the arm's reach of .2 m.
            flat = np.array(place[:2]) * min(1.0, 0.2 / max(float(np.hypot(*place[:2])), 1e-9))
            self._inner.data.qpos[joints] = flat
            self._inner.data.qvel[joints] = 0.0
            self._inner.goal = flat
        else:
            raise ConfigError(f"{self._id} has no target to move")

    def _reacher_target(self) -> list[int] | None:
        if self.model is None:
            return None
        names = [self.model.joint(number).name for number in range(self.model.njnt)]
        if not {"target_x", "target_y"} <= set(names):
            return None
        return [int(self.model.joint(name).qposadr[0]) for name in ("target_x", "target_y")]


class SteeredEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment with commands, a target and pushes that are the same in every episode.

    The first observation of an episode may still show the command and the target that the
    environment has drawn.

    Args:
        env: that is steered.
        steering: what it is told.
        id: for messages.

    Raises:
        ConfigError: the environment has no commands, no target, no bodies, or a command is outside
            its range.
        UnknownNameError: it has no such command or body.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], steering: Steering, id: str) -> None:
        super().__init__(env)
        self._steering = steering
        self._robot = Steerable(env.unwrapped, id)
        for name, value in steering.commands().items():
            self._robot.hold_command(name, value)
        if steering.target is not None and self._robot.target is None:
            raise ConfigError(f"{id} has no target to move")
        model, self._time = self._robot.model, 0.0
        self._pushes: list[tuple[Push, int]] = []
        for push in steering.pushes():
            if model is None:
                raise ConfigError(f"{id} has no MuJoCo body that could be pushed")
            names = [model.body(number).name for number in range(1, model.nbody)]
            if push.body not in names:
                raise UnknownNameError("body", push.body, names)
            self._pushes.append((push, int(model.body(push.body).id)))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        result = self.env.reset(seed=seed, options=options)
        self._time = 0.0
        self._robot.repeat_commands()
        if self._steering.target is not None:
            self._robot.move_target(self._steering.target)
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:  # noqa: ANN401
        """Take a control step under the pushes of this moment."""
        inner: Any = self.env.unwrapped
        active = [(p, body) for p, body in self._pushes if p.start <= self._time < p.end]
        self._time += float(getattr(inner, "dt", 0.0))
        if not active:
            return self.env.step(action)
        applied = inner.data.xfrc_applied
        before = applied.copy()
        for push, body in active:
            applied[body, :3] += push.force
        try:
            return self.env.step(action)
        finally:
            applied[:] = before
