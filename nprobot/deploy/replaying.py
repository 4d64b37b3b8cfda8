"""Replay of a flight: the controller again on what it saw, step by step, and what differs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nprobot.errors import DeployError

from .controller import Controller, DeployablePolicy
from .faults import EXTERNAL_KINDS
from .flight_recorder import FlightRecord
from .safety import Safety


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    Attributes:
        steps: how many were compared.
        largest_difference: of an action, in its units; 0 if all are the same to the last bit.
        first_difference: number of the first step that differs; None if none does.
        faults_agree: whether every step has the same fault, or none, as then.
    """

    steps: int
    largest_difference: float
    first_difference: int | None
    faults_agree: bool

    @property
    def identical(self) -> bool:
        """Whether every action and every fault is the same."""
        return self.first_difference is None and self.faults_agree

    def __str__(self) -> str:
        if self.identical:
            return f"{self.steps:,} steps replayed, every action the same to the last bit"
        faults = "" if self.faults_agree else "; the faults differ too"
        if self.first_difference is None:
            return f"{self.steps:,} steps replayed, the actions agree but the faults do not"
        return (
            f"{self.steps:,} steps replayed, actions differ by up to "
            f"{self.largest_difference:.2g}, first at step {self.first_difference:,}{faults}"
        )


def replay(record: FlightRecord, policy: DeployablePolicy) -> Replay:
    """Run a policy over the observations of a flight, with its safety settings and its times.

    A recorder that was full has lost the start; then the first step that is left only sets the
    state, and is not compared.

    Args:
        record: the flight.
        policy: the policy that flew, or another one to compare with it.

    Raises:
        DeployError: the policy takes other observations, or gives other actions.
    """
    arrays = record.arrays
    shape = policy.observation_shape
    if arrays["observation"].shape[1:] != shape:
        raise DeployError(
            f"the flight has observations {arrays['observation'].shape[1:]}, the policy takes "
            f"{shape}"
        )
    clock = _RecordedClock()
    controller = Controller(
        policy,
        rate=record.about.get("rate"),
        safety=Safety.from_dict(record.about.get("safety") or {}),
        record=1,
        clock=clock,
    )
    if arrays["action"].shape[1:] != controller.previous_action.shape:
        raise DeployError(
            f"the flight has actions {arrays['action'].shape[1:]}, the policy gives "
            f"{controller.previous_action.shape}"
        )
    start = 0
    if record.first > 0 and len(record) > 0:
        controller.resume(record[0])
        start = 1
    largest, first, agree = 0.0, None, True
    for index in range(start, len(record)):
        then = record[index]
        clock.show(then.seconds)
        if then.cleared:
            controller.clear_fault()
        if then.begins:
            controller.reset(then.previous)
        if then.fault in EXTERNAL_KINDS and controller.fault is None:
            controller.trip("as recorded", then.fault)
        action = controller.step(then.observation, age=then.age)
        difference = np.abs(np.subtract(action, then.action, dtype=float)).max(initial=0)
        if difference > 0 and first is None:
            first = record.first + index
        largest = max(largest, float(difference))
        agree &= (controller.fault and controller.fault.kind) == then.fault
    return Replay(len(record) - start, largest, first, agree)


class _RecordedClock:
    """Says 0 and then how long the step took when it flew."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def show(self, seconds: float) -> None:
        """Prepare for a step."""
        self._times = [seconds, 0.0]

    def __call__(self) -> float:
        return self._times.pop()
