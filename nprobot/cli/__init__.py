"""The program `nprobot`: finds the command, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import nprobot
from nprobot.errors import NprobotError, RunFailedError, UnknownNameError

from .terminal import DONE, FAILED, INTERRUPTED, MISUSED

COMMANDS = {
    "train": "train a policy, or continue a run",
    "evaluate": "measure a trained policy, film it",
    "fit": "learn a regression or classification task",
    "tune": "search for good settings of an environment",
    "bench": "run a benchmark, or continue it",
    "report": "make the report of a benchmark",
    "export": "make a policy folder that can be given away",
    "deploy": "run a policy on a simulated robot, or serve it",
    "view": "show a robot's model on a page in the browser, and move it",
    "adapt": "let a policy continue to learn on a robot that breaks",
    "envs": "list the environments to train on",
    "policies": "list the trained policies that come with nprobot",
}
"""Each is a module of this package with a function `main(arguments) -> exit code`."""

HELP = """\
usage: nprobot COMMAND [OPTIONS]

Robot controllers that learn without backpropagation.

commands:
{commands}

examples:
  nprobot train
      a pendulum that balances itself, learned without a backward pass
  nprobot train --env Reacher-v5 --rule danp --samples 8 --steps 300000 --out runs/reacher
      eight noisy passes a step, for as many environment steps, into a folder of your choice
  nprobot evaluate runs/reacher --episodes 100 --record reacher.mp4
      its return, and a film
  nprobot deploy zoo:InvertedPendulum --record pendulum.mp4
      a policy that comes with nprobot, on a simulated robot

`nprobot COMMAND --help` explains the options of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line without the program's name; by default the process's.

    Returns:
        Exit code: 0, 1 if the work failed, 2 if it was asked for in a wrong way, 130 if it was
        interrupted.
    """
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help", "help"):
        summaries = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
        print(HELP.format(commands=summaries), end="")
        return DONE
    if command in ("-V", "--version"):
        print(f"nprobot {nprobot.__version__}")
        return DONE
    try:
        if command not in COMMANDS:
            hint = f"Commands: {', '.join(COMMANDS)}."
            raise UnknownNameError("command", command, COMMANDS, hint)
        module = importlib.import_module(f".{command}", __package__)
        code: int = module.main(rest)
        sys.stdout.flush()
        return code
    except NprobotError as error:
        name = f"nprobot {command}" if command in COMMANDS else "nprobot"
        print(f"{name}: error: {error}", file=sys.stderr)
        return FAILED if isinstance(error, RunFailedError) else MISUSED
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has gone (`nprobot envs | head`); nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
