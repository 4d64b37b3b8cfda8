"""Keeps environments from telling what the actuators did: their `info`, their observed forces."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection
from typing import Any

import gymnasium

from ...errors import ActuatorWarning

#: Parts of names under which environments report the action that they were given.
_TELLING = ("torque", "action", "actuator", "ctrl")
#: Beginnings of names that are parts of the reward, which the learner gets anyway.
_REWARD = ("reward", "cost", "penalty")


def undisclosed(info: dict[str, Any], declared: Collection[str]) -> dict[str, Any]:
    """Information without what tells the realised action; the same object if nothing does.

    Args:
        info: What `step` or `reset` of an environment, or of a vectorised one, returned.
        declared: Further keys that the environment says tell it, in `metadata["actuator_info"]`.
    """
    if not any(_tells(key) or key in declared or key == "final_info" for key in info):
        return info
    kept = {
        key: value
        for key, value in info.items()
        # A vectorised environment has a mask "_key" beside every "key".
        if not _tells(key) and key.removeprefix("_") not in declared
    }
    if isinstance(kept.get("final_info"), dict):
        kept["final_info"] = undisclosed(kept["final_info"], declared)
    return kept


def declared_keys(metadata: dict[str, Any]) -> frozenset[str]:
    """The keys of `info` that an environment itself marks as telling what its actuators did."""
    return frozenset(metadata.get("actuator_info", ()))


def warn_of_observed_forces(base: gymnasium.Env[Any, Any]) -> None:
    """Warns if the observation itself holds what the actuators did."""
    if getattr(base, "_include_qfrc_actuator_in_observation", False):
        warnings.warn(
            f"{type(base).__name__} observes the actuator forces, so the learner can see what the "
            "noisy actuators did. Make it with include_qfrc_actuator_in_observation=False.",
            ActuatorWarning,
            stacklevel=3,
        )


@functools.cache
def _tells(key: str) -> bool:
    name = key.removeprefix("_").lower()
    return not name.startswith(_REWARD) and any(part in name for part in _TELLING)
