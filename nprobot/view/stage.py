"""The scene of the page: robots drawn by mjviser, a ghost, a target to drag, bodies to pull at."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np
import viser
from mjviser import ViserMujocoScene
from mjviser.conversions import is_fixed_body

from .page_content import Array, PageContent, Pose, Pull, Wish

TARGET = "target"
GHOST_OPACITY = 0.3
SPACING = 2.0
"""Between robots side by side, in how far one of them reaches."""


class Stage:
    """Draws the robots.

    Args:
        server: the server of the page.
        content: the content of the page, with a model.
        wish: is told what visitors do in the scene.
    """

    def __init__(
        self, server: viser.ViserServer, content: PageContent, wish: Callable[[Wish], None]
    ) -> None:
        self._server, self._wish, self._count = server, wish, content.robots
        model = content.model
        # Shadows cost a browser without a graphics card more than all the rest.
        server.scene.configure_default_lights(cast_shadow=False)
        self.scene = ViserMujocoScene(server, model, num_envs=content.robots)
        self._datas = [mujoco.MjData(model) for _ in range(content.robots)]
        self.size = moving_size(model)
        spacing = SPACING * self.size
        columns = int(np.ceil(np.sqrt(content.robots)))
        places = np.arange(content.robots)
        self._offsets = np.zeros((content.robots, 1, 3))
        self._offsets[:, 0, 0] = places % columns * spacing
        self._offsets[:, 0, 1] = places // columns * spacing
        self._ghost: ViserMujocoScene | None = None
        if content.ghost:
            self._ghost_data = mujoco.MjData(model)
            self._ghost = ViserMujocoScene(_Behind(server), _pale(model), num_envs=1)  # type: ignore[arg-type]
        self._target: viser.IcosphereHandle | None = None
        self._dragged: int | None = None
        self._string: viser.LineSegmentsHandle | None = None
        for group in self.scene._mesh_groups:  # mjviser has no public way to its handles
            if group.mocap_ids is None:
                group.handle.on_drag("left")(self._pulled(group.body_ids))

    @property
    def offset(self) -> Array:
        """From the world of MuJoCo to that of the page, which follows the robot; (3,), m."""
        return np.asarray(self.scene._scene_offset, np.float64)

    def show(self, poses: Sequence[Pose], target: tuple[float, float, float] | None) -> None:
        """Draw everything where it is now."""
        with self._server.atomic():
            for data, pose in zip(self._datas, poses, strict=False):
                self._put(data, pose, full=self._count == 1)
            if self._count == 1:
                self.scene.update_from_mjdata(self._datas[0])
            else:
                self._show_all()
            if self._ghost is not None:
                self._put(self._ghost_data, poses[-1], full=False)
                self._ghost.camera_tracking_enabled = False
                moved = self._ghost_data.xpos + self.offset
                matrices = self._ghost_data.xmat.reshape(1, -1, 3, 3)
                self._ghost.update_from_arrays(moved[None], matrices)
            self._show_target(target)

    def _show_all(self) -> None:
        data = self._datas
        model = self.scene.mj_model
        positions = np.stack([one.xpos for one in data]) + self._offsets
        matrices = np.stack([one.xmat for one in data]).reshape(len(data), -1, 3, 3)
        mocap = np.zeros((len(data), model.nmocap, 3)), np.zeros((len(data), model.nmocap, 4))
        if model.nmocap:
            mocap = (
                np.stack([one.mocap_pos for one in data]) + self._offsets,
                np.stack([one.mocap_quat for one in data]),
            )
        self.scene.update_from_arrays(positions, matrices, *mocap)

    def _put(self, data: Any, pose: Pose, *, full: bool) -> None:  # noqa: ANN401 - an MjData
        data.qpos[:], data.qvel[:] = pose.qpos, pose.qvel
        data.mocap_pos[:], data.mocap_quat[:] = pose.mocap_pos, pose.mocap_quat
        if full and self.scene._any_decor_visible():  # contacts and forces need more than places
            data.ctrl[:] = pose.ctrl
            mujoco.mj_forward(self.scene.mj_model, data)
        else:
            mujoco.mj_kinematics(self.scene.mj_model, data)

    def _show_target(self, target: tuple[float, float, float] | None) -> None:
        if target is None or self._dragged is not None:
            return
        place = tuple(np.asarray(target) + self.offset)
        if self._target is None:
            self._target = self._server.scene.add_icosphere(
                "/target", 0.04 * self.size, color=(46, 160, 67), opacity=0.6, position=place
            )
            self._target.on_drag("left")(self._target_dragged)
        self._target.position = place

    def _target_dragged(self, event: Any) -> None:  # noqa: ANN401 - generic in viser
        self._dragged = None if event.phase == "end" else event.client_id
        event.target.position = event.end_position
        place = np.asarray(event.end_position) - self.offset
        self._wish(Wish(TARGET, TARGET, _point(place)))

    def _pulled(self, bodies: Any) -> Callable[[Any], None]:  # noqa: ANN401 - an array
        def pulled(event: Any) -> None:  # noqa: ANN401
            number = event.instance_index or 0
            robot, body = divmod(number, len(bodies))
            grip, towards = (
                np.asarray(place) - self.offset - self._offsets[robot % self._count, 0]
                for place in (event.start_position, event.end_position)
            )
            ends = event.phase == "end"
            self._draw_string(None if ends else (event.start_position, event.end_position))
            pull = Pull(
                robot % self._count,
                int(bodies[body]),
                _point(grip),
                None if ends else _point(towards),
            )
            self._wish(Wish("pull", "pull", pull))

        return pulled

    def _draw_string(self, ends: tuple[Any, Any] | None) -> None:
        """A line from where a body is held to the mouse."""
        if self._string is not None:
            self._string.remove()
            self._string = None
        if ends is not None:
            self._string = self._server.scene.add_line_segments(
                "/pull", np.array([ends], np.float32), (230, 120, 20), thickness=0.01 * self.size
            )


def _point(place: Any) -> tuple[float, float, float]:  # noqa: ANN401 - an array
    """Three plain numbers; a visitor's may be anything, and nothing is far enough for them."""
    x, y, z = (min(max(float(value), -1e3), 1e3) for value in np.nan_to_num(place))
    return x, y, z


