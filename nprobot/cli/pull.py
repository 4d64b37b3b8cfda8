"""`nprobot pull`: download a policy folder from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from nprobot.deploy.hub import pull

from .arguments import parse
from .terminal import DONE, say

HELP = """\
Download a policy folder from the Hugging Face Hub. Only the files of a policy
are taken, and they are checked: a policy of a stranger can be refused, and
nothing in it is executed. Needs `pip install 'nprobot[hub]'`.

examples:
  nprobot pull me/reacher
  nprobot pull me/reacher --revision v1 --out reacher-policy
  nprobot deploy reacher
"""


@dataclass(frozen=True)
class PullOptions:
    """Options of the command."""

    repository: Annotated[str, tyro.conf.Positional]
    """The repository on the Hub: OWNER/NAME."""
    out: Path | None = None
    """The folder to make. Left out: NAME."""
    revision: str | None = None
    """A branch, a tag or a commit. Left out: the newest."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(PullOptions, arguments, "pull", HELP)
    out = options.out or Path(options.repository.rpartition("/")[2] or "policy")
    console = Console()
    say(console, f"Policy: {pull(options.repository, out, revision=options.revision)}")
    say(console, f"Next: nprobot deploy {out}")
    return DONE
