"""Drawing without a screen: which of MuJoCo's back ends works here, and films with it."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from nprobot.errors import DeployError, MissingPackageError, UnknownNameError
from nprobot.runs.atomic_files import refuse_file
from nprobot.training.environments import Env, control_rate, make
from nprobot.training.evaluation import (
    DeployablePolicy,
    actuators_of,
    check_fit,
    episode_seeds,
    run_episodes,
    task_of,
)
from nprobot.user_code import described

VARIABLE = "MUJOCO_GL"
HEADLESS = ("egl", "osmesa")
SMOOTH = 30.0
"""Frames a second that a film does not need to exceed."""
DEFAULT_FPS = 30.0
DEFAULT_SIZE = (480, 480)
FREE = "free"
"""Name of the camera that shows the whole robot."""
_TRACKING, _FIXED = 1, 2
"""Kinds of MuJoCo's cameras (mjtCamera)."""

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
        if (reason := _probe(given)) is not None:
            raise DeployError(
                f"{VARIABLE} is {given!r}, and that does not draw here: {reason}. Unset {VARIABLE} "
                "to have one chosen that does, or name another."
            )
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

    It is there when it is complete, and not at all if nothing was filmed.

    Args:
        path: file to write.
        env: the robot, made with ``render_mode="rgb_array"``.
        size: width and height, pixels; by default as the environment draws.
        rate: frames a second, at most; a whole number of control steps lies between two.
        camera: of the model, by name; "free" for one that shows the whole robot; by default the
            environment's own, or that one if it has none.
        force: write over a film that is there.

    Attributes:
        frames: how many were taken.

    Raises:
        NprobotError: as `check_film`; there is no such camera, or nothing to draw.
    """

    def __init__(
        self,
        path: Path,
        env: Env,
        *,
        size: tuple[int, int] | None = None,
        rate: float | None = None,
        camera: str | None = None,
        force: bool = False,
    ) -> None:
        check_film(path, force)
        control = control_rate(env) or DEFAULT_FPS
        self.frames = 0
        self._path = path
        self._every = max(math.ceil(control / (rate or SMOOTH) - 1e-6), 1)
        self._fps = control / self._every
        self._draw, self._close = drawing(env, size, camera)
        self._writing = path.with_name(f".{path.stem}.writing.mp4")
        self._writer: Any = None

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()
        if self._writer is not None:
            self._writer.close()
            os.replace(self._writing, self._path)

    def __call__(self, episode: int, length: int, total: float, info: Mapping[str, Any]) -> None:
        """Take a frame if it is time."""
        if length % self._every:
            return
        try:
            picture = self._draw()
        # Whatever a back end, or the environment's own drawing, raises.
        except Exception as error:
            raise DeployError(f"the robot cannot be drawn: {described(error)}") from error
        frame = np.asarray(picture)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise DeployError("this environment draws no pictures (its render() returns none)")
        # The codec takes even sizes: an odd one gets another row or column of its last pixels.
        high, wide = frame.shape[:2]
        frame = np.pad(frame, ((0, high % 2), (0, wide % 2), (0, 0)), mode="edge")
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            imageio = importlib.import_module("imageio.v2")
            self._writer = imageio.get_writer(
                self._writing, fps=self._fps, quality=7, macro_block_size=2
            )
        self._writer.append_data(frame)
        self.frames += 1


def drawing(
    env: Env, size: tuple[int, int] | None = None, camera: str | None = None
) -> tuple[Callable[[], Any], Callable[[], None]]:
    """What draws an environment: its own `render`, looking at the robot, or MuJoCo's renderer.

    A robot whose model has no light gets one, and one that nobody looks at a camera that shows all
    of it, whatever its posture, and follows it where it walks.

    Args:
        env: the environment.
        size: width and height, pixels.
        camera: name of a camera of the model, or "free".

    Returns:
        A function that gives a picture `(height, width, 3)`, uint8, and one to call at the end.

    Raises:
        DeployError: a camera or a size was asked for that there cannot be.
    """
    import mujoco

    base: Any = env.unwrapped
    model, data = getattr(base, "model", None), getattr(base, "data", None)
    own = getattr(base, "mujoco_renderer", None)
    if not isinstance(model, mujoco.MjModel) or not isinstance(data, mujoco.MjData):
        if size is not None or camera is not None:
            raise DeployError("this environment draws itself; a film of it has no size or camera")
        return env.render, _nothing
    names = [model.camera(i).name for i in range(model.ncam)]
    if camera not in (None, FREE, *names):
        raise UnknownNameError("camera", camera, [FREE, *names])
    _light(model)
    chosen = names.index(camera) if camera in names else -1
    has_view = own is not None and (own.camera_id not in (None, -1) or own.default_cam_config)
    bare = mujoco.mjtTexture.mjTEXTURE_SKYBOX not in model.tex_type
    if own is None or (bare and chosen < 0 and not has_view):
        return _looking_at(
            *(model, data, size or ((own.width, own.height) if own else DEFAULT_SIZE)),
            framing(model, data) if chosen < 0 else {"type": _FIXED, "fixedcamid": chosen},
            wall=bare,
        )
    if size is not None:
        own.width, own.height = size
    _grow(model, own.width, own.height)
    if chosen >= 0:
        own.camera_id = chosen
    elif camera == FREE or not has_view:
        own.camera_id, own.default_cam_config = -1, framing(model, data)
    return env.render, _nothing


def _nothing() -> None:
    """Nothing: the environment is closed by who made it."""


def framing(model: Any, data: Any) -> dict[str, Any]:  # noqa: ANN401 - of MuJoCo
    """Settings of a free camera that shows a whole robot in every posture.

    What moves lies within a ball around the body that carries it, of the length of its chain of
    bodies. The camera stands where the balls fill the picture; it follows a body that can go away.
    """
    import mujoco

    mujoco.mj_forward(model, data)
    reach = np.zeros(model.nbody)
    for body in range(1, model.nbody):
        parent = int(model.body_parentid[body])
        slides = sum(
            float(np.abs(model.jnt_range[j]).max())
            for j in range(
                model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body]
            )
            if model.jnt_type[j] == mujoco.mjtJoint.mjJNT_SLIDE and model.jnt_limited[j]
        )
        length = float(np.linalg.norm(model.body_pos[body])) if parent else 0.0
        reach[body] = reach[parent] + length + slides
    moves = [int(b) for b in range(1, model.nbody) if model.body_weldid[b] != 0]
    balls: dict[int, float] = {}
    for geom in range(model.ngeom):
        body = int(model.geom_bodyid[geom])
        if body in moves or (not moves and model.geom_rbound[geom] > 0):
            offset = float(np.linalg.norm(model.geom_pos[geom])) + float(model.geom_rbound[geom])
            root = int(model.body_rootid[body])
            balls[root] = max(balls.get(root, 0.0), reach[body] + offset)
    if not balls:
        return {"lookat": model.stat.center, "distance": 2 * float(model.stat.extent)}
    centres = np.array([data.xpos[root] for root in balls])
    radii = np.array(list(balls.values()))[:, None]
    low, high = (centres - radii).min(axis=0), (centres + radii).max(axis=0)
    radius = float(radii.max()) if len(balls) == 1 else float(np.linalg.norm(high - low)) / 2
    angle = np.deg2rad(float(model.vis.global_.fovy)) / 2
    config = {
        "lookat": (low + high) / 2,
        "distance": 1.05 * radius / float(np.sin(angle)),
        "azimuth": 120.0,
        "elevation": -15.0,
    }
    walker = next((root for root in balls if _can_leave(model, root)), None)
    if walker is not None:
        config |= {"type": _TRACKING, "trackbodyid": walker}
    return config


def _can_leave(model: Any, root: int) -> bool:  # noqa: ANN401
    """Whether a body floats, or slides without a limit."""
    import mujoco

    first = int(model.body_jntadr[root])
    for joint in range(first, first + int(model.body_jntnum[root])):
        kind = model.jnt_type[joint]
        slides = kind == mujoco.mjtJoint.mjJNT_SLIDE and not model.jnt_limited[joint]
        if kind == mujoco.mjtJoint.mjJNT_FREE or slides:
            return True
    return False


def _looking_at(
    model: Any,  # noqa: ANN401
    data: Any,  # noqa: ANN401
    size: tuple[int, int],
    config: Mapping[str, Any],
    *,
    wall: bool,
) -> tuple[Callable[[], Any], Callable[[], None]]:
    """What draws a model through a camera of ours, before a light wall where it has no sky.

    Before nothing but black a dark robot is not seen.
    """
    import mujoco
    from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer

    _grow(model, *size)
    viewer = OffScreenViewer(model, data, *size)
    for name, value in config.items():
        if name == "lookat":
            viewer.cam.lookat[:] = value
        else:
            setattr(viewer.cam, name, value)

    def draw() -> Any:  # noqa: ANN401
        if wall and viewer.cam.type != _FIXED:
            angles = np.deg2rad([viewer.cam.azimuth, viewer.cam.elevation])
            (cos_a, cos_e), (sin_a, sin_e) = np.cos(angles), np.sin(angles)
            forward = np.array([cos_e * cos_a, cos_e * sin_a, sin_e])
            side = np.array([sin_a, -cos_a, 0.0])
            axes = np.stack([side, np.cross(forward, side), forward], axis=1)
            far = float(viewer.cam.distance)
            viewer.add_marker(  # type: ignore[no-untyped-call]
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=np.array([10 * far, 10 * far, 1e-3 * far]),
                pos=np.asarray(viewer.cam.lookat) + far * forward,
                mat=axes.ravel(),
                rgba=np.array([0.55, 0.6, 0.68, 1.0]),
            )
        viewer.make_context_current()  # type: ignore[no-untyped-call]
        return viewer.render("rgb_array")

    return draw, viewer.free


def _light(model: Any) -> None:  # noqa: ANN401
    """Light where there is none, and drawing that a machine without a GPU can do in time."""
    if model.nlight == 0:
        model.vis.headlight.ambient[:] = 0.4
        model.vis.headlight.diffuse[:] = 0.6
    # Drawn by the processor a film took eight times as long as what it shows.
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = min(int(model.vis.quality.shadowsize), 1024)


def _grow(model: Any, wide: int, high: int) -> None:  # noqa: ANN401
    """Make MuJoCo's off-screen picture as large as it has to be."""
    screen = model.vis.global_
    screen.offwidth, screen.offheight = max(screen.offwidth, wide), max(screen.offheight, high)


