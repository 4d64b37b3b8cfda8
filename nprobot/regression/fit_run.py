"""A fit: begun, or continued from its last good checkpoint, to its end."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from nprobot import catalogue
from nprobot.envs import ARM_TRACK, ROBOT
from nprobot.envs.datasets import Dataset, linear_regression, mean_predictor
from nprobot.errors import (
    ArchitectureError,
    ChipError,
    ConfigError,
    ForeignFileError,
    NonFiniteError,
    NotFoundError,
    StorageError,
)
from nprobot.learning.decorrelation import decorrelated_layers
from nprobot.learning.rule import LearningRule
from nprobot.learning.rules import learning_rule
from nprobot.policies.chip.crossbar import (
    off_chip_copy,
    on_chip,
    put_on_chip,
    restore_chip,
    save_chip,
)
from nprobot.policies.files import policy_file
from nprobot.policies.networks import mlp
from nprobot.runs.atomic_files import lock_run, quoted
from nprobot.runs.checkpoints import LAST, as_damaged, keep_up_to, newest_whole, write_checkpoint
from nprobot.runs.interruption import interruptible
from nprobot.runs.reporting import Progress, Reporter, Silent
from nprobot.runs.seeds import Seeds
from nprobot.runs.state import load_state, save_state
from nprobot.runs.versions import changed_since, versions

from .data import Data, as_dataset, fingerprint
from .demonstrated import ClonedControl
from .fit_config import CHANGEABLE, RULE_OPTIONS, FitConfig
from .fit_folder import EpochRow, FitFolder, draw_errors, write_table
from .fit_learner import (
    Classification,
    Epoch,
    FitLearner,
    FitScore,
    Likelihood,
    Objective,
    Regression,
    RegressionScore,
)
from .model import FittedModel, describe_data, describe_network, load
from .model import save as save_model
from .model_export import export_model, is_arm_model, tracker_of

FitEnding = Literal["complete", "patience", "interrupted"]
"""Why a fit ended: all epochs done, no better model for `patience` epochs, or Ctrl-C."""

STATE = "training"
MOST_NAMES = 100
"""Columns whose names a policy file records; not those of pictures."""
ALARMING_GROWTH = 10.0
"""Factor on the norm of the weights at which the fit is said to be unstable."""


def fit(
    network: nn.Module | Sequence[int],
    data: Data,
    rule: str | LearningRule = catalogue.DEFAULT_RULE,
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    source: Mapping[str, Any] | None = None,
    command: str | None = None,
    **options: Any,
) -> FitResult:
    """Learn a regression or classification task; targets of integer labels make the latter.

    Args:
        network: any module from standardised inputs (B, inputs) to (B, targets) or (B, classes)
            that the rule can perturb; it learns in place. Or the units of the hidden layers of a
            tanh network, such as ``[128, 128]``.
        data: a data set from `nprobot.envs.datasets`, or arrays ``(inputs, targets)`` or
            ``(inputs, targets, trajectory)``.
        rule: a name for `nprobot.learning_rule`, or a rule.
        out: folder to keep the fit in, with checkpoints to continue from; by default it is not
            kept. Ctrl-C ends a fit that is kept after the epoch at hand, any other at once.
        reporter: receives the news of the fit.
        source: how the data can be made again, JSON values, for `config.json`.
        command: the command line that asked for the fit, for `config.json`.
        **options: fields of `FitConfig`: `samples`, `epochs`, `batch_size`, `learning_rate`, …

    Returns:
        The best model by validation error, its scores on every split, and the history.

    Raises:
        ConfigError: an option has a value that is not allowed.
        RuleError: the rule decorrelates and the network does not.
        ArchitectureError: the network does not fit the data.
        DataError: the arrays are no data.
        ExistsError: `out` is there already.
        RunFailedError: the fit came to a premature end; a subclass says why.
    """
    config, rule = _configured(rule, options)
    if out is not None:
        FitFolder.refuse_existing(Path(out))  # before anything slow
    dataset = as_dataset(data)
    if not isinstance(network, nn.Module):
        network = network_for(dataset, config, tuple(network))
    running = Fit(network, rule, dataset, config, reporter or Silent())
    if out is None:
        return running.run()
    about = {
        "data": describe_data(dataset),
        "network": describe_network(network) or str(network),
    }
    running.folder = FitFolder.create(
        *(Path(out), config),
        source=source or {},
        about=about,
        command=command,
        begin=running.write_to,  # so that there always is a checkpoint to continue from
    )
    with lock_run(running.folder.path):
        return running.run()


def resume(
    path: str | Path,
    data: Data,
    network: nn.Module | None = None,
    *,
    reporter: Reporter | None = None,
    device: str | torch.device = "cpu",
    command: str | None = None,
    **changes: Any,
) -> FitResult:
    """Continue a fit from its last whole checkpoint, in its own folder.

    Args:
        path: the folder of the fit.
        data: the same data.
        network: of the same architecture; needed only if `nprobot.policies.mlp` did not build it.
        reporter: receives the news of the fit.
        device: torch device.
        command: the command line that asked for it, for `config.json`.
        **changes: options that differ from those before: `epochs`, `patience`,
            `checkpoint_every`. Step sizes follow the schedule of the new number of epochs.

    Returns:
        As `fit`. Without changes, bit for bit what a fit that was not interrupted returns.

    Raises:
        NotFoundError: there is no fit, or no checkpoint.
        ConfigError: the data differs, a change is not allowed, or the fit is complete.
        BusyError: another process is at work on it.
        DamagedFileError: a file is damaged, and so are the earlier checkpoints.
        ForeignFileError: a file of something else is in the place of one of the fit.
        NewerFileError: a file was written by a newer version of this software.
        RunFailedError: as in `fit`.
    """
    path, reporter = Path(path), reporter or Silent()
    stored = FitFolder.open(path)
    config = FitConfig.from_dict({**stored.config.to_dict(), **changes})
    for name, before in _changed(stored.config, config).items():
        raise ConfigError(
            f"a resumed fit keeps its {name}, {before}; only {', '.join(CHANGEABLE)} may change"
        )
    folder = FitFolder(path, config, stored.source)
    dataset = as_dataset(data)
    with lock_run(path):
        checkpoint = newest_whole(folder.checkpoints, reporter.message)
        if checkpoint is None:
            raise NotFoundError(f"there is no checkpoint in {folder.checkpoints}")
        with as_damaged(checkpoint):
            network = load(checkpoint, network).network.to(device)
        running = Fit(network, _rule(config), dataset, config, reporter, folder, new=False)
        running.restore(checkpoint)
        epochs, session = running.learner.epochs, folder.last_session()
        if epochs >= config.epochs and session.get("to_epoch") == epochs:
            raise ConfigError(
                f"{path} has done its {epochs} epochs; to continue, ask for more: "
                f"--epochs {2 * epochs}"
            )
        if changed := changed_since(session):
            reporter.message(f"The fit continues, but not bit for bit: {'; '.join(changed)}.")
        keep_up_to(folder.checkpoints, checkpoint)
        write_table(folder.progress, running.history)
        folder.begin_session(epochs, command=command)
        return running.run()


def network_for(
    data: Dataset,
    config: FitConfig,
    hidden: tuple[int, ...] = (128, 128),
    activation: str = "tanh",
) -> nn.Sequential:
    """A network that fits the data, with decorrelated layers if the rule needs them.

    Args:
        data: tells the number of inputs and outputs.
        config: its seed is where the first weights come from.
        hidden: units of the hidden layers.
        activation: nonlinearity of the hidden layers; a name from `nprobot.policies.ACTIVATIONS`.

    Raises:
        ArchitectureError: a size or the activation is not allowed.
    """
    sizes = [data.input_size, *hidden, data.target_size]
    with torch.random.fork_rng(devices=[]):  # the caller keeps their own random numbers
        torch.manual_seed(Seeds.spawn(config.seed).torch)
        return mlp(sizes, activation, config.decorrelated)


@dataclass(frozen=True)
class FitResult:
    """What came out of a fit.

    Attributes:
        model: the best one by validation error, in the units of the data.
        scores: how good it is, by split: train, validation, test, and shifted if there is one.
        best_epoch: after which it was that good; 0 if learning never helped.
        history: a row an epoch, as in `progress.csv`.
        epochs: passes over the training rows.
        forward_passes: network passes of one sample that learning took.
        backward_passes: the same backwards; 0 under node perturbation.
        seconds: of wall-clock time, all sessions of the fit together.
        end: why it ended.
        folder: the fit on disk; None if it was not kept.
    """

    model: FittedModel
    scores: Mapping[str, FitScore]
    best_epoch: int
    history: tuple[EpochRow, ...]
    epochs: int
    forward_passes: int
    backward_passes: int
    seconds: float
    end: FitEnding
    folder: FitFolder | None

    @property
    def controls(self) -> str | None:
        """Id of the environment that the model's policy file controls; None if it has none."""
        if describe_network(self.model.network) is None:
            return None
        if (control := ClonedControl.of(self.model.description["meta"])) is not None:
            return control.id
        if is_arm_model(self.model):
            return ARM_TRACK
        return ROBOT if tracker_of(self.model) is not None else None

    def rows(self) -> list[dict[str, Any]]:
        """The errors of every split and target, and overall; the rows of `scores.csv`."""
        return score_rows(self.model, self.scores)


