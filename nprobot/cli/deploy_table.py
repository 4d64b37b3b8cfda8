"""Deployed episodes on the screen: a live table on a terminal, a line an episode anywhere else."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nprobot.deploy.controller import Controller
from nprobot.deploy.simulation import Episode, SimulatedRobot
from nprobot.deploy.timing import short_duration

from .console import facts, say

SECONDS_BETWEEN_LOOKS = 0.25
ROWS = 10
"""Episodes that the live table shows; the last ones."""


class EpisodeDisplay:
    """Shows return, latency and faults of the running episode; a `StepObserver`.

    Args:
        console: where to.
        robot: the robot.
        controller: what controls it.
        episodes: how many there will be.
    """

    def __init__(
        self, console: Console, robot: SimulatedRobot, controller: Controller, episodes: int
    ) -> None:
        self.console = console
        self._robot = robot
        self._controller = controller
        self._planned = episodes
        self._episodes: list[Episode] = []
        self._running: tuple[int, int, float] | None = None
        self._next_look = 0.0
        self._live = (
            Live(console=console, auto_refresh=False, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> EpisodeDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, episode: int, length: int, total: float, info: Mapping[str, Any]) -> None:
        """A step: look again if it is time."""
        self._running = (episode, length, total)
        if self._live is not None and (now := time.monotonic()) >= self._next_look:
            self._next_look = now + SECONDS_BETWEEN_LOOKS
            self._live.update(self._view(), refresh=True)

    def ended(self, episode: Episode) -> None:
        """An episode is over: a row, or a line."""
        self._running = None
        self._episodes = [*self._episodes[-ROWS + 1 :], episode]
        if self._live is None:
            fault = f", {episode.fault}" if episode.fault else ""
            say(
                self.console,
                f"episode {episode.number + 1} of {self._planned}: return {episode.total:.1f}, "
                f"{episode.length} steps{fault}",
            )

    def _view(self) -> Group:
        table = Table("episode", "steps", "return", "late", "fault", box=box.SIMPLE_HEAD)
        for column in table.columns[:4]:
            column.justify = "right"
        for episode in self._episodes:
            table.add_row(
                *(str(episode.number + 1), f"{episode.length:,}", f"{episode.total:.1f}"),
                *(str(episode.late), episode.fault.kind if episode.fault else ""),
            )
        if self._running is not None:
            number, length, total = self._running
            fault = self._controller.fault
            table.add_row(
                *(str(number + 1), f"{length:,}", f"{total:.1f}", "", fault.kind if fault else ""),
                style="bold",
            )
        latency = Text(f"latency {self._controller.latency.summary()}", style="dim")
        return Group(Text(_title(self._robot), style="bold"), table, latency)


def summary(
    console: Console, robot: SimulatedRobot, controller: Controller, episodes: list[Episode]
) -> None:
    """Print what came out of the episodes."""
    totals = [episode.total for episode in episodes]
    rows = {"episodes": str(len(episodes))}
    if totals:
        spread = f" ± {statistics.stdev(totals):.1f}" if len(totals) > 1 else ""
        rows["return"] = f"{statistics.fmean(totals):.1f}{spread}"
        rows["lowest, highest"] = f"{min(totals):.1f}, {max(totals):.1f}"
        rows["steps"] = f"{sum(episode.length for episode in episodes):,}"
    latency = controller.latency.summary()
    if latency.steps:
        rows["latency"] = (
            f"p50 {short_duration(latency.p50)}, p99 {short_duration(latency.p99)}, "
            f"max {short_duration(latency.longest)}"
        )
        rows["missed deadlines"] = f"{latency.missed} of {latency.steps:,} steps"
    late = sum(episode.late for episode in episodes)
    if late:
        rows["late ticks"] = f"{late}; the simulation is slower than real time at these"
    faults = [str(episode.fault) for episode in episodes if episode.fault]
    rows["faults"] = "\n".join(faults) if faults else "none"
    console.print(facts(_title(robot), rows), highlight=False, markup=False)


def _title(robot: SimulatedRobot) -> str:
    rate = f" at {robot.rate:g} Hz" if robot.rate else ""
    actuators = f", {robot.actuators} actuators" if robot.actuators else ""
    return f"{robot.id}{rate}{actuators}"
