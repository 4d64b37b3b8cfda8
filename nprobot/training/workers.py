"""Where a group of environments runs: in this process, or in a worker.

Messages between processes are pickled by `multiprocessing`; nothing of them reaches a disk.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Protocol

from nprobot.errors import (
    DamagedFileError,
    EnvironmentFailedError,
    EnvironmentUnavailableError,
    NprobotError,
)

from .environments import USERS_ERRORS, failure, silence_mujoco
from .groups import AnyGroup, EnvRecipe, Watched, make_group

TICK = 1.0
"""Seconds between two looks at an environment that has not answered yet."""
START = 120.0
"""Seconds that a worker has at least to load its libraries and make its environments."""

_RAISED_THERE: dict[str, type[NprobotError]] = {
    cls.__name__: cls
    for cls in (DamagedFileError, EnvironmentFailedError, EnvironmentUnavailableError)
}


@dataclass
class LocalNumber:
    """A `Watched` number in this process."""

    value: int = -1


class GroupRunner(Protocol):
    """Runs a group of environments somewhere.

    Attributes:
        indices: numbers of its environments.
    """

    indices: Sequence[int]

    def send(self, command: str, *arguments: Any) -> None:
        """Ask for a method of the group; `receive` is next."""

    def receive(self) -> Any:  # noqa: ANN401
        """What the method returned, or the error that it raised."""

    def close(self) -> None:
        """Close the environments."""


class InProcess:
    """A group in this process.

    Args:
        recipe: makes the environments.
        indices: their numbers.
        timeout: seconds after which an environment that does not return is given up.
    """

    def __init__(self, recipe: EnvRecipe, indices: Sequence[int], timeout: float) -> None:
        self.indices = indices
        self.timeout = timeout
        self._busy = LocalNumber()
        self._group = make_group(recipe, indices, self._busy)
        self._call: tuple[str, tuple[Any, ...]] = ("", ())
        self._calls = 0

    def send(self, command: str, *arguments: Any) -> None:
        """Remember what is to be done."""
        self._call = (command, arguments)

    def receive(self) -> Any:  # noqa: ANN401
        """Do it."""
        command, arguments = self._call
        self._calls += 1
        return getattr(self._group, command)(*arguments)

    def close(self) -> None:
        """Close the environments."""
        self._group.close()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Interrupt an environment that does not return.

        It works in the main thread, where the system has alarms, and while the environment runs
        Python code or sleeps; only a worker can be stopped whatever it does.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        if not hasattr(signal, "setitimer"):
            yield
            return
        patience = _Patience(self.timeout)
        calls = self._calls

        def look(number: int, frame: FrameType | None) -> None:
            nonlocal calls
            if calls != self._calls or self._busy.value < 0:
                calls = self._calls
                patience.renew()
            elif patience.ends():
                raise EnvironmentFailedError(patience.complaint(f"environment {self._busy.value}"))

        before = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, patience.tick, patience.tick)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


class Worker:
    """A group in a separate process.

    Args:
        number: the number of the worker, for messages.
        recipe: makes the environments.
        indices: their numbers.
        timeout: seconds after which an environment that does not return is given up.
    """

    def __init__(
        self, number: int, recipe: EnvRecipe, indices: Sequence[int], timeout: float
    ) -> None:
        self.indices = indices
        self._number = number
        self._patience = _Patience(max(timeout, START))
        self._timeout = timeout
        # Not forked: torch and MuJoCo have threads, and a fork would copy their locks.
        context = multiprocessing.get_context("spawn")
        self._busy = context.RawValue("i", -1)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, recipe, list(indices), self._busy), daemon=True
        )
        self._process.start()
        theirs.close()  # so that its end is noticed here

    def send(self, command: str, *arguments: Any) -> None:
        """Send a request."""
        try:
            self._connection.send((command, arguments))
        except OSError:
            raise self._death() from None

    def receive(self) -> Any:  # noqa: ANN401
        """Wait for the answer."""
        self._patience.renew()
        try:
            while not self._connection.poll(self._patience.tick):
                if self._patience.ends():
                    complaint = self._patience.complaint(self._who())
                    self._process.kill()
                    raise EnvironmentFailedError(complaint)
            error, answer = self._connection.recv()
            self._patience = _Patience(self._timeout)
        except (EOFError, OSError):
            raise self._death() from None
        if error is not None:
            raise _RAISED_THERE.get(error, EnvironmentFailedError)(
                answer.replace("environment ", f"worker {self._number}, environment ", 1)
            )
        return answer

    def close(self) -> None:
        """End the process, politely at first."""
        self._connection.close()
        self._process.join(TICK)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _who(self) -> str:
        at_work = self._busy.value
        if at_work >= 0:
            return f"worker {self._number}, environment {at_work},"
        return f"worker {self._number} (environments {self.indices[0]} to {self.indices[-1]})"

    def _death(self) -> EnvironmentFailedError:
        who = self._who()
        self._process.join(TICK)
        code = self._process.exitcode
        how = "by itself" if not code else f"with exit code {code}"
        if code is not None and code < 0:
            how = f"of signal {-code} ({signal.strsignal(-code)})"
        return EnvironmentFailedError(f"{who} has died {how}")


class _Patience:
    """Time that runs only while this process does: not while it is stopped or the machine sleeps.

    Args:
        timeout: seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.tick = min(TICK, timeout)
        self._waited = 0.0

    def renew(self) -> None:
        """Start anew."""
        self._waited = 0.0

    def ends(self) -> bool:
        """Whether this tick was the last."""
        self._waited += self.tick
        return self._waited >= self._timeout

    def complaint(self, who: str) -> str:
        """What to say then."""
        return f"{who} has not returned for {self._timeout:g} s (--env-timeout)"


def _serve(connection: Connection, recipe: EnvRecipe, indices: list[int], busy: Watched) -> None:
    """The life of a worker: it ends when the other end of the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    silence_mujoco()
    group: AnyGroup | None = None
    while True:
        try:
            command, arguments = connection.recv()
        except (EOFError, OSError):
            break
        try:
            if group is None:
                group = make_group(recipe, indices, busy, threads=1)
            answer: tuple[str | None, Any] = None, getattr(group, command)(*arguments)
        except NprobotError as error:
            answer = type(error).__name__, str(error)
        except USERS_ERRORS as error:
            answer = "", str(failure(f"environment {indices[0]}", error))
        try:
            connection.send(answer)
        except OSError:  # nobody waits for it any more
            break
    if group is not None:
        group.close()
