"""Command-line options from frozen dataclasses, the same way for every command."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TypeVar

import tyro

from nprobot.catalogue import rule_named, rules

Arguments = TypeVar("Arguments")

OLD_FLAGS = {"--hardware": "--actuators"}
"""Flags of earlier versions, and what they are called now."""


def parse(
    options: type[Arguments],
    arguments: Sequence[str],
    command: str,
    description: str,
    default: Arguments | None = None,
    old_flags: Mapping[str, str] = OLD_FLAGS,
) -> Arguments:
    """Read the options of a command.

    Args:
        options: frozen dataclass; the docstrings of its fields are their help.
        arguments: the command line after the command.
        command: its name.
        description: what it does, with examples; for the help.
        default: what options that are not given stay at.
        old_flags: flags of earlier versions, and what they are called now.

    Returns:
        The options. Exits with code 2, after a message with near matches, if there is no such
        option or a value does not fit.
    """
    return tyro.cli(
        options,
        prog=f"nprobot {command}",
        description=description,
        args=understand_old_flags(arguments, old_flags),
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
    )


def understand_old_flags(
    arguments: Sequence[str], old_flags: Mapping[str, str] = OLD_FLAGS
) -> list[str]:
    """The command line as this version writes it; says on stderr what has another name now."""
    understood, notes = [], {}
    feedback, flag = "--feedback" in arguments, ""
    for argument in arguments:
        word, equals, value = argument.partition("=")
        if word.startswith("--"):
            flag = word
        if word in ("--feedback", "--no-feedback"):
            notes[word] = f"{word} is part of the rule's name now, as in --rule np+feedback"
            continue
        if (new := old_flags.get(word)) is not None:
            notes[word] = f"{word} is called {new} now"
            argument = f"{new}{equals}{value}"
        elif feedback and flag == "--rule":
            if word != flag:
                argument = _with_feedback(argument)
            elif equals:
                argument = f"{word}={_with_feedback(value)}"
        understood.append(argument)
    if notes:
        print(f"Note: {'; '.join(notes.values())}.", file=sys.stderr)
    return understood


def _with_feedback(rule: str) -> str:
    """The rule with feedback; backpropagation, which may stand beside it, stays as it is."""
    known = rules().get(rule)
    return rule if known and not known.perturbs else rule_named(rule, feedback=True).name
