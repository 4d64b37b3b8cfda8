"""What a trial is worth: the return of runs with its settings, evaluated on the way and at the end.

A run happens in a folder of its own, which is removed when its numbers are taken.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from nprobot.defaults.files import with_settings
from nprobot.errors import NprobotError
from nprobot.runs.reporting import Progress
from nprobot.training.folder import RunFolder

from .config import TuneConfig

Report = Callable[[int, float], None]
"""Told the environment steps of a run so far and the return there; may raise, to end the run."""


class TrialInterrupted(KeyboardInterrupt):
    """Somebody has stopped a run of a trial: it has no result."""


class Objective(Protocol):
    """Trains once and measures."""

    def defaults(self) -> Mapping[str, Any]:
        """Every option in use where nothing is set, by name."""

    def __call__(self, settings: Mapping[str, Any], seed: int, report: Report) -> float:
        """The return of a finished run.

        Args:
            settings: options to set, by name.
            seed: of the run.
            report: told every evaluation within the run.

        Raises:
            NprobotError: learning has come to a premature end (a NaN, say).
        """


class TrainingObjective:
    """Trains by `nprobot.training.train`.

    Args:
        config: the search; of one rule.
        folder: for the folders of runs.
    """

    def __init__(self, config: TuneConfig, folder: Path) -> None:
        (self.rule,) = config.rule
        self.config = config
        self.folder = folder

    def defaults(self) -> Mapping[str, Any]:
        """Every option in use where nothing is set, by name."""
        from nprobot.training.build import options_in_use

        return options_in_use(self.config.run(self.rule))

    def __call__(self, settings: Mapping[str, Any], seed: int, report: Report) -> float:
        """The mean return of 20 deterministic episodes at the end of a run."""
        from nprobot.training.run import train

        path = self.folder / "run"
        shutil.rmtree(path, ignore_errors=True)  # left by a search that was killed
        config = with_settings(self.config.run(self.rule, seed), settings)
        try:
            result = train(config, path, reporter=_Evaluations(report))
        finally:
            shutil.rmtree(path, ignore_errors=True)
        if result.interrupted:
            raise TrialInterrupted
        if result.evaluation is None:
            raise NprobotError("a run of a trial was not evaluated")
        return result.evaluation.mean


class _Evaluations:
    """Passes the evaluations of a run on."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._folder: RunFolder | None = None
        self._seen = 0

    def begin(self, folder: RunFolder) -> None:
        """Remember where the table of the run is."""
        self._folder = folder

    def progress(self, progress: Progress) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """There may be a new evaluation: its row of the table is written before it is spoken of."""
        from nprobot.runs.log import STEPS, read_table

        assert self._folder is not None, "a run begins before it speaks"
        rows = [row for row in read_table(self._folder.progress) if row.get("eval/mean_reward")]
        for row in rows[self._seen :]:
            self._seen += 1
            self.report(int(row[STEPS]), float(row["eval/mean_reward"]))
