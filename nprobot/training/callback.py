"""What happens during a run beside learning: checkpoints, evaluations, checks, news."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn
from typing_extensions import override

from nprobot.errors import NonFiniteError
from nprobot.policies.files import policy_file
from nprobot.policies.files.from_sb3 import export_policy
from nprobot.policies.files.policy import ControlTask, Policy
from nprobot.runs.atomic_files import new_folder
from nprobot.runs.log import RunLog
from nprobot.runs.reporting import Progress, Reporter
from nprobot.runs.seeds import Seeds
from nprobot.runs.versions import versions

from .build import Model
from .checkpoint import save_checkpoint, vector_of
from .evaluation import Evaluation, evaluate
from .groups import TERMS
from .run_config import RunConfig
from .run_folder import RunFolder
from .vector import check_normaliser, side_by_side

BEST_FOLDER = "best"
"""Name of the folder, in the run's own, of the policy with the best evaluation so far."""
NEWS_INTERVAL = 64
"""Calls of the vectorised environment's `step` between two reports of progress."""

OnEvaluation = Callable[[int, Evaluation], None]
"""Told the environment steps so far and the evaluation there; may raise, to end the run."""


class StopTraining(Exception):
    """Ends `learn` between two updates, where the state of the run is whole."""


class RunCallback(BaseCallback):
    """Accompanies a run.

    Everything that looks at the policy or ends the run is done in `_on_rollout_start`: between two
    updates, when no rollout is half collected.

    Args:
        folder: the folder of the run.
        reporter: receives the news.
        elapsed: seconds that earlier sessions of the run took.
        on_evaluation: told every evaluation within the run.

    Attributes:
        stop_requested: set it to end the run after the update at hand.
        solved: whether an evaluation has reached the return at which the run stops.
        best: highest mean return of an evaluation within the run; its policy is kept.
    """

    model: Model

    def __init__(
        self,
        folder: RunFolder,
        reporter: Reporter,
        elapsed: float = 0.0,
        on_evaluation: OnEvaluation | None = None,
    ) -> None:
        super().__init__()
        self.solved = False
        self.best: float | None = None
        self.folder = folder
        self.config: RunConfig = folder.config
        self.seeds = Seeds.spawn(self.config.seed)
        self.reporter = reporter
        self.on_evaluation = on_evaluation
        self.stop_requested = False
        self._started = time.perf_counter() - elapsed
        self._elapsed_before = elapsed
        self._last_seen_step = 0
        self._returns: list[float] = []
        self._terms: dict[str, list[float]] = {}

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
        for info in self.locals["infos"]:
            for name, value in info.get(TERMS, {}).items():
                self._terms.setdefault(name, []).append(value)
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
        for name, values in self._terms.items():
            self.logger.record(f"reward/{name}", statistics.fmean(values))
        self._returns.clear()
        self._terms.clear()

    def policy(self) -> Policy:
        """The policy as it is now, ready to deploy."""
        return policy_of(self.model, self.config)

    def save(self) -> Path:
        """Write a checkpoint; the running episodes end, new ones begin.

        Raises:
            StorageError: the disk is full, the folder read-only, ….
        """

        def run() -> dict[str, object]:
            return {
                "config": self.config.to_dict(),
                "elapsed_seconds": self.elapsed,
                "solved": self.solved,
                "best": self.best,
                "log": self._log.state(),
            }

        return save_checkpoint(self.folder.checkpoints, self.model, self.policy, run, self.seeds)

    def log_evaluation(self, evaluation: Evaluation) -> None:
        """Write an evaluation, under SB3's names, as a separate row at the present step.

        Recorded for the row of the next update, it would stand at a step that the policy had not
        been evaluated at.
        """
        values = {
            "eval/mean_reward": evaluation.mean,
            "eval/std_reward": evaluation.sd,
            "eval/mean_ep_length": statistics.fmean(evaluation.lengths),
        }
        self._log.write_row(values, self.model.num_timesteps)

    def check_finite(self) -> None:
        """Refuse to continue with, or to save, a policy that has lost its numbers."""
        for name, value in self.logger.name_to_value.items():
            if name.startswith("train/") and name.endswith("loss") and not math.isfinite(value):
                raise NonFiniteError(f"{name.removeprefix('train/')} is {value}")
        for name, tensor in self.model.policy.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise NonFiniteError(f"{name} of the policy has become NaN or infinite")
        check_normaliser(vector_of(self.model))

    @property
    def _log(self) -> RunLog:
        log = self.model.logger
        assert isinstance(log, RunLog), "the logger of a run is its own"
        return log

    def _due(self, every: int | None) -> bool:
        """Whether a multiple of `every` steps was passed since the last rollout began."""
        if every is None:
            return False
        return self.model.num_timesteps // every > self._last_seen_step // every

    def _evaluate(self) -> None:
        config, steps = self.config, self.model.num_timesteps
        policy = self.policy()
        evaluation = evaluate(policy, seed=self.seeds.evaluation)
        self.log_evaluation(evaluation)
        if self.best is None or evaluation.mean > self.best:
            self.best = evaluation.mean
            with new_folder(self.folder.path / BEST_FOLDER, replace=True) as writing:
                policy_file.save(policy, writing)
        self.reporter.message(f"step {steps:,}: evaluated, return {evaluation}")
        if self.on_evaluation is not None:
            self.on_evaluation(steps, evaluation)
        if config.stop_at is not None and evaluation.mean >= config.stop_at:
            self.reporter.message(f"step {steps:,}: solved, return {config.stop_at:g} reached")
            self.solved = True

    def _news(self) -> None:
        now = self.model.num_timesteps
        episodes = self.model.ep_info_buffer
        seconds = self.elapsed - self._elapsed_before
        assert self.config.steps is not None, "the configuration of a run folder is complete"
        self.reporter.progress(
            Progress(
                done=now,
                total=self.config.steps,
                figures=f"return {statistics.fmean(e['r'] for e in episodes):.1f} (exploring)"
                if episodes
                else "",
                per_second=(now - self._first_step) / seconds if seconds else math.nan,
            )
        )


def policy_of(model: Model, config: RunConfig) -> Policy:
    """The policy of a model, with the task and where it comes from."""
    about = side_by_side(vector_of(model)).description
    # What only the critic sees is not asked of a robot.
    kwargs = config.env_kwargs | ({"privileged": "[]"} if about.privileged else {})
    task = ControlTask(config.env, kwargs, about.control_rate)
    device = Seeds.spawn(config.seed).device
    provenance = {
        "algorithm": config.algo,
        "rule": config.rule,
        "samples": config.samples,
        "seed": config.seed,
        "actuators": config.actuators,
        **({} if config.chip is None else {"chip": config.chip, "device_seed": device}),
        "steps": model.num_timesteps,
        "forward_passes": model.forward_passes,
        "backward_passes": model.backward_passes,
        "versions": versions(),
    }
    log_std = getattr(model.policy, "log_std", None)
    if isinstance(log_std, nn.Parameter) and log_std.dim() == 1:
        provenance["action_std"] = log_std.detach().exp().tolist()
    return export_policy(model, task, provenance)
