"""`nprobot view`: a robot's model on a page in the browser; and how every page is served."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from nprobot.deploy.conditions import Conditions
from nprobot.deploy.server import LOOPBACK, is_loopback
from nprobot.training.environments import silence_mujoco
from nprobot.view.page_content import PORT

from .arguments import parse
from .terminal import DONE, say

if TYPE_CHECKING:
    from nprobot.view import LiveLoop

HELP = """\
Show a robot's model (MJCF or URDF) on a page in the browser: move its motors,
push it, hang a load on it, break a motor. Needs nprobot[view].

examples:
  nprobot view scene.xml
  nprobot view robot.urdf --port 0 --load 2 --load-body gripper
"""


@dataclass(frozen=True)
class PageOptions:
    """The page in the browser."""

    web: bool = False
    """Show it on a page in the browser. Needs nprobot[view]."""
    host: str = LOOPBACK
    """Address to listen on. Beyond this machine, anybody who reaches it can do what you can do on
    the page."""
    port: int | None = None
    """Port to listen on; 0 for any that is free. Left out: 8080."""

    @property
    def port_or_default(self) -> int:
        """The port."""
        return PORT if self.port is None else self.port


@dataclass(frozen=True)
class View:
    """Options of the command."""

    model: Annotated[Path, tyro.conf.Positional]
    """The model's file."""
    rate: float = 50.0
    """Control steps a second of simulated time, as near as the model's physics step allows."""
    host: str = LOOPBACK
    """Address to listen on. Beyond this machine, anybody who reaches it moves the robot."""
    port: int | None = None
    """Port to listen on; 0 for any that is free. Left out: 8080."""
    conditions: Conditions = field(default_factory=Conditions)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(View, arguments, "view", HELP)
    from nprobot.view.remote_page import require_packages
    from nprobot.view.scene_env import scene_loop

    require_packages()
    silence_mujoco()
    loop = scene_loop(options.model, options.conditions, rate=options.rate)
    serve_page(loop, options.host, options.port, Console())
    return DONE


def serve_page(loop: LiveLoop, host: str, port: int | None, console: Console) -> bool:
    """Run a loop with a page until it ends; returns whether Ctrl-C ended it.

    Raises:
        MissingPackageError: the packages of the page are not installed.
        DeployError: the page cannot be served.
    """
    from nprobot.view import RemotePage

    with RemotePage(loop.content(), host, PORT if port is None else port) as page:
        announce(page.url, host, console)
        try:
            loop.run(page)
        except KeyboardInterrupt:
            return True
    return False


def announce_later(url: str, error: str, *, host: str, console: Console) -> None:
    """The same for a page that is made beside other work, and may fail."""
    if error:
        say(console, f"There is no page: {error}")
    else:
        announce(url, host, console)


def announce(url: str, host: str, console: Console) -> None:
    """Say where a page is, and who can reach it."""
    if not is_loopback(host):
        print(
            f"Warning: the page listens on {host}. Anybody who reaches it sees the robot and does "
            "with it what you can do; there is no password and no encryption. Nobody can reach "
            "files or run code through it.",
            file=sys.stderr,
        )
        say(console, f"Page: {url}; Ctrl-C ends it.")
    else:
        say(console, f"Page: {url} (this machine alone; Ctrl-C ends it).")
    sys.stdout.flush()
