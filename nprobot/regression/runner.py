"""A fit from start to end: learn, validate, keep the best, write checkpoints."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nprobot.envs.datasets import Dataset
from nprobot.errors import (
    ArchitectureError,
    ConfigError,
    ForeignFileError,
    NonFiniteError,
    StorageError,
)
from nprobot.learning.rule import LearningRule
from nprobot.policies.files import policy_file
from nprobot.runs.checkpoints import LAST, as_damaged, write_checkpoint
from nprobot.runs.state import load_state, save_state
from nprobot.runs.versions import versions

from .config import CHANGEABLE
from .controller import export_model
from .data import fingerprint
from .folder import FitFolder
from .learner import Epoch, Learner
from .model import Model
from .model import save as save_model
from .objectives import Objective, Score
from .reporting import FitProgress, FitReporter
from .result import End, FitResult

STATE = "training"
ALARMING_GROWTH = 10.0
"""Factor on the norm of the weights at which the fit is said to be unstable."""


@dataclass
class Best:
    """The best model so far."""

    model: Model
    epoch: int
    score: Score


class Run:
    """A fit while it runs.

    Args:
        learner: new, or with the state of a checkpoint to come by `restore`.
        data: all splits.
        objective: judges the model.
        folder: where to keep the fit; None to keep nothing.
        reporter: who wants the news, and may ask for the end.
    """

    def __init__(
        self,
        learner: Learner,
        data: Dataset,
        objective: Objective,
        folder: FitFolder | None,
        reporter: FitReporter,
    ) -> None:
        self.learner = learner
        self.model = learner.model
        self.rule: LearningRule = learner.rule
        self.config = learner.config
        self.data = data
        self.objective = objective
        self.folder = folder
        self.reporter = reporter
        self.history: list[dict[str, float]] = []
        self._elapsed_before = 0.0
        self._started = time.perf_counter()
        self._first_step = 0
        self._alarmed = False
        score = objective.score(self.model, data.validation)
        self.best = Best(copy.deepcopy(self.model), 0, score)
        nothing = Epoch(math.nan, learner.weight_norm(), math.nan, learner.learning_rate)
        self._record(nothing, score)

    @property
    def seconds(self) -> float:
        """Seconds that the fit has taken, all sessions together."""
        return self._elapsed_before + time.perf_counter() - self._started

    def run(self) -> FitResult:
        """Learn until the end.

        Raises:
            NonFiniteError: the loss became NaN or infinite.
            StorageError: the disk is full, the folder read-only, ….
        """
        end: End = "complete"
        while self.learner.epochs < self.config.epochs:
            if self.reporter.stop_requested:
                end = "interrupted"
                break
            if self._tired():
                end = "patience"
                break
            self._epoch()
            if self._due():
                self.checkpoint()
        self.checkpoint()
        return self._result(end)

    def _epoch(self) -> None:
        try:
            epoch = self.learner.epoch(self._news)
        except NonFiniteError as error:
            raise NonFiniteError(self._diverged(str(error))) from error
        if not math.isfinite(epoch.weight_norm):
            raise NonFiniteError(self._diverged("a weight has become NaN or infinite"))
        score = self.objective.score(self.model, self.data.validation)
        # A score that is NaN (the network has overflowed between two losses) is never better.
        if score.error < self.best.score.error:
            self.best = Best(copy.deepcopy(self.model), self.learner.epochs, score)
        self._record(epoch, score)
        growth = epoch.weight_norm / self.history[0]["weights/norm"]
        if growth > ALARMING_GROWTH and not self._alarmed:
            self._alarmed = True
            self.reporter.message(
                f"epoch {self.learner.epochs}: the weights have grown {growth:.0f}-fold; learning "
                "is unstable. Lower the learning rate, or hold them by weight decay or a maximum "
                "row norm."
            )

    def _record(self, epoch: Epoch, score: Score) -> None:
        row = {
            "epoch": self.learner.epochs,
            "step": self.learner.steps,
            "seconds": round(self.seconds, 3),
            "forward_passes": self.rule.forward_passes,
            "backward_passes": self.rule.backward_passes,
            "learning_rate": epoch.learning_rate,
            "train/loss": epoch.loss,
            **{f"validation/{name}": value for name, value in score.columns().items()},
            "weights/norm": epoch.weight_norm,
            "decorrelation/loss": epoch.decorrelation_loss,
        }
        self.history.append(row)
        self._news(self.learner.steps)

    def _news(self, step: int) -> None:
        seconds = self.seconds - self._elapsed_before
        self.reporter.progress(
            FitProgress(
                epoch=self.learner.epochs,
                epochs=self.config.epochs,
                step=step,
                steps=self.config.epochs * self.learner.steps_per_epoch,
                best=str(self.best.score),
                steps_per_second=(step - self._first_step) / seconds if seconds else math.nan,
            )
        )

    def _due(self) -> bool:
        every = self.config.checkpoint_every
        return every is not None and self.learner.epochs % every == 0

    def _tired(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.learner.epochs - self.best.epoch >= patience

    def _diverged(self, error: str) -> str:
        return (
            f"in epoch {self.learner.epochs + 1}: {error}.{self._kept()} A lower learning rate, "
            "weight decay or a maximum row norm often helps."
        )

    def _kept(self) -> str:
        """What is left, for the end of an error's message."""
        last = None if self.folder is None else self.folder.checkpoints / LAST
        if last is None or not last.exists():
            return ""
        return f" The last good checkpoint is {last.with_name(last.resolve().name)}."

    def checkpoint(self) -> None:
        """Write progress and a checkpoint, if the fit is kept.

        Raises:
            StorageError: the disk is full, the folder read-only, …; what was there is kept.
        """
        if self.folder is None:
            return
        try:
            self.write_to(self.folder)
        except StorageError as error:
            raise StorageError(
                f"after epoch {self.learner.epochs}: {error}.{self._kept()} When there is room and "
                f"leave to write, go on: nprobot fit --resume {self.folder.path}"
            ) from error

    def write_to(self, folder: FitFolder) -> None:
        """Write progress and a checkpoint into a folder."""
        folder.write_progress(self.history)
        write_checkpoint(folder.checkpoints, self.learner.steps, self._write)

    def _write(self, path: Path) -> None:
        provenance = {
            "algorithm": "fit",
            "task": self.model.description["task"],
            "rule": self.config.rule,
            "feedback": self.config.feedback,
            "samples": self.config.samples,
            "seed": self.config.seed,
            "steps": self.learner.steps,
            "best_epoch": self.best.epoch,
            "forward_passes": self.rule.forward_passes,
            "backward_passes": self.rule.backward_passes,
            "versions": versions(),
        }
        save_model(self.best.model, path)
        # A network of the user's own has a model file, and no policy file.
        with contextlib.suppress(ArchitectureError):
            policy_file.save(export_model(self.best.model, provenance), path)
        state = {
            "config": self.config.to_dict(),
            "history": self.history,
            "alarmed": self._alarmed,
            "learner": self.learner.state_dict(),
            "best_epoch": self.best.epoch,
            "best": self.best.model.state_dict(),
            "seconds": self.seconds,
            "data": fingerprint(self.data),
        }
        save_state(path / STATE, state)

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint of this fit.

        Raises:
            ConfigError: the data is not the data of the fit.
            ForeignFileError: it is the checkpoint of another fit.
            DamagedFileError: it makes no sense.
        """
        assert self.folder is not None
        state = load_state(checkpoint / STATE)
        with as_damaged(checkpoint):
            self._restore(state, self.folder.path)

    def _restore(self, state: dict[str, Any], path: Path) -> None:
        if state["data"] != fingerprint(self.data):
            raise ConfigError(
                f"the data is not what the fit at {path} learned from; its rows differ"
            )
        for name, value in self.config.to_dict().items():
            if name not in CHANGEABLE and state["config"][name] != value:
                raise ForeignFileError(
                    f"the checkpoint belongs to another fit: its {name} is "
                    f"{state['config'][name]}, config.json says {value}"
                )
        self.learner.load_state_dict(state["learner"])
        best = copy.deepcopy(self.model)
        best.load_state_dict(state["best"])
        score = self.objective.score(best, self.data.validation)
        self.best = Best(best, int(state["best_epoch"]), score)
        columns, history = self.history[0].keys(), [dict(row) for row in state["history"]]
        if [row["epoch"] for row in history] != list(range(self.learner.epochs + 1)):
            raise ValueError("the table has not a row an epoch")
        if any(row.keys() != columns or any(map(_is_no_number, row.values())) for row in history):
            raise ValueError("the table has other columns")
        self.history = history
        self._alarmed = bool(state["alarmed"])
        self._elapsed_before = float(state["seconds"])
        self._started = time.perf_counter()
        self._first_step = self.learner.steps

    def _result(self, end: End) -> FitResult:
        self.model.load_state_dict(self.best.model.state_dict())
        splits = self.data.splits.items()
        return FitResult(
            model=self.model,
            scores={name: self.objective.score(self.model, split) for name, split in splits},
            best_epoch=self.best.epoch,
            history=tuple(self.history),
            epochs=self.learner.epochs,
            forward_passes=self.rule.forward_passes,
            backward_passes=self.rule.backward_passes,
            seconds=self.seconds,
            end=end,
            folder=self.folder,
        )


def _is_no_number(value: object) -> bool:
    return not isinstance(value, int | float)
