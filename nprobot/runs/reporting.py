"""What long work tells its user; the command line draws it, a script may ignore it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """Where the work is.

    Attributes:
        done: units of work so far.
        total: units that it takes if nothing ends it before.
        unit: what is counted, such as ``"steps"``.
        figures: how well it does, for people; empty if nothing is known yet.
        per_second: units a second since this session of it began; NaN if that is not known yet.
    """

    done: int
    total: int
    unit: str = "steps"
    figures: str = ""
    per_second: float = math.nan

    @property
    def seconds_left(self) -> float:
        """At the present speed; NaN if that is not known yet."""
        if not self.per_second > 0:
            return math.nan
        return max(self.total - self.done, 0) / self.per_second


class Reporter(Protocol):
    """Receives the news of a run, a fit, a search or a benchmark."""

    def progress(self, progress: Progress) -> None:
        """The work has moved on; called often."""

    def message(self, text: str) -> None:
        """Something happened that a person wants to read: a line, or a few."""


class Silent:
    """Reports nothing."""

    def progress(self, progress: Progress) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""
