"""The page in its own process, so that no browser can make a loop wait."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from typing_extensions import override

from nprobot.errors import DeployError, MissingPackageError

from .page_content import LOOPBACK, PORT, Frame, PageContent, Wish

OUTSTANDING = 2
"""Frames that the page may be behind; with more, a loop that sends would fill the pipe."""
START = 120.0
"""Seconds that the page has to load its libraries."""
LEAVE = 0.5
"""Seconds that the process has to send the visitors away; it holds nothing that could be lost."""
TICK = 0.02
"""Seconds between two looks for wishes while no frame comes."""


class PageProcess:
    """A page in a process that ends with the block of `with`."""

    _process: BaseProcess

    def close(self) -> None:
        """End the page."""
        raise NotImplementedError

    def _wait(self) -> None:
        """Wait for the process, not for long."""
        self._process.join(LEAVE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class RemotePage(PageProcess):
    """A page that another process serves; a `Page`.

    A frame is sent only while the page is at most `OUTSTANDING` behind, so sending never waits. If
    the process ends, the loop continues without a page.

    Args:
        content: as it begins.
        host: address to listen on.
        port: port to listen on, the next free one if it is taken; 0 for any.

    Attributes:
        url: the address of the page.
        pid: number of the process.

    Raises:
        MissingPackageError: viser or mjviser is not installed.
        DeployError: the page cannot be served.
    """

    def __init__(self, content: PageContent, host: str = LOOPBACK, port: int = PORT) -> None:
        require_packages()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, content, host, port), daemon=True
        )
        self._process.start()
        theirs.close()
        self._visitors = self._outstanding = 0
        self._wishes: list[Wish] = []
        self._gone = False
        self.pid = self._process.pid
        self.url = started(self._connection)

    @property
    def visitors(self) -> int:
        """How many look; 0 if the page has ended."""
        self._listen()
        return self._visitors

    def ready(self) -> bool:
        """Whether the page has done with most of what it was sent."""
        self._listen()
        return not self._gone and self._outstanding < OUTSTANDING

    def publish(self, frame: Frame) -> None:
        """Show a frame, if the page is `ready`."""
        if not self.ready():
            return
        try:
            self._connection.send(frame)
        except OSError:
            self._end()
        else:
            self._outstanding += 1

    def wishes(self) -> list[Wish]:
        """What the visitors have asked for since the last call."""
        self._listen()
        wishes, self._wishes = self._wishes, []
        return wishes

    @override
    def close(self) -> None:
        self._end()
        self._wait()

    def _listen(self) -> None:
        try:
            while not self._gone and self._connection.poll():
                done, self._visitors, wishes = self._connection.recv()
                self._outstanding -= done
                self._wishes += wishes
        except (EOFError, OSError):
            self._end()

    def _end(self) -> None:
        if not self._gone:
            self._gone, self._visitors = True, 0
            self._connection.close()


def started(connection: Connection) -> str:
    """The address of a page that another process begins to serve.

    Raises:
        DeployError: it could not.
    """
    try:
        url, error = connection.recv() if connection.poll(START) else ("", "it does not answer")
    except EOFError:
        url, error = "", "its process has ended"
    if error:
        raise DeployError(f"the page could not be made: {error}")
    return str(url)


def require_packages() -> None:
    """Refuse to begin without the packages of the page, before work is done for it.

    Raises:
        MissingPackageError: they are not installed.
    """
    import importlib.util

    if missing := [n for n in ("viser", "mjviser") if importlib.util.find_spec(n) is None]:
        raise MissingPackageError(
            f"the page needs {' and '.join(missing)}: pip install 'nprobot[view]'"
        )


def begin_process() -> None:
    """Make this process one that serves a page: polite, quiet, and deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the loop is told, and ends the page
    with contextlib.suppress(OSError, AttributeError):
        os.nice(5)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives


def _serve(connection: Connection, content: PageContent, host: str, port: int) -> None:
    begin_process()
    try:
        from .browser_page import BrowserPage

        page = BrowserPage(content, host, port)
    except Exception as error:
        connection.send(("", str(error)))
        return
    connection.send((page.url, ""))
    visitors = 0
    with contextlib.suppress(EOFError, OSError):
        while True:
            done = connection.poll(TICK)
            if done:
                frame: Any = connection.recv()
                assert isinstance(frame, Frame)
                page.publish(frame)
            wishes = page.wishes()
            if done or wishes or visitors != page.visitors:
                visitors = page.visitors
                connection.send((int(done), visitors, wishes))
    page.close()
