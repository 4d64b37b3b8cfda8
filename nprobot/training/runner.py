"""A training run from start to end: build, learn, checkpoint, evaluate, draw."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from nprobot.policies.policy import Policy

from . import environments
from .build import Model, build_model, resolve
from .callback import RunCallback, StopTraining, log_evaluation
from .checkpoints import last_checkpoint, load_checkpoint
from .config import RunConfig
from .curve import draw_curve
from .errors import ConfigError, NonFiniteError
from .evaluation import Evaluation, evaluate
from .progress_file import make_logger
from .reporting import Reporter, Silent
from .run_folder import RunFolder, default_path, refuse_existing
from .vector import make_vector


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


def train(
    config: RunConfig,
    out: Path | None = None,
    *,
    reporter: Reporter | None = None,
    command: str | None = None,
    device: str = "cpu",
) -> Result:
    """Train a policy.

    Args:
        config: what to train; options left open take their defaults.
        out: the run folder to make; by default a new one under ``runs/``.
        reporter: who wants the news of the run.
        command: the command line that asked for it, for `config.json`.
        device: torch device.

    Returns:
        The run and how good its policy is.

    Raises:
        UnknownNameError: there is no such environment.
        EnvironmentUnavailableError: it cannot be made, or has spaces that no policy can handle.
        RunExistsError: `out` is there already.
        NonFiniteError: an observation, reward, loss or weight became NaN or infinite.
    """
    path = out or default_path(config)
    refuse_existing(path)  # before minutes of work, and before an environment is made
    model = _model(config, device)
    folder = RunFolder.create(path, resolve(config, model), command)
    return _learn(folder, model, reporter or Silent())


def resume(
    path: Path,
    config: RunConfig | None = None,
    *,
    reporter: Reporter | None = None,
    device: str = "cpu",
) -> Result:
    """Go on with a run from its last checkpoint, in its own folder.

    Args:
        path: the run.
        config: the run's own with other `steps`, `stop_at` or intervals; by default as it was.
        reporter: who wants the news of the run.
        device: torch device.

    Returns:
        As `train`.

    Raises:
        RunNotFoundError: there is no run, or no checkpoint.
        ConfigError: `config` changes what has to stay the same, or the run is complete.
        DamagedRunError: a file cannot be read.
    """
    folder = RunFolder.open(path)
    if config is not None:
        check_changes(folder.config, config)
        folder = RunFolder(path, config)
    checkpoint = last_checkpoint(folder.checkpoints)
    model = _model(folder.config, device)
    counters = load_checkpoint(checkpoint, model)
    assert folder.config.steps is not None, "the configuration of a run folder is complete"
    if model.num_timesteps >= folder.config.steps:
        raise ConfigError(
            f"{path} has taken its {model.num_timesteps:,} steps; to go on, ask for more: "
            f"--steps {2 * model.num_timesteps}"
        )
    folder.update(model.num_timesteps)
    return _learn(folder, model, reporter or Silent(), counters["elapsed_seconds"])


CHANGEABLE = ("steps", "stop_at", "checkpoint_every", "evaluate_every")
"""Options that a resumed run may change."""


def check_changes(old: RunConfig, new: RunConfig) -> None:
    """Raise `ConfigError` if `new` changes an option that a resumed run has to keep."""
    before, after = old.flat(), new.flat()
    for name in before:
        if before[name] != after[name] and name not in CHANGEABLE:
            raise ConfigError(
                f"a resumed run keeps its {name}, {before[name]}; only {', '.join(CHANGEABLE)} "
                "may change"
            )


def _model(config: RunConfig, device: str) -> Model:
    made = environments.make(config.env, config.env_kwargs)
    environments.check_spaces(made)
    made.close()
    return build_model(config, make_vector(config), device)


def _learn(folder: RunFolder, model: Model, reporter: Reporter, elapsed: float = 0.0) -> Result:
    config = folder.config
    assert config.steps is not None and model.env is not None
    model.set_logger(make_logger(folder.path, model.num_timesteps))
    run = RunCallback(folder, reporter, elapsed)
    with _interruptible(run, reporter):
        reporter.begin(folder)
        try:
            model.learn(config.steps - model.num_timesteps, run, reset_num_timesteps=False)
            run.check_finite()
        except StopTraining:
            pass
        except (ArithmeticError, ValueError) as error:
            raise _explained(error, model, folder) from error
        run.save()
        evaluation = _final_evaluation(run)
    policy = run.policy()
    seconds = run.elapsed
    # What the last update recorded has no row yet: SB3 writes it with the next rollout.
    model.logger.record("time/total_timesteps", model.num_timesteps, exclude="tensorboard")
    model.logger.dump(model.num_timesteps)
    if evaluation is not None:
        log_evaluation(model, evaluation)
    model.logger.close()
    model.env.close()
    draw_curve(folder)
    return Result(
        folder=folder,
        policy=policy,
        evaluation=evaluation,
        steps=model.num_timesteps,
        seconds=seconds,
        forward_passes=model.rule.forward_passes,
        backward_passes=model.rule.backward_passes,
        interrupted=run.stop_requested,
    )


def _final_evaluation(run: RunCallback) -> Evaluation | None:
    """How good the policy is, on other episodes than those that may have ended the run."""
    try:
        return evaluate(run.policy())
    except KeyboardInterrupt:
        return None


def _explained(error: Exception, model: Model, folder: RunFolder) -> Exception:
    """The same error, or, if the policy has diverged, one that says when and what to do."""
    what = str(error)
    if what.startswith("Expected parameter"):  # torch, of a distribution without a density
        what = "the distribution of the actions has become invalid"
    elif not isinstance(error, ArithmeticError):
        return error
    last = folder.checkpoints / "last"
    kept = f"The last good checkpoint is {last}." if last.exists() else "No checkpoint was made."
    return NonFiniteError(
        f"at step {model.num_timesteps:,}: {what}. {kept} A lower --learning-rate, or "
        "--normalise on, often helps."
    )


@contextmanager
def _interruptible(run: RunCallback, reporter: Reporter) -> Iterator[None]:
    """Turn the first Ctrl-C (or a polite kill) into the end of the run after this update."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if run.stop_requested:
            raise KeyboardInterrupt
        run.stop_requested = True
        reporter.message("Stopping after this update; once more to stop at once.")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
