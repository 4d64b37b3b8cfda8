"""What a robot's model says of it: base, joints, actuators, feet, end effector, and what is odd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from ...errors import RobotError, UnknownNameError
from ..dynamics import Gravity
from .model_loading import PREFIX, RobotFile, SourceModel, read_model

Array = NDArray[np.float64]
BaseKind = Literal["free", "planar", "fixed"]
ActuatorKind = Literal["position", "velocity", "motor", "other"]

_FREE, _BALL, _SLIDE, _HINGE = (
    int(getattr(mujoco.mjtJoint, f"mjJNT_{kind}")) for kind in ("FREE", "BALL", "SLIDE", "HINGE")
)
_DIRECT = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
_TENDON, _SITE, _BODY = (
    int(getattr(mujoco.mjtTrn, f"mjTRN_{kind}")) for kind in ("TENDON", "SITE", "BODY")
)
_TIPS = ("end_effector", "attachment", "tool", "tcp", "pinch", "grip", "ee", "hand", "tip")
#: Words in the names of sites that mark an end effector, the best first.
UNLIMITED = "half turn either way"
_DAMPED = 0.1
"""Damping ratio below which a servo is odd."""
_IN_THE_AIR = 1.0
"""Height at which a robot that flies starts where its model does not say, m."""
_LEANING = 0.9
"""Cosine of the tilt at home below which a base's own frame is not taken for upright."""
_NARROW = 0.12
"""Width of a joint's range below which its author probably meant radians: two half turns, read as
degrees, are 0.11 rad."""
_LEVEL = 0.1
"""Feet are no more than this share of the base's height above the lowest of them, at least 1 cm."""


@dataclass(frozen=True)
class Joint:
    """A joint of the robot that is not part of how its base moves.

    Attributes:
        name: as in the file, or ``joint3``.
        unit: "rad" or "m".
        qpos: its place in `qpos`.
        dof: its place in `qvel`.
        low: lower end of its range, rad or m; −inf without one.
        high: upper end; inf without one.
        driven: whether an actuator moves it.
    """

    name: str
    unit: str
    qpos: int
    dof: int
    low: float
    high: float
    driven: bool


@dataclass(frozen=True)
class Actuator:
    """An actuator.

    Attributes:
        name: as in the file, or that of what it drives.
        kind: position servo, velocity servo, motor (its force is its command), or another.
        drives: the name of its joint, tendon, site or body.
        low: lowest command.
        high: highest command.
        source: where that range comes from: "control range", "joint range", "force range",
            `UNLIMITED`, or "none".
        force: the largest force that it gives, N·m or N; inf where nothing limits it.
        joint: index of the hinge or slide joint that it drives directly; −1 for none.
        pushes: whether it pushes a body at a site, as a rotor does.
    """

    name: str
    kind: ActuatorKind
    drives: str
    low: float
    high: float
    source: str
    force: float
    joint: int
    pushes: bool = False

    @property
    def usable(self) -> bool:
        """Whether it has a range of some width."""
        return self.low < self.high


@dataclass(frozen=True, eq=False)
class RobotDescription:
    """What was found in a model.

    Attributes:
        name: of the robot.
        base: how its base moves: freely, in a plane (by joints that nothing drives), or not at all.
        base_body: name of the base.
        joints: those that the robot has, in the model's order.
        actuators: in the model's order.
        feet: bodies that touch the ground at home; none for a fixed base.
        end_effector: site or body, ``site:tip`` or ``body:hand``.
        keyframes: their names.
        home: posture `(nq,)` that tasks start from.
        home_source: where it comes from, in words.
        home_height: of the base above the ground at home, m.
        upright: orientation `(4,)` in the base's frame of the frame in which it is upright at home,
            with x ahead; the base's own unless that lies on its side.
        ground: height of the floor, m; of the lowest foot at home where there is no plane.
        cameras: their names.
        mass: of the robot, kg.
        gravity: size of gravity, m/s².
        timestep: of the physics, s.
        has_floor: whether something that does not move can be stood on.
        findings: what is missing or odd, a sentence each.
    """

    name: str
    base: BaseKind
    base_body: str
    joints: tuple[Joint, ...]
    actuators: tuple[Actuator, ...]
    feet: tuple[str, ...]
    end_effector: str
    keyframes: tuple[str, ...]
    home: Array
    home_source: str
    home_height: float
    upright: tuple[float, ...]
    ground: float
    cameras: tuple[str, ...]
    mass: float
    gravity: float
    timestep: float
    has_floor: bool
    findings: tuple[str, ...]

    @property
    def legged(self) -> bool:
        """Whether it moves by feet."""
        return self.base != "fixed" and bool(self.feet) and bool(self.joints)

    @property
    def flies(self) -> bool:
        """Whether actuators push its free base directly, as rotors do."""
        return self.base == "free" and any(a.pushes for a in self.actuators)

    @property
    def suits(self) -> tuple[str, ...]:
        """The tasks that make sense for it, the likeliest first."""
        if self.base == "fixed":
            return ("reach", "track")
        return ("hover",) if self.flies and not self.legged else ("velocity", "stand")

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        from dataclasses import asdict

        def plain(value: Any) -> Any:  # noqa: ANN401
            if isinstance(value, dict):
                return {name: plain(part) for name, part in value.items()}
            if isinstance(value, list | tuple):
                return [plain(part) for part in value]
            return value if not isinstance(value, float) or np.isfinite(value) else None

        return plain({**asdict(self), "home": self.home.tolist(), "suits": self.suits})  # type: ignore[no-any-return]


