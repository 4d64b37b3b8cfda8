"""Trained policies that come with the package: each a folder with policy file, card and curve.

`scripts/experiments/control/zoo.py` holds the command that made each of them.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import NotFoundError, near_matches
from ..files.policy import Policy
from ..files.policy_file import DESCRIPTION_FILE, load

__all__ = ["folder", "load_policy", "names"]

ROOT = Path(__file__).parent


def names() -> list[str]:
    """Names of the policies, sorted."""
    found = (file.parent.name for file in ROOT.glob(f"*/{DESCRIPTION_FILE}"))
    return sorted(name for name in found if not name.startswith("."))  # not one being written


def folder(name: str) -> Path:
    """Where a policy lies.

    Raises:
        NotFoundError: there is no such policy; with near matches.
    """
    known = names()
    if name not in known:
        near = near_matches(name, known)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}."
        raise NotFoundError(f"the zoo has no policy {name!r}; {hint} `nprobot policies` lists all.")
    return ROOT / name


def load_policy(name: str) -> Policy:
    """A policy of the zoo.

    Raises:
        NotFoundError: there is no such policy.
    """
    return load(folder(name))
