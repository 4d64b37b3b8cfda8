"""How a benchmark looks to whoever started it: bars on a terminal, a line a run anywhere else."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

from nprobot.benchmark.engine import Event
from nprobot.benchmark.rows import DONE

from .displays import Lines


def bench_display(console: Console, total: int, there: int) -> BenchLines:
    """The display that suits where the output goes.

    Args:
        console: where it goes.
        total: runs of the suite.
        there: runs that have a row already.
    """
    kind = BenchBars if console.is_terminal else BenchLines
    return kind(console, total, there)


class BenchLines(Lines):
    """A line for every run that ends."""

    def __init__(self, console: Console, total: int, there: int) -> None:
        super().__init__(console)
        self.total = total
        self.ended = there

    def event(self, event: Event) -> None:
        """A line, if a run has ended."""
        if event.row is None:
            return
        self.ended += 1
        if event.row["status"] == DONE:
            spent = f"{event.row['cpu_seconds']:.0f} s of CPU"
            figures = f"return {event.row['return_mean']:.1f}, {spent}"
        else:
            figures = f"{event.row['status']}: {event.row['error']}"
        self.message(f"{self.ended} of {self.total}: {event.spec}: {figures}")


class BenchBars(BenchLines):
    """A bar for the whole and one for each run in flight, lines above them."""

    def __init__(self, console: Console, total: int, there: int) -> None:
        super().__init__(console, total, there)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            Elapsed(),
            console=console,
        )
        self._whole = self._bars.add_task("runs", total=total, completed=there)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BenchBars:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def event(self, event: Event) -> None:
        """Move the bars."""
        key = event.spec.key
        if event.row is None:
            if key not in self._tasks:
                self._tasks[key] = self._bars.add_task(str(event.spec), total=event.spec.steps)
            self._bars.update(self._tasks[key], completed=event.steps)
            return
        if key in self._tasks:
            self._bars.remove_task(self._tasks.pop(key))
        super().event(event)
        self._bars.update(self._whole, completed=self.ended)
