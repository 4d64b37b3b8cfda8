"""`nprobot bench`: run a benchmark, or continue it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from nprobot.benchmark.rows import DONE, FAILED, ROWS, latest, parse_rows
from nprobot.benchmark.running import Plan, Processes, Ray, bench, check, estimate, plan
from nprobot.benchmark.suite import SHIPPED, Suite, load
from nprobot.errors import ConfigError
from nprobot.runs.atomic_files import quoted

from .arguments import parse as parse_options
from .terminal import DONE as ALL_DONE
from .terminal import FAILED as SOME_FAILED
from .terminal import Display, duration, say, show_list

HELP = """\
Run a benchmark: learners x tasks x seeds, each run one row of results with its
curve and everything it spent. If a benchmark is stopped or killed, the same
command continues it. Without a suite, it lists the suites.

examples:
  nprobot bench
  nprobot bench smoke --out runs/smoke
  nprobot report runs/smoke
  nprobot bench core --out runs/core --jobs 8
  nprobot bench core --out runs/core --env Reacher-v5 --rule bp danp --seeds 0 1 2
  nprobot bench core --dry-run
  nprobot bench my_suite.toml --out runs/mine --ray auto
"""


@dataclass(frozen=True)
class Bench:
    """Options of the command."""

    suite: Annotated[str, tyro.conf.Positional] = ""
    """A suite (smoke, core, peers, long, off_policy, hidden, actuators, robots, regression, full),
    or the path of a .toml file."""
    out: Path | None = None
    """Folder of the rows; made, or continued. Left out: runs/bench-SUITE."""
    env: tuple[str, ...] = ()
    """Only these environments, with or without version."""
    rule: tuple[str, ...] = ()
    """Only learners with these rules."""
    learner: tuple[str, ...] = ()
    """Only these learners, by the names that --dry-run shows."""
    actuators: tuple[str, ...] = ()
    """Only these presets of noisy actuators."""
    seeds: tuple[int, ...] = ()
    """These seeds instead of the suite's."""
    steps: int | None = None
    """Environment steps of every run instead of the suite's."""
    jobs: int = 1
    """Runs side by side on this machine, a core each."""
    ray: str | None = None
    """Address of a Ray cluster to run on instead, such as auto."""
    retry_failed: bool = False
    """Run the failed runs again."""
    dry_run: bool = False
    """Say what there is to do, and do nothing."""
    json: bool = False
    """Print the list of suites, or the plan of --dry-run, as JSON."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse_options(Bench, arguments, "bench", HELP)
    console = Console()
    if not options.suite:
        list_suites(console, options.json)
        return ALL_DONE
    if options.jobs < 1 or (options.steps is not None and options.steps < 1):
        raise ConfigError("--jobs and --steps must be 1 or more")
    suite = load(options.suite).select(
        env=options.env,
        learner=options.learner,
        rule=options.rule,
        actuators=options.actuators,
        seeds=options.seeds,
        steps=options.steps,
    )
    if not suite.runs:
        raise ConfigError("no run of the suite passes all filters; --dry-run without them shows it")
    out = options.out or Path("runs") / f"bench-{Path(options.suite).stem}"
    rows = latest(parse_rows(out / ROWS)[0]) if (out / ROWS).is_file() else {}
    todo = plan(suite, rows, options.retry_failed)
    if options.dry_run:
        if options.json:
            waiting = [run.to_dict() for run in todo.todo]
            print(json.dumps({"there": todo.there, "failed": todo.failed, "to_do": waiting}))
        else:
            show_plan(console, suite, todo, out)
        return ALL_DONE
    if options.json:
        raise ConfigError("--json belongs to the list of suites, or to --dry-run")
    check(suite)
    introduce(console, suite, todo, out)
    engine = Processes(options.jobs) if options.ray is None else Ray(options.ray)
    with Display(console) as shown:
        try:
            ends = bench(suite, out, engine, retry_failed=options.retry_failed, reporter=shown)
        except KeyboardInterrupt:
            shown.message("Runs in flight are lost, rows are kept; the same command continues.")
            raise
    return conclude(console, ends, out)


def list_suites(console: Console, as_json: bool) -> None:
    """The suites that come with nprobot, and what they cost."""
    suites = {name: load(name) for name in SHIPPED}
    cost = {name: sum(map(estimate, suite.runs)) for name, suite in suites.items()}
    if as_json:
        listed = [
            {"suite": n, "runs": len(s.runs), "cpu_seconds": round(cost[n]), "about": s.about}
            for n, s in suites.items()
        ]
        print(json.dumps(listed, indent=1))
        return
    table = Table("suite", "runs", "CPU, roughly", "what for", box=box.SIMPLE_HEAD)
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, suite in suites.items():
        table.add_row(name, f"{len(suite.runs):,}", duration(cost[name]), suite.about)
    show_list(table)
    say(console, "Run one: nprobot bench SUITE --out DIR; your own file: nprobot bench FILE")


def show_plan(console: Console, suite: Suite, todo: Plan, out: Path) -> None:
    """What is to do, a line a task and learner."""
    cells: dict[tuple[str, str, int, str], list[int]] = {}
    for run in suite.runs:
        cells.setdefault(run.cell, []).append(run.seed)
    waiting = {run.key for run in todo.todo}
    left: dict[tuple[str, str, int, str], int] = {}
    for run in suite.runs:
        left[run.cell] = left.get(run.cell, 0) + (run.key in waiting)
    table = Table(
        *("environment", "actuators", "steps", "learner", "seeds", "to do"), box=box.SIMPLE_HEAD
    )
    for cell, seeds in cells.items():
        env, actuators, steps, learner = cell
        some = " ".join(map(str, seeds[:6])) + (" …" if len(seeds) > 6 else "")
        table.add_row(env, actuators, f"{steps:,}", learner, some, str(left[cell]))
    show_list(table)
    introduce(console, suite, todo, out)


def introduce(console: Console, suite: Suite, todo: Plan, out: Path) -> None:
    """How much there is to do, and where it goes."""
    cost = sum(map(estimate, todo.todo))
    failed = f", {todo.failed} of them failed (--retry-failed)" if todo.failed else ""
    say(
        console,
        f"{suite.name}: {len(todo.todo):,} runs to do, about {duration(cost)} of CPU "
        "(more by the clock where the machine has other work); "
        f"{todo.there:,} are there{failed}\nrows go to {out / ROWS}",
    )


def conclude(console: Console, ends: dict[str, int], out: Path) -> int:
    """Say how it went; returns the exit code."""
    said = ", ".join(f"{count} {end}" for end, count in sorted(ends.items())) or "nothing to do"
    say(console, f"Runs: {said}\nNext: nprobot report {quoted(out)}")
    if ends.get(FAILED):
        say(console, "Errors are in the rows and in the report; --retry-failed does them again.")
    return SOME_FAILED if ends.get(FAILED) and not ends.get(DONE) else ALL_DONE