def score_model(model: FittedModel, data: Dataset) -> dict[str, FitScore]:
    """How good a model is on every split of a data set with its inputs and targets.

    Raises:
        ArchitectureError: the data has other inputs or targets.
    """
    about = model.description
    for part, names in (("input", data.input_names), ("target", data.target_names)):
        if len(about[f"{part}_names"]) != len(names) or model.classes != data.classes:
            raise ArchitectureError(
                f"the model has {len(about[f'{part}_names'])} {part}s, the data {len(names)}"
            )
    objective = objective_of(data)
    return {name: objective.score(model, split) for name, split in data.splits.items()}


def score_rows(model: FittedModel, scores: Mapping[str, FitScore]) -> list[dict[str, Any]]:
    """Errors of every split and target, and overall: the rows of `scores.csv`."""
    rows: list[dict[str, Any]] = []
    about = model.description
    for split, score in scores.items():
        if not isinstance(score, RegressionScore):
            rows.append({"split": split, **score.columns()})
            continue
        named = zip(about["target_names"], about["target_units"], strict=True)
        rows += [
            {"split": split, "target": name, "unit": unit, "rmse": rmse, "nmse": nmse}
            for (name, unit), rmse, nmse in zip(named, score.rmse, score.nmse, strict=True)
        ]
        overall = {"split": split, "target": "mean", "unit": "", "rmse": "", "nmse": score.error}
        rows.append(overall)
    return rows


