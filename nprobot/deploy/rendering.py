"""Drawing without a screen: which of MuJoCo's back ends works here, and films with it."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from nprobot.errors import DeployError, ExistsError, MissingPackageError
from nprobot.training.environments import Env, control_rate, make
from nprobot.training.evaluation import (
    DeployablePolicy,
    actuators_of,
    check_fit,
    episode_seeds,
    run_episodes,
    task_of,
)

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

    Each back end is tried in a separate process: a failed attempt would spoil this one for the
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
    """An ``.mp4`` of a robot, at the speed of its simulated time; a `StepObserver`.

    Args:
        path: file to write.
        env: the robot, made with ``render_mode="rgb_array"``.

    Attributes:
        frames: how many were taken.

    Raises:
        NprobotError: as `check_film`.
    """

    def __init__(self, path: Path, env: Env) -> None:
        check_film(path)
        imageio = importlib.import_module("imageio.v2")
        rate = control_rate(env) or DEFAULT_FPS
        self.frames = 0
        self._env = env
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

    def __call__(self, episode: int, length: int, total: float, info: Mapping[str, Any]) -> None:
        """Take a frame if it is time."""
        if length % self._every == 0:
            self._writer.append_data(self._env.render())
            self.frames += 1


def check_film(path: Path) -> None:
    """Refuse a film that cannot be written, before work is done for it.

    Raises:
        ExistsError: there is a file already.
        DeployError: it is not an ``.mp4``.
        MissingPackageError: the package for videos is not installed.
    """
    if path.exists():
        raise ExistsError(f"{path} is there already; choose another name for the film")
    if path.suffix.lower() != ".mp4":
        raise DeployError(f"a film is an .mp4, got {path}")
    try:
        importlib.import_module("imageio.v2")
        importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise MissingPackageError(f"films need `pip install 'nprobot[video]'` ({error})") from error


def film_episode(
    policy: DeployablePolicy,
    path: Path,
    env: str | None = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    actuators: str | None = None,
    seed: int = 0,
) -> None:
    """Film the first episode that `nprobot.training.evaluate` runs with the same arguments.

    Args:
        policy: the policy.
        path: file to write, such as ``out.mp4``.
        env: as in `evaluate`; so are the others.
        env_kwargs: arguments of that environment.
        actuators: preset of noisy actuators.
        seed: of the start.

    Raises:
        NprobotError: as `check_film`, `choose_backend` and `evaluate`.
    """
    check_film(path)
    choose_backend()
    actuators = actuators or actuators_of(policy, env)
    id, kwargs = task_of(policy, env, env_kwargs)
    made = make(id, kwargs, actuators, (seed, 0), render_mode="rgb_array")
    try:
        check_fit(policy, made, id)
        with Film(path, made) as film:
            run_episodes(policy.predict, [made], episode_seeds(seed, 1), film)
    finally:
        made.close()


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
