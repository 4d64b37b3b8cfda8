"""A loop at a fixed rate: waits for the next tick, and counts those it was too late for."""

from __future__ import annotations

import time
from collections.abc import Callable

from nprobot.errors import DeployError


class Pacer:
    """Ticks at a fixed rate. The ticks lie on a grid, so that delays do not add up.

    Args:
        rate: Hz.
        clock: seconds.
        sleep: waits for so many seconds.

    Attributes:
        late: ticks that had passed before the loop came to wait for them.

    Raises:
        DeployError: the rate is not above 0.
    """

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not rate > 0:
            raise DeployError(f"a loop needs a rate above 0 Hz, got {rate}")
        self.period = 1 / rate
        self.late = 0
        self._clock = clock
        self._sleep = sleep
        self._next = clock() + self.period

    def start(self) -> None:
        """Begin now; time before this does not count."""
        self._next = self._clock() + self.period

    def wait(self) -> None:
        """Wait for the next tick; if it has passed, count it and go on at once."""
        left = self._next - self._clock()
        if left > 0:
            self._sleep(left)
            self._next += self.period
            return
        missed = int(-left / self.period) + 1
        self.late += missed
        # Ticks that are gone are gone: no burst of steps to catch up with them.
        self._next += missed * self.period