def inspect_robot(robot: RobotFile) -> RobotDescription:
    """Say what a robot's model holds.

    Args:
        robot: name of a robot in the package, or path of an MJCF or URDF file.

    Raises:
        RobotError: there is no such file, or MuJoCo refuses it.
    """
    return describe_model(read_model(robot))


def describe_model(
    source: SourceModel, keyframe: str | None = None, pose: dict[str, float] | None = None
) -> RobotDescription:
    """Say what a model holds, and where a task starts.

    Args:
        source: the model, read.
        keyframe: name of the keyframe to start from; None: "home", else the first, else none.
        pose: positions of joints (rad, m) that differ from that.

    Raises:
        RobotError: there is no such keyframe or joint.
    """
    model = source.compile()
    findings = list(source.odd)
    base, base_body, base_joints = _find_base(model)
    subtree = _subtree(model, base_body) if base != "fixed" else set(range(1, model.nbody))
    joints = _find_joints(model, subtree, base_joints, findings)
    actuators = find_actuators(model, findings)
    home, home_source = _find_home(source.name, model, keyframe, pose or {}, joints, findings)
    floor = _has_floor(model)
    data = mujoco.MjData(model)
    if keyframe is None and model.nkey == 0 and base == "free":
        _put_on_ground(model, data, home, base_body, subtree)
        if not joints:
            address = int(model.jnt_qposadr[model.body_jntadr[base_body]])
            home[address + 2] = max(home[address + 2], _IN_THE_AIR)
    data.qpos[:] = home
    mujoco.mj_forward(model, data)
    feet: list[int] = []
    if base != "fixed" and joints:
        feet = _find_feet(model, data, subtree, base_body)
    ground = _plane_height(model, data)
    if ground is None:
        ground = min((_lowest(model, data, foot) for foot in feet), default=0.0)
    height = float(data.xpos[base_body][2] - ground)
    driven = [j for j in joints if j.driven] or joints
    tip = _find_tip(model, {j.qpos for j in driven})
    robot_mass = float(model.body_mass[sorted(subtree)].sum())
    description = RobotDescription(
        name=source.name,
        base=base,
        base_body=model.body(base_body).name,
        joints=tuple(joints),
        actuators=tuple(actuators),
        feet=tuple(model.body(foot).name for foot in feet),
        end_effector=tip,
        keyframes=tuple(model.key(k).name or f"key{k}" for k in range(model.nkey)),
        home=home,
        home_source=home_source,
        home_height=height,
        upright=_upright(data, base_body),
        ground=ground,
        cameras=tuple(model.camera(c).name or f"camera{c}" for c in range(model.ncam)),
        mass=robot_mass,
        gravity=float(np.linalg.norm(model.opt.gravity)),
        timestep=float(model.opt.timestep),
        has_floor=floor,
        findings=(),
    )
    findings += _general_findings(model, description)
    object.__setattr__(description, "findings", tuple(dict.fromkeys(findings)))
    return description


# -- the parts -------------------------------------------------------------------------------------


