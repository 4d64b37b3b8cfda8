"""MuJoCo's warnings on the command line; workers of a run need the same."""

from __future__ import annotations

from nprobot.training.mujoco_messages import tame_mujoco

__all__ = ["tame_mujoco"]
