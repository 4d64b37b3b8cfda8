"""The shape of the project: imports point one way, importing is light, every package is shipped."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nprobot.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FOUNDATION = {f"nprobot.{name}" for name in ("catalogue", "errors", "hidden", "options")}
"""What everything may import, and what imports nothing of ours."""
PACKAGES = {"nprobot": ROOT / "nprobot", "envs": ROOT / "envs", "policies": ROOT / "policies"}


def modules(package):
    return sorted(PACKAGES[package].rglob("*.py"))


def absolute_imports(path, package):
    """Absolute names of all modules that a file imports."""
    prefix = ["nprobot"] if package == "nprobot" else ["nprobot", package]
    here = [*prefix, *path.relative_to(PACKAGES[package]).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("envs", ["torch", "stable_baselines3", "nprobot.policies"]),
        ("policies", ["nprobot.envs", "mujoco"]),
    ],
)
def test_imports_point_one_way(package, forbidden):
    own = f"nprobot.{package}"
    for path in modules(package):
        for name in absolute_imports(path, package):
            assert not any(name == f or name.startswith(f + ".") for f in forbidden), (path, name)
            if name.startswith("nprobot"):
                founded = name in FOUNDATION or name.rpartition(".")[0] in FOUNDATION
                assert founded or name == "nprobot" or name.startswith(own), (path, name)


def test_the_foundation_imports_nothing_of_ours_at_once():
    for module in FOUNDATION:
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.level:
                assert f"nprobot.{node.module}" in FOUNDATION, module


def test_no_room_is_crowded():
    """A folder is a room: at most a dozen modules or so, each with its own job.

    Commands do not count: there are as many of them as users know.
    """
    for package, folder in PACKAGES.items():
        rooms = {path.parent for path in modules(package)}
        for room in rooms:
            modules_there = [file for file in room.glob("*.py") if file.stem not in COMMANDS]
            assert len(modules_there) <= 14, room.relative_to(folder)


def test_importing_is_light():
    code = (
        "import sys, nprobot; "
        "print(sorted({'torch', 'mujoco', 'stable_baselines3', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_can_be_imported():
    import nprobot

    for package in (
        *(nprobot, nprobot.policies, nprobot.envs, nprobot.learning, nprobot.training),
        *(nprobot.regression, nprobot.benchmark, nprobot.deploy, nprobot.algorithms),
    ):
        assert package.__all__
        for name in package.__all__:
            assert getattr(package, name) is not None
            assert name in dir(package)
        with pytest.raises(AttributeError, match="nonsense"):
            package.nonsense  # noqa: B018


def test_everything_public_is_reached_after_one_import():
    code = (
        "import nprobot; nprobot.deploy.load_policy; nprobot.defaults.find; nprobot.envs.datasets;"
        "nprobot.policies.zoo.names(); nprobot.training.train; nprobot.regression.load;"
        "nprobot.catalogue.rules(); nprobot.errors.ConfigError; nprobot.algorithms.REINFORCE"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_package_is_listed_for_the_wheel():
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = set()
    for package in PACKAGES:
        prefix = ["nprobot"] if package == "nprobot" else ["nprobot", package]
        for path in modules(package):
            found.add(".".join([*prefix, *path.relative_to(PACKAGES[package]).parts[:-1]]))
    assert listed == found
