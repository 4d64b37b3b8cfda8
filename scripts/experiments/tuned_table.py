"""Writes the table of tuned settings in docs/tuning.md from the tables of the package."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from nprobot import catalogue
from nprobot.defaults import TunedDefaults, known

PAGE = Path(__file__).parents[1] / "docs" / "tuning.md"
BEGIN, END = "<!-- tuned -->\n", "<!-- /tuned -->"


def main() -> None:
    """Replace what is between the two marks."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")


def table() -> str:
    """The table as Markdown."""
    head = ("environment", "algorithm", "rule", "steps", "general defaults", "tuned", "settings")
    rows = [head, ("---",) * len(head), *(tuple(cells(tuned)) for tuned in known())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cells(tuned: TunedDefaults) -> Iterator[str]:
    """A row."""
    score = tuned.score
    learner = catalogue.learner_title(tuned.rule)
    yield from (tuned.env, tuned.algo.upper(), learner, f"{score.steps:,}")
    for returns in (score.general, score.tuned):
        yield f"{statistics.fmean(returns):.2f} ({', '.join(f'{r:.2f}' for r in returns)})"
    yield ", ".join(f"{name} {value}" for name, value in tuned.settings.items())


if __name__ == "__main__":
    main()
