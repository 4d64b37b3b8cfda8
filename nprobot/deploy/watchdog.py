"""A watchdog: notices from another thread that a control loop has stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from nprobot.errors import ConfigError


class Watchdog:
    """Calls a function once if nobody has called `feed` for some time.

    The function runs in the watchdog's thread, while the loop may still be stuck: it is the place
    to cut the power, and to trip the controller, so that an action that comes too late is not used.

        with Watchdog(0.1, lambda: controller.trip("the loop is stuck", FaultKind.WATCHDOG)) as dog:
            while True:
                robot.act(controller.step(robot.observe()))
                dog.feed()

    Args:
        timeout: s without food.
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
        self._fed = clock()
        self._fired = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

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
