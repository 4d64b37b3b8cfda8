"""Text that commands show: lines that can be copied, durations, small tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def duration(seconds: float) -> str:
    """A time as people say it: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def facts(heading: str, rows: dict[str, str]) -> Table:
    """A table of names and values."""
    table = Table(title=heading, title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def say(console: Console, text: str) -> None:
    """Print a line as it is: neither wrapped nor coloured, so that paths can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