@dataclass
class Best:
    """The best model so far."""

    model: FittedModel
    epoch: int
    score: FitScore


class Fit:
    """A fit while it runs.

    Args:
        network: learns in place.
        rule: estimates the gradients.
        data: all splits.
        config: with every default filled in.
        reporter: receives the news.
        folder: where to keep the fit; None to keep nothing.
        new: whether it begins; one that continues goes to its chip when it is restored.

    Attributes:
        stop_requested: set it to end the fit after the epoch at hand.

    Raises:
        RuleError: the rule decorrelates and the network does not.
        ArchitectureError: the network does not fit the data.
    """

    def __init__(
        self,
        network: nn.Module,
        rule: LearningRule,
        data: Dataset,
        config: FitConfig,
        reporter: Reporter,
        folder: FitFolder | None = None,
        *,
        new: bool = True,
    ) -> None:
        if rule.decorrelated:
            decorrelated_layers(network)  # says what to do if there are none
        self.model = FittedModel.for_data(network, data)
        _check_shapes(self.model, data)
        self.objective = objective_of(data, config)
        seed = Seeds.spawn(config.seed).order
        self.learner = FitLearner(self.model, rule, self.objective, data.train, config, seed)
        self.rule, self.data, self.config = rule, data, config
        self.reporter, self.folder = reporter, folder
        self.stop_requested = False
        self.history: list[dict[str, float]] = []
        self._elapsed_before = 0.0
        self._started = time.perf_counter()
        self._first_step = 0
        self._alarmed = False
        if new:
            self._put_on_chip()
        score = self.objective.score(self.model, data.validation)
        self.best = Best(off_chip_copy(self.model), 0, score)
        nothing = Epoch(math.nan, self.learner.weight_norm(), math.nan, self.learner.learning_rate)
        self._record(nothing, score)

    @property
    def seconds(self) -> float:
        """Seconds that the fit has taken, all sessions together."""
        return self._elapsed_before + time.perf_counter() - self._started

    def run(self) -> FitResult:
        """Learn until the end, and write what a person wants to see.

        Raises:
            NonFiniteError: the loss became NaN or infinite.
            StorageError: the disk is full, the folder read-only, ….
        """
        rate = self.rule.decorrelation_lr
        stoppable: AbstractContextManager[None] = contextlib.nullcontext()
        if self.folder is not None:
            stoppable = interruptible(self, self.reporter.message, "epoch")
        try:
            with stoppable:
                result = self._result(self._learn())
        finally:
            self.rule.decorrelation_lr = rate  # the schedule has moved it
        if result.folder is not None:
            write_table(result.folder.scores, result.rows())
            lines, loss = bounds(self.data), self.config.loss
            draw_errors(result.folder.curve, result.history, self.title, lines, loss=loss)
            result.folder.end_session(result.epochs, result.end)
        return result

    @property
    def title(self) -> str:
        """The fit in a few words."""
        task = self.model.description["task"]
        return f"{task}: {self.config.learner}, seed {self.config.seed}"

    def _learn(self) -> FitEnding:
        end: FitEnding = "complete"
        while self.learner.epochs < self.config.epochs:
            if self.stop_requested:
                end = "interrupted"
                break
            patience = self.config.patience
            if patience is not None and self.learner.epochs - self.best.epoch >= patience:
                end = "patience"
                break
            self._epoch()
            every = self.config.checkpoint_every
            if every is not None and self.learner.epochs % every == 0:
                self.checkpoint()
        self.checkpoint()
        return end

    def _put_on_chip(self) -> None:
        if self.config.chip is not None:
            seeds = Seeds.spawn(self.config.seed)
            put_on_chip(
                self.model.network, self.config.chip, seed=seeds.rule, device_seed=seeds.device
            )

    def _epoch(self) -> None:
        try:
            epoch = self.learner.epoch(self._news)
            if not math.isfinite(epoch.weight_norm):
                raise NonFiniteError("a weight has become NaN or infinite")
        except NonFiniteError as error:
            raise NonFiniteError(
                f"in epoch {len(self.history)}: {error}.{self._kept()} A lower learning rate, "
                "weight decay or a maximum row norm often helps."
            ) from error
        except ChipError as error:
            raise ChipError(
                f"in epoch {len(self.history)}: {error}.{self._kept()} When the chip answers, "
                "continue the fit with --resume"
            ) from error
        score = self.objective.score(self.model, self.data.validation)
        # A score that is NaN (the network has overflowed between two losses) is never better.
        # What a chip held in an earlier epoch it cannot be given back as it was.
        if score.error < self.best.score.error or self.config.chip is not None:
            self.best = Best(off_chip_copy(self.model), self.learner.epochs, score)
        self._record(epoch, score)
        growth = epoch.weight_norm / self.history[0]["weights/norm"]
        if growth > ALARMING_GROWTH and not self._alarmed:
            self._alarmed = True
            self.reporter.message(
                f"epoch {self.learner.epochs}: the weights have grown {growth:.0f}-fold; learning "
                "is unstable. Lower the learning rate, or hold them by weight decay or a maximum "
                "row norm."
            )

    def _record(self, epoch: Epoch, score: FitScore) -> None:
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
        place = f"epoch {self.learner.epochs} of {self.config.epochs}"
        self.reporter.progress(
            Progress(
                done=step,
                total=self.config.epochs * self.learner.steps_per_epoch,
                figures=f"{place}, validation {self.best.score}",
                per_second=(step - self._first_step) / seconds if seconds else math.nan,
            )
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
                f"leave to write, continue: nprobot fit --resume {quoted(self.folder.path)}"
            ) from error

    def write_to(self, folder: FitFolder) -> None:
        """Write progress and a checkpoint into a folder."""
        write_table(folder.progress, self.history)
        write_checkpoint(folder.checkpoints, self.learner.steps, self._fill)

    def _fill(self, path: Path) -> None:
        provenance: dict[str, Any] = {
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
        about = self.best.model.description
        if self.data.input_size <= MOST_NAMES:
            for part in ("input", "target"):
                named = zip(about[f"{part}_names"], about[f"{part}_units"], strict=True)
                provenance[f"{part}s"] = [
                    f"{name} [{unit}]" if unit else name for name, unit in named
                ]
        if (control := ClonedControl.of(about["meta"])) is not None:
            provenance["actuators"] = control.actuators
            if isinstance(self.best.score, RegressionScore):
                # How far the clone is from what was demonstrated: the spread to explore with.
                actions = math.prod(control.action_shape)
                provenance["action_std"] = list(self.best.score.rmse[:actions])
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
            "chip": np.frombuffer(save_chip(self.model), np.uint8) if on_chip(self.model) else None,
            "seconds": self.seconds,
            "data": fingerprint(self.data),
        }
        save_state(path / STATE, state)

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint of this fit.

        Raises:
            ConfigError: the data is not the data of the fit.
            ForeignFileError: it is the checkpoint of another fit.
            DamagedFileError: its contents are not what this software writes.
        """
        state = load_state(checkpoint / STATE)
        with as_damaged(checkpoint):
            if state["data"] != fingerprint(self.data):
                raise ConfigError("the data is not what the fit has learned from; its rows differ")
            for name, there in _changed(FitConfig.from_dict(state["config"]), self.config).items():
                raise ForeignFileError(
                    f"the checkpoint belongs to another fit: its {name} is {there}, config.json "
                    f"says {getattr(self.config, name)}"
                )
            self._restore(state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        best = copy.deepcopy(self.model)
        self._put_on_chip()
        if on_chip(self.model):
            restore_chip(self.model, state["chip"].tobytes())
        best.load_state_dict(state["best"])
        score = self.objective.score(best, self.data.validation)
        self.best = Best(best, int(state["best_epoch"]), score)
        columns, history = self.history[0].keys(), [dict(row) for row in state["history"]]
        if [row["epoch"] for row in history] != list(range(self.learner.epochs + 1)):
            raise ValueError("the table has not a row an epoch")
        numbers = (isinstance(value, int | float) for row in history for value in row.values())
        if any(row.keys() != columns for row in history) or not all(numbers):
            raise ValueError("the table has other columns")
        self.history = history
        self._alarmed = bool(state["alarmed"])
        self._elapsed_before = float(state["seconds"])
        self._started = time.perf_counter()
        self._first_step = self.learner.steps

    def _result(self, end: FitEnding) -> FitResult:
        if self.config.chip is None:
            self.model.load_state_dict(self.best.model.state_dict())
        scores = score_model(self.model, self.data)
        return FitResult(
            model=self.model if self.config.chip is None else self.best.model,
            scores=scores,
            best_epoch=self.best.epoch,
            history=tuple(self.history),
            epochs=self.learner.epochs,
            forward_passes=self.rule.forward_passes,
            backward_passes=self.rule.backward_passes,
            seconds=self.seconds,
            end=end,
            folder=self.folder,
        )


def bounds(data: Dataset) -> dict[str, float]:
    """Errors on the validation rows to compare with, by name; lower is better."""
    if data.is_classification:
        labels = data.validation.targets
        return {"most frequent label": 1 - float(np.bincount(labels).max() / len(labels))}
    guesses = {"linear regression": linear_regression, "mean predictor": mean_predictor}
    return {name: float(np.nanmean(of(data)["validation"])) for name, of in guesses.items()}


def objective_of(data: Dataset, config: FitConfig | None = None) -> Objective:
    """What is minimised; labels are learned by their likelihood in any case."""
    if data.is_classification:
        return Classification()
    return Likelihood() if config is not None and config.loss == "likelihood" else Regression()


def _configured(
    rule: str | LearningRule, options: Mapping[str, Any]
) -> tuple[FitConfig, LearningRule]:
    """The configuration with all defaults filled in, and the rule that it means."""
    if isinstance(rule, str):
        config = FitConfig.from_dict({"rule": rule, **options}).resolved()
        return config, _rule(config)
    if twice := [name for name in (*RULE_OPTIONS, "feedback") if name in options]:
        raise ConfigError(
            f"{', '.join(twice)}: settings of the rule, which was given as an object that has them"
        )
    own = {name: getattr(rule, name) for name in RULE_OPTIONS}
    return FitConfig.from_dict({"rule": rule.name, **own, **options}).resolved(), rule


def _rule(config: FitConfig) -> LearningRule:
    options = {name: getattr(config, name) for name in RULE_OPTIONS}
    return learning_rule(config.rule, seed=Seeds.spawn(config.seed).rule, **options)


def _changed(before: FitConfig, after: FitConfig) -> dict[str, Any]:
    """Options that a fit has to keep and that differ, with what they were."""
    now = after.to_dict()
    return {
        name: value
        for name, value in before.to_dict().items()
        if value != now[name] and name not in CHANGEABLE
    }


def _check_shapes(model: FittedModel, data: Dataset) -> None:
    """Refuse a network whose inputs or outputs are not those of the data.

    Raises:
        ArchitectureError: they differ.
    """
    with torch.no_grad():
        rows = torch.tensor(data.train.inputs[:2], dtype=torch.float64, device=model.device)
        try:
            shape = tuple(model.network(model.standardise(rows)).shape)
        except RuntimeError as error:
            raise ArchitectureError(
                f"the network does not take rows of {data.input_size} inputs: {error}"
            ) from error
    if shape != (len(rows), data.target_size):
        what = "classes" if data.is_classification else "targets"
        raise ArchitectureError(
            f"the network gives outputs of shape {shape} for {len(rows)} rows; the data has "
            f"{data.target_size} {what}, so it has to give {(len(rows), data.target_size)}"
        )
