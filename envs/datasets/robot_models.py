"""From what a user names (our arm, an MJCF file, an environment) to joints that can move."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from ...errors import RobotError, did_you_mean
from .. import arm
from ..robots.model_loading import ROBOTS, read_model
from ..trajectories import JointLimits

Array = NDArray[np.float64]
RobotLike: TypeAlias = "str | os.PathLike[str] | mujoco.MjModel"

ARM = "arm7"
_HINGE, _SLIDE = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)
_MODEL_SUFFIXES = (".xml", ".mjcf", ".urdf")
#: Share of a joint's range that recordings use.
_RANGE_SHARE = 0.8
#: Half range of a joint without limits, top speed, top acceleration: hinges in rad, slides in m.
#: Chosen by us; MJCF has no speed limits.
_FREE_RANGE = {_HINGE: np.pi / 2, _SLIDE: 0.5}
_SPEED = {_HINGE: 2.0, _SLIDE: 0.5}
_ACCELERATION = {_HINGE: 10.0, _SLIDE: 2.5}


@dataclass(frozen=True, eq=False)
class RobotModel:
    """A model and the joints of it that move.

    Attributes:
        name: what it was called.
        model: compiled model, never changed.
        joints: names of the moving joints, in the model's order.
        dofs: their degrees of freedom, `(joints,)`.
        qpos: their places in `qpos`, `(joints,)`.
        limits: where and how fast recordings move them.
        position_units: "rad" or "m", one a joint.
        body: the body that is the end effector, or carries it.
        offset: the end effector in that body's frame, `(3,)`, m.
        rotation: its axes in that body's frame, `(3, 3)`.
        payload: the load of the shifted robot, kg, where none is asked for.
        file: the model file, absolute, or the name of a robot in the package; None where the model
            came from elsewhere.
    """

    name: str
    model: mujoco.MjModel
    joints: tuple[str, ...]
    dofs: NDArray[np.intp]
    qpos: NDArray[np.intp]
    limits: JointLimits
    position_units: tuple[str, ...]
    body: int
    offset: Array
    rotation: Array
    payload: float
    file: str | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the compiled model, meshes and all."""
        buffer = np.empty(mujoco.mj_sizeModel(self.model), np.uint8)
        mujoco.mj_saveModel(self.model, None, buffer)
        return hashlib.sha256(buffer.tobytes()).hexdigest()


def find_robot(
    robot: RobotLike,
    *,
    joints: Sequence[str] | None = None,
    end_effector: str | None = None,
) -> RobotModel:
    """Find a robot, the joints that move, and its end effector.

    Joints: those named; else the hinge and slide joints that actuators drive; in a model without
    actuators all hinge and slide joints. Every other joint is held where the model's initial
    posture has it: a robot with a free-floating base is treated as if bolted to a test stand.

    End effector: the site or body named; else a site called "end_effector"; else the last body of
    the longest chain of moving joints.

    Args:
        robot: "arm7", the path of an MJCF (or URDF) file, the id of a gymnasium environment that
            runs MuJoCo, or a compiled model.
        joints: names of joints.
        end_effector: name of a site or body that those joints move.

    Raises:
        RobotError: there is no such file, environment or robot; MuJoCo refuses the file; there is
            no joint to move, or none of that name; the end effector cannot move.
    """
    name, model = _model_of(robot)
    if end_effector is None and _id(model, "site", arm.END_EFFECTOR) >= 0:
        end_effector = arm.END_EFFECTOR
    chosen = _named_joints(name, model, joints) if joints is not None else _driven_joints(model)
    if not len(chosen):
        raise RobotError(
            f"{name} has no hinge or slide joint that an actuator drives, so nothing can be "
            "recorded. Free and ball joints are held still; name the joints if the model has "
            "others."
        )
    body, offset, rotation = _end_effector(name, model, chosen, end_effector)
    kinds = [int(model.jnt_type[j]) for j in chosen]
    ours = name == ARM and len(chosen) == arm.JOINTS
    moved = sum(
        float(model.body_mass[b])
        for b in range(model.nbody)
        if _chain(model, b, {int(j) for j in chosen})
    )
    return RobotModel(
        name=name,
        model=model,
        joints=tuple(model.joint(int(j)).name or f"joint{j}" for j in chosen),
        dofs=np.asarray(model.jnt_dofadr[chosen], dtype=np.intp),
        qpos=np.asarray(model.jnt_qposadr[chosen], dtype=np.intp),
        limits=arm.WORKING_LIMITS if ours else _limits(model, chosen, kinds),
        position_units=tuple("rad" if kind == _HINGE else "m" for kind in kinds),
        body=body,
        offset=offset,
        rotation=rotation,
        # About a thirtieth of what the robot moves of itself: felt everywhere, easily carried.
        payload=0.5 if ours else round(0.03 * moved, 6),
        file=_file_of(robot),
    )


def _file_of(robot: RobotLike) -> str | None:
    if isinstance(robot, mujoco.MjModel):
        return None
    name = os.fspath(robot)
    if name in ROBOTS:
        return name
    path = Path(name).expanduser()
    return str(path.resolve()) if path.suffix.lower() in _MODEL_SUFFIXES else None


def _model_of(robot: RobotLike) -> tuple[str, mujoco.MjModel]:
    if isinstance(robot, mujoco.MjModel):
        return "model", copy.copy(robot)
    name = os.fspath(robot)
    if name == ARM:
        return ARM, read_model(arm.model_path()).compile()
    path = Path(name).expanduser()
    if name in ROBOTS or path.suffix.lower() in _MODEL_SUFFIXES:
        return (name if name in ROBOTS else path.stem), read_model(name).compile()
    if name not in gymnasium.registry and ":" not in name:
        raise RobotError(
            f"{name!r} is neither {ARM!r}, nor the path of an .xml, .mjcf or .urdf file, nor a "
            f"registered gymnasium environment{did_you_mean(name, [ARM, *gymnasium.registry])}."
        )
    return _model_of_environment(name)


