"""What is kept of a run while it goes: the points of its curve, against everything it spends."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

from .environments import Evaluator, Predict
from .ledger import Clock, Ledger
from .spec import RunSpec

Tell = Callable[[int], None]
"""Hears how many steps a run has taken."""


class Recorder:
    """Evaluates a policy at the points of the curve, on time that the run is not charged for.

    Args:
        spec: the run.
        evaluator: measures policies.
        tell: hears about the progress.

    Attributes:
        tell: who hears about the progress.
        curve: the points so far: the fields of `Ledger`, and the mean return.
        returns: of the finished policy, an episode each; empty before.
    """

    def __init__(self, spec: RunSpec, evaluator: Evaluator, tell: Tell) -> None:
        self.spec = spec
        self.curve: dict[str, list[float]] = {}
        self.returns: list[float] = []
        self._evaluator = evaluator
        self.tell = tell
        self._clock = Clock()
        self._next = 0

    def start(self, ledger: Ledger, predict: Predict) -> None:
        """The policy as it is before it has learned anything; from here on time counts."""
        self._add(ledger, self._evaluator.curve_point(predict))
        self._clock = Clock()

    def pass_by(self, ledger: Callable[[], Ledger], env_steps: int, predict: Predict) -> None:
        """Add a point if one is due; to be called between two updates.

        Args:
            ledger: what the run has spent, without the time.
            env_steps: steps so far.
            predict: the policy as it is.
        """
        self.tell(env_steps)
        # The last point is the final evaluation.
        if self._next >= self.spec.points or env_steps < self._due(self._next):
            return
        spent = self._timed(ledger())
        with self._clock.paused():
            self._add(spent, self._evaluator.curve_point(predict))
        while self._next < self.spec.points and env_steps >= self._due(self._next):
            self._next += 1

    def finish(self, ledger: Ledger, predict: Predict) -> Ledger:
        """Measure the finished policy.

        Returns:
            What the run has spent, time included.
        """
        spent = self._timed(ledger)
        with self._clock.paused():
            self.returns = self._evaluator.final(predict)
        self._add(spent, self.returns)
        return spent

    def known(self, ledger: Ledger, returns: list[float]) -> None:
        """Add a point that was measured elsewhere, time included in its ledger."""
        self._add(ledger, returns)

    def _due(self, point: int) -> float:
        return point * self.spec.steps / self.spec.points

    def _timed(self, ledger: Ledger) -> Ledger:
        wall, cpu = self._clock.seconds
        return dataclasses.replace(ledger, wall_seconds=wall, cpu_seconds=cpu)

    def _add(self, ledger: Ledger, returns: list[float]) -> None:
        values: dict[str, Any] = dataclasses.asdict(ledger)
        values["return_mean"] = statistics.fmean(returns)
        for name, value in values.items():
            self.curve.setdefault(name, []).append(value)
        self._next = max(self._next, 1)
