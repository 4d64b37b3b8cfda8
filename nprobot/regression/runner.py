"""A fit from start to end: learn, validate, keep the best, write checkpoints."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nprobot.envs.datasets import Dataset
from nprobot.errors import ArchitectureError, NonFiniteLossError
from nprobot.policies import policy_file
from nprobot.rule import LearningRule
from nprobot.training.errors import ConfigError, NonFiniteError
from nprobot.training.state import load_state, save_state
from nprobot.training.versions import versions

from .controller import export_model
from .data import fingerprint
from .folder import LAST, FitFolder, write_checkpoint
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
        except NonFiniteLossError as error:
            raise NonFiniteError(self._diverged(error)) from error
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

    def _diverged(self, error: Exception) -> str:
        kept = ""
        if self.folder is not None:
            last = self.folder.checkpoints / LAST
            kept = f" The last good checkpoint is {last}." if last.exists() else ""
        return (
            f"in epoch {self.learner.epochs + 1}: {error}.{kept} A lower learning rate, weight "
            "decay or a maximum row norm often helps."
        )

    def checkpoint(self) -> None:
        """Write progress and a checkpoint, if the fit is kept."""
        if self.folder is None:
            return
        self.folder.write_progress(self.history)
        write_checkpoint(self.folder.checkpoints, self.learner.steps, self._write)

    def _write(self, path: Path) -> None:
        provenance = {
            "algorithm": "fit",
            "task": self.model.description["task"],
            "rule": self.config.rule,
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
        """
        assert self.folder is not None
        state: Mapping[str, Any] = load_state(checkpoint / STATE)
        if state["data"] != fingerprint(self.data):
            raise ConfigError(
                f"the data is not what the fit at {self.folder.path} learned from; its rows differ"
            )
        self.learner.load_state_dict(state["learner"])
        best = copy.deepcopy(self.model)
        best.load_state_dict(state["best"])
        score = self.objective.score(best, self.data.validation)
        self.best = Best(best, int(state["best_epoch"]), score)
        self.history = self.folder.read_progress(self.learner.epochs)
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
