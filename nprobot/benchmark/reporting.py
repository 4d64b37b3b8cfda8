"""The report of a benchmark: one self-contained page, its figures, and the rows as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import figures, tables
from .findings import by_task, caveats, headline, number
from .page import Section, html_page
from .results import AXES, Results, Task
from .spec import IDEAL
from .store import Row, read

CURVE_AXES = tuple(AXES)


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: the page.
        pictures: the figures, beside it.
        results: what the report is about.
    """

    page: Path
    pictures: tuple[Path, ...]
    results: Results


def report(
    folder: Path,
    out: Path | None = None,
    *,
    markdown: Path | None = None,
    prefix: str = "",
) -> Report:
    """Make the report of a benchmark; it may still be running.

    Args:
        folder: of the benchmark.
        out: where to put page, figures and tables; by default the folder ``report`` in it.
        markdown: also write the findings and tables as a Markdown file.
        prefix: of the names of the figures.

    Raises:
        DamagedFileError: there are no results, or they cannot be read.
    """
    rows = read(folder)
    results = Results.of(rows)
    out = out or folder / "report"
    out.mkdir(parents=True, exist_ok=True)
    pictures = draw(results)
    paths = []
    for name, picture in pictures.items():
        path = out / f"{prefix}{name}.png"
        path.write_bytes(picture)
        paths.append(path)
    page = out / "index.html"
    text = html_page(title_of(rows), sections(results, pictures), subtitle_of(rows))
    page.write_text(text, encoding="utf-8")
    write_csv(results, out)
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(markdown_page(results), encoding="utf-8")
    return Report(page, tuple(paths), results)


def title_of(rows: Sequence[Row]) -> str:
    """Title of the page."""
    names = list(dict.fromkeys(Path(row.get("suite", "")).stem for row in rows))
    return f"Benchmark {', '.join(filter(None, names)) or 'results'}"


def subtitle_of(rows: Sequence[Row]) -> str:
    """How many runs, of when, by which version."""
    days = sorted({row["ended"][:10] for row in rows})
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    versions = sorted({str(row["versions"]["nprobot"]) for row in rows})
    return f"{len(rows)} runs, {span}, nprobot {', '.join(versions)}"


def draw(results: Results) -> dict[str, bytes]:
    """All figures by name."""
    made: dict[str, bytes] = {}
    for group in results.groups:
        tail = "" if group == IDEAL else f"_{group}"
        tasks = [task for task in results.tasks if task.group == group]
        if len(results.complete(group)) > 1:
            made[f"scores{tail}"] = figures.score_figure(results, group)
            made[f"profiles{tail}"] = figures.profile_figure(results, group)
            for other in filter(None, (results.baseline, tables.peer(results, group))):
                name = f"improvement_over_{other.lower().replace(' ', '_')}{tail}"
                made[name] = figures.improvement_figure(results, group, other)
        made[f"runs{tail}"] = figures.runs_figure(results, tasks)
        for axis in CURVE_AXES:
            made[f"curves_{axis}{tail}"] = figures.curves_figure(results, tasks, axis)
    return made


def sections(results: Results, pictures: dict[str, bytes]) -> list[Section]:
    """What the page says, in order."""
    made: list[Section] = []
    for group in results.groups:
        tail = "" if group == IDEAL else f"_{group}"
        name = "" if len(results.groups) == 1 else f" ({group})"
        tasks = [task for task in results.tasks if task.group == group]
        made.append(Section(f"In short{name}", text=headline(results, group)))
        if len(results.complete(group)) > 1:
            made.append(
                Section(
                    f"Over all tasks{name}",
                    tables=[tables.aggregate_table(results, group)],
                    pictures={"": pictures[f"scores{tail}"]},
                )
            )
        made.append(
            Section(
                f"Task by task{name}",
                items={str(task): by_task(results, task) for task in tasks},
                tables=[tables.return_table(results, tasks)],
                pictures={"": pictures[f"runs{tail}"]},
            )
        )
        made.append(
            Section(
                f"Learning curves{name}",
                text=[
                    "Mean over seeds of the return without exploration, with the 95 % interval of "
                    "a bootstrap over seeds. Dotted: what backprop spends in all."
                ],
                pictures={AXES[axis]: pictures[f"curves_{axis}{tail}"] for axis in CURVE_AXES},
                tabs=True,
            )
        )
        if len(results.complete(group)) > 1:
            more = {
                key.partition(tail)[0].replace("_", " ") if tail else key.replace("_", " "): value
                for key, value in pictures.items()
                if key.startswith(("profiles", "improvement")) and key.endswith(tail)
            }
            made.append(
                Section(
                    f"At equal cost{name}",
                    text=["A rule that needs more passes, or fewer seconds, is another choice."],
                    tables=[tables.equal_table(results, group)],
                )
            )
            made.append(Section(f"Distributions{name}", pictures=more))
        made.append(
            Section(
                f"Every task in detail{name}",
                folded={
                    str(task): [
                        tables.task_table(results, task),
                        tables.ledger_table(results, task),
                    ]
                    for task in tasks
                },
            )
        )
    made.append(Section("Before you believe it", bullets=caveats(results)))
    made.append(
        Section(
            "How it was done",
            text=[measured(results)],
            tables=[tables.settings_table(results)],
            folded={
                "Versions and machine": [surroundings_table(results)],
                f"Commands of all {len(results.rows)} runs": [command_table(results)],
                **(
                    {f"{len(results.failed)} failed runs": [failure_table(results)]}
                    if results.failed
                    else {}
                ),
            },
        )
    )
    return made