def moving_size(model: Any) -> float:  # noqa: ANN401 - an MjModel
    """How far what moves reaches around the first body that does, m, as the model is written."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    moving = [b for b in range(model.nbody) if not is_fixed_body(model, b)]
    bodies = set(moving) - {b for b in moving if model.body_mocapid[b] >= 0}
    geoms = [g for g in range(model.ngeom) if int(model.geom_bodyid[g]) in bodies]
    if not geoms:
        return float(model.stat.extent)
    away = np.linalg.norm(data.geom_xpos[geoms] - data.xpos[min(bodies)], axis=1)
    return float((away + model.geom_rbound[geoms]).max())


class _Behind:
    """A server for the ghost: the same scene, under another name and without a second floor."""

    def __init__(self, server: viser.ViserServer) -> None:
        self._server = server
        self.scene = self
        self.atomic, self.flush = server.atomic, server.flush

    def configure_environment_map(self, **_: object) -> None:
        """Leave the light as it is."""

    def add_grid(self, *_: object, **__: object) -> None:
        """The floor is there already."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method of viser's scene
        add = getattr(self._server.scene, name)
        return lambda path, *a, **k: add(f"/ghost{path}", *a, **k)


def _pale(model: Any) -> Any:  # noqa: ANN401 - an MjModel
    """The model without what does not move, the rest pale."""
    pale = copy.copy(model)
    for geom in range(pale.ngeom):
        body, material = int(pale.geom_bodyid[geom]), int(pale.geom_matid[geom])
        if material >= 0:
            pale.geom_rgba[geom] = pale.mat_rgba[material]
        pale.geom_rgba[geom, :3] = 0.5 * pale.geom_rgba[geom, :3] + 0.4
        pale.geom_rgba[geom, 3] *= GHOST_OPACITY
        if is_fixed_body(pale, body) or pale.body_mocapid[body] >= 0:
            pale.geom_rgba[geom, 3] = 0
    pale.geom_matid[:] = -1
    pale.site_rgba[:, 3] = 0
    return pale
