"""The loop that owns the simulation: steps the robots in time, obeys the page, sends it frames."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nprobot import catalogue
from nprobot.adaptation.faults import GAINS, KINDS, ActuatorFault
from nprobot.deploy import FaultKind, Watchdog
from nprobot.deploy.conditions import noises
from nprobot.deploy.loop_timing import Pacer
from nprobot.deploy.simulation import SHORTEST_WATCHDOG, WATCHDOG_PERIODS
from nprobot.errors import NprobotError
from nprobot.policies.files.policy import BoxAction

from .controls import Control, ControlGroup, controls_of, with_value
from .live_robot import LiveRobot
from .page_content import FRAMES, Array, Frame, Page, PageContent, Plot, Pull, Wish

SPEEDS = {"1": 1.0, "1/2": 0.5, "1/4": 0.25, "1/8": 0.125, "1/16": 0.0625}
"""Shares of real time."""
UNWATCHED = 2.0
"""Frames a second while nobody looks: how long a visitor waits for the first picture."""
GROUPS = 1.0
"""Seconds between two looks at whether controls show what holds, unless a visitor did something."""
ROWS = 500
"""Steps that wait at most for the page; older ones are left out of its plots."""
SAMPLE_RATE = 50.0
"""Steps a second of simulated time that plots show at most."""
READINGS = 6
"""Elements of the observation that are plotted together."""
CHIPS = ("analog", "spintronic", "0.05", "0.1", "0.2", "0.5")


class Companion(Protocol):
    """What a page shows and offers beside the robots, such as the learning of their policy."""

    @property
    def groups(self) -> tuple[ControlGroup, ...]:
        """Its controls."""

    @property
    def plots(self) -> tuple[Plot, ...]:
        """Its plots, above the others."""

    def wished(self, wish: Wish, loop: LiveLoop) -> bool:
        """Do what a visitor wants; returns whether it was its business."""

    def news(self, loop: LiveLoop, *, watched: bool) -> tuple[Mapping[str, Array], dict[str, str]]:
        """New rows of its plots, and what to show at the top; called before every frame."""


class LiveLoop:
    """Runs robots in real time, or slower, under the hands of visitors.

    Args:
        robots: side by side, all under the same conditions; the first is the one that plots show.
        ghost: a robot with another policy, drawn pale in the same place as the first.
        title: the title of the page.
        episodes: how many episodes of the first robot end the loop; None for no end.
        motors: where visitors begin to move the motors themselves, in place of a policy.
        moved: is told where the motors shall be.
        companion: what there is beside the robots.
        offers: keys of the groups of controls that the page has; all by default.
        without: conditions that visitors cannot change.
        rests: whether the robots stand still while nobody looks.
        frames: pictures a second, at most.
        clock: seconds.
        sleep: waits for the seconds that it is given.
    """

    def __init__(
        self,
        robots: Sequence[LiveRobot],
        *,
        ghost: LiveRobot | None = None,
        title: str = "nprobot",
        episodes: int | None = None,
        motors: npt.NDArray[Any] | None = None,
        moved: Callable[[npt.NDArray[Any]], None] | None = None,
        companion: Companion | None = None,
        offers: Sequence[str] | None = None,
        without: Sequence[str] = (),
        rests: bool = False,
        frames: float = FRAMES,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.robots, self.ghost, self.companion = robots, ghost, companion
        self._title, self._moved, self._offers = title, moved, offers
        self._without, self._rests, self._frames = without, rests, frames
        self._clock, self._sleep = clock, sleep
        self.first = robots[0]
        self.paused, self.speed = False, "1"
        self._late = 0
        self._pacing: Pacer | None = None
        self._goal = episodes
        self._single_step = False
        self._motor = self._reading = 0
        self._fault = ActuatorFault("gain", 0, 0.4)
        self._motors = self.first.controller.previous_action.size
        self._levels = motors if motors is None else np.array(motors, np.float64)
        self._samples: deque[tuple[float, ...]] = deque(maxlen=ROWS)
        self._every = max(1, round(1 / (self.first.period * SAMPLE_RATE)))
        self._steps, self._told = 0, 0
        self._looked = -math.inf
        self._notice = ""
        self._sent: tuple[ControlGroup, ...] = ()

    @property
    def lateness(self) -> int:
        """Ticks that it was too late for."""
        return self._late + (0 if self._pacing is None else self._pacing.late)

    @property
    def everybody(self) -> tuple[LiveRobot, ...]:
        """All robots, the ghost too."""
        return (*self.robots, *(() if self.ghost is None else (self.ghost,)))

    def content(self) -> PageContent:
        """The page as it begins."""
        model = self.first.model
        self._sent = self.groups()
        return PageContent(
            title=self._title,
            model=model,
            robots=len(self.robots),
            ghost=self.ghost is not None,
            groups=self._sent,
            plots=self._plots(),
            hint="Drag a part of the robot to pull at it, the green ball to move the target, and "
            "beside them to turn the camera."
            if model is not None
            else f"{self.first.equipped.robot.id} is not simulated by MuJoCo: no picture.",
        )

    def run(self, page: Page, ended: Callable[[], bool] = lambda: False) -> None:
        """Run until `ended`, or until the last episode."""
        period = self.first.period
        timeout = max(WATCHDOG_PERIODS * period, SHORTEST_WATCHDOG)

        def trip() -> None:
            self.first.controller.trip(f"no step for {timeout:.3g} s", FaultKind.WATCHDOG)

        # Robots that rest are pictures of a policy; nothing is to be saved from a late action.
        with nullcontext() if self._rests else Watchdog(timeout, trip) as watchdog:
            self._pacing = pacer = self._pacer(watchdog)
            speed, next_frame = self.speed, -math.inf
            while not ended() and not self._finished():
                if self._clock() >= next_frame and page.ready():
                    watched = page.visitors > 0
                    for wish in page.wishes():
                        self._obey(wish)
                    page.publish(self._frame(watched=watched))
                    next_frame = self._clock() + 1 / (self._frames if watched else UNWATCHED)
                if self.speed != speed:
                    self._late += pacer.late
                    self._pacing = pacer = self._pacer(watchdog)
                    speed = self.speed
                resting = self._rests and not page.visitors
                if resting or (self.paused and not self._single_step):
                    self._sleep(1 / FRAMES)
                    pacer.start()
                    continue
                self._single_step = False
                self._step(pacer.age())
                pacer.wait()
            self._late += pacer.late
            self._pacing = None

    def _pacer(self, watchdog: Watchdog | None) -> Pacer:
        rate = SPEEDS[self.speed] / self.first.period
        return Pacer(rate, watchdog, clock=self._clock, sleep=self._sleep)

    def _finished(self) -> bool:
        return self._goal is not None and len(self.first.episodes) >= self._goal

    def _step(self, age: float) -> None:
        for robot in self.everybody:
            robot.step(age if robot is self.first else 0.0)
        self._steps += 1
        if self._steps % self._every == 0:
            self._samples.append(self._sample())

    # -- what the page shows ---------------------------------------------------------------------

    def _plots(self) -> tuple[Plot, ...]:
        own = () if self.companion is None else self.companion.plots
        return (
            *own,
            Plot("reward", "reward of a step", ("reward",)),
            Plot("actions", "action of the motor shown", ("commanded", "realised")),
            Plot("readings", "observation", tuple(f"+{n}" for n in range(self._readings()))),
            Plot("limits", "limits touched, fault", ("limits", "fault")),
            Plot("returns", "return of an episode", ("return",), x="episode", rolling=False),
        )

    def _readings(self) -> int:
        return min(READINGS, max(1, np.size(self.first.observation)))

    def _sample(self) -> tuple[float, ...]:
        robot = self.first
        flat = np.asarray(robot.observation, np.float64).reshape(-1)
        shown = flat[self._reading : self._reading + self._readings()]
        readings = np.pad(shown, (0, self._readings() - len(shown)), constant_values=np.nan)
        return (
            robot.time,
            robot.reward,
            float(robot.commanded()[self._motor]),
            float(robot.realised()[self._motor]),
            float(robot.limits_touched()),
            float(robot.controller.fault is not None),
            *map(float, readings),
        )

    def _frame(self, *, watched: bool) -> Frame:
        samples: dict[str, Array] = {}
        if self._samples:
            rows = np.array(self._samples)
            self._samples.clear()
            samples = {
                "reward": rows[:, [0, 1]],
                "actions": rows[:, [0, 2, 3]],
                "limits": rows[:, [0, 4, 5]],
                "readings": rows[:, [0, *range(6, rows.shape[1])]],
            }
        ended = self.first.episodes[self._told :]
        if ended:
            samples["returns"] = np.array([[e.number + 1, e.total] for e in ended], np.float64)
            self._told += len(ended)
        status = self._status()
        if self.companion is not None:
            news, facts = self.companion.news(self, watched=watched)
            samples |= news
            status = facts | status
        fault = self.first.controller.fault
        notice, self._notice = self._notice, ""
        frame = Frame(
            poses=tuple(robot.pose() for robot in self.everybody) if self.first.model else (),
            samples=samples,
            status=status,
            alarm="" if fault is None else f"Stopped: {fault}",
            notice=notice,
            target=self.first.target,
            groups=self._changed_groups(),
        )
        return frame

    def _status(self) -> dict[str, str]:
        robot, conditions = self.first, self.first.equipped.conditions
        returns = [episode.total for episode in robot.episodes[-20:]]
        mean = f" (mean of {len(returns)} {np.mean(returns):.1f})" if returns else ""
        paused = "paused, " if self.paused else ""
        return {
            "robot": robot.equipped.robot.id,
            "time": f"{robot.time:.1f} s, {paused}{self.speed} of real time",
            "episode": f"{len(robot.episodes) + 1}, step {robot.length}",
            "return": f"{robot.total:.1f}{mean}",
            "actuators": conditions.actuators or "ideal",
            "faults": ", ".join(conditions.fault) or "none",
        }

    def _changed_groups(self) -> tuple[ControlGroup, ...]:
        # All controls are made anew; so not for every frame.
        if self._clock() < self._looked + GROUPS:
            return ()
        self._looked = self._clock()
        now = self.groups()
        changed = tuple(group for group in now if group not in self._sent)
        gone = {group.key for group in self._sent} - {group.key for group in now}
        emptied = tuple(replace(g, controls=()) for g in self._sent if g.key in gone)
        self._sent = now
        return changed + emptied

    # -- controls --------------------------------------------------------------------------------

    def groups(self) -> tuple[ControlGroup, ...]:
        """All controls with their present values."""
        own = () if self.companion is None else self.companion.groups
        groups = (*own, *self._robot_groups(), *self._hardware_groups(), *self._safety_groups())
        offered = [g for g in groups if g.controls]
        if self._offers is not None:
            keys = {*self._offers, *(group.key for group in own)}
            offered = [group for group in offered if group.key in keys]
        return tuple(offered)

    def _robot_groups(self) -> tuple[ControlGroup, ...]:
        robot = self.first
        run = (
            Control("pause", "check", self.paused),
            Control("step", "button", help="one control step while it is paused"),
            Control("reset", "button", help="begin the next episode"),
            Control("speed", "choice", self.speed, words=tuple(SPEEDS), help="of real time"),
        )
        stop = (
            Control("emergency_stop", "button", danger=True, help="the safe action from now on"),
            Control("clear_fault", "button", help="back to work after a stop"),
        )
        command = tuple(
            Control(name, "slider", float(value), *bounds)
            for (name, bounds), value in zip(
                robot.command_ranges.items(),
                robot.command if robot.command_ranges else (),
                strict=False,
            )
        )
        motors: tuple[Control, ...] = ()
        if self._levels is not None:
            action = robot.controller.policy.action
            assert isinstance(action, BoxAction)
            bounds = zip(action.low.reshape(-1), action.high.reshape(-1), strict=True)
            motors = tuple(
                Control(f"motor_{n}", "slider", float(self._levels[n]), float(low), float(high))
                for n, (low, high) in enumerate(bounds)
            )
        shown = []
        if (last := self._motors - 1) > 0:
            shown.append(Control("motor", "slider", self._motor, 0, last, True))
        if (last := np.size(robot.observation) - READINGS) > 0:
            shown.append(Control("observation_from", "slider", self._reading, 0, last, True))
        return (
            ControlGroup("stop", "Stop", "Robot", stop),
            ControlGroup("run", "Simulation", "Robot", run),
            ControlGroup("command", "Command", "Robot", command),
            ControlGroup("motors", "Motors", "Robot", motors),
            ControlGroup("shown", "Shown in the plots", "Robot", tuple(shown), open=False),
        )

    def _hardware_groups(self) -> tuple[ControlGroup, ...]:
        robot, equipped = self.first, self.first.equipped
        conditions, motors = equipped.conditions, self._motors
        leave_out = ["fault", "noise_strength", *self._without]
        if robot.model is None:
            leave_out += ["load", "load_body"]
        continuous = isinstance(robot.controller.policy.action, BoxAction)
        if not continuous:
            leave_out += ["actuators", "noise", "latency"]
        if self._levels is not None:
            leave_out += ["chip", "dead_nodes"]
        chips = CHIPS if conditions.chip in (None, *CHIPS) else (*CHIPS, str(conditions.chip))
        mass = 1.0 if robot.model is None else float(robot.model.body_mass.sum())
        controls = controls_of(
            conditions,
            words={
                "actuators": [n for n in catalogue.actuator_presets() if n != "ideal"],
                "chip": chips,
                "load_body": equipped.bodies,
            },
            ranges={"latency": (0.0, 0.2), "load": (0.0, max(mass, 2 * conditions.load))},
            leave_out=leave_out,
        )
        noise = tuple(
            Control(name, "slider", level, 0.0, max(4 * level, 0.2), help="strength")
            for name, level in noises(conditions.models()).items()
        )
        faults = controls_of(
            self._fault,
            words={"kind": tuple(KINDS), "actuator": [str(n) for n in range(motors)]},
            ranges={"size": (-1.0, 1.0)},
        )
        explained = tuple(
            replace(c, help="; ".join(f"{k}: {text}" for k, text in KINDS.items()))
            if c.name == "size"
            else c
            for c in faults
        )
        buttons = (
            Control("break", "button", danger=True, help="let this happen to the actuator now"),
            Control("repair", "button", help="make all actuators whole"),
        )
        return (
            ControlGroup("fault", "Break a motor", "Hardware", (*explained, *buttons) * continuous),
            ControlGroup("conditions", "Conditions", "Hardware", controls),
            ControlGroup("noise", "Noise of the actuators", "Hardware", noise),
        )

    def _safety_groups(self) -> tuple[ControlGroup, ...]:
        controller, starts = self.first.controller, {}
        if isinstance(action := controller.policy.action, BoxAction):
            starts = {
                "action_low": float(action.low.min()),
                "action_high": float(action.high.max()),
            }
        return (
            ControlGroup(
                "safety", "Limits", "Safety", controls_of(controller.safety, starts=starts)
            ),
        )

    def _obey(self, wish: Wish) -> None:
        """Do what a visitor wants, or say why not."""
        try:
            if self.companion is not None and self.companion.wished(wish, self):
                return
            getattr(self, f"_obey_{wish.group}")(wish.name, wish.value)
        except NprobotError as error:
            self._notice = str(error)
        finally:
            self._looked = -math.inf
            # The control shows what holds, whatever the visitor's browser shows.
            self._sent = tuple(group for group in self._sent if group.key != wish.group)

    def _obey_run(self, name: str, value: Any) -> None:  # noqa: ANN401 - checked by the control
        if name == "pause":
            self.paused = value
        elif name == "step":
            self._single_step = True
        elif name == "speed":
            self.speed = value
        elif name == "reset":
            for robot in self.everybody:
                robot.reset()

    def _obey_stop(self, name: str, value: Any) -> None:  # noqa: ANN401
        for robot in self.everybody:
            if name == "emergency_stop":
                robot.controller.trip("somebody pressed the emergency stop on the page")
            else:
                robot.controller.clear_fault()

    def _obey_command(self, name: str, value: Any) -> None:  # noqa: ANN401
        for robot in self.everybody:
            robot.hold_command(name, value)

    def _obey_target(self, name: str, value: Any) -> None:  # noqa: ANN401
        for robot in self.everybody:
            robot.move_target(value)

    def _obey_pull(self, name: str, value: Pull) -> None:
        self.robots[value.robot].pull = None if value.towards is None else value

    def _obey_motors(self, name: str, value: Any) -> None:  # noqa: ANN401
        assert self._levels is not None and self._moved is not None
        self._levels[int(name.removeprefix("motor_"))] = value
        self._moved(self._levels)

    def _obey_shown(self, name: str, value: Any) -> None:  # noqa: ANN401
        if name == "motor":
            self._motor = value
        else:
            self._reading = value

    def _obey_safety(self, name: str, value: Any) -> None:  # noqa: ANN401
        safety = with_value(self.first.controller.safety, name, value)
        for robot in self.everybody:
            robot.controller.change_safety(safety)

    def _obey_conditions(self, name: str, value: Any) -> None:  # noqa: ANN401
        conditions = self.first.equipped.conditions
        if name == "actuators":  # other actuators have other noise
            conditions = conditions.replace(noise_strength=())
        self.change_conditions(with_value(conditions, name, value))

    def _obey_noise(self, name: str, value: Any) -> None:  # noqa: ANN401
        conditions = self.first.equipped.conditions
        others = [t for t in conditions.noise_strength if not t.startswith(f"{name}=")]
        self.change_conditions(conditions.replace(noise_strength=(*others, f"{name}={value:.6g}")))

    def _obey_fault(self, name: str, value: Any) -> None:  # noqa: ANN401
        conditions = self.first.equipped.conditions
        if name == "repair":
            self.change_conditions(conditions.replace(fault=()))
        elif name == "break":
            new, kind = str(self._fault), f"{self._fault.kind}:{self._fault.actuator}="
            others = [text for text in conditions.fault if not text.startswith(kind)]
            self.change_conditions(conditions.replace(fault=(*others, new)))
        else:
            fault = self._fault
            size = value if name == "size" else fault.size
            kind = value if name == "kind" else fault.kind
            number = int(value) if name == "actuator" else fault.actuator
            self._fault = ActuatorFault(kind, number, abs(size) if kind in GAINS else size)

    def change_conditions(self, conditions: Any) -> None:  # noqa: ANN401 - `Conditions`
        """Put every robot under other conditions.

        Raises:
            NprobotError: they are refused; nothing has changed then.
        """
        for robot in self.everybody:
            robot.change_conditions(conditions)
