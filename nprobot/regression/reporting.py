"""What a fit tells whoever watches it; the command line draws it, a script may ignore it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class FitProgress:
    """Where a fit is.

    Attributes:
        epoch: passes over the rows that are complete.
        epochs: passes that the fit takes if nothing ends it before.
        step: steps so far.
        steps: in all.
        best: how good the best model so far is on the validation rows, in words.
        steps_per_second: since this session of the fit began.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    best: str = ""
    steps_per_second: float = math.nan

    @property
    def seconds_left(self) -> float:
        """At the present speed; NaN if that is not known yet."""
        if not self.steps_per_second > 0:
            return math.nan
        return max(self.steps - self.step, 0) / self.steps_per_second


class FitReporter(Protocol):
    """Receives the news of a fit, and may end it."""

    @property
    def stop_requested(self) -> bool:
        """Whether the fit is to end after this epoch; it can be resumed if it is kept."""

    def progress(self, progress: FitProgress) -> None:
        """The fit has moved on; called after every step."""

    def message(self, text: str) -> None:
        """Something happened that a person wants to read: one line."""


class Silent:
    """Reports nothing."""

    stop_requested = False

    def progress(self, progress: FitProgress) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""
