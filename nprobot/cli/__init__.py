"""The program `nprobot`: finds the command, and turns every error into one message and a code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from nprobot.ctrl_c import leave_while_importing

COMMANDS = {
    "train": "train a policy, or continue a run",
    "evaluate": "measure a trained policy, film it",
    "fit": "learn a regression or classification task",
    "tune": "search for good settings of an environment",
    "bench": "run a benchmark, or continue it",
    "report": "make the report of a benchmark",
    "export": "make a policy folder that can be given away",
    "push": "upload a policy folder to the Hugging Face Hub",
    "pull": "download one from there",
    "deploy": "run a policy on a simulated robot, or serve it",
    "chip": "serve an emulated chip to learners in other processes, or look at one",
    "view": "show a robot's model on a page in the browser, and move it",
    "adapt": "let a policy continue to learn on a robot that breaks",
    "envs": "list the environments to train on",
    "robots": "look at a robot's model file, list those of the package",
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

`nprobot COMMAND --help` explains the options of a command; --debug shows where an error came from.
"""

DEBUG = "--debug"
GL = "MUJOCO_GL"
GL_BACKENDS = ("egl", "glfw", "osmesa", "wgl", "cgl", "enable", "on", "true", "1", "disable", "off",
               "false", "0")  # fmt: skip
"""What MuJoCo takes; anything else ends its import."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line without the program's name; by default the process's.

    Returns:
        Exit code: 0, 1 if the work failed, 2 if it was asked for in a wrong way, 130 if it was
        interrupted, 143 if it was ended by SIGTERM.
    """
    leave_while_importing()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in given
    command, *rest = [word for word in given if word != DEBUG] or ["--help"]
    if command in ("-h", "--help", "help"):
        summaries = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
        print(HELP.format(commands=summaries), end="")
        return 0
    if command in ("-V", "--version"):
        import nprobot

        print(f"nprobot {nprobot.__version__}")
        return 0
    try:
        code = _run(command, rest)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output has gone (`nprobot envs | head`); nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        return _explain(command, error)


def _run(command: str, rest: Sequence[str]) -> int:
    from nprobot.errors import ConfigError, UnknownNameError

    if command not in COMMANDS:
        hint = f"Commands: {', '.join(COMMANDS)}."
        raise UnknownNameError("command", command, COMMANDS, hint)
    backend = os.environ.get(GL, "").lower()
    if backend and backend not in GL_BACKENDS:
        raise ConfigError(
            f"the variable {GL} is {backend!r}, which is no way to draw that MuJoCo knows; unset "
            "it, or set it to egl, osmesa, glfw or disable"
        )
    module = importlib.import_module(f".{command}", __package__)
    result: int = module.main(rest)
    return result


def _explain(command: str, error: Exception) -> int:
    """Say what went wrong, in one message; returns the exit code."""
    from nprobot.errors import NprobotError, RunFailedError
    from nprobot.user_code import described

    name = f"nprobot {command}" if command in COMMANDS else "nprobot"
    if isinstance(error, NprobotError):
        print(f"{name}: error: {_in_words(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, RunFailedError) else 2
    print(
        f"{name}: error: {described(error)}. This is a mistake of nprobot, or of code that it was "
        f"given; the same command with {DEBUG} shows where it comes from.",
        file=sys.stderr,
    )
    return 1


def _in_words(message: str) -> str:
    """Options by the names that they have here: ``n_steps`` is ``--n-steps``."""
    from .arguments import as_flags

    return as_flags(message)