def _find_base(model: mujoco.MjModel) -> tuple[BaseKind, int, set[int]]:
    """How the base moves, its body, and the joints that let it."""
    driven = _driven_joints(model)
    free = [j for j in range(model.njnt) if int(model.jnt_type[j]) == _FREE]
    pushed = {
        int(model.site_bodyid[model.actuator_trnid[a, 0]])
        for a in range(model.nu)
        if int(model.actuator_trntype[a]) == _SITE
    }
    for joint in free:
        body = int(model.jnt_bodyid[joint])
        inside = _subtree(model, body)
        if any(int(model.jnt_bodyid[j]) in inside for j in driven) or pushed & inside:
            return "free", body, {joint}
    # A boom: joints at the root that nothing drives, two or more of them, one along the ground.
    for body in range(1, model.nbody):
        first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
        own = set(range(first, first + count)) if count else set()
        if int(model.body_parentid[body]) != 0 or not own or own & driven:
            continue
        own |= _single_chain(model, body, driven)
        slides = [j for j in own if int(model.jnt_type[j]) == _SLIDE]
        inside = _subtree(model, body)
        if len(slides) >= 2 and any(int(model.jnt_bodyid[j]) in inside for j in driven):
            last = max(int(model.jnt_bodyid[j]) for j in own)
            return "planar", last, own
    root = next((b for b in range(1, model.nbody) if int(model.body_parentid[b]) == 0), 0)
    moved = [int(model.jnt_bodyid[j]) for j in sorted(driven)]
    if moved:
        root = int(model.body_rootid[moved[0]])
    return "fixed", root, set()


def _single_chain(model: mujoco.MjModel, body: int, driven: set[int]) -> set[int]:
    """Joints that nothing drives on the bodies that follow one by one."""
    found: set[int] = set()
    while True:
        children = [b for b in range(1, model.nbody) if int(model.body_parentid[b]) == body]
        if len(children) != 1:
            return found
        body = children[0]
        first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
        own = set(range(first, first + count)) if count else set()
        if not own or own & driven:
            return found
        found |= own


def _subtree(model: mujoco.MjModel, root: int) -> set[int]:
    inside = {root}
    for body in range(root + 1, model.nbody):
        if int(model.body_parentid[body]) in inside:
            inside.add(body)
    return inside


def _driven_joints(model: mujoco.MjModel) -> set[int]:
    driven: set[int] = set()
    for actuator in range(model.nu):
        driven |= set(_joints_of(model, actuator))
    return driven


def _joints_of(model: mujoco.MjModel, actuator: int) -> list[int]:
    kind, target = int(model.actuator_trntype[actuator]), int(model.actuator_trnid[actuator, 0])
    if kind in _DIRECT:
        return [target]
    if kind != _TENDON:
        return []
    first, count = int(model.tendon_adr[target]), int(model.tendon_num[target])
    found = []
    for wrap in range(first, first + count):
        thing, what = int(model.wrap_type[wrap]), int(model.wrap_objid[wrap])
        if thing == int(mujoco.mjtWrap.mjWRAP_JOINT):
            found.append(what)
        elif thing == int(mujoco.mjtWrap.mjWRAP_SITE):
            # A spatial tendon moves the joints of the bodies that it is fastened to.
            body = int(model.site_bodyid[what])
            start, number = int(model.body_jntadr[body]), int(model.body_jntnum[body])
            found += [j for j in range(start, start + number) if number and start >= 0]
    return list(dict.fromkeys(found))


def _find_joints(
    model: mujoco.MjModel, subtree: set[int], of_base: set[int], findings: list[str]
) -> list[Joint]:
    driven, joints = _driven_joints(model), []
    for j in range(model.njnt):
        kind, body = int(model.jnt_type[j]), int(model.jnt_bodyid[j])
        if j in of_base or body not in subtree:
            continue
        name = model.joint(j).name or f"joint{j}"
        if kind in (_BALL, _FREE):
            what = "ball joint" if kind == _BALL else "free joint"
            findings.append(f"{name} is a {what}: it moves, and no observation shows it")
            continue
        limited = bool(model.jnt_limited[j])
        low, high = model.jnt_range[j] if limited else (-np.inf, np.inf)
        unit = "rad" if kind == _HINGE else "m"
        address, dof = int(model.jnt_qposadr[j]), int(model.jnt_dofadr[j])
        joints.append(Joint(name, unit, address, dof, float(low), float(high), j in driven))
    return joints


