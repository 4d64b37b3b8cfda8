"""`nprobot fit`: learn a regression or classification task, or continue a fit."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from nprobot import catalogue
from nprobot.catalogue import Activation
from nprobot.errors import ConfigError
from nprobot.options import Count
from nprobot.regression.data import Source
from nprobot.regression.fit_config import FitConfig
from nprobot.regression.fit_folder import FitFolder
from nprobot.runs.atomic_files import quoted
from nprobot.runs.folder import default_path
from nprobot.runs.interruption import exit_code
from nprobot.training.environments import silence_mujoco

from .arguments import check_device, parse, require_device
from .terminal import DONE, Display, duration, facts, say

if TYPE_CHECKING:
    from nprobot.envs.datasets import Dataset
    from nprobot.regression import FitResult, FittedModel
    from nprobot.regression.fit_learner import FitScore

HELP = """\
Learn a regression or classification task by node perturbation, without a
backward pass (or by backprop, to compare): the inverse dynamics of an arm, its
kinematics, your own data, or a behaviour that was demonstrated. Ctrl-C ends a
fit with a checkpoint; --resume continues from there.

examples:
  nprobot fit --task arm-inverse-dynamics
  nprobot fit --task arm-inverse-dynamics --rule danp --samples 8
  nprobot fit --task inverse-dynamics --robot my_robot.xml --epochs 40
  nprobot fit --data arm.csv --inputs q1 q2 --targets tau1 tau2 --trajectory run
  nprobot fit --data digits.npz
  nprobot deploy zoo:HalfCheetah --episodes 20 --flight expert.npz
  nprobot fit --demonstrations expert.npz --out runs/clone
      a policy that does what was recorded; also from LeRobot's and Minari's data
  nprobot fit --demonstrations my_lerobot --env nprobot/ArmReach-v0 --history 4
  nprobot train --from runs/clone
      PPO that begins where the clone ended
  nprobot fit --resume runs/fit --epochs 40
"""


@dataclass(frozen=True)
class FitNetwork:
    """The network that learns."""

    hidden: tuple[Count, ...] = (128, 128)
    """Units of the hidden layers."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""


@dataclass(frozen=True)
class FitOutput:
    """Where the fit is kept, and where it computes."""

    out: Path | None = None
    """The run folder to make. Left out: runs/TASK-RULE-SEED-TIME."""
    resume: Path | None = None
    """A run folder: continue from its last checkpoint. Only --epochs, --patience,
    --checkpoint-every and --trust may be given with it."""
    trust: bool = False
    """Import the modules that demonstrations name for their environment, or that the rule of a
    resumed fit is in, which runs them."""
    device: str = "cpu"
    """Device of the network: cpu or cuda. Small networks are fastest on the CPU."""


@dataclass(frozen=True)
class FitOptions:
    """Options of the command."""

    source: Source = field(default_factory=Source)
    fit: FitConfig = field(default_factory=FitConfig)
    network: FitNetwork = field(default_factory=FitNetwork)
    output: FitOutput = field(default_factory=FitOutput)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(FitOptions, arguments, "fit", HELP)
    path = options.output.out
    if options.output.resume is not None:
        options = resumed(options.output, arguments)
    elif path is not None:
        FitFolder.refuse_existing(path)

    catalogue.rule_named(options.fit.rule)
    check_device(options.output.device)
    if not options.source.data:
        silence_mujoco()
    data = load(options.source, options.output.trust)

    # Everything above answers at once; torch takes seconds to load.
    import torch

    from nprobot.regression.fit_run import fit, network_for, resume

    torch.set_num_threads(1)  # networks this small are slower on two threads than on one
    require_device(options.output.device)
    silence_mujoco()
    console = Console()
    device = torch.device(options.output.device)
    command = shlex.join(("nprobot", "fit", *arguments))
    with Display(console) as shown:
        if options.output.resume is None:
            config, shape = options.fit, options.network
            path = path or default_path(options.source.name, config.rule, config.seed)
            introduce(shown, data, config, path)
            result = fit(
                network_for(data, config, shape.hidden, shape.activation).to(device),
                data,
                out=path,
                reporter=shown,
                source=options.source.to_dict(),
                command=command,
                **config.to_dict(),
            )
        else:
            introduce(shown, data, options.fit, options.output.resume)
            changes = options.fit.to_dict()
            result = resume(
                *(options.output.resume, data),
                reporter=shown,
                device=device,
                command=command,
                **changes,
            )
    show(console, result)
    return exit_code() if result.end == "interrupted" else DONE


