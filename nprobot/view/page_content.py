"""What goes to the page and what comes back: all that passes between loop and browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .controls import ControlGroup

Array = npt.NDArray[np.float64]

LOOPBACK = "127.0.0.1"
PORT = 8080
FRAMES = 30.0
"""Pictures a second that a page is sent while somebody looks."""
SAMPLES = 400
"""Moments that a plot of the last seconds shows."""


@dataclass(frozen=True)
class Plot:
    """A plot beside the scene.

    Attributes:
        key: by which samples name it.
        title: over it.
        lines: names of the lines.
        x: what is along the other axis.
        rolling: whether it shows the last `SAMPLES` points alone, or all.
    """

    key: str
    title: str
    lines: tuple[str, ...]
    x: str = "s"
    rolling: bool = True


@dataclass(frozen=True)
class Pose:
    """Where a robot is: what MuJoCo needs to draw it."""

    qpos: Array
    qvel: Array
    ctrl: Array
    mocap_pos: Array
    mocap_quat: Array


@dataclass(frozen=True)
class Frame:
    """What has become of the robots since the frame before.

    Attributes:
        poses: the poses of the robots, and last of the ghost if there is one.
        samples: new rows (n, 1 + lines) of the plots, by key; the first column is x.
        status: names and values for the top of the page.
        alarm: why the robot stands still; empty if all is well.
        notice: something that the visitor who asked should read; empty for nothing.
        target: where the target is, (3,), m; None if there is none.
        groups: controls that have become others.
    """

    poses: tuple[Pose, ...] = ()
    samples: Mapping[str, Array] = field(default_factory=dict)
    status: Mapping[str, str] = field(default_factory=dict)
    alarm: str = ""
    notice: str = ""
    target: tuple[float, float, float] | None = None
    groups: tuple[ControlGroup, ...] = ()


@dataclass(frozen=True)
class Wish:
    """Something that a visitor wants: the group and name of a control, and the value."""

    group: str
    name: str
    value: Any = True


@dataclass(frozen=True)
class Pull:
    """A visitor pulls at a body, or lets go.

    Attributes:
        robot: number of the robot.
        body: number of the body in the model.
        grip: where it is held, (3,), m, world frame.
        towards: where the mouse is, (3,), m; None to let go.
    """

    robot: int
    body: int
    grip: tuple[float, float, float]
    towards: tuple[float, float, float] | None


@dataclass(frozen=True)
class PageContent:
    """A page as it begins.

    Attributes:
        title: over the controls.
        model: of the robots, an `mujoco.MjModel`; None if there is nothing to draw.
        robots: how many are shown, side by side.
        ghost: whether the last pose of a frame is a ghost's.
        groups: controls.
        plots: beside the scene.
        hint: a line for the visitor.
    """

    title: str
    model: Any = None
    robots: int = 1
    ghost: bool = False
    groups: tuple[ControlGroup, ...] = ()
    plots: tuple[Plot, ...] = ()
    hint: str = ""


class Page(Protocol):
    """What shows frames and brings wishes; never makes the loop wait."""

    @property
    def visitors(self) -> int:
        """How many look."""

    def ready(self) -> bool:
        """Whether the page has done with what it was sent."""

    def publish(self, frame: Frame) -> None:
        """Show a frame."""

    def wishes(self) -> list[Wish]:
        """What the visitors have asked for since the last call."""