def find_actuators(model: mujoco.MjModel, findings: list[str]) -> list[Actuator]:
    """The actuators of a compiled model; what is odd about them goes into `findings`."""
    actuators, several = [], []
    for a in range(model.nu):
        transmission, target = int(model.actuator_trntype[a]), int(model.actuator_trnid[a, 0])
        joint = target if transmission in _DIRECT else -1
        if joint >= 0 and int(model.jnt_type[joint]) not in (_HINGE, _SLIDE):
            joint = -1
        drives = _driven_name(model, transmission, target)
        name = model.actuator(a).name or f"{drives}_actuator"
        kind = _kind_of(model, a)
        force = _force_of(model, a, joint)
        low, high, source = _range_of(model, a, kind, joint, force)
        pushes = transmission == _SITE and kind == "motor"
        found = Actuator(name, kind, drives, low, high, source, force, joint, pushes)
        actuators.append(found)
        if len(_joints_of(model, a)) > 1:
            several.append(f"{name} (through {drives})")
    if unusable := ", ".join(f"{a.name} ({a.kind})" for a in actuators if not a.usable):
        findings.append(
            f"no range of {unusable}: neither a ctrlrange, nor a forcerange, nor an "
            'actuatorfrcrange of the joint says how far it goes. Add one, such as ctrlrange="-5 5"'
        )
    if several:
        findings.append(f"several joints are moved by one actuator: {', '.join(several)}")
    for source in ("joint range", "force range", UNLIMITED):
        named = ", ".join(a.name for a in actuators if a.source == source)
        if named:
            findings.append(f"no ctrlrange of {named}; taken from the {source}")
    servos = [(a.name, n) for n, a in enumerate(actuators) if a.kind == "position"]
    ringing = [name for name, n in servos if 0 <= damping_ratio(model, n) < _DAMPED]
    if ringing:
        findings.append(
            f"hardly damped: {', '.join(ringing)}; a servo without kv or dampratio rings. "
            "actions.damping 0.5 damps it for a task"
        )
    fast = [(servo_frequency(model, n) * float(model.opt.timestep), name) for name, n in servos]
    if fast and max(fast)[0] > 1:
        step = float(model.opt.timestep) * 0.5 / max(fast)[0]
        names = ", ".join(name for stiff, name in fast if stiff > 1)
        findings.append(
            f"too stiff for a physics step of {model.opt.timestep:g} s and the inertia of the "
            f"joint: {names}. Give the joints an armature; or `timestep {step:.1g}` for a task"
        )
    explicit = int(model.opt.integrator) == int(mujoco.mjtIntegrator.mjINT_EULER)
    jerky = [a.name for n, a in enumerate(actuators) if explicit and _overdamped(model, n)]
    if jerky:
        findings.append(
            f"too much damping for a physics step of {model.opt.timestep:g} s: {', '.join(jerky)}; "
            'the joint shakes. Write <option integrator="implicitfast"/>, or give the joints an '
            "armature"
        )
    kinds = sorted({a.kind for a in actuators})
    if len(kinds) > 1:
        counts = ", ".join(f"{sum(a.kind == k for a in actuators)} {k}" for k in kinds)
        findings.append(f"actuators are of several kinds ({counts}); each is scaled by its own")
    return actuators


def servo_frequency(model: mujoco.MjModel, actuator: int) -> float:
    """Natural frequency of a position servo on a joint, rad/s; 0 where it drives something else."""
    if int(model.actuator_trntype[actuator]) not in _DIRECT:
        return 0.0
    dof = int(model.jnt_dofadr[model.actuator_trnid[actuator, 0]])
    gear = float(model.actuator_gear[actuator, 0])
    stiffness = max(-float(model.actuator_biasprm[actuator, 1]), 0.0) * gear**2
    return float(np.sqrt(stiffness / max(float(model.dof_M0[dof]), 1e-9)))


def _overdamped(model: mujoco.MjModel, actuator: int) -> bool:
    """Whether explicit integration of an actuator's own damping is unstable at qpos0."""
    if int(model.actuator_trntype[actuator]) not in _DIRECT:
        return False
    dof = int(model.jnt_dofadr[model.actuator_trnid[actuator, 0]])
    damping = (
        -float(model.actuator_biasprm[actuator, 2]) * float(model.actuator_gear[actuator, 0]) ** 2
    )
    return damping * float(model.dof_invweight0[dof]) * float(model.opt.timestep) > 2


