"""The page of something that learns: another process shows the policy as it is, and the curve.

The learner is asked for news now and then, and sends them; it never waits. The page has robots of
its own, in real time, that act as the newest policy does; while nobody looks it does nothing.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from nprobot.deploy import make_robot
from nprobot.deploy.conditions import Conditions
from nprobot.policies.files.policy import Policy
from nprobot.runs.log import column, read_table
from nprobot.training.environments import silence_mujoco
from nprobot.training.evaluation import trust

from .controls import Control, ControlGroup
from .live_loop import LiveLoop
from .live_robot import LiveRobot
from .page_content import LOOPBACK, PORT, Array, Plot, Wish
from .remote_page import PageProcess, begin_process, require_packages

LOOK = 0.05
"""Seconds between two looks of a learner at its page."""
ASK, ASK_UNWATCHED = 1.0, 10.0
"""Seconds between two questions of the page, while somebody looks and otherwise."""
CURVES = {
    "learning": ("return while it learns", "rollout/ep_rew_mean"),
    "evaluation": ("return of evaluations", "eval/mean_reward"),
}
"""Plots of a run: their keys, their titles, and the columns of its table."""


@dataclass(frozen=True)
class LearningSetup:
    """What the page of a learner begins with.

    Attributes:
        title: the title of the page.
        policy: as it is at the beginning.
        env: id of the environment; None for the policy's own.
        env_kwargs: its arguments; None for the policy's own.
        conditions: that the robots work under.
        robots: how many are shown.
        adapts: whether visitors can break the learner's robots, and undo what it has learned;
            then the policy of the beginning is there as a ghost.
        folder: the folder of a run, whose table has the curve; None where the news bring it.
        seed: the seed of the episodes.
    """

    title: str
    policy: Policy
    env: str | None = None
    env_kwargs: Mapping[str, Any] | None = None
    conditions: Conditions = field(default_factory=Conditions)
    robots: int = 1
    adapts: bool = False
    folder: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class LearningNews:
    """What a learner tells its page.

    Attributes:
        policy: as it is now.
        returns: new points of the curve, (n, 2): steps and return.
        facts: names and values for the top of the page.
    """

    policy: Policy
    returns: Array = field(default_factory=lambda: np.empty((0, 2)))
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """What visitors want of a learner: other conditions, "learn" (on or off), "undo"."""

    name: str
    value: Any = True


class LearningPage(PageProcess):
    """A learner's end of its page.

    Args:
        setup: the setup of the page.
        host: address to listen on.
        port: port to listen on, the next free one if it is taken; 0 for any.
        found: told the address as soon as the page is there, or why there is none.
        clock: seconds.

    Attributes:
        wanted: whether the page has asked for news.
        url: the address of the page; empty while it is being made.

    Raises:
        MissingPackageError: viser or mjviser is not installed.
    """

    def __init__(
        self,
        setup: LearningSetup,
        host: str = LOOPBACK,
        port: int = PORT,
        *,
        found: Callable[[str, str], None] = lambda url, error: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        require_packages()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve_learning, args=(theirs, setup, host, port), daemon=True
        )
        self._process.start()
        theirs.close()
        self._found, self._clock, self._next = found, clock, 0.0
        self._gone, self.wanted, self.url = False, False, ""
        self.pid = self._process.pid

    def orders(self) -> list[Order]:
        """What visitors want since the last call; takes no time while there is nothing new."""
        now = self._clock()
        if self._gone or now < self._next:
            return []
        self._next = now + LOOK
        orders: list[Order] = []
        try:
            while self._connection.poll():
                message = self._connection.recv()
                if isinstance(message, Order):
                    orders.append(message)
                elif message is None:
                    self.wanted = True
                else:
                    self.url, error = message
                    self._found(self.url, error)
        except (EOFError, OSError):
            self._gone = True
        return orders

    def send(self, news: LearningNews) -> None:
        """Answer a question of the page; it asks again when it has read the answer."""
        self.wanted = False
        try:
            self._connection.send(news)
        except OSError:
            self._gone = True

    @override
    def close(self) -> None:
        self._gone = True
        self._connection.close()
        self._wait()


class _Learner:
    """The learner as its page sees it; a `Companion`."""

    def __init__(self, connection: Connection, setup: LearningSetup) -> None:
        self._connection, self._setup = connection, setup
        self._next, self._asked, self._learns = 0.0, False, True
        self._told = setup.conditions
        self._points = dict.fromkeys(CURVES, 0)
        self.ended = False
        self._facts: dict[str, str] = {}

    @property
    def groups(self) -> tuple[ControlGroup, ...]:
        """Learning on or off, and undo."""
        if not self._setup.adapts:
            return ()
        controls = (
            Control("learn", "check", self._learns, help="whether the policy continues to learn"),
            Control("undo_learning", "button", help="back to the policy as it was"),
        )
        return (ControlGroup("learning", "Learning", "Robot", controls),)

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Return over steps."""
        keys = ["learning"] if self._setup.folder is None else list(CURVES)
        return tuple(
            Plot(key, CURVES[key][0], ("return",), x="steps", rolling=False) for key in keys
        )

    def wished(self, wish: Wish, loop: LiveLoop) -> bool:
        """Pass on what concerns learning."""
        if wish.group != "learning":
            return False
        if wish.name == "learn":
            self._learns = wish.value
            self._tell(Order("learn", wish.value))
        else:
            self._tell(Order("undo"))
        return True

    def news(self, loop: LiveLoop, *, watched: bool) -> tuple[dict[str, Array], dict[str, str]]:
        """The newest policy to the robots, new points to the curve."""
        conditions = loop.first.equipped.conditions
        if self._setup.adapts and conditions != self._told:
            self._told = conditions
            self._tell(Order("conditions", conditions))
        points: dict[str, list[Array]] = {key: [] for key in CURVES}
        try:
            while not self.ended and self._connection.poll():
                news: LearningNews = self._connection.recv()
                self._asked = False
                for robot in loop.robots:
                    robot.change_policy(news.policy)
                points["learning"].append(news.returns)
                self._facts = dict(news.facts)
        except (EOFError, OSError):
            self.ended = True
        now = time.monotonic()
        if not self._asked and now >= self._next:
            self._asked = True
            self._next = now + (ASK if watched else ASK_UNWATCHED)
            self._tell(None)
            for key, rows in self._rows().items():
                points[key].append(rows)
        found = {key: np.concatenate(rows) for key, rows in points.items() if rows}
        return {key: rows for key, rows in found.items() if len(rows)}, self._facts

    def _rows(self) -> dict[str, Array]:
        """New points of the curves of a run."""
        if self._setup.folder is None or not (self._setup.folder / "progress.csv").exists():
            return {}
        table, new = read_table(self._setup.folder / "progress.csv"), {}
        for key, (_, name) in CURVES.items():
            points = np.array(list(zip(*column(table, name), strict=True)), np.float64)
            new[key] = points.reshape(-1, 2)[self._points[key] :]
            self._points[key] += len(new[key])
        return new

    def _tell(self, message: Order | None) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(message)


