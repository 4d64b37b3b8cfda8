"""A training run: begun, or gone on with from its last good checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stable_baselines3.common.vec_env import VecNormalize

from nprobot.errors import ConfigError, ForeignFileError, NprobotError
from nprobot.runs.checkpoints import go_on_from, making_sense, newest_whole
from nprobot.runs.files import alone
from nprobot.runs.reporting import Reporter, Silent
from nprobot.runs.seeds import Seeds
from nprobot.runs.versions import changed_since

from . import environments
from .algorithms import Model
from .build import build_model, resolve
from .checkpoint import load_checkpoint
from .config import RunConfig
from .env_group import failure
from .env_trial import saves_exactly
from .episodes import restore_episodes
from .folder import RunFolder, default_path, refuse_existing
from .session import Result, Session
from .vector import make_vector, maker


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
        ExistsError: `out` is there already.
        RunFailedError: the run came to a premature end, and can be resumed; a subclass says why.
    """
    reporter = reporter or Silent()
    path = out or default_path(config)
    refuse_existing(path)  # before minutes of work, and before an environment is made
    _check_environment(config)
    keeps = config.checkpoint_episodes == "keep" or _saves_exactly(config)
    with _closing(make_vector(config)) as vector:
        resolved = resolve(config, build_model(config, vector, device), keeps_episodes=keeps)
        # From the options that will be on disk, as a resumed run builds it: a default and the same
        # value written out can differ in the last digit.
        model = build_model(resolved, vector, device)
        folder = RunFolder.create(path, resolved, command, device)
        with alone(folder.path):
            if resolved.checkpoint_episodes == "restart" and config.checkpoint_episodes is None:
                reporter.message(
                    f"The state of {config.env} cannot be saved exactly: every checkpoint begins "
                    "new episodes."
                )
            return Session(folder, model, reporter, {}).run()


def resume(
    path: Path,
    config: RunConfig | None = None,
    *,
    reporter: Reporter | None = None,
    device: str | None = None,
) -> Result:
    """Go on with a run from its last checkpoint, in its own folder.

    Args:
        path: the run.
        config: the run's own with other `steps`, `stop_at` or intervals; by default as it was.
        reporter: who wants the news of the run.
        device: torch device; by default that of the last session.

    Returns:
        As `train`.

    Raises:
        NotFoundError: there is no run.
        BusyError: another process is training it.
        ConfigError: `config` changes what has to stay the same, or the run is complete.
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
    with alone(folder.path):
        session = folder.last_session()
        device = device or str(session.get("device", "cpu"))
        checkpoint = newest_whole(folder.checkpoints, reporter.message)
        _check_environment(folder.config)
        with _closing(make_vector(folder.config)) as vector:
            model = build_model(folder.config, vector, device)
            saved: dict[str, Any] = {}
            if checkpoint is None:
                reporter.message("There is no checkpoint yet; the run starts from the beginning.")
            else:
                saved = _load(checkpoint, model, folder.config, reporter)
                # Who asks for more than what was reached wants to go on.
                goals = [(c.steps, c.stop_at) for c in (stored.config, folder.config)]
                saved["solved"] = saved["solved"] and goals[0] == goals[1]
                _refuse_complete(folder, model.num_timesteps, session, solved=saved["solved"])
            if changed := changed_since(session, device=device):
                reporter.message(f"The run goes on, but not bit for bit: {'; '.join(changed)}.")
            go_on_from(folder.checkpoints, checkpoint)
            folder.begin_session(model.num_timesteps, device)
            return Session(folder, model, reporter, saved).run()


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


def _check_environment(config: RunConfig) -> None:
    """Refuse an environment that no policy can control before anything is written."""
    env = maker(config)()
    try:
        environments.check_spaces(env, continuous=config.algo != "ppo")
    finally:
        env.close()


def _saves_exactly(config: RunConfig) -> bool:
    """Whether the state of the environment can be saved exactly; tried out."""
    try:
        return saves_exactly(maker(config))
    except NprobotError:
        raise
    except Exception as error:
        raise failure(f"environment {config.env}, in a trial before the run,", error) from error


@contextmanager
def _closing(vector: VecNormalize) -> Iterator[VecNormalize]:
    try:
        yield vector
    finally:
        vector.close()


def _load(checkpoint: Path, model: Model, config: RunConfig, reporter: Reporter) -> dict[str, Any]:
    saved = load_checkpoint(checkpoint, model)
    with making_sense(checkpoint):
        for name, (here, there) in _differences(
            config, RunConfig.from_dict(saved["config"])
        ).items():
            raise ForeignFileError(
                f"checkpoint {checkpoint.name} belongs to another run: its {name} is {there}, "
                f"config.json says {here}"
            )
        seeds = Seeds.spawn(config.seed)
        restore_episodes(model, saved["episodes"], seeds, reporter.message)
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
            f"{folder.path} has reached its return of {config.stop_at:g} at step {steps:,}; to go "
            "on, ask for more: --stop-at or --steps"
        )
    if steps >= config.steps:
        raise ConfigError(
            f"{folder.path} has taken its {steps:,} steps; to go on, ask for more: "
            f"--steps {2 * steps}"
        )


def _differences(a: RunConfig, b: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Options that have to be the same in all sessions of a run, and are not."""
    one, other = a.flat(), b.flat()
    return {
        name: (one[name], other[name])
        for name in one
        if one[name] != other[name] and name not in CHANGEABLE
    }
