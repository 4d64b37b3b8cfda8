"""Runs side by side: what an engine does for a benchmark, and the one of processes on a machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Protocol

from nprobot.errors import RunFailedError

from .rows import blank, failure
from .spec import RunSpec

SECONDS_BETWEEN_NEWS = 0.5


@dataclass(frozen=True)
class Event:
    """Something happened to a run.

    Attributes:
        spec: the run.
        steps: that it has taken.
        row: its result, if it is over.
    """

    spec: RunSpec
    steps: int = 0
    row: dict[str, Any] | None = None


class Engine(Protocol):
    """Does runs."""

    def run(self, specs: Sequence[RunSpec]) -> Iterator[Event]:
        """Do the runs, in this order as far as they start; every run ends in one row."""


class Processes:
    """Each run in a process of its own on this machine.

    The processes are forked from one that has loaded torch and nothing else, so that each starts
    at once, and its memory and CPU time are its own. They die with the process that started them.

    Args:
        jobs: runs side by side.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs

    def run(self, specs: Sequence[RunSpec]) -> Iterator[Event]:
        """Do the runs; see `Engine`."""
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["nprobot.benchmark.preload"])
        waiting = list(reversed(specs))
        running: dict[Connection, tuple[RunSpec, ForkServerProcess]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    spec = waiting.pop()
                    ours, theirs = context.Pipe()
                    process = context.Process(target=work, args=(theirs, spec.to_dict()))
                    process.start()
                    theirs.close()
                    running[ours] = spec, process
                    yield Event(spec)
                for connection in wait(list(running)):
                    assert isinstance(connection, Connection)
                    spec, process = running[connection]
                    event = _receive(connection, spec, process)
                    if event.row is not None:
                        del running[connection]
                        connection.close()
                        process.join()
                    yield event
        finally:
            for _, process in running.values():
                process.kill()
            for connection, (_, process) in running.items():
                process.join()
                connection.close()


def _receive(connection: Connection, spec: RunSpec, process: ForkServerProcess) -> Event:
    """The next news of a run; a row that says so if its process has died."""
    try:
        steps, row = connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        error = RunFailedError(f"its process died (exit code {process.exitcode})")
        return Event(spec, row=blank(spec) | failure(error))
    return Event(spec, steps, row)


def work(connection: Connection, values: dict[str, Any]) -> None:
    """What the process of a run does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this
    threading.Thread(target=_die_with_parent, args=(connection,), daemon=True).start()
    from .execution import execute

    last = time.monotonic()

    def tell(steps: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_NEWS:
            last = time.monotonic()
            connection.send((steps, None))

    spec = RunSpec.from_dict(values)
    row = execute(spec, tell)
    connection.send((spec.steps, row))


def _die_with_parent(connection: Connection) -> None:
    """Nobody writes to this end: it becomes readable when the other process is gone."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)
