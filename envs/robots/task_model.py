"""A robot's model made ready for a task: floor, sensors, servos; one compiled model a process."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import mujoco
import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, RobotError, UnknownNameError
from ..datasets.robot_models import find_robot
from ..trajectories import JointLimits
from .inspection import RobotDescription, damping_ratio, describe_model, find_actuators
from .model_loading import PREFIX, RobotFile, SourceModel, model_file, read_model
from .robot_state import RobotLayout
from .robot_task import RobotTask
from .terrain import Terrain, add_terrain, make_terrain

Array = NDArray[np.float64]

_GRAVITY = 9.81
_DAMPING = 0.5
"""Damping ratio of servos that are made of motors."""
_STIFFNESS = 1.5
"""Their stiffness, 1/rad, in units of the motor's force."""
_POSTURES = 256
"""Postures that the reach of an end effector is found from."""
_REACH = 1.0
"""How far joints are from home in them, rad or m, at most."""


@dataclass(frozen=True, eq=False)
class ActionMap:
    """From actions in ±1 to commands of the actuators: ``centre + action · (up or down)``.

    Attributes:
        centre: command of an action of 0, `(actuators,)`.
        up: what an action of 1 adds.
        down: what an action of −1 takes away.
    """

    centre: Array
    up: Array
    down: Array

    def __call__(self, action: Array) -> Array:
        """Commands `(…, actuators)` of actions of that shape."""
        return self.centre + np.where(action >= 0, action * self.up, action * self.down)


@dataclass(frozen=True, eq=False)
class TaskModel:
    """A compiled model, shared by all environments of the process that run the same task on it.

    Attributes:
        model: compiled; never changed.
        layout: where its numbers stand.
        actions: what an action means.
        postures: `(n, joints)` for the goals of reach; empty otherwise.
        goals: where the end effector is there, `(n, 3)`, m.
        limits: where and how fast references move the joints; None where nothing is tracked.
        target: number of the mark that shows the goal among the mocap bodies; −1 for none.
    """

    model: mujoco.MjModel
    layout: RobotLayout
    actions: ActionMap
    postures: Array
    goals: Array
    limits: JointLimits | None
    target: int


_COMPILED: dict[tuple[object, ...], TaskModel] = {}


def task_model(robot: RobotFile, task: RobotTask) -> TaskModel:
    """The model of a robot for a task; compiled once in a process.

    Raises:
        RobotError: the file is missing, MuJoCo refuses it, or the robot cannot do the task.
        ConfigError: a setting does not fit the robot.
    """
    path = model_file(robot)
    status = path.stat()
    # What may differ between tasks on one model: everything else goes into what is compiled.
    key = (str(path), status.st_mtime_ns, status.st_size, json.dumps(task.to_dict()))
    if key not in _COMPILED:
        _COMPILED[key] = _build(read_model(robot), task)
    return _COMPILED[key]


def _build(source: SourceModel, task: RobotTask) -> TaskModel:
    found = describe_model(source, task.start.keyframe, task.start.pose)
    _refuse_unfit(found, task)
    terrain = make_terrain(task.terrain, found.home_height) if found.base != "fixed" else None
    if task.terrain.kind != "none" and not found.legged:
        raise ConfigError(f"{found.name} has no feet, and terrain.kind is {task.terrain.kind!r}")
    model = source.compile(lambda spec: _change(spec, found, task, terrain))
    if task.actions.servo:
        _make_servos(model, found, task)
    _damp_servos(model, found, task.actions.damping)
    robot = replace(
        found,
        actuators=tuple(find_actuators(model, [])),
        timestep=float(model.opt.timestep),
    )
    home = robot.home.copy()
    layout = _layout(model, robot, task, terrain)
    postures, goals = np.zeros((0, len(robot.joints))), np.zeros((0, 3))
    if task.task == "reach":
        postures, goals = _reachable(model, layout, home)
        if not task.command.ranges:
            layout = replace(layout, ranges=np.stack([goals.min(0), goals.max(0)], 1))
    return TaskModel(
        model=model,
        layout=layout,
        actions=_action_map(model, layout, home),
        postures=postures,
        goals=goals,
        limits=_joint_limits(model, layout) if task.task == "track" else None,
        # A model with its own mark shows the goal by that; ours is the last.
        target=_target(source.spec, model) if task.task in ("reach", "hover") else -1,
    )