def learning_loop(connection: Connection, setup: LearningSetup) -> tuple[LiveLoop, _Learner]:
    """The loop of a learner's page, and the learner as it sees it."""

    def robot(number: int) -> LiveRobot:
        made = make_robot(setup.policy, setup.env, env_kwargs=setup.env_kwargs, any_rate=True)
        # The ghost meets the same starts as the first robot.
        return LiveRobot(setup.policy, made, setup.conditions, seed=setup.seed + number)

    # This process shows what the one that started it has imported and runs.
    trust(setup.policy)
    learner = _Learner(connection, setup)
    loop = LiveLoop(
        [robot(number) for number in range(setup.robots)],
        ghost=robot(0) if setup.adapts else None,
        title=setup.title,
        companion=learner,
        offers=("run", "command", "fault", "conditions", "noise", "shown")
        if setup.adapts
        else ("run", "command", "shown"),
        without=("chip", "dead_nodes", "load", "load_body"),
        rests=True,
    )
    return loop, learner


def _serve_learning(connection: Connection, setup: LearningSetup, host: str, port: int) -> None:
    begin_process()
    silence_mujoco()
    try:
        from .browser_page import BrowserPage

        loop, learner = learning_loop(connection, setup)
        page = BrowserPage(loop.content(), host, port)
    except Exception as error:
        connection.send(("", str(error)))
        return
    connection.send((page.url, ""))
    loop.run(page, lambda: learner.ended)
    page.close()
