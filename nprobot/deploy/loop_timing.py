"""Keeping time around a controller: how long actions take, a fixed rate, and a loop that stops."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from nprobot.errors import ConfigError, DeployError

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
            f"p50 {short_duration(self.p50)}, p99 {short_duration(self.p99)}, "
            f"max {short_duration(self.longest)}, {self.missed} of {self.steps:,} missed"
        )


class LatencyHistogram:
    """Counts times in bins of 1 % width, so an hour takes no more memory than a second.

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
        within = min(max(SHORTEST, seconds), LONGEST)  # of a clock that goes back, or has stopped
        self._bins[int(math.log(within / SHORTEST) / _STEP)] += 1
        missed = seconds > self.deadline
        self._missed += missed
        return missed

    def summary(self) -> LatencySummary:
        """The figures so far."""
        p50, p99 = self._percentile(0.50), self._percentile(0.99)
        return LatencySummary(self._steps, p50, p99, self._longest, self._missed, self.deadline)

    def _percentile(self, share: float) -> float:
        if not self._steps:
            return math.nan
        place = int(np.searchsorted(np.cumsum(self._bins), math.ceil(share * self._steps)))
        return min(SHORTEST * math.exp((place + 0.5) * _STEP), self._longest)


def short_duration(seconds: float) -> str:
    """A short time with a unit that suits it: 850 ns, 21 µs, 3.4 ms, 1.2 s."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


class Watchdog:
    """Calls a function once if `feed` has not been called for some time.

    The function runs in the watchdog's thread, while the loop may still be stuck: it is the place
    to cut the power, and to trip the controller, so that an action that comes too late is not used.

        with Watchdog(0.1, lambda: controller.trip("no step", FaultKind.WATCHDOG)) as watchdog:
            while True:
                robot.act(controller.step(robot.observe()))
                watchdog.feed()

    Args:
        timeout: s without a call of `feed`.
        expired: what to call then.
        clock: seconds, for tests.

    Raises:
        ConfigError: the timeout is not above 0.
    """

    def __init__(
        self,
        timeout: float,
        expired: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not timeout > 0:
            raise ConfigError(f"the timeout of a watchdog must be above 0 s, got {timeout}")
        self.timeout = timeout
        self._expired = expired
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.feed()

    def __enter__(self) -> Watchdog:
        self.feed()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def feed(self) -> None:
        """Say that the loop is alive."""
        self._fed = self._clock()
        self._fired = False

    def check(self) -> bool:
        """Fire if it is time; the thread does this. Returns whether it has fired."""
        if not self._fired and self._clock() - self._fed > self.timeout:
            self._fired = True
            self._expired()
        return self._fired

    def _watch(self) -> None:
        while not self._stop.wait(self.timeout / 4):
            self.check()


class Pacer:
    """Ticks at a fixed rate. The ticks lie on a grid, so that delays do not add up.

    Args:
        rate: Hz.
        watchdog: is fed at every tick.
        clock: seconds.
        sleep: waits for the seconds that it is given.

    Attributes:
        late: ticks that had passed before the loop came to wait for them.

    Raises:
        DeployError: the rate is not above 0.
    """

    def __init__(
        self,
        rate: float,
        watchdog: Watchdog | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not rate > 0:
            raise DeployError(f"a loop needs a rate above 0 Hz, got {rate}")
        self.period = 1 / rate
        self.late = 0
        self._watchdog = watchdog
        self._clock = clock
        self._sleep = sleep
        self.start()

    def start(self) -> None:
        """Begin now; time before this does not count."""
        self._next = self._clock() + self.period
        self._tick()

    def wait(self) -> None:
        """Wait for the next tick; if it has passed, count it and return at once."""
        left = self._next - self._clock()
        # Ticks that are gone are gone: no burst of steps to catch up with them.
        missed = 0 if left > 0 else int(-left / self.period) + 1
        self.late += missed
        self._next += max(missed, 1) * self.period
        if left > 0:
            self._sleep(left)
        self._tick()

    def age(self) -> float:
        """Time since the last tick, s."""
        return self._clock() - self._ticked

    def _tick(self) -> None:
        if self._watchdog is not None:
            self._watchdog.feed()
        self._ticked = self._clock()
