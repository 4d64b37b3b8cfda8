"""A search for settings: Optuna chooses, runs are measured, the best is compared on fresh seeds.

Everything is kept in a journal of JSON lines, so that a search that was cut off continues where it
was, at the cost of the run at hand.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nprobot.defaults import TunedDefaults, TunedScore
from nprobot.errors import (
    ConfigError,
    FileError,
    MissingPackageError,
    NonFiniteError,
    RunFailedError,
)
from nprobot.runs.atomic_files import reporting_storage
from nprobot.runs.reporting import Progress, Reporter
from nprobot.runs.versions import versions
from nprobot.training.run_config import EVALUATION_EPISODES

from .space import Value, parameters, point
from .tune_config import FRESH, TuneConfig

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"
STARTUP_TRIALS = 4
"""Trials before the sampler models what is good, and before one can be given up."""

OnReturn = Callable[[int, float], None]
"""Told the environment steps of a run so far and the return there; may raise, to end the run."""


class TrainingRuns:
    """The runs of a search: trains by `nprobot.training.train`, and measures.

    A run happens in a separate folder, which is removed when its numbers are taken.

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
        return self.config.run(self.rule).resolved().flat()

    def __call__(self, settings: Mapping[str, Any], seed: int, on_return: OnReturn) -> float:
        """The mean return of 20 deterministic episodes at the end of a run.

        Args:
            settings: options to set, by name.
            seed: the seed of the run.
            on_return: told every evaluation within the run.

        Raises:
            RunFailedError: learning has come to a premature end (a NaN, say).
            KeyboardInterrupt: somebody has stopped the run: it has no result.
        """
        from nprobot.training import train

        path = self.folder / "run"
        shutil.rmtree(path, ignore_errors=True)  # left by a search that was killed
        config = self.config.run(self.rule, seed).with_options(settings)
        try:
            result = train(config, path, on_evaluation=lambda steps, e: on_return(steps, e.mean))
        finally:
            shutil.rmtree(path, ignore_errors=True)
        if result.interrupted or result.evaluation is None:
            raise KeyboardInterrupt
        return result.evaluation.mean


def search(
    config: TuneConfig, folder: Path, runs: TrainingRuns, reporter: Reporter, command: str = ""
) -> TunedDefaults:
    """Search for the best settings of one rule, or continue a search.

    Args:
        config: what to search; of one rule.
        folder: the folder of the search; made if it is not there.
        runs: trains and measures.
        reporter: receives the news.
        command: the command line that asked for it, to be kept with what is found.

    Returns:
        The best settings, their score on seeds that no trial had, beside that of the general
        defaults, and what the search took.

    Raises:
        MissingPackageError: Optuna is not installed.
        FileError: `folder` holds another search.
        RunFailedError: no trial has come to its end, or a run has failed for another reason than
            its settings; the search can be continued.
        StorageError: the disk is full, the folder read-only, ….
    """
    with reporting_storage(folder):
        return _Search(config, open_study(config, folder), runs, reporter).run(command)


def open_study(config: TuneConfig, folder: Path) -> optuna.Study:
    """The study in a folder, new or continued.

    Raises:
        MissingPackageError: Optuna is not installed.
        FileError: the folder holds another search, or what cannot be read.
    """
    require_optuna()
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    (rule,) = config.rule
    try:
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        study: optuna.Study = optuna.create_study(
            storage=storage,
            study_name=f"{config.env} {config.algo} {rule}",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
            load_if_exists=True,
        )
    # Optuna asserts that a journal is one.
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{folder / JOURNAL} cannot be read: {error}") from error
    before = study.user_attrs.get("config")
    if before is None and len(study.get_trials(deepcopy=False)) == 0:
        if len(optuna.get_all_study_names(storage)) > 1:
            raise FileError(f"{folder} holds another search; choose another --out")
        study.set_user_attr("config", json.dumps(config.identity().to_dict(), sort_keys=True))
    elif before is None or _identity(before) != config.identity():
        raise FileError(
            f"{folder} holds a search with other settings: {before}; choose another --out, or "
            "repeat its command (only --trials may change)"
        )
    return study


def _identity(stored: str) -> TuneConfig | None:
    """The search that a journal is of, perhaps of an earlier version; None for no valid one."""
    try:
        return TuneConfig.from_dict(json.loads(stored)).identity()
    except (ConfigError, ValueError):
        return None


