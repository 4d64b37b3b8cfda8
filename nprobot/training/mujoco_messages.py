"""MuJoCo's warnings: each kind once, on stderr, without its log file."""

from __future__ import annotations

import sys


def tame_mujoco() -> None:
    """Show each kind of MuJoCo warning once instead of at every step and for every environment.

    Without this MuJoCo also writes `MUJOCO_LOG.TXT` into the working directory.
    """
    import mujoco

    seen: set[str] = set()

    def show(text: str) -> None:
        kind = text.partition(" Time =")[0]
        # Gymnasium's models still use attributes that MuJoCo means to drop; not a user's business.
        if kind not in seen and "is deprecated" not in kind:
            print(f"MuJoCo: {text.strip()}", file=sys.stderr)
        seen.add(kind)

    mujoco.set_mju_user_warning(show)
