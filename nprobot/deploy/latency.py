"""How long the controller takes for an action: percentiles in constant memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SHORTEST, LONGEST = 1e-7, 1e3
"""Seconds between which percentiles are told apart."""
RESOLUTION = 0.01
"""Relative width of a bin of the histogram."""
_STEP = math.log1p(RESOLUTION)
_BINS = math.ceil(math.log(LONGEST / SHORTEST) / _STEP)


@dataclass(frozen=True)
class LatencySummary:
    """Times from observation to action, in s.

    Attributes:
        steps: how many were measured.
        p50: half of them took no longer; exact to 1 %, as `p99`. NaN if there are none.
        p99: 99 of 100 took no longer.
        longest: the longest of all.
        missed: how many took longer than the deadline.
        deadline: the time that was allowed, s; infinite if there is no rate.
    """

    steps: int
    p50: float
    p99: float
    longest: float
    missed: int
    deadline: float

    def __str__(self) -> str:
        if not self.steps:
            return "no steps"
        return (
            f"p50 {duration(self.p50)}, p99 {duration(self.p99)}, "
            f"max {duration(self.longest)}, {self.missed} of {self.steps:,} missed"
        )


class Latency:
    """A histogram of times with bins of 1 % width, so an hour takes no more memory than a second.

    Args:
        deadline: the time that is allowed, s.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self._bins = np.zeros(_BINS + 1, np.int64)
        self._steps = self._missed = 0
        self._longest = 0.0

    def add(self, seconds: float) -> bool:
        """Count a time; returns whether it was longer than the deadline."""
        self._steps += 1
        self._longest = max(self._longest, seconds)
        place = math.log(max(seconds, SHORTEST) / SHORTEST) / _STEP
        self._bins[min(int(place), _BINS)] += 1
        missed = seconds > self.deadline
        self._missed += missed
        return missed

    def summary(self) -> LatencySummary:
        """The figures so far."""
        return LatencySummary(
            steps=self._steps,
            p50=self._percentile(0.50),
            p99=self._percentile(0.99),
            longest=self._longest,
            missed=self._missed,
            deadline=self.deadline,
        )

    def _percentile(self, share: float) -> float:
        if not self._steps:
            return math.nan
        place = int(np.searchsorted(np.cumsum(self._bins), math.ceil(share * self._steps)))
        return min(SHORTEST * math.exp((place + 0.5) * _STEP), self._longest)


def duration(seconds: float) -> str:
    """A short time with a unit that suits it: 850 ns, 21 µs, 3.4 ms, 1.2 s."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
