"""A page of the API reference for each public package, from the names in its `__init__.pyi`.

The stubs are where the package itself takes its public names from, so the pages cannot list others.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring

ROOMS = {
    "nprobot": "what everybody needs: rules, algorithms, export",
    "nprobot.learning": "the engine",
    "nprobot.algorithms": "reinforcement learning",
    "nprobot.training": "a run of reinforcement learning",
    "nprobot.regression": "a fit to data",
    "nprobot.adaptation": "learning that continues on the robot",
    "nprobot.policies": "networks and policy files",
    "nprobot.policies.chip": "emulated chips",
    "nprobot.policies.activations": "units that jump",
    "nprobot.policies.zoo": "trained policies",
    "nprobot.envs": "environments",
    "nprobot.envs.actuators": "noisy actuators",
    "nprobot.envs.datasets": "regression data",
    "nprobot.deploy": "a policy on a robot",
    "nprobot.benchmark": "many runs, compared",
    "nprobot.tuning": "search for settings",
    "nprobot.defaults": "settings that a search found",
    "nprobot.catalogue": "what there is, by name",
    "nprobot.errors": "what can be raised",
}
"""Package → what it is for."""
ENVIRONMENTS = ("nprobot.envs.arm_reach.ArmReachEnv", "nprobot.envs.arm_track.ArmTrackEnv")
"""Classes behind environment ids; their docstrings have the tables of observations and actions."""


def public_names(package: str) -> list[str]:
    """The names that a package offers, in the order of its stub or module."""
    module = importlib.import_module(package)
    stub = Path(str(module.__file__)).with_suffix(".pyi")
    if not stub.exists():
        return [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == package
        ]
    names: list[str] = []
    for line in ast.parse(stub.read_text("utf-8")).body:
        if isinstance(line, ast.ImportFrom):
            names += [alias.asname or alias.name for alias in line.names]
    return [name for name in names if not inspect.ismodule(getattr(module, name))]


def directive(package: str, name: str, seen: dict[int, str]) -> list[str]:
    """Lines of reStructuredText that document a name, or point to where it is documented."""
    value = getattr(importlib.import_module(package), name)
    path = f"{package}.{name}"
    described = inspect.isclass(value) or inspect.isroutine(value)
    if described and (first := seen.setdefault(id(value), path)) != path:
        role = "class" if inspect.isclass(value) else "func"
        return [f"- :py:{role}:`{first}`", ""]
    if inspect.isclass(value):
        return [f".. autoclass:: {path}", "   :members:", ""]
    if inspect.isroutine(value):
        return [f".. autofunction:: {path}", ""]
    lines = [f".. py:data:: {path}", ""]
    if isinstance(value, Mapping):
        names = ", ".join(f"``{key}``" for key in value)
        lines += [f"   A dictionary with the keys {names}.", ""]
    return lines


def escape_marks(
    app: Sphinx, kind: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Keep a star as in the shape ``(B, *nodes)`` from opening emphasis, and options whole."""
    text = re.sub(r"^## (.*)$", r"**\1**\n", "\n".join(lines), flags=re.MULTILINE)
    lines[:] = re.sub(r"(^\|.*\n)+", list_table, text, flags=re.MULTILINE).split("\n")
    for place, line in enumerate(lines):
        starred = re.sub(r"(?<=[(\[ ])\*(?=\w+[,)\] ])", r"\*", line)
        lines[place] = re.sub(r"(?<![`\w-])--[a-z][\w-]*(?![`\w])", r"``\g<0>``", starred)


def list_table(found: re.Match[str]) -> str:
    """A table of Markdown as reStructuredText."""
    rows = [line.strip()[1:-1].split("|") for line in found[0].splitlines()]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (rows[0], *rows[2:]):
        lines += [f"   {'-' if place else '* -'} {cell.strip()}" for place, cell in enumerate(row)]
    lines = [line.replace("   - ", "     - ", 1) for line in lines]
    return "\n".join([*lines, "", ""])


def write(app: Sphinx) -> None:
    """Write the pages that have changed, and the list of them."""
    folder = Path(app.srcdir) / "reference" / "api"
    folder.mkdir(exist_ok=True)
    seen: dict[int, str] = {}
    for package, purpose in ROOMS.items():
        lines = [package, "=" * len(package), "", f"{purpose[0].upper()}{purpose[1:]}.", ""]
        lines += [f".. py:module:: {package}", ""]
        for name in public_names(package):
            lines += directive(package, name, seen)
        if package == "nprobot.envs":
            lines += [line for path in ENVIRONMENTS for line in (f".. autoclass:: {path}", "")]
        replace(folder / f"{package}.rst", "\n".join(lines))
    entries = "\n".join(f"   {package}" for package in ROOMS)
    index = f"API\n===\n\nFrom the docstrings.\n\n.. toctree::\n   :maxdepth: 1\n\n{entries}\n"
    replace(folder / "index.rst", index)


def replace(page: Path, text: str) -> None:
    """Write a page unless it is there already, so that Sphinx reads only what has changed."""
    if not page.exists() or page.read_text("utf-8") != text:
        page.write_text(text, "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", escape_marks)
    # Napoleon takes "Name: text" in the docstring of an attribute for a type; ours are sentences.
    GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end
    return {"parallel_read_safe": True, "parallel_write_safe": True}
