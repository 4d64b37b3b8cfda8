"""The command-line reference: a page with the options of each command, as tyro reads them."""

from __future__ import annotations

import importlib
import re
import warnings
from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tyro
from api_pages import replace
from sphinx.application import Sphinx

from nprobot.cli import COMMANDS


class Asked(Exception):
    """What a command asked tyro for."""

    def __init__(self, options: Any, settings: dict[str, Any]) -> None:  # noqa: ANN401
        super().__init__()
        self.options, self.settings = options, settings


def parser_of(command: str) -> ArgumentParser:
    """The parser that tyro makes of a command's options."""

    def ask(options: Any, **settings: Any) -> None:  # noqa: ANN401
        raise Asked(options, settings)

    with patch.object(tyro, "cli", ask):
        try:
            importlib.import_module(f"nprobot.cli.{command}").main([])
        except Asked as asked:
            asked.settings.pop("args", None)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                return tyro.extras.get_parser(asked.options, **asked.settings)
    raise AssertionError(f"nprobot {command} asks tyro for nothing")


def page(command: str) -> str:
    """Markdown: what a command does, examples, a list for each group of options."""
    parser = parser_of(command)
    about, _, examples = str(parser.description).partition("examples:\n")
    title = f"nprobot {command}"
    lines = [f"# {title}", "", escape(about.strip()), ""]
    if examples:
        shown = "\n".join(line.removeprefix("  ") for line in examples.rstrip().splitlines())
        lines += ["```text", shown, "```", ""]
    for group in parser._action_groups:
        actions = [
            action for action in group._group_actions if "--help" not in action.option_strings
        ]
        if not actions:
            continue
        lines += [f"## {str(group.title).capitalize()}", ""]
        for action in actions:
            names = ", ".join(f"`{name}`" for name in action.option_strings)
            value = action.metavar if isinstance(action.metavar, str) else ""
            text = " ".join(str(action.help or "").split())
            text = re.sub(r"\s*\(default: (None)?\)$", "", text)
            place = f"`{action.dest.rpartition('.')[2].upper()}`"  # of an argument without a name
            term = f"{names} `{value}`" if names and value else names or place
            lines += [term, f": {escape(text) or 'See above.'}", ""]
    return "\n".join(lines)


def escape(text: str) -> str:
    """Text that Markdown shows as it stands, but for names in backticks, options and lists."""
    parts = re.split(r"(`[^`]*`)", text)
    for place in range(0, len(parts), 2):
        plain = re.sub(r"([*_|<>\[\]$])", r"\\\1", parts[place])
        parts[place] = re.sub(r"(?<![\w-])--[a-z][\w-]*", r"`\g<0>`", plain)
    return re.sub(r"(\n  .*)+", lambda m: f"\n\n```text{m[0]}\n```\n", "".join(parts))


def write(app: Sphinx) -> None:
    """Write the pages that have changed, and the list of them."""
    folder = Path(app.srcdir) / "reference" / "command-line"
    folder.mkdir(exist_ok=True)
    rows = [f"| [`nprobot {name}`]({name}.md) | {text} |" for name, text in COMMANDS.items()]
    for command in COMMANDS:
        replace(folder / f"{command}.md", page(command))
    table = ["| command | what it does |", "|---|---|", *rows]
    tree = ["```{toctree}", ":hidden:", "", *COMMANDS, "```"]
    about = [
        "One program does everything; `nprobot COMMAND --help` prints what stands here.",
        "Exit codes: 0 done, 1 the work failed, 2 a wrong command, 130 interrupted.",
    ]
    text = ["# Command line", "", *about, "", *table, "", *tree, ""]
    replace(folder / "index.md", "\n".join(text))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