def _refuse_unfit(robot: RobotDescription, task: RobotTask) -> None:
    """Refuse robots that cannot do the task, and actuators that nothing can be told.

    Raises:
        RobotError: so it is.
    """
    if not robot.actuators:
        raise RobotError(f"{robot.name} has no actuator; add an <actuator> section to its model.")
    if unusable := ", ".join(a.name for a in robot.actuators if not a.usable):
        raise RobotError(
            f"{robot.name}: no range of {unusable}. The model says neither ctrlrange nor "
            "forcerange, nor an actuatorfrcrange of the joint. Add one, such as "
            'ctrlrange="-5 5".'
        )
    needs_base = task.task in ("velocity", "stand", "hover")
    if needs_base and robot.base == "fixed":
        raise RobotError(
            f"{robot.name} has a fixed base and cannot do {task.task!r}: no free joint, no boom of "
            f"joints that nothing drives. It can {' and '.join(robot.suits)}."
        )
    if task.task == "hover" and not robot.flies:
        raise RobotError(f"{robot.name} does not fly: no motor pushes its free base by a site.")
    if task.task in ("reach", "track") and not any(j.driven for j in robot.joints):
        raise RobotError(f"{robot.name} has no joint that an actuator drives, for {task.task!r}.")
    if task.task == "track":
        odd = [a.name for a in robot.actuators if a.joint < 0 or a.kind in ("velocity", "other")]
        if odd or len(robot.actuators) != len({a.joint for a in robot.actuators}):
            raise RobotError(
                f"{robot.name} cannot track: each joint needs one motor or position servo of its "
                f"own. Others: {', '.join(odd) or 'several on one joint'}."
            )


def _change(
    spec: mujoco.MjSpec, robot: RobotDescription, task: RobotTask, terrain: Terrain | None
) -> None:
    """Add what the task needs."""
    kind, thing = mujoco.mjtSensor, mujoco.mjtObj
    if task.timestep is not None:
        spec.option.timestep = task.timestep
    if task.actions.damping and spec.option.integrator == mujoco.mjtIntegrator.mjINT_EULER:
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    if terrain is not None:
        add_terrain(spec, terrain)
    elif robot.base != "fixed" and not robot.has_floor:
        spec.worldbody.add_geom(
            name=f"{PREFIX}floor",
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=[0, 0, 0.1],
            pos=[0, 0, robot.ground],
            rgba=[0.75, 0.76, 0.78, 1],
            contype=1,
            conaffinity=1,
        )
    if task.actions.gravity_compensation and robot.base == "fixed":
        for body in spec.bodies[1:]:
            body.gravcomp = 1.0
    add = spec.add_sensor
    if robot.base != "fixed":
        site = f"{PREFIX}base"
        frame = list(robot.upright)
        spec.body(robot.base_body).add_site(name=site, quat=frame, size=[0.001, 0, 0], group=5)
        for name, type_ in (
            ("base_position", kind.mjSENS_FRAMEPOS),
            ("base_orientation", kind.mjSENS_FRAMEQUAT),
            ("linear_velocity", kind.mjSENS_VELOCIMETER),
            ("angular_velocity", kind.mjSENS_GYRO),
        ):
            add(name=PREFIX + name, type=type_, objtype=thing.mjOBJ_SITE, objname=site)
    for foot in robot.feet:
        add(
            name=f"{PREFIX}contacts_{foot}",
            type=kind.mjSENS_CONTACT,
            objtype=thing.mjOBJ_BODY,
            objname=foot,
            intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_FOUND), 0, 1],
        )
    for name, type_ in (
        ("feet_position", kind.mjSENS_FRAMEPOS),
        ("feet_velocity", kind.mjSENS_FRAMELINVEL),
    ):
        for foot in robot.feet:
            add(name=f"{PREFIX}{name}_{foot}", type=type_, objtype=thing.mjOBJ_XBODY, objname=foot)
    what, _, tip = robot.end_effector.partition(":")
    # A body's centre of mass: its frame lies at its joint, and need not move.
    where = thing.mjOBJ_SITE if what == "site" else thing.mjOBJ_BODY
    if task.task == "hover":
        where, tip = thing.mjOBJ_XBODY, robot.base_body
    add(
        name=f"{PREFIX}tip",
        type=kind.mjSENS_FRAMEPOS,
        objtype=where,
        objname=tip,
    )
    if task.task in ("reach", "hover") and not _own_mark(spec):
        mark = spec.worldbody.add_body(name=f"{PREFIX}target", mocap=True)
        mark.add_geom(
            name=f"{PREFIX}target",
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=[0.025, 0, 0],
            contype=0,
            conaffinity=0,
            rgba=[0.05, 0.62, 0.45, 0.6],
        )


