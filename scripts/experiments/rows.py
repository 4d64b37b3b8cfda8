"""Rows of an experiment on disk, and its command line.

An experiment is a list of jobs, each a dict of what tells it from the others. `keep` runs those
that have no row yet and writes a row as soon as its job is finished, so a cut-off costs one job.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from nprobot.runs.versions import git_commit, versions

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"

Row = dict[str, Any]
Rows = list[Row]
Only = Annotated[
    tuple[str, ...], tyro.conf.arg(help="words that column=value of a run must hold: seed=0 …")
]
"""An option of stages: which runs."""


def command(about: str | None, *stages: Callable[..., object]) -> None:
    """Run the stage that the command line names, on one torch thread.

    Args:
        about: the script's docstring, which the help shows.
        stages: functions; their arguments are the options of a stage.
    """
    torch.set_num_threads(1)
    named = {stage.__name__.replace("_", "-"): stage for stage in stages}
    module = sys.modules["__main__"].__spec__
    prog = f"python -m {module.name}" if module else None
    tyro.extras.subcommand_cli_from_dict(named, prog=prog, description=about)


def read(path: Path) -> Rows:
    """The rows of a table, `.csv` (all cells are text) or `.jsonl`; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        if path.suffix == ".jsonl":  # the last line may be cut off
            return [json.loads(line) for line in file if line.endswith("}\n")]
        return list(csv.DictReader(file))


def append(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Add rows to a table.

    In CSV in the columns and with the line ends that it has; a new one gets a header, and a column
    that an older one lacks is left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", newline="", encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        columns, end = list(rows[0]), "\n"
        file.seek(0)
        header = file.readline()
        if header:
            columns, end = next(csv.reader([header])), header[len(header.rstrip("\r\n")) :]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator=end)
        if not header:
            writer.writeheader()
        writer.writerows(rows)


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Make a table anew."""
    path.unlink(missing_ok=True)
    append(path, rows)


def keep(
    table: Path,
    jobs: Iterable[Mapping[str, object]],
    run: Callable[..., Row],
    *,
    only: Sequence[str] = (),
    curves: Path | None = None,
) -> None:
    """Run every job that has no row yet, and write its row.

    Args:
        table: where the rows go: the job, its result, versions and commit.
        jobs: what tells one run from another, column → value.
        run: takes a job as keywords and returns its result; "curve" in it is a list of points.
        only: words that ``column=value`` of a job must hold.
        curves: table of the points.
    """
    wanted = [job for job in jobs if all(word in _text(job) for word in only)]
    there = read(table)
    waiting = [job for job in wanted if not select(there, **job)]
    print(f"{len(wanted) - len(waiting)} of {len(wanted)} runs are there", flush=True)
    made_with = {**versions(), "commit": git_commit()}  # now, as the tree may change meanwhile
    for job in waiting:
        result = run(**job)
        curve = result.pop("curve", [])
        if curve and curves is not None:
            append(curves, [{**job, **point} for point in curve])
        append(table, [{**job, **result, **made_with}])
        print(_text(job), "→", _text(result), flush=True)


def select(rows: Rows, **wanted: object) -> Rows:
    """The rows with these values."""
    return [row for row in rows if all(str(row.get(k)) == str(v) for k, v in wanted.items())]


def column(rows: Rows, name: str) -> list[float]:
    """The numbers of a column."""
    return [float(row[name]) for row in rows]


def _text(values: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())
