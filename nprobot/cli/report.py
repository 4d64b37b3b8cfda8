"""`nprobot report`: make the report of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from .arguments import parse
from .terminal import DONE, say

HELP = """\
Make the report of a benchmark: one HTML page with everything in it, its
figures as PNG, and the rows and curves as CSV. The benchmark may still run.

examples:
  nprobot report runs/smoke
  nprobot report runs/core --out core-report
  nprobot report runs/core --markdown tables.md
  nprobot report results/benchmark/core.jsonl --out core-report
"""


@dataclass(frozen=True)
class MakeReport:
    """Options of the command."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder that `nprobot bench SUITE --out` filled, or a file of rows."""
    out: Path | None = None
    """Folder for page and figures. Left out: the folder report in it, or
    beside the file."""
    markdown: Path | None = None
    """Also write findings and tables as Markdown, for your own page."""
    force: bool = False
    """Replace the Markdown file if there is one."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(MakeReport, arguments, "report", HELP)
    # Draws with matplotlib, which --help need not wait for.
    from nprobot.benchmark.findings import headline
    from nprobot.benchmark.page import report

    made = report(options.folder, options.out, markdown=options.markdown, force=options.force)
    console = Console()
    for group in made.results.groups:
        for text in headline(made.results, group):
            say(console, text)
    say(console, f"Report: {made.page}\nFigures and tables beside it: {made.page.parent}")
    return DONE