def damping_ratio(model: mujoco.MjModel, actuator: int) -> float:
    """Damping ratio of a position servo on a joint at qpos0; −1 where it drives something else."""
    frequency = servo_frequency(model, actuator)
    if not frequency:
        return -1.0
    dof = int(model.jnt_dofadr[model.actuator_trnid[actuator, 0]])
    gear = float(model.actuator_gear[actuator, 0])
    damping = -float(model.actuator_biasprm[actuator, 2]) * gear**2 + float(model.dof_damping[dof])
    return damping / (2 * frequency * float(model.dof_M0[dof]))


def _driven_name(model: mujoco.MjModel, transmission: int, target: int) -> str:
    kinds = {_TENDON: model.tendon, _SITE: model.site, _BODY: model.body}
    if transmission in _DIRECT:
        return model.joint(target).name or f"joint{target}"
    if transmission in kinds:
        return kinds[transmission](target).name or f"number {target}"
    return f"number {target}"


def _kind_of(model: mujoco.MjModel, a: int) -> ActuatorKind:
    fixed = int(model.actuator_gaintype[a]) == int(mujoco.mjtGain.mjGAIN_FIXED)
    bias = int(model.actuator_biastype[a])
    integrates = int(model.actuator_dyntype[a]) == int(mujoco.mjtDyn.mjDYN_INTEGRATOR)
    if not fixed:
        return "other"
    if bias == int(mujoco.mjtBias.mjBIAS_NONE):
        return "other" if integrates else "motor"
    if bias == int(mujoco.mjtBias.mjBIAS_AFFINE):
        _, position, velocity = model.actuator_biasprm[a, :3]
        if position < 0:
            return "velocity" if integrates else "position"
        return "velocity" if velocity < 0 else "motor"
    return "other"


def _force_of(model: mujoco.MjModel, a: int, joint: int) -> float:
    """The largest force of an actuator, before its gear."""
    limits = []
    if model.actuator_forcelimited[a]:
        limits.append(float(np.abs(model.actuator_forcerange[a]).max()))
    gear = abs(float(model.actuator_gear[a, 0])) or 1.0
    if joint >= 0 and model.jnt_actfrclimited[joint]:
        limits.append(float(np.abs(model.jnt_actfrcrange[joint]).max()) / gear)
    if _kind_of(model, a) == "motor" and model.actuator_ctrllimited[a]:
        gain = abs(float(model.actuator_gainprm[a, 0]))
        limits.append(float(np.abs(model.actuator_ctrlrange[a]).max()) * gain)
    return min(limits, default=np.inf)


def _range_of(
    model: mujoco.MjModel, a: int, kind: ActuatorKind, joint: int, force: float
) -> tuple[float, float, str]:
    """Commands that an actuator takes, and where that is said."""
    low, high = (float(x) for x in model.actuator_ctrlrange[a])
    if model.actuator_ctrllimited[a] and low < high:
        return low, high, "control range"
    gear = float(model.actuator_gear[a, 0]) or 1.0
    if kind == "position" and joint >= 0 and model.jnt_limited[joint]:
        ends = sorted(float(x) * gear for x in model.jnt_range[joint])
        return ends[0], ends[1], "joint range"
    if kind == "position" and int(model.actuator_trntype[a]) == _TENDON:
        tendon = int(model.actuator_trnid[a, 0])
        if model.tendon_limited[tendon]:
            ends = sorted(float(x) * gear for x in model.tendon_range[tendon])
            return ends[0], ends[1], "joint range"
    if kind == "position":
        # A servo on a joint that turns without end: targets lie around home, whatever the range.
        whole = np.pi * abs(gear)
        return -whole, whole, UNLIMITED
    gain = abs(float(model.actuator_gainprm[a, 0]))
    if kind == "motor" and np.isfinite(force) and gain > 0:
        return -force / gain, force / gain, "force range"
    return 0.0, 0.0, "none"


