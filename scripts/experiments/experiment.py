"""What scripts that make a figure share: stages, tables of rows on disk, a section in a page."""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
PAGE = ROOT / "docs" / "hardware.md"


def command_line(about: str | None, *stages: str) -> argparse.ArgumentParser:
    """A parser of a script's arguments, of which the first is what to do.

    Args:
        about: the script's docstring, shown as it is.
        stages: what can be done.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=stages)
    return parser


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Add rows to a table, in the columns and with the line ends that it has.

    A new one gets a header. A column that an older table lacks is left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns, end = list(rows[0]), "\n"
    with path.open("a+", newline="", encoding="utf-8") as file:
        file.seek(0)
        header = file.readline()
        if header:
            columns, end = next(csv.reader([header])), header[len(header.rstrip("\r\n")) :]
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator=end)
        if not header:
            writer.writeheader()
        writer.writerows(rows)


def versions() -> dict[str, str]:
    """Columns that say what a row was made with."""
    return {p: importlib.metadata.version(p) for p in ("torch", "mujoco", "gymnasium", "numpy")}


def put_section(name: str, lines: Sequence[str], page: Path = PAGE) -> None:
    """Replace what stands in a page between ``<!-- name -->`` and ``<!-- end name -->``."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page} has no place for {name}: put {begin.strip()} and {end} there")
    page.write_text(before + begin + "\n".join([*lines, ""]) + end + after, encoding="utf-8")
    print(f"{page.relative_to(ROOT)}, section {name}")
