"""What a row of results says besides the figures: what became of the run, with what, and where."""

from __future__ import annotations

import datetime
import platform
import traceback
from importlib import metadata
from typing import Any

from nprobot.runs.versions import git_commit, versions

from .spec import RunSpec

DONE, FAILED, DIVERGED = "done", "failed", "diverged"
"""What may become of a run. Diverged: its numbers became NaN or infinite; that is a result."""

PEERS = ("sb3-contrib", "cma")
"""Packages whose version matters to a row, beside those of every nprobot run."""

NO_DENSITY = "Expected parameter"
"""How torch's message begins when a distribution was given NaN."""


def blank(spec: RunSpec) -> dict[str, Any]:
    """The row of a run about to start."""
    return spec.to_dict() | {"key": spec.key, "started": now(), **surroundings()}


def failure(error: BaseException) -> dict[str, Any]:
    """What a row says about a run that failed."""
    diverged = isinstance(error, ArithmeticError) or str(error).startswith(NO_DENSITY)
    lines = traceback.format_exception(error)
    return {
        "status": DIVERGED if diverged else FAILED,
        "error": f"{type(error).__name__}: {error}".partition("\n")[0],
        "traceback": "".join(lines[-3:]),
        "ended": now(),
    }


def surroundings() -> dict[str, Any]:
    """Versions, commit and machine."""
    found = dict(versions())
    for package in PEERS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return {"versions": found, "commit": git_commit(), "machine": machine()}


def machine() -> str:
    """Processor and system in words; not the machine's name, which is nobody's business."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line for line in file if line.startswith("model name")]
    except OSError:
        models = []
    if models:
        name = models[0].partition(":")[2].strip()
    return f"{name}, {platform.system()} {platform.machine()}"


def now() -> str:
    """The time, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