def _find_home(
    name: str,
    model: mujoco.MjModel,
    keyframe: str | None,
    pose: dict[str, float],
    joints: list[Joint],
    findings: list[str],
) -> tuple[Array, str]:
    names = [model.key(k).name for k in range(model.nkey)]
    if keyframe is not None:
        if keyframe not in names:
            raise UnknownNameError(f"keyframe of {name}", keyframe, names or ["(it has none)"])
        home, source = model.key(keyframe).qpos.copy(), f"keyframe {keyframe!r}"
    elif model.nkey:
        chosen = "home" if "home" in names else names[0]
        home, source = model.key_qpos[names.index(chosen)].copy(), f"keyframe {chosen!r}"
    else:
        home, source = model.qpos0.copy(), "the model's initial posture"
        findings.append(
            "there is no keyframe; tasks start from the model's initial posture. Add "
            '<keyframe><key name="home" qpos="…"/></keyframe>, or name a start.pose'
        )
    known = {joint.name: joint for joint in joints}
    for joint, value in pose.items():
        if joint not in known:
            raise UnknownNameError(f"joint of {name}", joint, known)
        home[known[joint].qpos] = value
        source = f"{source} with {len(pose)} joints as given"
    for joint_ in joints:
        value = float(home[joint_.qpos])
        inside = float(np.clip(value, joint_.low, joint_.high))
        if abs(inside - value) > 1e-6:
            findings.append(
                f"at home the joint {joint_.name!r} is at {value:.4g}, outside its range "
                f"{joint_.low:.4g} to {joint_.high:.4g}; it starts at the near end"
            )
            home[joint_.qpos] = inside
    if not np.isfinite(home).all():
        raise RobotError(f"{name}: the home posture is not finite.")
    return home, source


def _is_ground(model: mujoco.MjModel, geom: int) -> bool:
    """Whether a geom is of the world, and something to stand on."""
    still = int(model.body_weldid[model.geom_bodyid[geom]]) == 0
    flat = int(model.geom_type[geom]) in (
        int(mujoco.mjtGeom.mjGEOM_PLANE),
        int(mujoco.mjtGeom.mjGEOM_HFIELD),
    )
    return bool(still and flat and (model.geom_contype[geom] or model.geom_conaffinity[geom]))


def _has_floor(model: mujoco.MjModel) -> bool:
    return any(_is_ground(model, g) for g in range(model.ngeom))


def _plane_height(model: mujoco.MjModel, data: mujoco.MjData) -> float | None:
    """Height of the first plane of the world; None if there is none."""
    for g in range(model.ngeom):
        if _is_ground(model, g) and int(model.geom_type[g]) == int(mujoco.mjtGeom.mjGEOM_PLANE):
            return float(data.geom_xpos[g][2])
    return None


def _upright(data: mujoco.MjData, base: int) -> tuple[float, ...]:
    frame = np.array([1.0, 0, 0, 0])
    if data.xmat[base].reshape(3, 3)[2, 2] < _LEANING:
        mujoco.mju_negQuat(frame, data.xquat[base])
    return tuple(float(x) for x in frame)


def _touching(model: mujoco.MjModel, body: int) -> list[int]:
    first, count = int(model.body_geomadr[body]), int(model.body_geomnum[body])
    return [
        g for g in range(first, first + count) if model.geom_contype[g] or model.geom_conaffinity[g]
    ]


def _lowest(model: mujoco.MjModel, data: mujoco.MjData, body: int) -> float:
    """Height of the lowest point of a body's geoms that touch things, m; inf without any."""
    lowest = np.inf
    for g in _touching(model, body):
        kind, size = int(model.geom_type[g]), model.geom_size[g]
        up = data.geom_xmat[g].reshape(3, 3)[2]
        centre = float(data.geom_xpos[g][2])
        if kind == int(mujoco.mjtGeom.mjGEOM_SPHERE):
            reach = size[0]
        elif kind == int(mujoco.mjtGeom.mjGEOM_CAPSULE):
            reach = size[0] + size[1] * abs(up[2])
        elif kind == int(mujoco.mjtGeom.mjGEOM_ELLIPSOID):
            reach = float(np.linalg.norm(up * size))
        elif kind == int(mujoco.mjtGeom.mjGEOM_CYLINDER):
            reach = size[1] * abs(up[2]) + size[0] * np.hypot(up[0], up[1])
        else:  # boxes exactly, meshes by their bounding box
            box = model.geom_aabb[g]
            centre += float(up @ box[:3])
            reach = float(np.abs(up) @ box[3:])
        lowest = min(lowest, centre - float(reach))
    return lowest


