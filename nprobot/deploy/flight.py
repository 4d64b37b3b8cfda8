"""Episodes of a controller on a simulated robot, as fast as they go or in real time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from nprobot.errors import DeployError
from nprobot.training.evaluation import episode_seeds

from .controller import Controller
from .faults import Fault, FaultKind
from .pacing import Pacer
from .robot import Robot
from .watchdog import Watchdog

WATCHDOG_PERIODS = 50
"""Control periods without a step after which a loop in real time counts as stuck."""
SHORTEST_WATCHDOG = 1.0
"""Seconds that a loop may always take: a frame of the viewer, a busy machine."""


@dataclass(frozen=True)
class Episode:
    """What came out of an episode.

    Attributes:
        number: from 0 on.
        total: undiscounted return.
        length: steps.
        fault: that was latched at its end; None if all went well.
        late: ticks that the loop was too late for; 0 unless in real time.
    """

    number: int
    total: float
    length: int
    fault: Fault | None
    late: int


class Observer(Protocol):
    """Watches a flight."""

    def moved(self, episode: int, length: int, total: float) -> None:
        """A step has been taken: number of the episode, its steps and return so far."""


class Nobody:
    """Watches nothing."""

    def moved(self, episode: int, length: int, total: float) -> None:
        """Nothing."""


def fly(
    robot: Robot,
    controller: Controller,
    *,
    episodes: int = 1,
    seed: int = 0,
    realtime: bool = False,
    clear_faults: bool = False,
    observer: Observer | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Episode]:
    """Run a controller on a robot, episode by episode.

    The episodes start as those of `nprobot.training.evaluate` with the same seed. A fault does not
    end an episode: the robot gets the safe action to the end, as it would in the world. After that
    the flight ends, unless faults are cleared.

    Args:
        robot: from `make_robot`.
        controller: for the same policy.
        episodes: how many.
        seed: where their starts come from.
        realtime: one step each control period, with a watchdog; otherwise as fast as it goes.
        clear_faults: clear a latched fault before the next episode.
        observer: is told of every step.
        clock: seconds.
        sleep: waits for so many seconds.

    Yields:
        Each episode when it has ended.

    Raises:
        DeployError: real time was asked for, and nobody knows the rate.
        DeployError: `episodes` is below 1.
    """
    if episodes < 1:
        raise DeployError(f"episodes must be 1 or more, got {episodes}")
    with ExitStack() as stack:
        loop = stack.enter_context(_RealTime(robot, controller, clock, sleep)) if realtime else None
        for number, start in enumerate(episode_seeds(seed, episodes)):
            yield _episode(robot, controller, number, start, observer or Nobody(), loop)
            if clear_faults:
                controller.clear_fault()
            if controller.fault is not None:
                return


class _RealTime:
    """The loop of a robot that does not wait: ticks, ages, and a watchdog."""

    def __init__(
        self,
        robot: Robot,
        controller: Controller,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        rate = controller.rate or robot.rate
        if rate is None:
            raise DeployError(f"{robot.id} does not say how long a step is; name a --rate")
        timeout = max(WATCHDOG_PERIODS / rate, SHORTEST_WATCHDOG)

        def stuck() -> None:
            controller.trip(f"no step for {timeout:.3g} s", FaultKind.WATCHDOG)

        self.pacer = Pacer(rate, clock=clock, sleep=sleep)
        self._watchdog = Watchdog(timeout, stuck)
        self._clock = clock
        self._measured = 0.0

    def __enter__(self) -> _RealTime:
        self._watchdog.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._watchdog.__exit__(*exception)

    def begin(self) -> None:
        """An episode begins now."""
        self.pacer.start()
        self._tick()

    def wait(self) -> None:
        """Wait for the next tick, when the robot is measured."""
        self.pacer.wait()
        self._tick()

    def age(self) -> float:
        """Time since the robot was measured, s."""
        return self._clock() - self._measured

    def _tick(self) -> None:
        self._watchdog.feed()
        self._measured = self._clock()


def _episode(
    robot: Robot,
    controller: Controller,
    number: int,
    seed: int,
    observer: Observer,
    loop: _RealTime | None,
) -> Episode:
    late = loop.pacer.late if loop else 0
    observation, _ = robot.env.reset(seed=seed)
    controller.reset()
    if loop is not None:
        loop.begin()
    total, length, done = 0.0, 0, False
    while not done:
        action = controller.step(observation, age=loop.age() if loop else 0.0)
        # `[()]` makes a number of an array without axes, which discrete environments want.
        observation, reward, terminated, truncated, _ = robot.env.step(action[()])
        total += float(reward)
        length += 1
        done = terminated or truncated
        observer.moved(number, length, total)
        if loop is not None and not done:
            loop.wait()
    if not math.isfinite(total):
        controller.trip(f"the return of episode {number} is {total}")
    late = loop.pacer.late - late if loop else 0
    return Episode(number, total, length, controller.fault, late)
