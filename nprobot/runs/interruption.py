"""Ctrl-C, which ends a run or a fit where it can continue."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

_ended_by = signal.SIGINT


def exit_code() -> int:
    """Exit code of a program that a signal has ended: 128 + the signal's number, as in shells."""
    return 128 + _ended_by


def note(number: int) -> None:
    """Remember the signal that ends the work."""
    global _ended_by
    _ended_by = signal.Signals(number)


class Stoppable(Protocol):
    """Work that looks now and then whether it shall stop."""

    stop_requested: bool


@contextmanager
def interruptible(work: Stoppable, say: Callable[[str], None], unit: str) -> Iterator[None]:
    """Turn the first Ctrl-C (or a polite kill) into the end of the work after what it is at.

    Args:
        work: is asked to stop.
        say: tells the user.
        unit: what is finished first, such as ``"update"``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if work.stop_requested:
            raise KeyboardInterrupt
        work.stop_requested = True
        note(number)
        say(f"Stopping after this {unit}; once more to stop at once.")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