def check_film(path: Path, force: bool = False) -> None:
    """Refuse a film that cannot be written, before work is done for it.

    Raises:
        ExistsError: there is a file already, and `force` is off.
        DeployError: it is not an ``.mp4``.
        MissingPackageError: the package for videos is not installed.
    """
    if path.suffix.lower() != ".mp4":
        raise DeployError(f"a film is an .mp4, got {path}")
    refuse_file(path, force)
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
    size: tuple[int, int] | None = None,
    rate: float | None = None,
    camera: str | None = None,
    force: bool = False,
) -> None:
    """Film the first episode that `nprobot.training.evaluate` runs with the same arguments.

    Args:
        policy: the policy.
        path: file to write, such as ``out.mp4``.
        env: as in `evaluate`; so are the others.
        env_kwargs: arguments of that environment.
        actuators: preset of noisy actuators.
        seed: the seed of the start.
        size: as in `Film`; so are the others.
        rate: frames a second, at most.
        camera: name of a camera.
        force: write over a film that is there.

    Raises:
        NprobotError: as `check_film`, `choose_backend` and `evaluate`.
    """
    check_film(path, force)
    choose_backend()
    actuators = actuators or actuators_of(policy, env)
    id, kwargs = task_of(policy, env, env_kwargs)
    made = make(id, kwargs, actuators, (seed, 0), render_mode="rgb_array")
    try:
        check_fit(policy, made, id)
        with Film(path, made, size=size, rate=rate, camera=camera, force=force) as film:
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
