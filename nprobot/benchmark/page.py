"""The report of a benchmark: one self-contained page, its figures, the rows as CSV, Markdown."""

from __future__ import annotations

import base64
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nprobot.errors import ExistsError
from nprobot.runs.atomic_files import free_name, quoted, refuse_file

from . import figures
from . import findings as found
from .findings import Table
from .methods import IDEAL
from .results import AXES, Results
from .rows import Row, read

PAGE_FILE = "index.html"
TITLE = "Benchmark"
"""What the title of every report begins with."""
PAGE, MARKDOWN = "page.html.jinja", "page.md.jinja"


@dataclass(frozen=True)
class WrittenReport:
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
    force: bool = False,
) -> WrittenReport:
    """Make the report of a benchmark; it may still be running.

    Args:
        folder: the folder of the benchmark, or a file of rows.
        out: where to put page, figures and tables; by default the folder ``report`` in it.
        markdown: also write the findings and tables as a Markdown file.
        force: write that over a file that is there.

    Raises:
        ExistsError: something else than an earlier report is there.
        DamagedFileError: there are no results, or they cannot be read.
    """
    results = Results.of(read(folder))
    beside = folder / "report" if folder.is_dir() else folder.with_name(f"{folder.stem}-report")
    out = out or beside
    if out.exists() and not (
        out.is_dir() and (not any(out.iterdir()) or _is_ours(out / PAGE_FILE))
    ):
        raise ExistsError(
            f"{out} is there already and is no report of ours; {quoted(free_name(out))} is free"
        )
    if markdown is not None:
        refuse_file(markdown, force)
    out.mkdir(parents=True, exist_ok=True)
    pictures = draw(results)
    paths = []
    for name, picture in pictures.items():
        path = out / f"{name}.png"
        path.write_bytes(picture)
        paths.append(path)
    page = out / PAGE_FILE
    said = sections(results, pictures)
    page.write_text(render(PAGE, results, said), encoding="utf-8")
    write_csv(results, out)
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(render(MARKDOWN, results, said), encoding="utf-8")
    return WrittenReport(page, tuple(paths), results)


def _is_ours(file: Path) -> bool:
    """Whether a file is a page that a report made, by its title."""
    try:
        return TITLE in file.read_text(encoding="utf-8")[:4000]
    except (OSError, UnicodeDecodeError):
        return False


def title_of(rows: Sequence[Row]) -> str:
    """Title of the page."""
    names = list(dict.fromkeys(Path(row.get("suite", "")).stem for row in rows))
    return f"{TITLE} {', '.join(filter(None, names)) or 'results'}"


def subtitle_of(rows: Sequence[Row]) -> str:
    """How many runs, of when, by which version."""
    days = sorted({row["ended"][:10] for row in rows})
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    versions = sorted({str(row["versions"]["nprobot"]) for row in rows})
    return f"{len(rows)} runs, {span}, nprobot {', '.join(versions)}"


def render(template: str, results: Results, sections: Sequence[Section]) -> str:
    """The report as text; in HTML styles and pictures are in it, and nothing is fetched.

    Args:
        template: a file beside this one.
        results: what the report is about.
        sections: what it says.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=".html" in template,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    rows = results.rows
    return environment.get_template(template).render(
        title=title_of(rows), subtitle=subtitle_of(rows), sections=sections
    )


def draw(results: Results) -> dict[str, bytes]:
    """All figures by name."""
    made: dict[str, bytes] = {}
    for group in results.groups:
        tail = "" if group == IDEAL else f"_{group}"
        tasks = [task for task in results.tasks if task.group == group]
        if len(results.complete(group)) > 1:
            made[f"scores{tail}"] = figures.score_figure(results, group)
            made[f"profiles{tail}"] = figures.profile_figure(results, group)
            for other in filter(None, (results.baseline, found.reference_peer(results, group))):
                name = f"improvement_over_{other.lower().replace(' ', '_')}{tail}"
                made[name] = figures.improvement_figure(results, group, other)
        made[f"runs{tail}"] = figures.runs_figure(results, tasks)
        for axis in AXES:
            made[f"curves_{axis}{tail}"] = figures.curves_figure(results, tasks, axis)
    return made


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Attributes:
        title: the heading.
        text: paragraphs.
        bullets: a list.
        items: name → sentences.
        pictures: caption → PNG.
        tabs: show one picture at a time, chosen by its caption.
        tables: shown as they are.
        folded: title → tables that open on a click.
    """

    title: str
    text: Sequence[str] = ()
    bullets: Sequence[str] = ()
    items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    tabs: bool = False
    tables: Sequence[Table] = ()
    folded: Mapping[str, Sequence[Table]] = field(default_factory=dict)

    @property
    def in_markdown(self) -> bool:
        """Whether it says anything without its pictures."""
        return bool(self.tables or self.bullets or (self.text and not self.pictures))


def sections(results: Results, pictures: Mapping[str, bytes]) -> list[Section]:
    """What a report says, in order."""
    made: list[Section] = []
    for group in results.groups:
        tail = "" if group == IDEAL else f"_{group}"
        name = "" if len(results.groups) == 1 else f" ({group})"
        tasks = [task for task in results.tasks if task.group == group]
        compared = len(results.complete(group)) > 1
        made.append(
            Section(
                f"Over all tasks{name}",
                text=found.headline(results, group),
                tables=[found.aggregate_table(results, group)] if compared else [],
                pictures={"": pictures[f"scores{tail}"]} if compared else {},
            )
        )
        made.append(
            Section(
                f"Task by task{name}",
                items={str(task): found.by_task(results, task) for task in tasks},
                tables=[found.return_table(results, tasks)],
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
                pictures={AXES[axis]: pictures[f"curves_{axis}{tail}"] for axis in AXES},
                tabs=True,
            )
        )
        if compared:
            more = {
                key.removesuffix(tail).replace("_", " "): picture
                for key, picture in pictures.items()
                if key.startswith(("profiles", "improvement")) and key.endswith(tail)
            }
            made.append(
                Section(
                    f"At equal cost{name}",
                    text=["A rule that needs more passes, or fewer seconds, is another choice."],
                    tables=[found.equal_table(results, group)],
                )
            )
            made.append(Section(f"Distributions{name}", pictures=more))
        last = tasks[-1]
        made.append(
            Section(f"What a run spends: {last}", tables=[found.ledger_table(results, last)])
        )
        detailed = (found.task_table, found.ledger_table)
        made.append(
            Section(
                f"Every task in detail{name}",
                folded={str(task): [table(results, task) for table in detailed] for task in tasks},
            )
        )
    made.append(Section("Before you believe it", bullets=found.caveats(results)))
    folded = {
        "Versions and machine": [found.surroundings_table(results)],
        f"Commands of all {len(results.rows)} runs": [found.command_table(results)],
    }
    if results.failed:
        folded[f"{len(results.failed)} failed runs"] = [found.failure_table(results)]
    made.append(
        Section(
            "How it was done",
            text=[found.measured(results)],
            tables=[found.settings_table(results)],
            folded=folded,
        )
    )
    return made


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
        {name: row[name] for name in ("env", "actuators", "steps", "learner", "seed")}
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
