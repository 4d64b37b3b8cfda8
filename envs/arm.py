"""The seven-joint arm: its figures, and what its environments share."""

from __future__ import annotations

import copy
from importlib import resources
from pathlib import Path
from typing import Any, Self

import mujoco
import numpy as np
from gymnasium import spaces, utils
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import ArrayLike, NDArray

from ..errors import ActuatorError, ConfigError, UnknownNameError
from .dynamics import Gravity, InverseDynamics, check_shift, shift
from .trajectories import JointLimits

Array = NDArray[np.float64]

JOINTS = 7
JOINT_NAMES = tuple(f"joint{i}" for i in range(1, JOINTS + 1))
END_EFFECTOR = "end_effector"

#: Published torque limits of the Panda arm, N·m (Franka Control Interface documentation).
TORQUE_LIMITS = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
TORQUE_LIMITS.setflags(write=False)

#: Where and how fast recordings and references move. Speeds and accelerations are the arm's
#: published limits (same source). The positions are chosen by us, well inside the joint limits: the
#: arm works in front of and beside its base and, but for one posture in a thousand, clear of floor,
#: pedestal and itself.
WORKING_LIMITS = JointLimits(
    low=np.array([-2.0, -0.9, -1.5, -2.6, -2.0, 0.5, -2.4]),
    high=np.array([2.0, 1.1, 1.5, -0.6, 2.0, 3.2, 2.4]),
    speed=np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61]),
    acceleration=np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0]),
)

#: The payload is drawn as a ball of about this density (aluminium), kg/m³.
_PAYLOAD_DENSITY = 2700.0
#: What `shift` changes in a model, so that it can be put back.
_SHIFTED_FIELDS = (
    "body_mass",
    "body_ipos",
    "body_iquat",
    "body_inertia",
    "dof_damping",
    "dof_frictionloss",
    "dof_dampingpoly",
)


def model_path() -> Path:
    """Where the arm's MJCF file lies."""
    return Path(str(resources.files(__package__) / "assets" / "arm7.xml"))