def _make_servos(model: mujoco.MjModel, robot: RobotDescription, task: RobotTask) -> None:
    """Turn motors on joints into position servos with the same force, in place."""
    data = mujoco.MjData(model)
    data.qpos[:] = robot.home
    mujoco.mj_forward(model, data)
    ranges = {j.dof: (j.low, j.high) for j in robot.joints}
    for index, actuator in enumerate(robot.actuators):
        if actuator.kind != "motor" or actuator.joint < 0:
            continue
        gear = float(model.actuator_gear[index, 0]) or 1.0
        dof = int(model.jnt_dofadr[actuator.joint])
        torque = actuator.force * abs(gear)
        stiffness = task.actions.stiffness or _STIFFNESS * torque
        damping = 2 * _DAMPING * np.sqrt(stiffness * _inertia(model, data, dof))
        model.actuator_gainprm[index, :3] = (stiffness / gear**2, 0, 0)
        model.actuator_biastype[index] = mujoco.mjtBias.mjBIAS_AFFINE
        model.actuator_biasprm[index, :3] = (0, -stiffness / gear**2, -damping / gear**2)
        model.actuator_forcelimited[index] = 1
        model.actuator_forcerange[index] = (-actuator.force, actuator.force)
        low, high = ranges[dof]
        limited = bool(np.isfinite(high - low))
        model.actuator_ctrllimited[index] = limited
        if limited:
            model.actuator_ctrlrange[index] = sorted((low * gear, high * gear))


def _own_mark(spec: mujoco.MjSpec) -> bool:
    """Whether a model has a mocap body that nothing hangs on."""
    tied = {name for equality in spec.equalities for name in (equality.name1, equality.name2)}
    marks = [body for body in spec.bodies if body.mocap]
    return bool(marks) and not any(
        body.name in tied or {site.name for site in body.sites} & tied for body in marks
    )


def _target(spec: mujoco.MjSpec, model: mujoco.MjModel) -> int:
    return 0 if _own_mark(spec) else int(model.nmocap) - 1


def _damp_servos(model: mujoco.MjModel, robot: RobotDescription, least: float) -> None:
    """Give position servos on joints a damping ratio of at least so much, in place."""
    for index in range(model.nu):
        ratio = damping_ratio(model, index) if robot.actuators[index].kind == "position" else -1.0
        if 0 <= ratio < least:
            dof = int(model.jnt_dofadr[model.actuator_trnid[index, 0]])
            gear = float(model.actuator_gear[index, 0])
            stiffness = -float(model.actuator_biasprm[index, 1])
            lacking = 2 * (least - ratio) * np.sqrt(stiffness * float(model.dof_M0[dof]))
            model.actuator_biasprm[index, 2] -= lacking / abs(gear)


def _inertia(model: mujoco.MjModel, data: mujoco.MjData, dof: int) -> float:
    """Inertia that a joint feels at the posture of `data`, kg·m² or kg."""
    unit, column = np.zeros(model.nv), np.zeros(model.nv)
    unit[dof] = 1.0
    mujoco.mj_mulM(model, data, column, unit)
    return float(column[dof])


