"""`nprobot.fit`: learn a regression or classification task with any rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nprobot.envs.datasets import Dataset, linear_regression, mean_predictor
from nprobot.errors import ArchitectureError, ConfigError, NotFoundError
from nprobot.learning.decorrelation import decorrelated_layers
from nprobot.learning.rule import LearningRule
from nprobot.learning.rules import FeedbackRule, learning_rule
from nprobot.policies.networks import mlp
from nprobot.runs.checkpoints import as_damaged, keep_up_to, newest_whole
from nprobot.runs.files import lock_run
from nprobot.runs.versions import changed_since

from .config import CHANGEABLE, FitConfig
from .curve import draw_curve
from .data import Data, as_dataset
from .folder import FitFolder, refuse_existing, write_table
from .learner import Learner
from .model import Model, describe_data, describe_network, load
from .objectives import Classification, Objective, Regression
from .reporting import FitReporter, Silent
from .result import FitResult
from .runner import Run


def fit(
    network: nn.Module | Sequence[int],
    data: Data,
    rule: str | LearningRule = "danp",
    *,
    out: str | Path | None = None,
    reporter: FitReporter | None = None,
    source: Mapping[str, Any] | None = None,
    command: str | None = None,
    **settings: Any,
) -> FitResult:
    """Learn a regression or classification task; targets of integer labels make the latter.

    Args:
        network: any module from standardised inputs (B, inputs) to (B, targets) or (B, classes)
            that the rule can perturb; it learns in place. Or the units of the hidden layers of a
            tanh network, such as ``[128, 128]``.
        data: a data set from `nprobot.envs.datasets`, or arrays ``(inputs, targets)`` or
            ``(inputs, targets, trajectory)``.
        rule: a name for `nprobot.learning_rule`, or a rule.
        out: folder to keep the fit in, with checkpoints to go on from; kept nowhere by default.
        reporter: who wants the news of the fit.
        source: how the data can be made again, JSON values, for `config.json`.
        command: the command line that asked for the fit, for `config.json`.
        **settings: fields of `FitConfig`: `samples`, `epochs`, `batch_size`, `learning_rate`, …

    Returns:
        The best model by validation error, its scores on every split, and the history.

    Raises:
        ConfigError: a setting makes no sense.
        RuleError: the rule decorrelates and the network does not.
        ArchitectureError: the network does not fit the data.
        DataError: the arrays are no data.
        ExistsError: `out` is there already.
        NonFiniteError: the loss or a weight became NaN or infinite.
        StorageError: the disk is full, the folder read-only, ….
    """
    config, rule = _configure(rule, settings)
    if out is not None:
        refuse_existing(Path(out))  # before anything slow
    dataset = as_dataset(data)
    if not isinstance(network, nn.Module):
        network = network_for(dataset, config, tuple(network))
    learner, objective = _learner(network, rule, dataset, config)
    run = Run(learner, dataset, objective, None, reporter or Silent())
    if out is None:
        return _finish(run)
    about = {
        "data": describe_data(dataset),
        "network": describe_network(network) or str(network),
    }
    run.folder = FitFolder.create(
        *(Path(out), config),
        source=source,
        about=about,
        command=command,
        begin=run.write_to,
    )
    with lock_run(run.folder.path):
        return _finish(run)


def resume(
    path: str | Path,
    data: Data,
    network: nn.Module | None = None,
    *,
    reporter: FitReporter | None = None,
    device: str | torch.device = "cpu",
    **changes: Any,
) -> FitResult:
    """Go on with a fit from its last whole checkpoint, in its own folder.

    Args:
        path: the folder of the fit.
        data: the same data.
        network: of the same architecture; needed only if `nprobot.policies.mlp` did not build it.
        reporter: who wants the news of the fit.
        device: torch device.
        **changes: settings that differ from those before: `epochs`, `patience`,
            `checkpoint_every`. Step sizes follow the schedule of the new number of epochs.

    Returns:
        As `fit`. Without changes, bit for bit what a fit that was not interrupted returns.

    Raises:
        NotFoundError: there is no fit, or no checkpoint.
        ConfigError: the data differs, a change is not allowed, or the fit is complete.
        DamagedFileError: a file is damaged, and so are the earlier checkpoints.
        ForeignFileError: a file of something else is in the place of one of the fit.
        NewerFileError: a file was written by a newer version of this software.
        BusyError: another process is at it.
    """
    path = Path(path)
    before = FitFolder.open(path)
    config = FitConfig.from_dict({**before.config.to_dict(), **changes})
    for name, value in before.config.to_dict().items():
        if getattr(config, name) != value and name not in CHANGEABLE:
            raise ConfigError(
                f"a resumed fit keeps its {name}, {value}; only {', '.join(CHANGEABLE)} may change"
            )
    folder = FitFolder(path, config, before.source)
    dataset = as_dataset(data)
    reporter = reporter or Silent()
    with lock_run(path):
        checkpoint = newest_whole(folder.checkpoints, reporter.message)
        if checkpoint is None:
            raise NotFoundError(f"there is no checkpoint in {folder.checkpoints}")
        with as_damaged(checkpoint):
            network = load(checkpoint, network).network.to(device)
        learner, objective = _learner(network, _rule(config), dataset, config)
        run = Run(learner, dataset, objective, folder, reporter)
        run.restore(checkpoint)
        session = folder.last_session()
        if learner.epochs >= config.epochs and session.get("to_epoch") == learner.epochs:
            raise ConfigError(
                f"{path} has done its {learner.epochs} epochs; to go on, ask for more: "
                f"--epochs {2 * learner.epochs}"
            )
        if changed := changed_since(session):
            reporter.message(f"The fit goes on, but not bit for bit: {'; '.join(changed)}.")
        keep_up_to(folder.checkpoints, checkpoint)
        folder.write_progress(run.history)
        folder.begin_session(learner.epochs)
        return _finish(run)


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
        ArchitectureError: a size or the activation makes no sense.
    """
    sizes = [data.input_size, *hidden, data.target_size]
    with torch.random.fork_rng(devices=[]):  # whoever calls keeps their own random numbers
        torch.manual_seed(_Seeds.spawn(config.seed).network)
        return mlp(sizes, activation, config.decorrelated)


