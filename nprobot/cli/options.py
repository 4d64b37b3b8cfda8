"""Command-line options from frozen dataclasses, the same way for every command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

import tyro

Arguments = TypeVar("Arguments")

OLD_FLAGS = {"--hardware": "--actuators"}
"""Flags of earlier versions, and what they are called now."""


def parse(
    options: type[Arguments],
    arguments: Sequence[str],
    command: str,
    description: str,
    default: Arguments | None = None,
) -> Arguments:
    """Read the options of a command.

    Args:
        options: frozen dataclass; the docstrings of its fields are their help.
        arguments: the command line after the command.
        command: its name.
        description: what it does, with examples; for the help.
        default: what options that are not given stay at.

    Returns:
        The options. Exits with code 2, after a message with near matches, if there is no such
        option or a value does not fit.
    """
    return tyro.cli(
        options,
        prog=f"nprobot {command}",
        description=description,
        args=understand_old_flags(arguments),
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
    )


def understand_old_flags(arguments: Sequence[str]) -> list[str]:
    """The command line as this version writes it; says on stderr what has another name now."""
    understood, notes = [], {}
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if (new := OLD_FLAGS.get(flag)) is not None:
            notes[flag] = f"{flag} is called {new} now"
            argument = f"{new}{equals}{value}"
        understood.append(argument)
    if notes:
        print(f"Note: {'; '.join(notes.values())}.", file=sys.stderr)
    return understood
