"""How long an action lasts: what an environment says of it, and where."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_CLASSIC = "gymnasium.envs.classic_control."


@dataclass(frozen=True)
class TimeStep:
    """How long an action lasts.

    Attributes:
        seconds: of simulated time.
        source: what says so, for people.
    """

    seconds: float
    source: str


def time_step(env: Any, attribute: Callable[[str], Any] | None = None) -> TimeStep | None:  # noqa: ANN401
    """How long an action of an environment lasts; None if it does not say.

    Only what is documented is read: `dt` in s (gymnasium's MujocoEnv has it), else
    `metadata["render_fps"]`, frames of which one is a step; for gymnasium's classic control `tau`
    before the latter. Any kind of number counts, also `np.float32`.

    Args:
        env: the base environment.
        attribute: looks up an attribute of it; by default `getattr`, None where there is none.
    """
    look = attribute or (lambda name: getattr(env, name, None))
    names = ["dt", "tau"] if type(env).__module__.startswith(_CLASSIC) else ["dt"]
    for name in names:
        seconds = positive(look(name))
        if seconds is not None:
            return TimeStep(seconds, f"its {name}")
    rate = positive((look("metadata") or {}).get("render_fps"))
    return None if rate is None else TimeStep(1 / rate, "its frame rate, metadata['render_fps']")


def positive(value: object) -> float | None:
    """A positive finite number as Python's, with the digits that it shows; None for all else."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return None
    # np.float32(0.01) is 0.009999999776 to the last digit, and means 0.01.
    number = float(str(value)) if isinstance(value, np.floating) else float(value)
    return number if 0 < number < math.inf else None
