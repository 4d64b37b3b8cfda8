"""Benchmarks: suites of runs, done side by side, resumable, with statistics and a report.

from pathlib import Path
from nprobot import benchmark

suite = benchmark.load("core").select(env=["Reacher"], seeds=[0, 1, 2])
benchmark.bench(suite, Path("runs/reacher"), benchmark.Processes(jobs=4))
benchmark.report(Path("runs/reacher"))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine import Processes
    from .execution import execute
    from .ray_engine import Ray
    from .reporting import report
    from .results import Results
    from .running import bench, plan
    from .spec import RunSpec
    from .store import read
    from .suite import Suite, load, parse

_HOME = {
    "Processes": "engine",
    "Ray": "ray_engine",
    "Results": "results",
    "RunSpec": "spec",
    "Suite": "suite",
    "bench": "running",
    "execute": "execution",
    "load": "suite",
    "parse": "suite",
    "plan": "running",
    "read": "store",
    "report": "reporting",
}

__all__ = [
    "Processes",
    "Ray",
    "Results",
    "RunSpec",
    "Suite",
    "bench",
    "execute",
    "load",
    "parse",
    "plan",
    "read",
    "report",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
