"""Puts the rules and algorithms of the catalogue into docs/reference/rules.md.

python -m scripts.experiments.catalogue_pages
"""

from __future__ import annotations

from nprobot.catalogue import ALGORITHMS, rules

from .pages import markdown, put_section
from .rows import ROOT

PAGE = ROOT / "docs" / "reference" / "rules.md"


def rule_table() -> list[str]:
    """A line for each rule of the package that is not decorrelated."""
    heading = ("name", "decorrelated", "what it does", "learns from hidden noise", "K", "σ")
    lines = []
    for rule in rules().values():
        if not rule.decorrelated and not rule.traits.peer:
            own = rule.settings
            noise = (f"{own['samples']}", f"{own['sigma']:g}") if rule.perturbs else ("–", "–")
            hidden = "yes" if rule.hidden_noise else "no"
            lines.append((f"`{rule.name}`", f"`d{rule.name}`", rule.traits.about, hidden, *noise))
    return markdown(heading, lines)


def peer_table() -> list[str]:
    """A line for each rule of others."""
    return markdown(
        ("name", "what it does", "source"),
        [
            (f"`{rule.name}`", rule.traits.about, rule.traits.citation)
            for rule in rules().values()
            if rule.traits.peer and not rule.decorrelated
        ],
    )


def algorithm_table() -> list[str]:
    """A line for each algorithm."""
    return markdown(
        ("name", "class", "what it is", "rule by default"),
        [
            (f"`{one.name}`", f"`nprobot.{one.title}`", one.about, f"`{one.rule}`")
            for one in ALGORITHMS.values()
        ],
    )


def write() -> None:
    """Replace the tables."""
    put_section("rules", rule_table(), PAGE)
    put_section("peers", peer_table(), PAGE)
    put_section("algorithms", algorithm_table(), PAGE)


if __name__ == "__main__":
    write()