def measured(results: Results) -> str:
    """How returns were measured."""
    row = results.rows[0]
    return (
        f"Every finished policy: {row['episodes']} episodes without exploration, from the same "
        f"starts for every learner and seed. Curves: {row['points']} points of "
        f"{row['point_episodes']} episodes, in environments of their own. All runs have the same "
        "budget of environment steps; what evaluation costs is charged to nobody."
    )


def surroundings_table(results: Results) -> tables.Table:
    """Versions, commits and machines, and how many runs had each."""
    counts: dict[tuple[str, str, str], int] = {}
    for row in results.rows:
        packages = ", ".join(f"{k} {v}" for k, v in row["versions"].items() if v)
        key = (packages, str(row["commit"]), row["machine"])
        counts[key] = counts.get(key, 0) + 1
    rows = tuple((*key, str(count)) for key, count in counts.items())
    return tables.Table(("versions", "commit", "machine", "runs"), rows)


def command_table(results: Results) -> tables.Table:
    """The command that repeats each run, and its result."""
    rows = tuple(
        (
            row.get("command", ""),
            number(row["return_mean"]) if row["status"] == "done" else row["status"],
        )
        for row in results.rows
    )
    return tables.Table(("command", "return"), rows)


def failure_table(results: Results) -> tables.Table:
    """Runs that failed, with their errors."""
    rows = tuple((row.get("command", ""), row["error"]) for row in results.failed)
    return tables.Table(("command", "error"), rows)


def write_csv(results: Results, out: Path) -> None:
    """Rows and curves as tables that any program reads."""
    flat = [
        {k: v for k, v in row.items() if not isinstance(v, dict | list)}
        | {"settings": "; ".join(f"{k}={v}" for k, v in row["settings"].items())}
        | {k: v for k, v in row["versions"].items()}
        for row in results.rows
    ]
    _write(out / "rows.csv", flat)
    points = [
        {name: row[name] for name in ("env", "hardware", "steps", "learner", "seed")}
        | {name: values[index] for name, values in row["curve"].items()}
        for row in results.rows
        if "curve" in row
        for index in range(len(row["curve"]["env_steps"]))
    ]
    _write(out / "curves.csv", points)


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    header = list(dict.fromkeys(key for row in rows for key in row if key != "traceback"))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def markdown_page(results: Results) -> str:
    """Findings and tables as Markdown, to be put into a page by hand."""
    parts: list[str] = []
    for group in results.groups:
        name = "" if len(results.groups) == 1 else f" ({group})"
        tasks: list[Task] = [task for task in results.tasks if task.group == group]
        parts += [f"## Over all tasks{name}", *headline(results, group)]
        if len(results.complete(group)) > 1:
            parts.append(tables.markdown(tables.aggregate_table(results, group)))
        parts += [f"## Task by task{name}", tables.markdown(tables.return_table(results, tasks))]
        parts += [f"- **{task}.** {' '.join(by_task(results, task))}" for task in tasks]
        if len(results.complete(group)) > 1:
            parts += [
                f"## At equal cost{name}",
                tables.markdown(tables.equal_table(results, group)),
            ]
        for task in tasks[-1:]:
            ledger = tables.markdown(tables.ledger_table(results, task))
            parts += [f"## What a run spends: {task}", ledger]
    parts += ["## Before you believe it", *(f"- {text}" for text in caveats(results))]
    parts += ["## Settings", tables.markdown(tables.settings_table(results))]
    lists = "\n".join(parts).split("\n")
    text = ""
    for before, line in zip(["", *lists], lists, strict=False):
        tight = before.startswith(("- ", "|")) and line.startswith(("- ", "|"))
        text += ("" if tight or not line or not before else "\n") + line + "\n"
    return text.lstrip("\n")
