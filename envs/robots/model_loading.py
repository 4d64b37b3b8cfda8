"""From a name or a file to a compiled model that a task can run on; compiled once a process.

What a task needs and a model may lack is added to the model, none of which changes how it moves:
sensors at the base, the feet and the end effector, a floor, a mark where the target is.
"""

from __future__ import annotations

import os
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
            return spec.compile()
        except ValueError as error:
            raise RobotError(f"MuJoCo cannot compile {self.path}: {_one_line(error)}") from error


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

    A mesh whose file is missing is left out where it is only looked at.

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
    _leave_out_missing_meshes(source)
    for number, body in enumerate(spec.bodies):
        body.name = body.name or f"body{number}"  # so that a sensor can name it
    return source


def _one_line(error: ValueError) -> str:
    return " ".join(str(error).split())


def _leave_out_missing_meshes(source: SourceModel) -> None:
    """Drop meshes that are not there, and the geoms that show them; refuse if one matters."""
    spec, here = source.spec, source.path.parent
    missing: dict[str, Path] = {}
    for mesh in list(spec.meshes):
        if not mesh.file:
            continue
        folder = here / (spec.meshdir or "")
        file = folder / (Path(mesh.file).name if spec.strippath else mesh.file)
        if not file.is_file():
            missing[mesh.name or Path(mesh.file).stem] = file
    if not missing:
        return
    for geom in list(spec.geoms):
        if geom.meshname not in missing:
            continue
        body, file = geom.parent, missing[geom.meshname]
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
    for mesh in list(spec.meshes):
        if (mesh.name or Path(mesh.file).stem) in missing:
            spec.delete(mesh)
    for file in missing.values():
        source.odd.append(f"the mesh {file} is missing; it is only looked at, and is left out")
