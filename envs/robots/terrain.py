"""Ground that gets harder: a field of patches, kinds side by side, flat to hard along x."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from .model_loading import PREFIX
from .robot_task import TerrainOptions

Array = NDArray[np.float64]

_KINDS = ("slopes", "steps", "rough")
_TOUCH = ("contype", "conaffinity", "condim", "priority", "friction", "solref", "solimp", "margin")
_CELLS = 40
"""Cells of a patch along each side."""
_SEED = 3
"""Seed of the bumps: they belong to the ground, not to a run."""


@dataclass(frozen=True, eq=False)
class Terrain:
    """Heights on a grid.

    Attributes:
        heights: `(columns along y, rows along x)`, m, 0 the lowest.
        cell: side of a cell, m.
        patch: side of a patch, m.
        levels: patches along x, from flat to the hardest.
        kinds: patches along y.
    """

    heights: Array
    cell: float
    patch: float
    levels: int
    kinds: int

    @property
    def size(self) -> tuple[float, float]:
        """Half extents along x and y, m."""
        rows, columns = self.heights.shape
        return (columns - 1) * self.cell / 2, (rows - 1) * self.cell / 2

    def height(self, x: Array, y: Array) -> Array:
        """Height of the ground at places of one shape, m; beyond the edge that of the edge."""
        half_x, half_y = self.size
        rows, columns = self.heights.shape
        u = np.clip((np.asarray(x) + half_x) / self.cell, 0, columns - 1.001)
        v = np.clip((np.asarray(y) + half_y) / self.cell, 0, rows - 1.001)
        i, j = u.astype(np.intp), v.astype(np.intp)
        a, b, h = u - i, v - j, self.heights
        low = (1 - a) * h[j, i] + a * h[j, i + 1]
        high = (1 - a) * h[j + 1, i] + a * h[j + 1, i + 1]
        return np.asarray((1 - b) * low + b * high)

    def start(self, level: int, kind: int) -> Array:
        """The middle of a patch, `(2,)`, m."""
        half_x, half_y = self.size
        return np.array(
            [-half_x + (level + 0.5) * self.patch, -half_y + (kind % self.kinds + 0.5) * self.patch]
        )


def make_terrain(options: TerrainOptions, height: float) -> Terrain | None:
    """The ground for a robot whose base is `height` m above its feet; None for the model's own."""
    if options.kind == "none":
        return None
    kinds = _KINDS if options.kind == "mixed" else (options.kind,)
    patch, cell = 30 * height, 30 * height / _CELLS
    generator = np.random.default_rng(_SEED)
    columns, rows = options.levels * _CELLS + 1, len(kinds) * _CELLS + 1
    heights = np.zeros((rows, columns))
    x = np.arange(_CELLS + 1) * cell - patch / 2
    far = np.maximum(np.abs(x)[None, :], np.abs(x)[:, None])  # from the middle, along the axes
    flat = np.clip((far - 2 * height) / height, 0, 1)  # where the robot starts it is level
    for level in range(options.levels):
        hardness = options.roughness * level / max(options.levels - 1, 1)
        for number, kind in enumerate(kinds):
            if kind == "slopes":
                bumps = np.maximum(far - 2 * height, 0) * hardness
            elif kind == "steps":
                bumps = np.floor(np.maximum(far - 2 * height, 0) / (2 * height)) * hardness * height
            else:
                bumps = generator.uniform(0, hardness * height, far.shape) * flat
            # Pyramids: back to the ground at the patch's edge, so that patches join.
            edge = np.clip((patch / 2 - far) / (4 * height), 0, 1)
            rows_, columns_ = slice(number * _CELLS, None), slice(level * _CELLS, None)
            heights[rows_, columns_][: _CELLS + 1, : _CELLS + 1] = bumps * edge
    return Terrain(heights, cell, patch, options.levels, len(kinds))


def add_terrain(spec: mujoco.MjSpec, terrain: Terrain) -> None:
    """Put the ground in place of planes and height fields that do not move."""
    kinds = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD)
    # It touches what they touched, as they did.
    material, touches = "", {"contype": 1, "conaffinity": 1}
    for geom in list(spec.worldbody.geoms):
        if geom.type in kinds and (geom.contype or geom.conaffinity):
            material = material or geom.material
            touches = {name: getattr(geom, name) for name in _TOUCH}
            spec.delete(geom)
    rows, columns = terrain.heights.shape
    top = max(float(terrain.heights.max()), 1e-3)
    half_x, half_y = terrain.size
    spec.add_hfield(
        name=f"{PREFIX}ground",
        nrow=rows,
        ncol=columns,
        size=[half_x, half_y, top, 1.0],
        userdata=(terrain.heights / top).ravel().tolist(),
    )
    spec.worldbody.add_geom(
        name=f"{PREFIX}ground",
        type=mujoco.mjtGeom.mjGEOM_HFIELD,
        hfieldname=f"{PREFIX}ground",
        material=material,
        **touches,
        rgba=[0.5, 0.5, 0.5, 1.0] if material else [0.62, 0.64, 0.60, 1.0],
    )