def _model_of_environment(name: str) -> tuple[str, mujoco.MjModel]:
    try:
        env = gymnasium.make(name)
    except (gymnasium.error.Error, ImportError) as error:
        raise RobotError(f"gymnasium cannot make {name!r}: {error}") from error
    try:
        model = getattr(env.unwrapped, "model", None)
        if not isinstance(model, mujoco.MjModel):
            raise RobotError(
                f"{name} does not run MuJoCo, so there is no model to record from; take an "
                "environment that does, or give an MJCF file."
            )
        # Our environments change nothing of the arm: its own ranges and speeds hold.
        ours = isinstance(env.unwrapped, arm.ArmEnv)
        return (ARM if ours else name), copy.copy(model)
    finally:
        env.close()


def active_constraints(model: mujoco.MjModel) -> list[str]:
    """Equality constraints that hold from the start, such as ``connect 'loop'``."""
    kinds = {int(kind): name for name, kind in mujoco.mjtEq.__members__.items()}
    return [
        f"{kinds[int(model.eq_type[i])].removeprefix('mjEQ_').lower()} {model.equality(i).name!r}"
        for i in range(model.neq)
        if model.eq_active0[i]
    ]


def _id(model: mujoco.MjModel, kind: str, name: str) -> int:
    types = {
        "site": mujoco.mjtObj.mjOBJ_SITE,
        "body": mujoco.mjtObj.mjOBJ_BODY,
        "joint": mujoco.mjtObj.mjOBJ_JOINT,
    }
    return int(mujoco.mj_name2id(model, types[kind], name))


def _named_joints(name: str, model: mujoco.MjModel, joints: Sequence[str]) -> NDArray[np.intp]:
    found = []
    for joint in joints:
        index = _id(model, "joint", joint)
        if index not in _movable(model):
            usable = [model.joint(j).name for j in _movable(model)]
            raise RobotError(f"{joint!r} is no hinge or slide joint of {name}; it has {usable}.")
        found.append(index)
    return np.array(sorted(set(found)), dtype=np.intp)


def _movable(model: mujoco.MjModel) -> list[int]:
    return [j for j in range(model.njnt) if int(model.jnt_type[j]) in (_HINGE, _SLIDE)]


def _driven_joints(model: mujoco.MjModel) -> NDArray[np.intp]:
    movable = _movable(model)
    if model.nu == 0:
        return np.array(movable, dtype=np.intp)
    direct = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
    driven: set[int] = set()
    for actuator in range(model.nu):
        kind, target = int(model.actuator_trntype[actuator]), int(model.actuator_trnid[actuator, 0])
        if kind in direct:
            driven.add(target)
        elif kind == int(mujoco.mjtTrn.mjTRN_TENDON):
            first, count = int(model.tendon_adr[target]), int(model.tendon_num[target])
            driven.update(
                int(model.wrap_objid[w])
                for w in range(first, first + count)
                if int(model.wrap_type[w]) == int(mujoco.mjtWrap.mjWRAP_JOINT)
            )
    return np.array(sorted(driven.intersection(movable)), dtype=np.intp)


def _chain(model: mujoco.MjModel, body: int, joints: set[int]) -> int:
    """How many of `joints` lie between the world and `body`."""
    count = 0
    while body > 0:
        first = int(model.body_jntadr[body])
        count += sum(j in joints for j in range(first, first + int(model.body_jntnum[body])))
        body = int(model.body_parentid[body])
    return count


def _end_effector(
    name: str, model: mujoco.MjModel, joints: NDArray[np.intp], wanted: str | None
) -> tuple[int, Array, Array]:
    moving = {int(j) for j in joints}
    if wanted is None:
        longest = [_chain(model, body, moving) for body in range(model.nbody)]
        body = max(range(model.nbody), key=lambda b: (longest[b], b))
        return body, np.zeros(3), np.eye(3)
    site, body = _id(model, "site", wanted), _id(model, "body", wanted)
    offset, rotation = np.zeros(3), np.eye(3)
    if site >= 0:
        body = int(model.site_bodyid[site])
        offset = model.site_pos[site].copy()
        flat = np.empty(9)
        mujoco.mju_quat2Mat(flat, model.site_quat[site])
        rotation = flat.reshape(3, 3)
    if body < 0 or not _chain(model, body, moving):
        sites = [model.site(i).name for i in range(model.nsite)]
        bodies = [model.body(i).name for i in range(1, model.nbody)]
        raise RobotError(
            f"{wanted!r} is no site or body of {name} that its moving joints move; it has the "
            f"sites {sites} and the bodies {bodies}."
        )
    return body, offset, rotation


def _limits(model: mujoco.MjModel, joints: NDArray[np.intp], kinds: list[int]) -> JointLimits:
    middle = np.array([float(model.qpos0[model.jnt_qposadr[j]]) for j in joints])
    half = np.array([_FREE_RANGE[kind] for kind in kinds])
    limited = model.jnt_limited[joints].astype(bool)
    low, high = model.jnt_range[joints].T
    middle = np.where(limited, (low + high) / 2, middle)
    half = np.where(limited, _RANGE_SHARE * (high - low) / 2, half)
    return JointLimits(
        middle - half,
        middle + half,
        np.array([_SPEED[kind] for kind in kinds]),
        np.array([_ACCELERATION[kind] for kind in kinds]),
    )
