"""A benchmark from plan to rows: what is to do, what does it side by side, what came out.

Engines do the runs: `Processes` on this machine, `Ray` on a cluster.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Protocol

from nprobot.errors import ConfigError, MissingPackageError, RunFailedError
from nprobot.runs.reporting import Progress, Reporter, Silent
from nprobot.training.environments import find_spec

from .methods import FIT, RunSpec
from .peers import METHODS, check_installed
from .rows import DONE, FAILED, Row, blank, failure, open_rows
from .suite import Suite

SECONDS_BETWEEN_NEWS = 0.5
RETRIES = 3
"""How often a run on a cluster is begun anew when its worker or machine is lost."""
LOADED_ONCE = [
    *("nprobot.benchmark.execution", "nprobot.training.build", "nprobot.training.vector"),
    *("nprobot.regression.fit_run", "torch._dynamo"),  # the last one loads with the first optimiser
]
"""What takes seconds to import: the process has it that all runs are forked from."""

ENV_MICROSECONDS = {
    "InvertedPendulum": 45.0,
    "InvertedDoublePendulum": 60.0,
    "Reacher": 80.0,
    "Swimmer": 80.0,
    "Hopper": 240.0,
    "HalfCheetah": 110.0,
    "Walker2d": 250.0,
    "Ant": 300.0,
    "Humanoid": 600.0,
    "Pusher": 150.0,
    "nprobot/ArmReach": 150.0,
    "nprobot/Quadruped": 200.0,
}
"""Rough CPU time of an environment step."""
OTHER_ENV = 150.0
START = 1.0
"""CPU seconds of a run before it learns: process, environments, the first use of libraries."""
LONG_EPISODE = 1000
"""Steps that evaluation episodes are taken to last, for estimates."""


@dataclass(frozen=True)
class Plan:
    """What a benchmark has to do.

    Attributes:
        todo: runs without a row.
        there: runs that have one already.
        failed: of those, the ones that failed.
    """

    todo: tuple[RunSpec, ...]
    there: int
    failed: int


def plan(suite: Suite, rows: Mapping[str, Row], retry_failed: bool = False) -> Plan:
    """Which runs of a suite are to be done.

    Args:
        suite: the suite.
        rows: those that are there, by key.
        retry_failed: do those again that failed (not those that diverged: that is a result).

    Raises:
        ConfigError: rows of a learner are there that was set up differently.
    """
    _check_settings(suite.runs, rows.values())
    status = {run.key: rows[run.key]["status"] for run in suite.runs if run.key in rows}
    failed = [key for key, value in status.items() if value == FAILED]
    again = set(failed) if retry_failed else set()
    todo = tuple(run for run in suite.runs if run.key not in status or run.key in again)
    return Plan(todo, len(suite.runs) - len(todo), len(failed))


def bench(
    suite: Suite,
    out: Path,
    engine: Engine,
    *,
    retry_failed: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, int]:
    """Do the runs of a suite that have no row yet.

    Args:
        suite: what to do.
        out: folder of the rows; made, or continued.
        engine: what does the runs.
        retry_failed: do runs again that failed.
        reporter: receives the news of the benchmark.

    Returns:
        How many runs came to which end.

    Raises:
        BusyError: another process is writing into `out`.
        ConfigError: `out` holds rows of other learners by the same name.
        UnknownNameError: there is no such environment.
        MissingPackageError: a learner's package is not installed.
    """
    check(suite)
    reporter = reporter or Silent()
    ends: dict[str, int] = {}
    with open_rows(out) as store:
        planned = plan(suite, store.rows, retry_failed)
        ended, total = planned.there, len(suite.runs)
        for event in engine.run(planned.todo):
            if event.row is None:
                share = f"{event.spec}: {event.steps / event.spec.steps:.0%}"
                reporter.progress(Progress(ended, total, unit="runs", figures=share))
                continue
            store.append(event.row | _about(event.spec, suite))
            ends[event.row["status"]] = ends.get(event.row["status"], 0) + 1
            ended += 1
            reporter.message(f"{ended} of {total}: {event.spec}: {result(event.row)}")
            reporter.progress(Progress(ended, total, unit="runs"))
    return ends


def result(row: Row) -> str:
    """What came out of a run, in a few words."""
    if row["status"] != DONE:
        return f"{row['status']}: {row['error']}"
    return f"return {row['return_mean']:.1f}, {row['cpu_seconds']:.0f} s of CPU"


def check(suite: Suite) -> None:
    """Find out before any work is done whether every run can start."""
    for algo in {run.algo for run in suite.runs}:
        check_installed(algo)
    for env in {run.env for run in suite.runs if not run.env.startswith(FIT)}:
        find_spec(env)


def estimate(run: RunSpec) -> float:
    """Rough CPU seconds of a run on one core of a present machine."""
    method = METHODS[run.algo]
    noisy = method.noisy_microseconds * ((run.samples or 1) - 1)
    if run.env.startswith(FIT):
        return START + run.steps * (method.microseconds + noisy) / 1e6
    env = next((v for k, v in ENV_MICROSECONDS.items() if run.env.startswith(k)), OTHER_ENV)
    measured = (run.points * run.point_episodes + run.episodes) * LONG_EPISODE / 2
    training = 0 if run.algo == "random" else run.steps
    return START + (training * (env + method.microseconds + noisy) + measured * env) / 1e6


def _about(spec: RunSpec, suite: Suite) -> Row:
    return {
        "suite": suite.name,
        "command": spec.command(suite.name),
        "source": suite.sources.get(spec.learner, "not given"),
    }


def _check_settings(runs: Sequence[RunSpec], rows: Iterable[Row]) -> None:
    """Refuse to mix learners of the same name and different settings in one folder."""
    there = {run.cell: run for run in map(RunSpec.of_row, rows)}
    for run in {run.cell: run for run in runs}.values():
        other = there.get(run.cell)
        if other is None or other.cell_key == run.cell_key:
            continue
        ours, theirs = run.to_dict(), other.to_dict()
        differ = [f"{k} {theirs[k]} there, {ours[k]} now" for k in ours if ours[k] != theirs[k]]
        differ = [text for text in differ if not text.startswith("seed ")]
        raise ConfigError(
            f"the folder holds runs of {run.learner!r} on {run.env} that were set up differently: "
            f"{'; '.join(differ)}. Choose another --out, or give the learner another name."
        )


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
    row: Row | None = None


class Engine(Protocol):
    """Does runs."""

    def run(self, specs: Sequence[RunSpec]) -> Iterator[Event]:
        """Do the runs, in this order as far as they start; every run ends in one row."""


class Processes:
    """Each run in its own process on this machine.

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
        context.set_forkserver_preload(LOADED_ONCE)
        waiting = list(reversed(specs))
        running: dict[Connection, tuple[RunSpec, ForkServerProcess]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    spec = waiting.pop()
                    ours, theirs = context.Pipe()
                    process = context.Process(target=_in_process, args=(theirs, spec.to_dict()))
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


def _in_process(connection: Connection, values: dict[str, Any]) -> None:
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


class Ray:
    """Each run a task of one core on a Ray cluster.

    A run whose worker dies begins anew elsewhere; only its last end makes a row.

    Args:
        address: of the cluster, such as ``auto`` or ``ray://head:10001``; nprobot has to be
            installed on its machines.
        retries: how often a run is begun anew when its worker is lost.

    Raises:
        MissingPackageError: Ray is not installed.
    """

    def __init__(self, address: str, retries: int = RETRIES) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingPackageError(
                "a Ray cluster needs `pip install 'nprobot[ray]'` here and on its machines"
            ) from error
        self._ray = ray
        self.address = address
        self.retries = retries

    def run(self, specs: Sequence[RunSpec]) -> Iterator[Event]:
        """Do the runs; see `Engine`."""
        ray = self._ray
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False)
        # A process a run, as on one machine: memory and CPU time are the run's own.
        task = ray.remote(num_cpus=1, max_retries=self.retries, max_calls=1)(on_cluster)
        running = {task.remote(spec.to_dict()): spec for spec in specs}
        try:
            while running:
                ended, _ = ray.wait(list(running), num_returns=1)
                for reference in ended:
                    spec = running.pop(reference)
                    try:
                        row: Row = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        row = blank(spec) | failure(error)
                    yield Event(spec, spec.steps, row)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def on_cluster(values: dict[str, Any]) -> Row:
    """What the task of a run does; returns its row."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from .execution import execute

    return execute(RunSpec.from_dict(values))
