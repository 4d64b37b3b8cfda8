"""Faults: what can go wrong between an observation and an action, as data rather than exceptions.

A controller that raised an exception would leave its robot without an action. It gives the safe
action instead, and says why here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """What went wrong."""

    UNUSABLE = "observation-unusable"
    """The observation is not an array of numbers, or has another shape."""
    NOT_FINITE = "observation-not-finite"
    """There is a NaN or an infinity in the observation."""
    OUT_OF_RANGE = "observation-out-of-range"
    """The observation is outside the limits that were set."""
    STALE = "observation-stale"
    """The observation is too old, or has not changed for too many steps."""
    POLICY = "policy-failed"
    """The policy raised an error."""
    ACTION = "action-not-finite"
    """There is a NaN or an infinity in the action."""
    DEADLINE = "deadline-missed"
    """Too many actions in a row came too late."""
    WATCHDOG = "watchdog"
    """The loop around the controller has stopped."""
    EXTERNAL = "external"
    """Somebody else tripped the controller, such as a person at the emergency stop."""


EXTERNAL_KINDS = (FaultKind.WATCHDOG, FaultKind.EXTERNAL)
"""Faults that come from outside a step."""


@dataclass(frozen=True)
class Fault:
    """A fault that has latched.

    Attributes:
        kind: what went wrong.
        step: number of the step, from 0 on, since the controller was made.
        message: the same for a person, with the values.
    """

    kind: FaultKind
    step: int
    message: str

    def __str__(self) -> str:
        return f"{self.kind} at step {self.step:,}: {self.message}"
