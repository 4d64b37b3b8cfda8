"""One process's part in a run: learn, save, evaluate, complete the logs, and say how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nprobot.errors import EnvironmentFailedError, NonFiniteError, StorageError
from nprobot.policies.files.policy import Policy
from nprobot.runs.interruption import interruptible
from nprobot.runs.log import RunLog
from nprobot.runs.progress import STEPS
from nprobot.runs.reporting import Reporter

from .algorithms import MAKERS, Model
from .callback import RunCallback, StopTraining, log_evaluation
from .curve import draw_curve
from .evaluation import Evaluation, evaluate
from .folder import Ending, RunFolder
from .vector import side_by_side


@dataclass(frozen=True)
class Result:
    """What came out of a run.

    Attributes:
        folder: the run on disk.
        policy: as it was at the end.
        evaluation: of that policy, 20 deterministic episodes; None if it was cut short.
        steps: environment steps taken.
        seconds: of wall-clock time, all sessions of the run together.
        forward_passes: network passes of one sample that learning took.
        backward_passes: the same backwards; 0 under node perturbation.
        interrupted: whether somebody ended the run before it was done.
    """

    folder: RunFolder
    policy: Policy
    evaluation: Evaluation | None
    steps: int
    seconds: float
    forward_passes: int
    backward_passes: int
    interrupted: bool


class Session:
    """What one process does for a run.

    Args:
        folder: of the run.
        model: new, or as in the checkpoint.
        reporter: who wants the news.
        saved: what the run had to remember in the checkpoint; empty for a new run.
    """

    def __init__(
        self, folder: RunFolder, model: Model, reporter: Reporter, saved: dict[str, Any]
    ) -> None:
        self.folder, self.model, self.reporter = folder, model, reporter
        self.callback = RunCallback(folder, reporter, saved.get("elapsed_seconds", 0.0))
        self.callback.solved = bool(saved.get("solved"))
        self._maker = MAKERS[folder.config.algo]
        self.log = RunLog(
            folder.path, lambda: self.callback.elapsed, saved.get("log"), self._maker.row_every
        )
        if self.log.lost:
            reporter.message(f"Missing since the last session: {self.log.lost}.")
        model.set_logger(self.log)

    def run(self) -> Result:
        """Learn until the end, and say what came out."""
        run, model = self.callback, self.model
        assert model.env is not None, "a run always has its environments"
        run.init_callback(model)
        try:
            told = self.reporter.message
            with interruptible(run, told, "update"), side_by_side(model.env).watched():
                self.reporter.begin(self.folder)
                self._learn()
                run.save()
                evaluation = self._final_evaluation()
            self._finish(evaluation)
        except Exception as error:
            explained = _explained(error, model, self.folder)
            if explained is error:
                raise
            raise explained from error
        return Result(
            folder=self.folder,
            policy=run.policy(),
            evaluation=evaluation,
            steps=model.num_timesteps,
            seconds=run.elapsed,
            forward_passes=model.rule.forward_passes,
            backward_passes=model.rule.backward_passes,
            interrupted=self._ending(evaluation) == "interrupted",
        )

    def _learn(self) -> None:
        run, left = self.callback, self._steps - self.model.num_timesteps
        if run.solved or left <= 0:
            return
        try:
            self.model.learn(left, run, self._maker.log_interval, reset_num_timesteps=False)
            run.check_finite()
        except StopTraining:
            pass

    def _final_evaluation(self) -> Evaluation | None:
        """How good the policy is, on other episodes than those that may have ended the run."""
        try:
            return evaluate(self.callback.policy())
        except KeyboardInterrupt:
            return None

    def _finish(self, evaluation: Evaluation | None) -> None:
        """Complete logs and figure; a run that is killed before this is done does it again."""
        # What the last update recorded has no row yet: SB3 writes it with the next rollout.
        steps = self.model.num_timesteps
        self.log.record(STEPS, steps, exclude="tensorboard")
        self.log.dump(steps)
        if evaluation is not None:
            log_evaluation(self.model, evaluation)
        draw_curve(self.folder)
        self.folder.end_session(steps, self._ending(evaluation))

    def _ending(self, evaluation: Evaluation | None) -> Ending:
        """Why there is nothing more to learn; or that there is."""
        if evaluation is None:
            return "interrupted"
        if self.callback.solved:
            return "solved"
        return "complete" if self.model.num_timesteps >= self._steps else "interrupted"

    @property
    def _steps(self) -> int:
        assert self.folder.config.steps is not None, "the configuration of a folder is complete"
        return self.folder.config.steps


def _explained(error: Exception, model: Model, folder: RunFolder) -> Exception:
    """The same error with the step, what is left, and what to do; as it is if nobody can say."""
    what = str(error)
    if what.startswith("Expected parameter"):  # torch, of a distribution without a density
        what = "the distribution of the actions has become invalid"
    elif not isinstance(error, ArithmeticError | EnvironmentFailedError | StorageError):
        return error
    last = folder.checkpoints / "last"
    kept = "No checkpoint was made."
    if last.exists():
        kept = f"The last good checkpoint is {folder.checkpoints / last.resolve().name}."
    text = f"at step {model.num_timesteps:,}: {what}. {kept}"
    again = f"nprobot train --resume {folder.path}"
    if isinstance(error, EnvironmentFailedError):
        return EnvironmentFailedError(f"{text} When the cause is removed, go on: {again}")
    if isinstance(error, StorageError):
        return StorageError(f"{text} When there is room and leave to write, go on: {again}")
    return NonFiniteError(f"{text} A lower --learning-rate, or --normalise on, often helps.")
