"""From a name or a file to a compiled model that a task can run on; compiled once a process.

What a task needs and a model may lack is added to the model, none of which changes how it moves:
sensors at the base, the feet and the end effector, a floor, a mark where the target is.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import mujoco

from ...errors import RobotError, did_you_mean

RobotFile: TypeAlias = "str | os.PathLike[str]"
Change = Callable[[mujoco.MjSpec], None]

#: Robots of the package: name → file in `envs/assets` and what it is.
ROBOTS: Mapping[str, tuple[str, str]] = {
    "quadruped": (
        "quadruped.xml",
        "four legs of three joints, position servos, 12 kg (Go1's class)",
    ),
    "arm": ("arm7.xml", "seven joints, torque motors (Panda's class)"),
    "quadrotor": ("quadrotor.xml", "four rotors, 0.5 kg (Hummingbird's class)"),
    "hopper": ("hopper.xml", "one leg of two joints on a boom, position servos (ODRI's class)"),
    "biped": ("biped.xml", "two legs of six joints, position servos, 2.9 kg (DARwIn-OP's class)"),
}
_SUFFIXES = (".xml", ".mjcf", ".urdf")
_TURNING = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
_JOINT = mujoco.mjtTrn.mjTRN_JOINT
#: Groups of geoms beyond it are not drawn.
_SHOWN = 2
#: Begins the names of everything that is added to a model.
PREFIX = "nprobot_"


@dataclass
class SourceModel:
    """A model file that was read, and not compiled yet.

    Attributes:
        name: for people.
        path: of the file.
        spec: what it says; a copy is changed and compiled.
        odd: what is wrong with it and could be mended, in words.
    """

    name: str
    path: Path
    spec: mujoco.MjSpec
    odd: list[str] = field(default_factory=list)

    def compile(self, *changes: Change) -> mujoco.MjModel:
        """The compiled model with some changes.

        Raises:
            RobotError: MuJoCo refuses it.
        """
        spec = self.spec.copy()
        for change in changes:
            change(spec)
        try:
            return _compiled(spec)
        except ValueError as error:
            raise RobotError(f"MuJoCo cannot compile {self.path}: {_one_line(error)}") from error


def _compiled(spec: mujoco.MjSpec) -> mujoco.MjModel:
    with warnings.catch_warnings():
        # What MuJoCo drops on purpose concerns the author of the file alone.
        warnings.filterwarnings("ignore", message=".*is deprecated")
        return spec.compile()


def model_file(robot: RobotFile) -> Path:
    """The file of a robot: of a path, or of the name of a robot in the package.

    Raises:
        RobotError: there is none.
    """
    name = os.fspath(robot)
    if name in ROBOTS:
        return Path(str(resources.files("nprobot.envs") / "assets" / ROBOTS[name][0]))
    path = Path(name).expanduser()
    if path.suffix.lower() not in _SUFFIXES:
        raise RobotError(
            f"{name!r} is neither a robot of the package ({', '.join(ROBOTS)}) nor the path of an "
            f".xml, .mjcf or .urdf file{did_you_mean(name, ROBOTS)}."
        )
    if not path.is_file():
        raise RobotError(f"There is no model file {name} (looked in {path.resolve().parent}).")
    return path.resolve()


def read_model(robot: RobotFile) -> SourceModel:
    """Read a model file.

    A mesh or picture whose file is missing is left out where it is only looked at.

    Args:
        robot: name of a robot in the package, or path of an MJCF or URDF file.

    Raises:
        RobotError: there is no such file, it is no model, or a missing mesh matters.
    """
    path = model_file(robot)
    try:
        spec = mujoco.MjSpec.from_file(str(path))
    except ValueError as error:
        raise RobotError(f"MuJoCo cannot read {path}: {_one_line(error)}") from error
    name = os.fspath(robot) if os.fspath(robot) in ROBOTS else path.stem
    source = SourceModel(name, path, spec)
    for number, body in enumerate(spec.bodies):
        body.name = body.name or f"body{number}"  # so that a sensor can name it
    _mend_missing_files(source)
    if not spec.actuators:
        _add_motors(source)
    return source


def _one_line(error: ValueError) -> str:
    return " ".join(str(error).split())


def _add_motors(source: SourceModel) -> None:
    """Motors on the joints whose force has a limit, for files that know no actuators (URDF)."""
    spec, number = source.spec, 0
    for joint in spec.joints:
        low, high = joint.actfrcrange
        if joint.type in _TURNING and low < high:
            joint.name = joint.name or f"joint{number}"
            motor = spec.add_actuator(name=joint.name, target=joint.name, trntype=_JOINT)
            motor.set_to_motor()
            motor.ctrllimited, motor.ctrlrange = True, [low, high]
            number += 1
    if number:
        source.odd.append(
            f"there is no actuator; {number} motors are added, as strong as the joints' limits say"
        )


def _mend_missing_files(source: SourceModel) -> None:
    """Leave out meshes that are not there, and paint over pictures; refuse if one matters."""
    while (file := _missing_file(source.spec)) is not None:
        meshes = [mesh for mesh in source.spec.meshes if _ends(file, mesh.file)]
        textures = [
            texture
            for texture in source.spec.textures
            if any(_ends(file, name) for name in (texture.file, *texture.cubefiles))
        ]
        if not meshes and not textures:
            raise RobotError(f"{source.path}: the file {file} is missing.")
        for mesh in meshes:
            _leave_out(source, mesh, file)
        for texture in textures:
            _paint_over(source, texture, file)


def _missing_file(spec: mujoco.MjSpec) -> str | None:
    """The first file that the compiler cannot open; None if there is none."""
    try:
        _compiled(spec.copy())
    except ValueError as error:
        found = re.search(r"[Ee]rror opening file '([^']+)'", str(error))
        return found.group(1) if found else None
    return None


def _ends(path: str, name: str) -> bool:
    """Whether a path is that of a file that a model names."""
    return bool(name) and Path(path).name == Path(name).name


def _leave_out(source: SourceModel, mesh: mujoco.MjsMesh, file: str) -> None:
    """Drop a mesh, and the geoms that show it."""
    spec, name = source.spec, mesh.name or Path(mesh.file).stem
    for geom in [geom for geom in spec.geoms if geom.meshname == name]:
        body = geom.parent
        if geom.contype or geom.conaffinity:
            raise RobotError(
                f"{source.path}: the mesh {file} is missing, and the body {body.name!r} touches "
                "things with it. Put the file there, or take a simple shape in its place."
            )
        if not body.explicitinertial and geom.mass != 0 and geom.density != 0:
            raise RobotError(
                f"{source.path}: the mesh {file} is missing, and the mass of the body "
                f"{body.name!r} follows from it. Put the file there, or give it an <inertial>."
            )
        spec.delete(geom)
        for other in body.geoms:
            # What it touches with is all there is to see of it now.
            other.group = 0 if other.group > _SHOWN else other.group
    spec.delete(mesh)
    source.odd.append(f"the mesh {file} is missing; it is only looked at, and is left out")


def _paint_over(source: SourceModel, texture: mujoco.MjsTexture, file: str) -> None:
    """Take a plain grey in place of a picture."""
    texture.name = texture.name or Path(texture.file or file).stem
    texture.file, texture.cubefiles = "", [""] * 6
    texture.builtin = mujoco.mjtBuiltin.mjBUILTIN_FLAT
    texture.rgb1 = texture.rgb2 = [0.6, 0.6, 0.6]
    texture.width = texture.height = 6
    source.odd.append(f"the picture {file} is missing; plain grey is in its place")
