"""What a run tells whoever watches it; the command line draws it, a script may ignore it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from nprobot.training.folder import (RunFolder)


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        steps: environment steps so far.
        total: steps that the run takes if nothing ends it before.
        mean_return: over the last 100 training episodes, exploration noise included; NaN before
            the first one ends.
        steps_per_second: since this session of the run began.
    """

    steps: int
    total: int
    mean_return: float = math.nan
    steps_per_second: float = math.nan

    @property
    def seconds_left(self) -> float:
        """At the present speed; NaN if that is not known yet."""
        if not self.steps_per_second > 0:
            return math.nan
        return max(self.total - self.steps, 0) / self.steps_per_second


class Reporter(Protocol):
    """Receives the news of a run."""

    def begin(self, folder: RunFolder) -> None:
        """The run is about to start; `folder` is on disk."""

    def progress(self, progress: Progress) -> None:
        """The run has moved on; called often."""

    def message(self, text: str) -> None:
        """Something happened that a person wants to read: one line."""


class Silent:
    """Reports nothing."""

    def begin(self, folder: RunFolder) -> None:
        """Nothing."""

    def progress(self, progress: Progress) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""