class ArmEnv(MujocoEnv, utils.EzPickle):
    """What `ArmReachEnv` and `ArmTrackEnv` share: motors, payload, friction, gravity, rendering.

    Args:
        frame_skip: physics steps of 2 ms for each environment step.
        observation_size: length of the observation.
        normalize_actions: actions in [-1, 1], in units of the torque limits, or in N·m.
        gravity_compensation: add the torque that holds the *nominal* arm still, as the torque
            interfaces of such arms do. A payload is not known to it.
        payload: mass held at the tool's tip, kg.
        friction_scale: factor on the joints' Coulomb and viscous friction.
        mujoco_arguments: `render_mode`, `width`, `height`, `camera_name`, … of `MujocoEnv`.

    Attributes:
        nominal: the model without payload and with its own friction.
        site: number of the tool's tip among the model's sites.
    """

    def __new__(cls, **arguments: Any) -> Self:
        """Keep the arguments, with which a pickled environment is made again."""
        env = super().__new__(cls)
        utils.EzPickle.__init__(env, **arguments)
        return env

    def __init__(
        self,
        *,
        frame_skip: int,
        observation_size: int,
        normalize_actions: bool,
        gravity_compensation: bool,
        payload: float,
        friction_scale: float,
        **mujoco_arguments: Any,
    ) -> None:
        check_shift(payload, friction_scale)
        self.normalize_actions = normalize_actions
        self.gravity_compensation = gravity_compensation
        if "camera_id" not in mujoco_arguments:
            mujoco_arguments.setdefault("camera_name", "main")
        super().__init__(
            str(model_path()),
            frame_skip,
            spaces.Box(-np.inf, np.inf, (observation_size,), np.float64),
            **mujoco_arguments,
        )
        self.home: Array = self.model.key_qpos[0].copy()
        self.nominal = copy.copy(self.model)
        self._gravity = Gravity(self.nominal)
        self.site = self.model.site(END_EFFECTOR).id
        self._tool = int(self.model.site_bodyid[self.site])
        self._default_robot = {
            "payload": float(payload),
            "friction_scale": float(friction_scale),
        }
        self.payload, self.friction_scale = 0.0, 1.0
        self._inverse: dict[bool, InverseDynamics] = {}
        self._scratch = mujoco.MjData(self.model)
        self._set_robot(payload, friction_scale)

    # -- the robot ---------------------------------------------------------------------------------

    def _set_robot(self, payload: float, friction_scale: float) -> None:
        """Load and friction of the robot that is simulated; exact from any state before."""
        check_shift(payload, friction_scale)
        model = self.model
        for field in _SHIFTED_FIELDS:
            if hasattr(model, field):
                getattr(model, field)[:] = getattr(self.nominal, field)
        offset = model.site_pos[self.site]
        shift(model, payload=payload, friction_scale=friction_scale, body=self._tool, offset=offset)
        if payload == 0:
            mujoco.mj_setConst(model, mujoco.MjData(model))
        ball = model.geom("payload").id
        radius = (3 * payload / (4 * np.pi * _PAYLOAD_DENSITY)) ** (1 / 3)
        model.geom_size[ball, 0] = model.geom_rbound[ball] = max(radius, 0.001)
        model.mat_rgba[model.geom_matid[ball], 3] = float(payload > 0)
        self.payload, self.friction_scale = float(payload), float(friction_scale)
        self._inverse.pop(False, None)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode; `options` may hold its `payload` (kg) and `friction_scale`."""
        robot = {**self._default_robot, **(options or {})}
        for name in robot:
            if name not in self._default_robot:
                raise UnknownNameError("option of reset", name, self._default_robot)
        if robot != {"payload": self.payload, "friction_scale": self.friction_scale}:
            self._set_robot(**robot)
        observation, info = super().reset(seed=seed)
        return observation, info

    def inverse_dynamics(
        self,
        position: ArrayLike,
        velocity: ArrayLike,
        acceleration: ArrayLike,
        *,
        nominal: bool = False,
    ) -> NDArray[np.float64]:
        """Exact joint torques of this robot in free space.

        Args:
            position: `(…, 7)`, rad.
            velocity: same shape, rad/s.
            acceleration: same shape, rad/s².
            nominal: of the arm without payload and with its own friction, whatever is simulated.

        Returns:
            Torques of the same shape, N·m.
        """
        if nominal not in self._inverse:
            model = self.nominal if nominal else self.model
            self._inverse[nominal] = InverseDynamics(model, range(JOINTS), range(JOINTS))
        return self._inverse[nominal](position, velocity, acceleration)

    def end_effector_at(self, position: ArrayLike) -> NDArray[np.float64]:
        """Where the tool's tip is when the joints are at `position` (7,): `(3,)`, m."""
        self._scratch.qpos[:] = position
        mujoco.mj_kinematics(self.model, self._scratch)
        return np.array(self._scratch.site_xpos[self.site])

    def collides(self, position: ArrayLike) -> bool:
        """Whether the arm at `position` (7,) touches the floor, its pedestal or itself."""
        self._scratch.qpos[:] = position
        mujoco.mj_kinematics(self.model, self._scratch)
        mujoco.mj_comPos(self.model, self._scratch)
        mujoco.mj_collision(self.model, self._scratch)
        return bool(self._scratch.ncon > 0)

    def _tip_at(self, point: ArrayLike) -> Array:
        """A point (3,) in m that somebody asks for, above the floor.

        Raises:
            ConfigError: it is not three finite numbers.
        """
        asked = np.array(point, dtype=np.float64)
        if asked.shape != (3,) or not np.isfinite(asked).all():
            raise ConfigError(f"a target is 3 finite numbers, x, y, z in m; got {point!r}")
        asked[2] = max(asked[2], 0.02)
        return asked

    # -- actions -----------------------------------------------------------------------------------

    def _set_action_space(self) -> spaces.Box:
        high = np.ones(JOINTS) if self.normalize_actions else TORQUE_LIMITS
        high = high.astype(np.float32)
        self.action_space = spaces.Box(-high, high, dtype=np.float32)
        return self.action_space

    def torque_from_action(self, action: ArrayLike) -> NDArray[np.float64]:
        """The torques in N·m that an action (7,) asks for, within the limits.

        Raises:
            ActuatorError: wrong shape, NaN or infinity.
        """
        return self.torques_from_actions(action, ())

    def torques_from_actions(self, actions: ArrayLike, batch: tuple[int, ...]) -> Array:
        """The torques in N·m that actions `(*batch, 7)` ask for, within the limits.

        Raises:
            ActuatorError: wrong shape, NaN or infinity.
        """
        asked = np.asarray(actions, dtype=np.float64)
        if asked.shape != (*batch, JOINTS) or not np.isfinite(asked).all():
            raise ActuatorError(
                f"An action is {JOINTS} finite numbers, one a joint; got shape {asked.shape}"
                f"{'' if np.isfinite(asked).all() else ' with NaN or infinity'}."
            )
        torque = asked * TORQUE_LIMITS if self.normalize_actions else asked
        return np.clip(torque, -TORQUE_LIMITS, TORQUE_LIMITS)

    def action_from_torque(self, torque: ArrayLike) -> NDArray[np.float32]:
        """The action that asks for torques `(…, 7)` in N·m, clipped to the action space."""
        share = np.asarray(torque, dtype=np.float64) / TORQUE_LIMITS
        share = np.clip(share, -1.0, 1.0)
        action = share if self.normalize_actions else share * TORQUE_LIMITS
        return np.asarray(action, dtype=np.float32)

    def _simulate_step(self, torque: Array) -> Array:
        """One physics step under `torque`; returns what the motors gave, N·m."""
        if self.gravity_compensation:
            torque = torque + self._gravity(self.data.qpos)
        torque = np.clip(torque, -TORQUE_LIMITS, TORQUE_LIMITS)
        self.data.ctrl[:] = torque
        mujoco.mj_step(self.model, self.data)
        return torque

    def _end_step(self) -> None:
        """Bring positions of bodies and sites up to the joints', which `mj_step` leaves behind."""
        mujoco.mj_kinematics(self.model, self.data)
        if self.render_mode == "human":
            self.render()  # type: ignore[no-untyped-call]
