"""Versions of everything that a result depends on."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("nprobot", "torch", "mujoco", "gymnasium", "numpy", "stable-baselines3")


def versions() -> dict[str, str | None]:
    """Version of Python and of each package that shapes a run; None for one not installed."""
    return {"python": platform.python_version(), **{name: _installed(name) for name in PACKAGES}}


@cache  # a process keeps what it has loaded, and to find out takes milliseconds
def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def changed_since(session: Mapping[str, Any], **now: str) -> list[str]:
    """What a run does not find as its last session did, so that it cannot continue bit for bit.

    Args:
        session: the session of a run, as in its `config.json`.
        **now: what else may have changed, such as the device.
    """
    before = {**dict(session.get("versions", {})), **session}
    present = {**versions(), **now}
    return [
        f"{name} {before[name]}, now {present[name]}"
        for name in present
        if name in before and before[name] != present[name]
    ]


def git_commit() -> str | None:
    """Commit of the source tree that runs, ``-dirty`` after it if files were changed.

    None where this package is not under git (an installed wheel, even inside another repository).
    """
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "-C", str(here), *arguments), capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
