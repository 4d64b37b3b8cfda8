"""A benchmark from plan to rows: what is to do, doing it, and writing down what came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nprobot.errors import ConfigError
from nprobot.training.environments import find_spec

from .algorithms import ALGORITHMS, check_installed
from .engine import Engine, Event
from .rows import DONE, FAILED
from .spec import FIT, RunSpec
from .store import Row, Store
from .suite import Suite

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
}
"""Rough CPU time of an environment step."""
OTHER_ENV = 150.0
LONG_EPISODE = 1000
"""Steps that evaluation episodes are taken to last, for estimates."""


class Watcher(Protocol):
    """Hears how a benchmark goes."""

    def event(self, event: Event) -> None:
        """A run has started, moved on or ended."""


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
    watcher: Watcher | None = None,
) -> dict[str, int]:
    """Do the runs of a suite that have no row yet.

    Args:
        suite: what to do.
        out: folder of the rows; made, or gone on with.
        engine: what does the runs.
        retry_failed: do runs again that failed.
        watcher: hears how it goes.

    Returns:
        How many runs came to which end.

    Raises:
        BusyError: another process is writing into `out`.
        ConfigError: `out` holds rows of other learners by the same name.
        UnknownNameError: there is no such environment.
        MissingPackageError: a learner's package is not installed.
    """
    check(suite)
    ends: dict[str, int] = {}
    with Store(out) as store:
        todo = plan(suite, store.rows, retry_failed).todo
        for event in engine.run(todo):
            if event.row is not None:
                store.append(event.row | _about(event.spec, suite))
                ends[event.row["status"]] = ends.get(event.row["status"], 0) + 1
            if watcher is not None:
                watcher.event(event)
    return ends


def check(suite: Suite) -> None:
    """Find out before any work is done whether every run can start."""
    for algo in {run.algo for run in suite.runs}:
        check_installed(algo)
    for env in {run.env for run in suite.runs if not run.env.startswith(FIT)}:
        find_spec(env)


def estimate(run: RunSpec) -> float:
    """Rough CPU seconds of a run on one core of a present machine."""
    algorithm = ALGORITHMS[run.algo]
    noisy = algorithm.noisy_microseconds * ((run.samples or 1) - 1)
    if run.env.startswith(FIT):
        return run.steps * (algorithm.microseconds + noisy) / 1e6
    env = next((v for k, v in ENV_MICROSECONDS.items() if run.env.startswith(k)), OTHER_ENV)
    measured = (run.points * run.point_episodes + run.episodes) * LONG_EPISODE / 2
    training = 0 if run.algo == "random" else run.steps
    return (training * (env + algorithm.microseconds + noisy) + measured * env) / 1e6


def _about(spec: RunSpec, suite: Suite) -> Row:
    return {
        "suite": suite.name,
        "command": spec.command(suite.name),
        "source": suite.sources.get(spec.learner, "not given"),
    }


def _check_settings(runs: Sequence[RunSpec], rows: Iterable[Row]) -> None:
    """Refuse to mix learners of the same name and different settings in one folder."""
    there = {run.cell: run for run in map(RunSpec.from_dict, rows)}
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


def finished(rows: Iterable[Row]) -> list[Row]:
    """Rows of runs that came to a good end."""
    return [row for row in rows if row["status"] == DONE]
