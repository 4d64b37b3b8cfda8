"""What scripts that make a figure share: tables of raw rows on disk, and a section in a page."""

from __future__ import annotations

import csv
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
PAGE = ROOT / "docs" / "hardware.md"


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Add rows to a table, with a header if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if new:
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