def _put_on_ground(
    model: mujoco.MjModel, data: mujoco.MjData, home: Array, base: int, subtree: set[int]
) -> None:
    """Move a free base so that the robot's lowest point is on the ground, in place."""
    data.qpos[:] = home
    mujoco.mj_kinematics(model, data)
    lowest = min((_lowest(model, data, body) for body in subtree), default=np.inf)
    if np.isfinite(lowest):
        address = int(model.jnt_qposadr[model.body_jntadr[base]])
        home[address + 2] += 0.001 - lowest


def _find_feet(
    model: mujoco.MjModel, data: mujoco.MjData, subtree: set[int], base: int
) -> list[int]:
    """The bodies at the ends of chains that are lowest at home, if they are below the base."""
    parents = {int(model.body_parentid[b]) for b in range(1, model.nbody)}
    ends: dict[int, float] = {}
    for body in sorted(subtree - {base}):
        if body in parents:
            continue
        # Feet without geoms that touch are part of the limb above.
        while body != base and not _touching(model, body):
            body = int(model.body_parentid[body])
        if body != base:
            ends[body] = _lowest(model, data, body)
    if not ends:
        return []
    ground = min(ends.values())
    height = float(data.xpos[base][2]) - ground
    if height <= 0:
        return []
    level = ground + max(_LEVEL * height, 0.01)
    return sorted(body for body, low in ends.items() if low <= level)


def _find_tip(model: mujoco.MjModel, addresses: set[int]) -> str:
    """The site that is named like one, else the last body of the longest chain of joints."""
    sites = [model.site(i).name for i in range(model.nsite)]
    sites = [name for name in sites if name and not name.startswith(PREFIX)]
    for word in _TIPS:
        for name in sites:
            if word in name.lower().split("_") or word == name.lower() or name.startswith(word):
                return f"site:{name}"

    def length(body: int) -> int:
        count = 0
        while body > 0:
            first, number = int(model.body_jntadr[body]), int(model.body_jntnum[body])
            for j in range(first, first + number):
                count += int(model.jnt_qposadr[j]) in addresses
            body = int(model.body_parentid[body])
        return count

    best = max(range(model.nbody), key=lambda b: (length(b), b))
    return f"body:{model.body(best).name}"


def _general_findings(model: mujoco.MjModel, robot: RobotDescription) -> list[str]:
    found = []
    if not robot.actuators:
        found.append("there is no actuator, so nothing can be learned; add an <actuator> section")
    if robot.base != "fixed" and not robot.has_floor and not robot.flies:
        found.append("there is no floor; tasks add a plane at the height of the feet")
    if model.nlight == 0:
        found.append("there is no light; pictures are lit from the camera")
    if not robot.gravity:
        found.append("there is no gravity")
    idle = [j.name for j in robot.joints if not j.driven]
    if idle and robot.actuators:
        found.append(f"no actuator drives {', '.join(idle)}")
    loose = [j.name for j in robot.joints if j.driven and not np.isfinite(j.high - j.low)]
    if loose:
        found.append(f"no range limits {', '.join(loose)}")
    narrow = [j.name for j in robot.joints if j.unit == "rad" and 0 < j.high - j.low < _NARROW]
    if narrow:
        found.append(
            f"the range of {', '.join(narrow)} is less than {np.degrees(_NARROW):.0f}° wide. "
            'MuJoCo reads angles in degrees unless the file says <compiler angle="radian"/>'
        )
    motors = [a for a in robot.actuators if a.kind == "motor" and a.joint >= 0]
    if robot.legged and motors:
        found.append(
            f"{len(motors)} joints are driven by motors: balance is learned much faster where "
            "servos hold the joints (actions.servo true makes them of the motors)"
        )
    if robot.base == "fixed" and motors and len(motors) == len(robot.joints):
        holding = np.abs(Gravity(model)(robot.home))
        for actuator in motors:
            dof = int(model.jnt_dofadr[actuator.joint])
            gear = abs(float(model.actuator_gear[robot.actuators.index(actuator), 0])) or 1.0
            if actuator.usable and holding[dof] > actuator.force * gear:
                found.append(
                    f"actuator {actuator.name!r} is too weak to hold its joint at home: "
                    f"{holding[dof]:.3g} needed, {actuator.force * gear:.3g} there"
                )
    return found
