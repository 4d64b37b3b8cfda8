"""The shape of the project: imports point one way, importing is light, every package is shipped."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
                assert name == "nprobot" or name.startswith(own), (path, name)


def test_importing_is_light():
    code = (
        "import sys, nprobot; "
        "print(sorted({'torch', 'mujoco', 'stable_baselines3', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_can_be_imported():
    import nprobot

    for package in (nprobot, nprobot.policies, nprobot.envs):
        for name in package.__all__:
            assert getattr(package, name) is not None
            assert name in dir(package)
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            package.nonsense  # noqa: B018


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


def test_modules_hold_one_idea():
    for package in PACKAGES:
        for path in modules(package):
            assert path.read_text().count("\n") <= 400, path
