"""What the displays of long work share: lines for log files and pipes, a bar on a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TaskID

from .console import say

SECONDS_BETWEEN_LINES = 10.0


class Lines:
    """Messages, and a line every ten seconds.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def now_and_then(self, text: str) -> None:
        """A line, if the last one is some time ago."""
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self.message(text)

    def message(self, text: str) -> None:
        """A line."""
        self._last_line = time.monotonic()
        say(self.console, text)


class Bars(Lines):
    """Bars that stay at the bottom, messages above them.

    Args:
        console: where to.
        columns: of every bar.
    """

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        super().__init__(console)
        self._bars = Progress(*columns, console=console)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def move(self, completed: float, total: float, **fields: Any) -> None:
        """Move the only bar, which appears when it first moves.

        Args:
            completed: how far the work is.
            total: how far it goes.
            fields: what the columns show beside.
        """
        if self._task is None:
            self._task = self._bars.add_task("", total=total, **fields)
        self._bars.update(self._task, completed=completed, **fields)