def require_optuna() -> None:
    """Raise `MissingPackageError`, which says how to get it, if there is no Optuna."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"the tuner needs Optuna: pip install 'nprobot[tune]' ({error})"
        ) from error


class _Search:
    """One search while it runs."""

    def __init__(
        self, config: TuneConfig, study: optuna.Study, runs: TrainingRuns, reporter: Reporter
    ) -> None:
        (self.rule,) = config.rule
        self.config, self.study = config, study
        self.runs, self.reporter = runs, reporter
        self.space = parameters(config.algo, self.rule)
        self.total = config.trials * config.seeds + 2 * config.fresh_seeds

    def run(self, command: str) -> TunedDefaults:
        self._take_up()
        if done := self._done():
            self.reporter.message(f"{self.rule}: continuing after {done} of {self.total} runs")
        self._news()
        while (number := len(self._finished())) < self.config.trials:
            # Seeded anew for every trial: a search that was cut off chooses as one that was not.
            self.study.sampler = self._sampler(number)
            self._trial()
        best = self._best()
        self.reporter.message(
            f"{self.rule}: best of {self.config.trials} trials is number {best.number}, return "
            f"{best.value:.4g}; on fresh seeds:"
        )
        settings: dict[str, Value] = best.user_attrs["settings"]
        config, seeds = self.config, range(FRESH, FRESH + self.config.fresh_seeds)
        tuned = tuple(self._fresh("tuned", settings, seed) for seed in seeds)
        general = tuple(self._fresh("general", {}, seed) for seed in seeds)
        trials = self._finished()
        taken = sum(trial.user_attrs.get("steps", 0) for trial in self.study.trials)
        samples = config.run(self.rule).samples
        again = ["nprobot", "train", "--env", config.env, "--algo", config.algo]
        again += ["--rule", self.rule, "--steps", str(config.steps), "--seed", str(FRESH)]
        return TunedDefaults(
            env=config.env,
            algo=config.algo,
            rule=self.rule,
            settings={**({} if samples is None else {"samples": samples}), **settings},
            score=TunedScore(
                steps=config.steps,
                episodes=EVALUATION_EPISODES,
                seeds=tuple(seeds),
                tuned=tuned,
                general=general,
                command=shlex.join(again),
            ),
            search={
                "command": command,
                "seeds": list(range(config.seeds)),
                "best_trial": best.number,
                "trials": len(trials),
                "pruned": sum(trial.state.name == "PRUNED" for trial in trials),
                "steps": config.steps,
                "environment_steps": taken + 2 * len(seeds) * config.steps,
                "return_in_search": best.value,
                "versions": {name: version for name, version in versions().items() if version},
            },
        )

    def _take_up(self) -> None:
        """Begin with the general defaults; repeat what was cut off."""
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        if not trials:
            self.study.enqueue_trial(point(self.space, self.runs.defaults()))
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params or trial.system_attrs["fixed_params"])

    def _trial(self) -> None:
        from optuna import TrialPruned
        from optuna.trial import TrialState

        trial = self.study.ask()
        settings = {parameter.name: parameter.suggest(trial) for parameter in self.space}
        trial.set_user_attr("settings", settings)
        try:
            value = self._measure(trial, settings)
        except TrialPruned as stop:
            self.study.tell(trial, state=TrialState.PRUNED)
            outcome = str(stop)
        except NonFiniteError as error:  # bad settings, unlike a full disk, say
            trial.set_user_attr("error", str(error))
            self.study.tell(trial, state=TrialState.PRUNED)
            outcome = f"failed: {error}"
        else:
            self.study.tell(trial, value)
            outcome = f"return {value:.4g}"
        shown = ", ".join(
            f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in settings.items()
        )
        self.reporter.message(f"{self.rule}, trial {trial.number}: {outcome} ({shown})")
        self._news()

    def _measure(self, trial: optuna.Trial, settings: Mapping[str, Value]) -> float:
        """The mean return over the seeds; every evaluation may end the trial."""
        from optuna import TrialPruned

        config = self.config
        returns: list[float] = []
        evaluation = 0

        def judge(steps: int, value: float) -> None:
            nonlocal evaluation
            trial.set_user_attr("steps", len(returns) * config.steps + steps)
            if not math.isfinite(value):
                raise NonFiniteError(f"the return is {value}")
            trial.report(value, evaluation)
            evaluation += 1
            if trial.should_prune():
                raise TrialPruned(f"given up at {value:.4g}, seed {seed}, step {steps:,}")

        for seed in range(config.seeds):
            final = self.runs(settings, seed, judge)
            # A run may evaluate more or less often than asked for; the next begins its own count.
            evaluation = (seed + 1) * (config.evaluations + 1) - 1
            returns.append(final)
            trial.set_user_attr("steps", len(returns) * config.steps)
            if not math.isfinite(final):
                raise NonFiniteError(f"the return is {final}")
            trial.report(final, evaluation)
            evaluation += 1
            self._news(len(returns))
            if len(returns) < config.seeds and trial.should_prune():
                raise TrialPruned(f"given up at {final:.4g} after seed {seed}")
        return statistics.fmean(returns)

    def _fresh(self, what: str, settings: Mapping[str, Value], seed: int) -> float:
        """The return of a run on a seed that no trial had; from the journal if it is there."""
        name = f"{what} {seed - FRESH}"
        kept = self.study.user_attrs.get(name)
        key = json.dumps(dict(settings), sort_keys=True)
        if kept is not None and kept["settings"] == key:
            return float(kept["return"])
        value = self.runs(settings, seed, lambda steps, value: None)
        self.study.set_user_attr(name, {"settings": key, "return": value})
        self.reporter.message(f"  {what}, seed {seed}: return {value:.4g}")
        self._news()
        return value

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        """Trials that have been measured or given up."""
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state.name in ("COMPLETE", "PRUNED")
        ]

    def _done(self) -> int:
        """Runs behind the search, those that a trial was spared among them."""
        fresh = [name for name in self.study.user_attrs if name.startswith(("tuned", "general"))]
        return len(self._finished()) * self.config.seeds + len(fresh)

    def _news(self, runs_of_trial: int = 0) -> None:
        done = self._done() + runs_of_trial
        self.reporter.progress(Progress(done, self.total, unit="runs", figures=self.rule))

    def _best(self) -> optuna.trial.FrozenTrial:
        try:
            return self.study.best_trial
        except ValueError:
            raise RunFailedError(
                f"{self.rule}: none of {self.config.trials} trials has come to its end; try a "
                "narrower task or more --steps"
            ) from None

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        from optuna.samplers import TPESampler

        seed = int(np.random.SeedSequence([self.config.seed, number]).generate_state(1)[0])
        return TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed, multivariate=True)


def refuse_unwritable(folder: Path) -> None:
    """Raise `ConfigError` if a folder is a file, or full of something else."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; --out is a folder")
    if folder.is_dir() and any(folder.iterdir()) and not any(folder.glob(f"*/{JOURNAL}")):
        raise ConfigError(f"{folder} holds something else than a search; choose another --out")