def resumed(output: FitOutput, arguments: Sequence[str]) -> FitOptions:
    """The options of a fit that is resumed: its own, and what may be changed."""
    assert output.resume is not None
    if output.out is not None:
        raise ConfigError("a resumed fit stays in its own folder; leave --out away")
    folder = FitFolder.open(output.resume, trust=output.trust)
    if not folder.source:
        raise ConfigError(
            f"the data of the fit at {output.resume} was made in Python; continue there: "
            "nprobot.regression.resume(path, data)"
        )
    # Parsed again over the fit's own settings: options that were not given stay.
    stored = FitOptions(source=Source.from_dict(folder.source), fit=folder.config)
    options = parse(FitOptions, arguments, "fit", HELP, stored)
    if options.source != stored.source or options.network != stored.network:
        raise ConfigError("a resumed fit keeps its data and its network; leave their options away")
    return options


def load(source: Source, trust: bool = False) -> Dataset:
    """The data; warnings about it are lines on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = source.load(trust)
    for warning in caught:
        print(f"nprobot fit: warning: {warning.message}", file=sys.stderr)
    return data


def introduce(shown: Display, data: Dataset, config: FitConfig, path: Path) -> None:
    """Say what is learned and where it goes."""
    shown.message(data.summary())
    config = config.resolved()
    shown.message(f"{config.learner}, seed {config.seed}, {config.epochs} epochs")
    shown.message(f"run folder {path}")


def show(console: Console, result: FitResult) -> None:
    """Print what came out of a fit, where it is, and what to do with it."""
    console.print(error_table(result.model, result.scores), highlight=False)
    ends = {
        "complete": "all epochs done",
        "patience": "no better model for long enough",
        "interrupted": "interrupted",
    }
    console.print(
        facts(
            "best model by validation error",
            {
                "epoch": f"{result.best_epoch} of {result.epochs} ({ends[result.end]})",
                "time": duration(result.seconds),
                "forward passes": f"{result.forward_passes:,}",
                "backward passes": f"{result.backward_passes:,}",
            },
        ),
        highlight=False,
    )
    from nprobot.regression.demonstrated import CONTROL

    assert result.folder is not None
    path = result.folder.path
    say(console, f"Run: {path}")
    if result.end == "interrupted":
        say(console, f"Interrupted; continue: nprobot fit --resume {quoted(path)}")
    elif CONTROL in result.model.description["meta"] and result.controls is not None:
        say(console, f"Next: nprobot evaluate {quoted(path)}")
        say(console, f"      nprobot train --from {quoted(path)}")
    elif result.controls is not None:
        say(console, f"Next: nprobot evaluate {quoted(path)} --env {result.controls}")
    else:
        say(console, f"Next: nprobot evaluate {quoted(path)}; nprobot export {quoted(path)}")


def error_table(model: FittedModel, scores: Mapping[str, FitScore]) -> Table:
    """The errors of a model, a row a target, or a row a split for classification."""
    from nprobot.regression.fit_run import score_rows

    if model.classes:
        table = Table("split", "accuracy", "cross_entropy", box=box.SIMPLE_HEAD)
        for split, score in scores.items():
            values = score.columns()
            table.add_row(split, f"{values['accuracy']:.2%}", f"{values['cross_entropy']:.4f}")
        return table
    table = Table(
        *("target", "RMSE (test)", *scores),
        box=box.SIMPLE_HEAD,
        title="normalised mean squared error (nMSE: mean squared error / variance)",
        title_justify="left",
        title_style="bold",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    by_target: dict[str, list[dict[str, Any]]] = {}
    for row in score_rows(model, scores):
        by_target.setdefault(row["target"], []).append(row)
    for target, found in by_target.items():
        test = next(row for row in found if row["split"] == "test")
        error = f"{test['rmse']:.4g} {test['unit']}" if test["rmse"] != "" else ""
        table.add_row(target, error, *(f"{row['nmse']:.4f}" for row in found))
    return table