@dataclasses.dataclass(frozen=True)
class _Seeds:
    """Seeds of the parts of a fit; independent of each other."""

    network: int
    rule: int
    order: int

    @classmethod
    def spawn(cls, seed: int) -> _Seeds:
        # A new part goes to the end: the seeds of the others stay what they were.
        children = np.random.SeedSequence(seed).spawn(3)
        return cls(*(int(child.generate_state(1)[0]) for child in children))


def _configure(
    rule: str | LearningRule, settings: Mapping[str, Any]
) -> tuple[FitConfig, LearningRule]:
    """The settings with all defaults filled in, and the rule that they mean."""
    if isinstance(rule, str):
        config = FitConfig.from_dict({"rule": rule, **settings}).complete()
        return config, _rule(config)
    own = (
        *("sigma", "samples", "noise", "decorrelation_lr", "whitening"),
        *("keep_function", "decorrelation_interval"),
    )
    if twice := [name for name in (*own, "feedback") if name in settings]:
        raise ConfigError(
            f"{', '.join(twice)}: settings of the rule, which was given as an object that has them"
        )
    values = {name: getattr(rule, name) for name in own}
    values["feedback"] = isinstance(rule, FeedbackRule)
    return FitConfig.from_dict({"rule": rule.name, **values, **settings}).complete(), rule


def _rule(config: FitConfig) -> LearningRule:
    return learning_rule(
        config.rule,
        sigma=config.sigma,
        samples=config.samples,
        noise=config.noise,
        seed=_Seeds.spawn(config.seed).rule,
        decorrelation_lr=config.decorrelation_lr,
        whitening=config.whitening,
        keep_function=config.keep_function,
        decorrelation_interval=config.decorrelation_interval,
        feedback=config.feedback,
    )


def _learner(
    network: nn.Module, rule: LearningRule, data: Dataset, config: FitConfig
) -> tuple[Learner, Objective]:
    """A learner and what it minimises, after a look at whether network, rule and data fit."""
    if rule.decorrelated:
        decorrelated_layers(network)  # says what to do if there are none
    model = Model.for_data(network, data)
    with torch.no_grad():
        rows = torch.tensor(data.train.inputs[:2], dtype=torch.float64, device=model.device)
        try:
            shape = tuple(network(model.standardise(rows)).shape)
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
    objective: Objective = Classification()
    if not data.is_classification:
        mean, scale = (t.cpu().numpy() for t in (model.target_mean, model.target_scale))
        objective = Regression(mean, scale)
    order = _Seeds.spawn(config.seed).order
    return Learner(model, rule, objective, data.train, config, order), objective


def _finish(run: Run) -> FitResult:
    """Learn, then write what a person wants to see; and what a killed fit had left to do."""
    rule, rate = run.rule, run.rule.decorrelation_lr
    try:
        result = run.run()
    finally:
        rule.decorrelation_lr = rate  # the schedule has moved it
    if result.folder is not None:
        write_table(result.folder.scores, result.rows())
        draw_curve(result.folder.curve, result.history, title(run), bounds(run.data))
        result.folder.end_session(result.epochs, result.end)
    return result


def title(run: Run) -> str:
    """A fit in a few words."""
    task = run.model.description["task"]
    return f"{task}: {run.config.learner}, seed {run.config.seed}"


def bounds(data: Dataset) -> dict[str, float]:
    """Errors on the validation rows to compare with, by name; lower is better."""
    if data.is_classification:
        labels = data.validation.targets
        return {"most frequent label": 1 - float(np.bincount(labels).max() / len(labels))}
    guesses = {"linear regression": linear_regression, "mean predictor": mean_predictor}
    return {name: float(np.nanmean(of(data)["validation"])) for name, of in guesses.items()}