def _layout(
    model: mujoco.MjModel, robot: RobotDescription, task: RobotTask, terrain: Terrain | None
) -> RobotLayout:
    sensors: dict[str, slice] = {}
    for index in range(model.nsensor):
        name = model.sensor(index).name
        if not name.startswith(PREFIX):
            continue
        first, width = int(model.sensor_adr[index]), int(model.sensor_dim[index])
        name = name.removeprefix(PREFIX)
        for group in ("contacts", "feet_position", "feet_velocity"):
            # Those of the feet follow each other.
            name = group if name.startswith(f"{group}_") else name
        start = sensors[name].start if name in sensors else first
        sensors[name] = slice(start, first + width)
    commands = _commands(robot, task)
    if "forward" in commands or "sideways" in commands:
        along = [abs(x) for name in ("forward", "sideways") for x in commands.get(name, (0, 0))]
        speed = max(*along, 0.1)
    else:
        speed = max(0.5 * _froude(robot), 0.1)
    period = max(round(1 / (task.control_rate * robot.timestep)), 1) * robot.timestep
    force = np.array([a.force for a in robot.actuators])
    # A servo whose force nothing limits gives this much when it is half its range away.
    gains = np.abs(model.actuator_gainprm[:, 0])
    spans = np.array([(a.high - a.low) / 2 for a in robot.actuators])
    force = np.where(np.isfinite(force), force, gains * spans)
    return RobotLayout(
        robot=robot,
        task=task,
        home=robot.home[[j.qpos for j in robot.joints]],
        low=np.array([j.low for j in robot.joints]),
        high=np.array([j.high for j in robot.joints]),
        qpos=np.array([j.qpos for j in robot.joints], dtype=np.intp),
        dofs=np.array([j.dof for j in robot.joints], dtype=np.intp),
        sensors=sensors,
        force=force,
        commands=tuple(commands),
        ranges=np.array(list(commands.values()), dtype=np.float64).reshape(-1, 2),
        speed=float(speed),
        control_period=period,
        terrain=terrain,
        ground=0.0 if terrain is not None else robot.ground,
    )


def _froude(robot: RobotDescription) -> float:
    """√(g · height), m/s: what a robot of this size calls fast."""
    return float(np.sqrt(_GRAVITY * max(robot.home_height, 0.05)))


_COMMANDS = {
    "velocity": ("forward", "sideways", "turn"),
    "stand": (),
    "reach": ("x", "y", "z"),
    "track": (),
    "hover": ("x", "y", "z", "yaw"),
}
"""What can be asked of a robot in each task."""


def _commands(robot: RobotDescription, task: RobotTask) -> dict[str, tuple[float, float]]:
    """Names and ranges of the commands: the user's, or what suits the robot's size."""
    for name in task.command.ranges:
        if name not in _COMMANDS[task.task]:
            known = _COMMANDS[task.task] or ["(it has none)"]
            raise UnknownNameError(f"command of {task.task!r}", name, known)
    if task.command.ranges:
        if task.task in ("reach", "hover") and not {"x", "y", "z"} <= set(task.command.ranges):
            raise ConfigError(f"command.ranges of {task.task!r} needs x, y and z")
        return {n: task.command.ranges[n] for n in _COMMANDS[task.task] if n in task.command.ranges}
    if task.task == "velocity":
        # Two legs are slower than four, and one on a boom has nowhere to turn.
        speed = _froude(robot) * (0.4 if len(robot.feet) == 2 else 1.0)
        if robot.base == "planar":
            return {"forward": (0.0, 0.6 * speed)}
        rate = 0.2 * np.sqrt(_GRAVITY / max(robot.home_height, 0.05))
        return {
            "forward": (-0.3 * speed, 0.6 * speed),
            "sideways": (-0.25 * speed, 0.25 * speed),
            "turn": (-float(rate), float(rate)),
        }
    if task.task == "reach":
        return dict.fromkeys(("x", "y", "z"), (-1.0, 1.0))  # found from postures
    if task.task == "hover":
        low = max(robot.home_height - 0.3, 0.5)
        return {
            "x": (-0.5, 0.5),
            "y": (-0.5, 0.5),
            "z": (low, low + 0.8),
            "yaw": (0.0, 0.0),
        }
    return {}


def _working_range(layout: RobotLayout, share: float) -> tuple[Array, Array]:
    """Where joints go: a share of their range, or 90° around home where there is none."""
    low = np.where(np.isfinite(layout.low), layout.low, layout.home - np.pi / 2)
    high = np.where(np.isfinite(layout.high), layout.high, layout.home + np.pi / 2)
    middle, half = (low + high) / 2, share * (high - low) / 2
    return middle - half, middle + half


