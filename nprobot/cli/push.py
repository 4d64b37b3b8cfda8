"""`nprobot push`: upload a policy folder to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from nprobot.deploy.hub import files_of, push

from .arguments import parse
from .terminal import DONE, say

HELP = """\
Upload a policy folder to the Hugging Face Hub. What goes up is printed first:
the two files of the policy, its card, its curve, and its ONNX file, as far as
they are there. Nothing else in the folder is uploaded. You need an account and
`hf auth login`; needs `pip install 'nprobot[hub]'`.

examples:
  nprobot push reacher-policy me/reacher --dry-run
  nprobot push reacher-policy me/reacher
  nprobot push reacher-policy me/reacher --private
"""


@dataclass(frozen=True)
class PushOptions:
    """Options of the command."""

    folder: Annotated[Path, tyro.conf.Positional]
    """A policy folder, as `nprobot export` makes it."""
    repository: Annotated[str, tyro.conf.Positional]
    """The repository on the Hub: OWNER/NAME. It is made if it does not exist."""
    private: bool = False
    """Hide the repository from others, if it is made now."""
    dry_run: bool = False
    """Only say what would be uploaded."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(PushOptions, arguments, "push", HELP)
    console = Console()
    kind = "private if it is new" if options.private else "public if it is new"
    say(console, f"To {options.repository} on the Hugging Face Hub ({kind}):")
    for file in files_of(options.folder):
        say(console, f"  {file} ({file.stat().st_size:,} bytes)")
    if options.dry_run:
        say(console, "Nothing was uploaded.")
        return DONE
    say(console, f"Uploaded: {push(options.folder, options.repository, private=options.private)}")
    return DONE
