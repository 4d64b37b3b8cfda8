"""What a robot's model says: inverse dynamics, gravity, and a changed load or friction."""

from __future__ import annotations

import copy

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError

Array = NDArray[np.float64]

_IGNORED = (
    mujoco.mjtDisableBit.mjDSBL_CONTACT
    | mujoco.mjtDisableBit.mjDSBL_LIMIT
    | mujoco.mjtDisableBit.mjDSBL_EQUALITY
)


def in_free_space(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy of `model` without contacts, joint limits and equality constraints.

    What is left is the robot's open chain: inertia, gravity, springs, damping, friction.
    """
    model = copy.copy(model)
    model.opt.disableflags |= int(_IGNORED)
    return model


class InverseDynamics:
    """Exact joint forces of a model in free space, by MuJoCo's `mj_inverse`.

    Joints that are not listed are held still where the model's initial posture has them.

    Args:
        model: the compiled model; it is copied.
        dofs: indices of the degrees of freedom that move (of hinge or slide joints).
        qpos: indices of the same joints' positions.
    """

    def __init__(self, model: mujoco.MjModel, dofs: ArrayLike, qpos: ArrayLike) -> None:
        self.model = in_free_space(model)
        self.data = mujoco.MjData(self.model)
        self.dofs = np.asarray(dofs, dtype=np.intp)
        self.qpos = np.asarray(qpos, dtype=np.intp)

    def __call__(
        self, position: ArrayLike, velocity: ArrayLike, acceleration: ArrayLike
    ) -> NDArray[np.float64]:
        """Joint forces that produce `acceleration` at `position` and `velocity`.

        Args:
            position: `(…, joints)`, rad (m for sliding joints).
            velocity: same shape, rad/s.
            acceleration: same shape, rad/s².

        Returns:
            Forces of the same shape, N·m (N), friction and damping included.
        """
        q, v, a = np.broadcast_arrays(
            *(np.asarray(x, dtype=np.float64) for x in (position, velocity, acceleration))
        )
        joints = len(self.dofs)
        if q.shape[-1:] != (joints,):
            raise ConfigError(
                f"inverse dynamics takes arrays of shape (…, {joints}), one entry a joint; got "
                f"{q.shape}."
            )
        rows = (q.reshape(-1, joints), v.reshape(-1, joints), a.reshape(-1, joints))
        force = np.empty_like(rows[0])
        model, data, dofs, qpos = self.model, self.data, self.dofs, self.qpos
        # Each answer depends on its own row alone, whatever was asked before.
        mujoco.mj_resetData(model, data)
        for i, (position_i, velocity_i, acceleration_i) in enumerate(zip(*rows, strict=True)):
            data.qpos[qpos] = position_i
            data.qvel[dofs] = velocity_i
            data.qacc[dofs] = acceleration_i
            mujoco.mj_inverse(model, data)
            force[i] = data.qfrc_inverse[dofs]
        return force.reshape(q.shape)


class Gravity:
    """The joint forces that hold a model still, for all degrees of freedom."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        self._force = np.zeros(model.nv)

    def __call__(self, qpos: ArrayLike) -> NDArray[np.float64]:
        """Forces `(nv,)`, N·m, that balance gravity at `qpos` `(nq,)`."""
        model, data = self._model, self._data
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        # Velocities of `data` are never set: this is the gravity term alone.
        mujoco.mj_comVel(model, data)
        mujoco.mj_rne(model, data, 0, self._force)
        return self._force.copy()


def shift(
    model: mujoco.MjModel,
    *,
    payload: float = 0.0,
    friction_scale: float = 1.0,
    body: int | None = None,
    offset: ArrayLike = (0.0, 0.0, 0.0),
) -> None:
    """Make `model` carry a load, and its joints rub more or less; in place.

    The load is a point mass: mass, centre of mass and inertia of the carrying body change as the
    parallel-axis theorem says.

    Args:
        model: the compiled model.
        payload: mass to add, kg.
        friction_scale: factor on every joint's Coulomb and viscous friction.
        body: the body that carries the load; needed with a payload.
        offset: where in that body's frame, m.

    Raises:
        ConfigError: an impossible value, or a payload without a body.
    """
    check_shift(payload, friction_scale)
    model.dof_damping[:] *= friction_scale
    model.dof_frictionloss[:] *= friction_scale
    # Terms of higher order in the velocity, in the versions of MuJoCo that have them.
    if hasattr(model, "dof_dampingpoly"):
        model.dof_dampingpoly[:] *= friction_scale
    if payload > 0:
        if body is None:
            raise ConfigError("A payload needs the body that carries it: pass `body`.")
        _add_point_mass(model, body, payload, np.asarray(offset, dtype=np.float64))
        mujoco.mj_setConst(model, mujoco.MjData(model))


def check_shift(payload: float, friction_scale: float) -> None:
    """Refuse a payload (kg) or friction factor that no robot can have.

    Raises:
        ConfigError: one of them is negative, infinite or NaN.
    """
    for name, value in (("payload", payload), ("friction_scale", friction_scale)):
        if not (np.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} must be a finite number ≥ 0; got {value}.")


def _add_point_mass(model: mujoco.MjModel, body: int, mass: float, at: Array) -> None:
    old, centre = float(model.body_mass[body]), model.body_ipos[body].copy()
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, model.body_iquat[body])
    axes = rotation.reshape(3, 3)
    inertia = axes @ np.diag(model.body_inertia[body]) @ axes.T

    total = old + mass
    new = (old * centre + mass * at) / total
    for m, point in ((old, centre), (mass, at)):
        r = point - new
        inertia = inertia + m * (r @ r * np.eye(3) - np.outer(r, r))
    moments, axes = np.linalg.eigh(inertia)
    if np.linalg.det(axes) < 0:
        axes[:, 0] *= -1
    model.body_mass[body] = total
    model.body_ipos[body] = new
    model.body_inertia[body] = moments
    mujoco.mju_mat2Quat(model.body_iquat[body], np.ascontiguousarray(axes).reshape(9))
