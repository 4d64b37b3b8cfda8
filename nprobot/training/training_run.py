"""A training run: begun, or continued from its last good checkpoint, to its end."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from nprobot.algorithms.checks import action_notes
from nprobot.algorithms.ppo import PPO
from nprobot.catalogue import trust_flag
from nprobot.errors import (
    ChipError,
    ConfigError,
    EnvironmentFailedError,
    ForeignFileError,
    NonFiniteError,
    RunFailedError,
    StorageError,
)
from nprobot.policies.files import policy_file
from nprobot.policies.files.policy import Policy
from nprobot.runs.atomic_files import lock_run, quoted, write_whole
from nprobot.runs.checkpoints import as_damaged, keep_up_to, newest_whole
from nprobot.runs.curve import draw_curve
from nprobot.runs.folder import default_path
from nprobot.runs.interruption import interruptible
from nprobot.runs.log import STEPS, RunLog
from nprobot.runs.reporting import Reporter, Silent
from nprobot.runs.seeds import Seeds
from nprobot.runs.versions import changed_since

from . import environments
from .build import SCHEDULES, Model, build_model
from .callback import BEST_FOLDER, OnEvaluation, RunCallback, StopTraining
from .checkpoint import load_checkpoint
from .evaluation import LONGEST_EPISODE, Evaluation, evaluate
from .from_policy import Start
from .groups import GroupDescription
from .run_config import RunConfig
from .run_folder import Ending, RunFolder
from .vector import make_vector, recipe, side_by_side


def train(
    config: RunConfig,
    out: Path | None = None,
    *,
    reporter: Reporter | None = None,
    command: str | None = None,
    device: str = "cpu",
    on_evaluation: OnEvaluation | None = None,
    callbacks: Sequence[BaseCallback] = (),
    start: Start | None = None,
) -> Result:
    """Train a policy.

    Args:
        config: what to train; options left open take their defaults.
        out: the run folder to make; by default a new one under ``runs/``.
        reporter: receives the news of the run.
        command: the command line that asked for it, for `config.json`.
        device: torch device.
        on_evaluation: told every evaluation within the run.
        callbacks: stable-baselines3's, to run beside the run's own.
        start: a policy that the run begins with; it is kept in the run's folder, and evaluated.

    Returns:
        The run and how good its policy is.

    Raises:
        UnknownNameError: there is no such environment.
        EnvironmentUnavailableError: it cannot be made, or has spaces that no policy can handle.
        ExistsError: `out` is there already.
        RunFailedError: the run came to a premature end, and can be resumed; a subclass says why.
    """
    reporter = reporter or Silent()
    path = out or default_path(config.env, config.algo, config.rule, config.seed)
    RunFolder.refuse_existing(path)  # before minutes of work, and before an environment is made
    task = _check_environment(config, reporter)
    given = config
    config = config.resolved(environments.find_spec(config.env).reward_threshold)
    if start is not None:
        start.check(config)
        config = start.gently(config, given)
    with _closing(make_vector(config)) as vector:
        model = _built(config, vector, device)
        if start is not None:
            start.begin(model)
        origin: dict[str, Any] = {} if start is None else {"start": start.name}
        folder = RunFolder.create(path, config, command=command, device=device, **origin)
        if start is not None:
            policy_file.save(start.policy, folder.path / START_FOLDER)
        if task is not None:
            write_whole(folder.path / TASK_FILE, task.encode())
        with lock_run(folder.path):
            session = Session(folder, model, reporter, {}, on_evaluation, callbacks)
            return session.run(start)


def resume(
    path: Path,
    config: RunConfig | None = None,
    *,
    reporter: Reporter | None = None,
    device: str | None = None,
    command: str | None = None,
    callbacks: Sequence[BaseCallback] = (),
) -> Result:
    """Continue a run from its last checkpoint, in its own folder.

    Args:
        path: the run.
        config: the run's own with other `steps`, `stop_at` or intervals; by default as it was.
        reporter: receives the news of the run.
        device: torch device; by default that of the last session.
        command: the command line that asked for it, for `config.json`.
        callbacks: as in `train`.

    Returns:
        As `train`.

    Raises:
        NotFoundError: there is no run.
        BusyError: another process is training it.
        ConfigError: `config` changes what has to stay the same, or the run is complete; or its
            environment is in a module that has not been imported.
        DamagedFileError: a file is damaged, and so are the earlier checkpoints.
        ForeignFileError: a file of something else is in the place of one of the run.
        NewerFileError: a file was written by a newer version of this software.
        ArchitectureError: the checkpoint is of another network.
        RunFailedError: as in `train`.
    """
    reporter = reporter or Silent()
    stored = RunFolder.open(path)
    folder = stored
    if config is not None:
        check_changes(stored.config, config)
        folder = RunFolder(path, config)
    with lock_run(folder.path):
        session = folder.last_session()
        device = device or str(session.get("device", "cpu"))
        checkpoint = newest_whole(folder.checkpoints, reporter.message)
        _check_environment(folder.config, Silent())
        with _closing(make_vector(folder.config)) as vector:
            model = _built(folder.config, vector, device)
            saved: dict[str, Any] = {}
            if checkpoint is None:
                reporter.message("There is no checkpoint yet; the run starts from the beginning.")
            else:
                saved = _load(checkpoint, model, folder.config, reporter)
                # A user who asks for more than what was reached wants to continue.
                goals = [(c.steps, c.stop_at) for c in (stored.config, folder.config)]
                saved["solved"] = saved["solved"] and goals[0] == goals[1]
                _refuse_complete(folder, model.num_timesteps, session, solved=saved["solved"])
                if told := _stretched(stored.config, folder.config, model.num_timesteps):
                    reporter.message(told)
            if changed := changed_since(session, device=device):
                reporter.message(f"The run continues, but not bit for bit: {'; '.join(changed)}.")
            keep_up_to(folder.checkpoints, checkpoint)
            folder.begin_session(model.num_timesteps, device=device, command=command)
            # An interrupted run continues as if nothing had happened: without that evaluation.
            ended = session.get("ended") in ("complete", "solved")
            return Session(
                folder, model, reporter, saved, None, callbacks, keep_evaluation=ended
            ).run()


START_FOLDER = "start"
"""In the folder of a run: the policy that it began with."""
TASK_FILE = "task.toml"
"""What a robot had to do, in a run on one."""
CHANGEABLE = (
    *("steps", "stop_at", "checkpoint_every", "evaluate_every", "workers", "env_timeout"),
)
"""Options that a resumed run may change."""


def check_changes(old: RunConfig, new: RunConfig) -> None:
    """Raise `ConfigError` if `new` changes an option that a resumed run has to keep."""
    for name, (before, _) in _differences(old, new).items():
        raise ConfigError(
            f"a resumed run keeps its {name}, {before}; only {', '.join(CHANGEABLE)} may change"
        )


def _check_environment(config: RunConfig, reporter: Reporter) -> str | None:
    """Refuse an environment that no policy can control before anything is written.

    What is odd about its actions is reported.

    Returns:
        The task of a robot, with every option in use, as TOML; None for other environments.
    """
    env = recipe(config).make()
    try:
        scaled = config.about.continuous
        environments.check_spaces(env, continuous=scaled)
        for note in action_notes(env.action_space, env, config.algo.upper(), scaled=scaled):
            reporter.message(f"{note}.")
        task: Any = getattr(env.unwrapped, "task", None)
        return str(task.to_toml()) if hasattr(task, "to_toml") else None
    finally:
        env.close()


@contextmanager
def _closing(vector: VecNormalize) -> Iterator[VecNormalize]:
    try:
        yield vector
    finally:
        vector.close()


def _built(config: RunConfig, vector: VecNormalize, device: str) -> Model:
    try:
        return build_model(config, vector, device)
    except Exception as error:
        if not lacks_memory(error):
            raise
        raise RunFailedError(f"{MEMORY_ADVICE} ({error})") from error


MEMORY_ADVICE = (
    "there is too little memory for this run; fewer --envs, a smaller --n-steps, --buffer-size or "
    "--batch-size take less"
)


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that memory has run out; torch's is a `RuntimeError`."""
    texts = ("can't allocate memory", "bad_alloc", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def _load(checkpoint: Path, model: Model, config: RunConfig, reporter: Reporter) -> dict[str, Any]:
    saved = load_checkpoint(checkpoint, model, Seeds.spawn(config.seed), reporter.message)
    with as_damaged(checkpoint):
        for name, (here, there) in _differences(
            config, RunConfig.from_dict(saved["config"])
        ).items():
            raise ForeignFileError(
                f"checkpoint {checkpoint.name} belongs to another run: its {name} is {there}, "
                f"config.json says {here}"
            )
    return saved


def _refuse_complete(
    folder: RunFolder, steps: int, session: dict[str, Any], *, solved: bool
) -> None:
    """Raise `ConfigError` if there is nothing left to do.

    A run that was killed after its last update, while it was evaluated or drawn, has that left.
    """
    config = folder.config
    assert config.steps is not None, "the configuration of a folder is complete"
    if session.get("ended") in (None, "interrupted") or session.get("to_step") != steps:
        return
    if solved:
        raise ConfigError(
            f"{folder.path} has reached its return of {config.stop_at:g} at step {steps:,}; to "
            "continue, ask for more: --stop-at or --steps"
        )
    if steps >= config.steps:
        raise ConfigError(
            f"{folder.path} has taken its {steps:,} steps; to continue, ask for more: "
            f"--steps {2 * steps}"
        )


def _stretched(before: RunConfig, now: RunConfig, steps: int) -> str | None:
    """What a new total does to a learning rate that falls over the run; None for nothing."""
    name, rate = now.learning.lr_schedule, now.learning.learning_rate
    if name in (None, "constant") or rate is None or before.steps == now.steps:
        return None
    old, new = (
        rate * SCHEDULES[name](max(1 - steps / total, 0.0))
        for total in (before.steps or steps, now.steps or steps)
    )
    return (
        f"The learning rate falls over the whole run, which is {now.steps:,} steps long now "
        f"instead of {before.steps:,}: at step {steps:,} it is {new:.3g} instead of {old:.3g}."
    )


def _differences(a: RunConfig, b: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Options that have to be the same in all sessions of a run, and are not."""
    one, other = a.flat(), b.flat()
    return {
        name: (one[name], other[name])
        for name in one
        if one[name] != other[name] and name not in CHANGEABLE
    }


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
        interrupted: whether the user ended the run before it was done.
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
        folder: the folder of the run.
        model: new, or as in the checkpoint.
        reporter: receives the news.
        saved: what the run had to remember in the checkpoint; empty for a new run.
        on_evaluation: told every evaluation within the run.
        callbacks: stable-baselines3's, to run beside the run's own.
        keep_evaluation: whether the log keeps what the last session found out at its end.
    """

    def __init__(
        self,
        folder: RunFolder,
        model: Model,
        reporter: Reporter,
        saved: dict[str, Any],
        on_evaluation: OnEvaluation | None = None,
        callbacks: Sequence[BaseCallback] = (),
        keep_evaluation: bool = False,
    ) -> None:
        self.folder, self.model, self.reporter = folder, model, reporter
        elapsed = saved.get("elapsed_seconds", 0.0)
        self.callback = RunCallback(folder, reporter, elapsed, on_evaluation)
        self.callback.solved = bool(saved.get("solved"))
        self.callback.best = saved.get("best")
        self.callbacks = [self.callback, *callbacks]
        self._about = folder.config.about
        self.log = RunLog(
            *(folder.path, lambda: self.callback.elapsed, saved.get("log")),
            *(self._about.row_every, model.num_timesteps if keep_evaluation else -1),
        )
        if self.log.lost:
            reporter.message(f"Missing since the last session: {self.log.lost}.")
        model.set_logger(self.log)

    def run(self, start: Start | None = None) -> Result:
        """Learn until the end, and say what came out.

        Args:
            start: what the run began with, to be evaluated first.
        """
        run, model = self.callback, self.model
        assert model.env is not None, "a run always has its environments"
        run.init_callback(model)
        try:
            told = self.reporter.message
            with interruptible(run, told, "update"), side_by_side(model.env).watched():
                about = side_by_side(model.env).description
                update = self.model.steps_of_an_update()
                self.reporter.message(introduction(self.folder, about, update))
                if isinstance(model, PPO):
                    self.reporter.message(model.paths)
                if start is not None:
                    self._evaluate_start(start)
                self._learn()
                run.save()
                evaluation = self._final_evaluation()
            self._finish(evaluation)
            if evaluation is not None:
                for line in self._comparisons(evaluation):
                    told(line)
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
            forward_passes=model.forward_passes,
            backward_passes=model.backward_passes,
            interrupted=self._ending(evaluation) == "interrupted",
        )

    def _learn(self) -> None:
        run, left = self.callback, self._steps - self.model.num_timesteps
        if run.solved or left <= 0:
            return
        try:
            self.model.learn(
                left, self.callbacks, self._about.log_interval, reset_num_timesteps=False
            )
            run.check_finite()
        except StopTraining:
            pass

    def _evaluate_start(self, start: Start) -> None:
        """Say how good the policy is that the run begins with; it must be no other."""
        evaluation = evaluate(self.callback.policy())
        self.callback.log_evaluation(evaluation)
        told = f"starts from {start.name}: return {evaluation}"
        if isinstance(self.model, PPO) and self.model.critic_warmup:
            told += f"; up to step {self.model.critic_warmup:,} the critic alone learns"
        self.reporter.message(told)

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
            self.callback.log_evaluation(evaluation)
        draw_curve(
            self.folder.progress, self.folder.curve, title(self.folder.config), self._solved_at
        )
        self.folder.end_session(steps, self._ending(evaluation))

    def _comparisons(self, evaluation: Evaluation) -> Iterator[str]:
        """Where the return at the end is not the only one to know."""
        best, folder = self.callback.best, self.folder.path / BEST_FOLDER
        if best is not None and best > evaluation.mean:
            yield f"The best evaluation on the way had a return of {best:.1f}; its policy: {folder}"
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        if len(returns) > 1:
            exploring, sd = statistics.fmean(returns), statistics.stdev(returns)
            if abs(evaluation.mean - exploring) > 2 * max(sd, evaluation.sd):
                yield (
                    f"While it explored, its return was {exploring:.1f} ± {sd:.1f} (last "
                    f"{len(returns)} episodes); without exploration it is {evaluation}."
                )

    def _ending(self, evaluation: Evaluation | None) -> Ending:
        """Why there is nothing more to learn; or that there is."""
        if evaluation is None:
            return "interrupted"
        if self.callback.solved:
            return "solved"
        return "complete" if self.model.num_timesteps >= self._steps else "interrupted"

    @property
    def _solved_at(self) -> float | None:
        return environments.find_spec(self.folder.config.env).reward_threshold

    @property
    def _steps(self) -> int:
        assert self.folder.config.steps is not None, "the configuration of a folder is complete"
        return self.folder.config.steps


def title(config: RunConfig) -> str:
    """A run in a few words."""
    return f"{config.environment}: {config.learner}, seed {config.seed}"


def introduction(folder: RunFolder, about: GroupDescription, update: int = 1) -> str:
    """What a run is about to do.

    Args:
        folder: the folder of the run.
        about: its environments.
        update: steps between two updates; a run ends with one.
    """
    config = folder.config
    assert config.steps is not None, "the configuration of a folder is complete"
    steps = f"{math.ceil(config.steps / update) * update:,} steps"
    if config.steps % update:
        steps += f" ({config.steps:,}, rounded up to whole updates of {update:,})"
    until = "" if config.stop_at is None else f", until the return reaches {config.stop_at:g}"
    rate = "not known"
    if about.control_rate is not None:
        rate = f"{about.control_rate:.4g} Hz, from {about.rate_source}"
    chip = f", on a chip ({config.chip})" if config.chip else ""
    together = "" if about.together is None else f", {about.together}"
    text = (
        f"{title(config)}{chip}\n{'' if config.stop_at is None else 'at most '}{steps}{until}, "
        f"{config.envs} environments{together}\ncontrol rate {rate}\n"
        f"run folder {folder.path}"
    )
    spec = environments.find_spec(config.env)
    if spec.max_episode_steps is None and spec.namespace != "nprobot":  # ours cut them off
        text += (
            f"\n{config.env} has no step limit (max_episode_steps): where an episode does not end "
            f"by itself, evaluation cuts it after {LONGEST_EPISODE:,} steps"
        )
    return text


def _explained(error: Exception, model: Model, folder: RunFolder) -> Exception:
    """The same error with the step, what is left, and what to do; as it is if nobody can say."""
    what = str(error)
    if what.startswith("Expected parameter"):  # torch, of a distribution without a density
        what = "the distribution of the actions has become invalid"
    elif lacks_memory(error):
        what = f"{MEMORY_ADVICE} ({what})"
    elif not isinstance(error, ArithmeticError | EnvironmentFailedError | StorageError | ChipError):
        return error
    last = folder.checkpoints / "last"
    kept = "No checkpoint was made."
    if last.exists():
        kept = f"The last good checkpoint is {folder.checkpoints / last.resolve().name}."
    text = f"at step {model.num_timesteps:,}: {what}. {kept}"
    trust = trust_flag(folder.config.env, folder.config.env_kwargs)
    again = f"nprobot train --resume {quoted(folder.path)}{trust}"
    if isinstance(error, EnvironmentFailedError):
        return EnvironmentFailedError(f"{text} When the cause is removed, continue: {again}")
    if isinstance(error, ChipError):
        return ChipError(
            f"{text} When the chip answers, continue: {again}. A chip that has kept its weights is "
            "read; one that has lost them is programmed with those of the checkpoint."
        )
    if isinstance(error, StorageError):
        return StorageError(f"{text} When there is room and leave to write, continue: {again}")
    if lacks_memory(error):
        return RunFailedError(f"{text} When there is more, continue: {again}")
    return NonFiniteError(f"{text} A lower --learning-rate, or --normalise on, often helps.")
