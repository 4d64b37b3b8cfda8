"""What happens during a run beside learning: checkpoints, evaluations, checks, news."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path

import torch
from stable_baselines3.common.callbacks import BaseCallback
from typing_extensions import override

from nprobot.errors import NonFiniteError
from nprobot.policies.files.from_sb3 import export_policy
from nprobot.policies.files.policy import ControlTask, Policy
from nprobot.runs.log import RunLog
from nprobot.runs.reporting import Progress, Reporter
from nprobot.runs.seeds import Seeds
from nprobot.runs.versions import versions

from .algorithms import Model
from .checkpoint import save_checkpoint
from .episodes import save_episodes
from .evaluation import Evaluation, evaluate
from .folder import RunFolder
from .vector import check_normaliser, side_by_side

NEWS_INTERVAL = 64
"""Calls of the vectorised environment's `step` between two reports of progress."""


class StopTraining(Exception):
    """Ends `learn` between two updates, where the state of the run is whole."""


class RunCallback(BaseCallback):
    """Accompanies a run.

    Everything that looks at the policy or ends the run is done in `_on_rollout_start`: between two
    updates, when no rollout is half collected.

    Args:
        folder: of the run.
        reporter: who wants the news.
        elapsed: seconds that earlier sessions of the run took.

    Attributes:
        stop_requested: set it to end the run after the update at hand.
        solved: whether an evaluation has reached the return at which the run stops.
    """

    model: Model

    def __init__(self, folder: RunFolder, reporter: Reporter, elapsed: float = 0.0) -> None:
        super().__init__()
        self.solved = False
        self.folder = folder
        self.config = folder.config
        self.reporter = reporter
        self.stop_requested = False
        self._started = time.perf_counter() - elapsed
        self._elapsed_before = elapsed
        self._last_seen_step = 0
        self._returns: list[float] = []

    @property
    def elapsed(self) -> float:
        """Seconds that the run has taken, all sessions together."""
        return time.perf_counter() - self._started

    @override
    def _on_training_start(self) -> None:
        self._first_step = self._last_seen_step = self.model.num_timesteps
        self._news()

    @override
    def _on_rollout_start(self) -> None:
        self.check_finite()
        # First: a checkpoint holds what the evaluation found, and its row of the table.
        if self._due(self.config.evaluate_every):
            self._evaluate()
        if self._due(self.config.checkpoint_every):
            self.save()
        self._last_seen_step = self.model.num_timesteps
        if self.stop_requested or self.solved:
            raise StopTraining

    @override
    def _on_step(self) -> bool:
        self._returns += [
            info["episode"]["r"] for info in self.locals["infos"] if "episode" in info
        ]
        if self.n_calls % NEWS_INTERVAL == 0:
            self._news()
        return True

    @override
    def _on_rollout_end(self) -> None:
        if self._returns:
            # SB3's mean is over the last 100 episodes; these are those since the last update.
            self.logger.record("rollout/ep_rew_last", statistics.fmean(self._returns))
            self.logger.record("rollout/ep_rew_min", min(self._returns))
            self.logger.record("rollout/ep_rew_max", max(self._returns))
        self._returns.clear()

    def policy(self) -> Policy:
        """The policy as it is now, ready to deploy."""
        return policy_of(self.model, self.folder)

    def save(self) -> Path:
        """Write a checkpoint.

        Raises:
            StorageError: the disk is full, the folder read-only, ….
        """
        keep = self.config.checkpoint_episodes == "keep"
        episodes = save_episodes(self.model, Seeds.spawn(self.config.seed), keep=keep)
        if keep and not episodes["kept"]:
            self.reporter.message(
                f"step {self.model.num_timesteps:,}: the environments cannot be saved as they are; "
                "the checkpoint begins new episodes"
            )
        log = self.model.logger
        assert isinstance(log, RunLog), "the logger of a run is its own"
        run = {
            "config": self.config.to_dict(),
            "elapsed_seconds": self.elapsed,
            "solved": self.solved,
            "log": log.state(),
            "episodes": episodes,
        }
        return save_checkpoint(self.folder.checkpoints, self.model, self.policy(), run)

    def _due(self, every: int | None) -> bool:
        """Whether a multiple of `every` steps was passed since the last rollout began."""
        if every is None:
            return False
        return self.model.num_timesteps // every > self._last_seen_step // every

    def _evaluate(self) -> None:
        config = self.config
        evaluation = evaluate(self.policy(), seed=Seeds.spawn(config.seed).evaluation)
        log_evaluation(self.model, evaluation)
        step = f"step {self.model.num_timesteps:,}"
        self.reporter.message(f"{step}: evaluated, return {evaluation}")
        if config.stop_at is not None and evaluation.mean >= config.stop_at:
            self.reporter.message(f"{step}: solved, return {config.stop_at:g} reached")
            self.solved = True

    def check_finite(self) -> None:
        """Refuse to go on with, or to save, a policy that has lost its numbers."""
        for name, value in self.logger.name_to_value.items():
            if name.startswith("train/") and name.endswith("loss") and not math.isfinite(value):
                raise NonFiniteError(f"{name.removeprefix('train/')} is {value}")
        check_weights(self.model)
        vector = self.model.get_vec_normalize_env()
        assert vector is not None, "a run always has its normaliser"
        check_normaliser(vector)

    def _news(self) -> None:
        now = self.model.num_timesteps
        episodes = self.model.ep_info_buffer
        seconds = self.elapsed - self._elapsed_before
        assert self.config.steps is not None, "the configuration of a run folder is complete"
        self.reporter.progress(
            Progress(
                steps=now,
                total=self.config.steps,
                mean_return=statistics.fmean(e["r"] for e in episodes) if episodes else math.nan,
                steps_per_second=(now - self._first_step) / seconds if seconds else math.nan,
            )
        )


def check_weights(model: Model) -> None:
    """Raise `NonFiniteError` if a weight of the policy is NaN or infinite."""
    for name, tensor in model.policy.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(f"{name} of the policy has become NaN or infinite")


def log_evaluation(model: Model, evaluation: Evaluation) -> None:
    """Write an evaluation, under SB3's names, as a row of its own at the present step.

    Recorded for the row of the next update, it would stand at a step that the policy had not
    been evaluated at.
    """
    log = model.logger
    assert isinstance(log, RunLog), "the logger of a run is its own"
    values = {
        "eval/mean_reward": evaluation.mean,
        "eval/std_reward": evaluation.sd,
        "eval/mean_ep_length": statistics.fmean(evaluation.lengths),
    }
    log.write_row(values, model.num_timesteps)


def policy_of(model: Model, folder: RunFolder) -> Policy:
    """The policy of a model, with the task and where it comes from."""
    config = folder.config
    assert model.env is not None, "a run always has its environments"
    rate = side_by_side(model.env).description.control_rate
    task = ControlTask(config.env, config.env_kwargs, rate)
    provenance = {
        "algorithm": config.algo,
        "rule": config.rule,
        "feedback": bool(config.learning.feedback),
        "samples": config.samples,
        "seed": config.seed,
        "hardware": config.hardware,
        "steps": model.num_timesteps,
        "forward_passes": model.rule.forward_passes,
        "backward_passes": model.rule.backward_passes,
        "versions": versions(),
    }
    return export_policy(model, task, provenance)
