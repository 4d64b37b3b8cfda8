"""Drawing without a screen: which of MuJoCo's back ends works here, and films with it."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from nprobot.errors import DeployError

from .robot import Robot

VARIABLE = "MUJOCO_GL"
HEADLESS = ("egl", "osmesa")
SMOOTH = 60.0
"""Frames a second that a film does not need to exceed."""
DEFAULT_FPS = 30.0

# A light and a grey ball: a back end that draws nothing, or one colour, is no use.
_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='.3'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 48, 48) as renderer:
    renderer.update_scene(data)
    assert renderer.render().std() > 1
"""


def choose_backend() -> str | None:
    """Set `MUJOCO_GL` to what draws off-screen on this machine, unless the user has set it.

    Each back end is tried in a process of its own: a failed attempt would spoil this one for the
    next. Must be called before the first import of `mujoco`.

    Returns:
        The back end; None where MuJoCo's default is right (macOS, Windows).

    Raises:
        DeployError: none of them works.
    """
    if given := os.environ.get(VARIABLE):
        return given
    if sys.platform != "linux":
        return None
    candidates = (*HEADLESS, "glfw") if has_display() else HEADLESS
    reasons = []
    for backend in candidates:
        reason = _probe(backend)
        if reason is None:
            os.environ[VARIABLE] = backend
            return backend
        reasons.append(f"{backend}: {reason}")
    raise DeployError(
        "nothing here can draw off-screen (" + "; ".join(reasons) + "). Install Mesa's EGL "
        "(Debian, Ubuntu: apt install libegl1 libgl1-mesa-dri) or OSMesa (apt install libosmesa6); "
        f"or set {VARIABLE} to a back end that works."
    )


def has_display() -> bool:
    """Whether there is a screen to open a window on."""
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def require_display() -> None:
    """Raise `DeployError` if there is no screen for a window."""
    if not has_display():
        raise DeployError(
            "--viewer opens a window, and this machine has no display (neither DISPLAY nor "
            "WAYLAND_DISPLAY is set). --record FILE.mp4 films the robot without one."
        )
    if os.environ.get(VARIABLE) in HEADLESS:
        raise DeployError(
            f"--viewer opens a window, and {VARIABLE}={os.environ[VARIABLE]} draws off-screen "
            f"only; unset {VARIABLE}, or set it to glfw"
        )


class Film:
    """An ``.mp4`` of a robot, at the speed of its simulated time.

    Args:
        path: file to write.
        robot: made with ``render_mode="rgb_array"``.

    Attributes:
        frames: how many were taken.

    Raises:
        DeployError: the file is there, or the package for videos is not installed.
    """

    def __init__(self, path: Path, robot: Robot) -> None:
        check_film(path)
        imageio = importlib.import_module("imageio.v2")
        rate = robot.rate or DEFAULT_FPS
        self.path = path
        self.frames = 0
        self._robot = robot
        self._every = math.ceil(rate / SMOOTH)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer: Any = imageio.get_writer(
            path, fps=rate / self._every, quality=7, macro_block_size=2
        )

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()

    def moved(self, episode: int, length: int, total: float) -> None:
        """Take a frame if it is time; an `Observer` of a flight."""
        if length % self._every == 0:
            self._writer.append_data(self._robot.env.render())
            self.frames += 1


def check_film(path: Path) -> None:
    """Raise `DeployError` if a film cannot be written to `path`."""
    if path.exists():
        raise DeployError(f"{path} is there already; choose another name for the film")
    if path.suffix.lower() != ".mp4":
        raise DeployError(f"a film is an .mp4, got {path}")
    try:
        importlib.import_module("imageio.v2")
        importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise DeployError(f"films need `pip install 'nprobot[video]'` ({error})") from error


def _probe(backend: str) -> str | None:
    """Why a back end does not work; None if it does."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, VARIABLE: backend},
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return "does not answer"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
