"""`nprobot train`: train a policy, or continue a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from nprobot.defaults import TUNED, choose, fill
from nprobot.errors import ConfigError
from nprobot.training.config import RunConfig
from nprobot.training.environments import find_spec, silence_mujoco
from nprobot.training.folder import RunFolder

from .options import parse
from .terminal import INTERRUPTED, Display, duration, facts, say

if TYPE_CHECKING:
    from nprobot.training.run import Result


HELP = """\
Train a policy by node perturbation, without a backward pass (or by backprop,
to compare). Without any option: NP with learned feedback on InvertedPendulum-v5
until it balances. Ctrl-C ends a run with a checkpoint; --resume continues from
there, and from the last checkpoint of a run that was killed.

examples:
  nprobot train
  nprobot train --env Reacher-v5 --rule danp --samples 8 --steps 300000 --out runs/reacher
  nprobot train --env Reacher-v5 --rule bp --steps 300000 --seed 1
  nprobot train --env Reacher-v5 --algo nrl --actuators torque-motor --steps 100000
  nprobot train --env Reacher-v5 --chip analog --actuators torque-motor --steps 100000
      on hardware whose noise nobody can read
  nprobot train --resume runs/reacher --steps 600000
"""


@dataclass(frozen=True)
class Output:
    """Where the run is kept, and where it computes."""

    out: Path | None = None
    """The run folder to make. Left out: runs/ENV-ALGO-RULE-SEED-TIME."""
    resume: Path | None = None
    """A run folder: continue from its last good checkpoint, as if the run had never stopped. Only
    --steps, --stop-at, --checkpoint-every, --evaluate-every, --workers, --env-timeout and --device
    may be given with it."""
    device: str | None = None
    """Where the networks are: cpu, or cuda. Left out: cpu, and where they were in a run that is
    resumed. Small networks are fastest on the CPU."""


@dataclass(frozen=True)
class Train:
    """Options of the command."""

    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    defaults: str = TUNED
    """Where options that are left out come from: tuned, the settings that a search has found for
    environment, algorithm and rule (`nprobot envs` lists them), if there are any; general, the same
    everywhere; or a file that `nprobot tune` has written."""
    output: Output = field(default_factory=Output)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(Train, arguments, "train", HELP)
    config, output = options.run, options.output
    settings = ""
    if output.resume is None:
        find_spec(config.env)
        config, settings = with_defaults(config, options.defaults)
        if output.out is not None:
            RunFolder.refuse_existing(output.out)
    elif output.out is not None:
        raise ConfigError("a resumed run stays in its own folder; leave --out away")
    elif options.defaults != TUNED:
        raise ConfigError("a resumed run keeps its settings; leave --defaults away")
    else:
        # Parsed again over the run's own configuration: options that were not given stay.
        stored = Train(run=RunFolder.open(output.resume).config)
        config = parse(Train, arguments, "train", HELP, stored).run

    # Everything above answers at once; torch takes seconds to load.
    import torch

    from nprobot.training.run import resume, train

    torch.set_num_threads(1)  # networks this small are slower on two threads than on one
    silence_mujoco()
    console = Console()
    with Display(console) as shown:
        if settings:
            shown.message(settings)
        if output.resume is None:
            command = shlex.join(("nprobot", "train", *arguments))
            result = train(
                config, output.out, reporter=shown, command=command, device=output.device or "cpu"
            )
        else:
            result = resume(output.resume, config, reporter=shown, device=output.device)
    show(console, result)
    return INTERRUPTED if result.interrupted else 0


def with_defaults(config: RunConfig, defaults: str) -> tuple[RunConfig, str]:
    """The run with tuned settings for the options that it leaves open, and a line about them."""
    tuned = choose(defaults, config)
    if tuned is None:
        return config, ""
    config, filled = fill(config, tuned)
    shown = ", ".join(f"{name} {value}" for name, value in filled.items()) or "all given"
    return config, f"Tuned settings: {shown} (--defaults general does without)"


def show(console: Console, result: Result) -> None:
    """Print what came out of a run, where it is, and what to do with it."""
    from nprobot.training.run import title

    evaluation = result.evaluation
    console.print(
        facts(
            title(result.folder.config),
            {
                "return": "not evaluated"
                if evaluation is None
                else f"{evaluation} ({len(evaluation.returns)} deterministic episodes)",
                "steps": f"{result.steps:,}",
                "time": duration(result.seconds),
                "forward passes": f"{result.forward_passes:,}",
                "backward passes": f"{result.backward_passes:,}",
            },
        ),
        highlight=False,
    )
    path = result.folder.path
    say(console, f"Run: {path}")
    if result.interrupted:
        say(console, f"Interrupted; continue: nprobot train --resume {path}")
    else:
        say(console, f"Next: nprobot evaluate {path} --record {path / 'film.mp4'}")