def _reachable(model: mujoco.MjModel, layout: RobotLayout, home: Array) -> tuple[Array, Array]:
    """Postures around home, and where the end effector is there; without the robot in the way."""
    generator = np.random.default_rng(0)  # part of what the task is
    low, high = _working_range(layout, 0.9)
    scale = min(0.9 * layout.task.actions.scale, _REACH)
    low, high = np.maximum(low, layout.home - scale), np.minimum(high, layout.home + scale)
    still = np.array([not j.driven for j in layout.robot.joints])
    data = mujoco.MjData(model)
    postures, goals = [], []
    data.qpos[:] = home
    mujoco.mj_forward(model, data)
    touching = data.ncon
    for _ in range(8 * _POSTURES):
        posture = generator.uniform(low, np.maximum(high, low))
        posture[still] = layout.home[still]
        data.qpos[:] = home
        data.qpos[layout.qpos] = posture
        mujoco.mj_fwdPosition(model, data)
        if data.ncon > touching:
            continue
        mujoco.mj_sensorPos(model, data)
        postures.append(posture)
        goals.append(data.sensordata[layout.sensors["tip"]].copy())
        if len(goals) == _POSTURES:
            break
    if not goals or np.ptp(np.array(goals), axis=0).max() < 1e-4:
        raise RobotError(
            f"{layout.robot.name} cannot reach: its end effector ({layout.robot.end_effector}) "
            "stays where it is, or touches something wherever it goes."
        )
    return np.array(postures), np.array(goals)


def _joint_limits(model: mujoco.MjModel, layout: RobotLayout) -> JointLimits:
    """Where and how fast references move: as in recordings of the robot's inverse dynamics."""
    found = find_robot(model)
    place = {int(dof): n for n, dof in enumerate(layout.dofs)}
    driven = [place[int(dof)] for dof in found.dofs]
    low, high = layout.home - 1e-6, layout.home + 1e-6  # the others are held still
    speed, acceleration = np.ones(len(low)), np.ones(len(low))
    low[driven], high[driven] = found.limits.low, found.limits.high
    speed[driven], acceleration[driven] = found.limits.speed, found.limits.acceleration
    return JointLimits(low, high, speed, acceleration)


def _action_map(model: mujoco.MjModel, layout: RobotLayout, home: Array) -> ActionMap:
    """Targets around home for servos, scaled torques for motors, thrust around hover."""
    task, actuators = layout.task, layout.robot.actuators
    low = np.array([a.low for a in actuators])
    high = np.array([a.high for a in actuators])
    position = np.array([a.kind == "position" for a in actuators])
    data = mujoco.MjData(model)
    data.qpos[:] = home
    mujoco.mj_forward(model, data)
    gear = np.abs(model.actuator_gear[:, 0])
    reach = np.array(
        [
            task.actions.scale * (g if a.joint >= 0 else 1.0)
            for a, g in zip(actuators, gear, strict=True)
        ]
    )
    # A tendon, or another servo of many joints, goes as far as its range lets it.
    spread = np.array([a.joint < 0 for a in actuators])
    reach = np.where(spread, (high - low) / 2, reach)
    centre = np.clip(data.actuator_length, low, high)
    zero = np.clip(0.0, low, high)
    if layout.robot.flies:
        zero = np.clip(_holding(model, data), low, high)
    elif (high <= 0).any() or (low >= 0).any():
        # Nothing pulls both ways: rest is half the range.
        zero = np.where((low >= 0) | (high <= 0), (low + high) / 2, zero)
    centre = np.where(position, centre, zero)
    up = np.where(position, np.minimum(reach, high - centre), task.actions.effort * (high - centre))
    down = np.where(position, np.minimum(reach, centre - low), task.actions.effort * (centre - low))
    return ActionMap(centre, up, down)


def _holding(model: mujoco.MjModel, data: mujoco.MjData) -> Array:
    """Commands of actuators that hold a robot in the air at the posture of `data`."""
    moments = np.zeros((model.nv, model.nu))
    for index in range(model.nu):
        command = np.zeros(model.nu)
        command[index] = 1.0
        data.ctrl[:] = command
        if model.na:
            data.act[:] = 0
            if model.actuator_actadr[index] >= 0:
                data.act[model.actuator_actadr[index]] = 1.0
        mujoco.mj_fwdActuation(model, data)
        moments[:, index] = data.qfrc_actuator
    solution, *_ = np.linalg.lstsq(moments, data.qfrc_bias, rcond=None)
    return np.asarray(solution)
