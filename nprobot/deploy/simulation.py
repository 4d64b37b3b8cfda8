"""Episodes of a controller on a simulated robot, as fast as they go or in real time."""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from nprobot.envs import ActionChunks
from nprobot.errors import DeployError, DeployWarning, NprobotError
from nprobot.training import environments
from nprobot.training.evaluation import (
    DeployablePolicy,
    StepObserver,
    check_fit,
    episode_seeds,
    task_of,
)

from .controller import Controller
from .loop_timing import Pacer, Watchdog
from .safety import ControlFault, FaultKind

SAME_RATE = 0.01
"""Relative difference of two rates that counts as none."""
WATCHDOG_PERIODS = 50
"""Control periods without a step after which a loop in real time counts as stuck."""
SHORTEST_WATCHDOG = 1.0
"""Seconds that a loop may always take: a frame of the viewer, a busy machine."""


@dataclass(frozen=True)
class SimulatedRobot:
    """A simulated robot.

    Attributes:
        env: takes the actions; with noisy actuators if some were asked for.
        id: the id of the environment.
        rate: how often it takes an action, Hz of simulated time; None if it does not say.
        actuators: preset of the actuators; None for ideal ones.
        kwargs: arguments of the environment.
    """

    env: environments.Env
    id: str
    rate: float | None
    actuators: str | None
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """What a flight record says of it, so that a policy can be cloned from the record."""
        return {
            "environment": self.id,
            "environment_kwargs": dict(self.kwargs),
            "actuators": self.actuators,
        }


def make_robot(
    policy: DeployablePolicy,
    env: str | None = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    rate: float | None = None,
    any_rate: bool = False,
    actuators: str | None = None,
    render_mode: str | None = None,
) -> SimulatedRobot:
    """Make a simulated robot for a policy.

    A policy is a function of what it sees *and* of how long its actions last, so the robot takes
    actions at the rate at which the policy learned to give them. An environment on MuJoCo that runs
    at another one is adapted (`frame_skip`) where its physics step allows.

    Args:
        policy: what will control it.
        env: environment id; by default the one it was trained on.
        env_kwargs: arguments of the environment; by default those of the training.
        rate: Hz; by default the policy's own.
        any_rate: allow another rate than the policy's, with a `DeployWarning`.
        actuators: a preset of `nprobot.envs.NoisyActuators` such as "servo".
        render_mode: gymnasium's render mode: "rgb_array" to film it, "human" to watch it.

    Raises:
        DeployError: `rate` is not the policy's, or the simulator cannot run at it.
        NprobotError: the environment is unknown, cannot be made, or does not fit the policy.
    """
    id, kwargs = task_of(policy, env, env_kwargs)

    def make(**more: Any) -> environments.Env:
        options: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        return environments.make(id, {**kwargs, **more}, actuators, **options)

    made = make()
    try:
        check_fit(policy, made, id)
        found = environments.control_rate(made)
        check_rate(policy, rate, any_rate)
        if rate is None and any_rate:
            check_rate(policy, found, any_rate)
        elif (wanted := rate or _rate_of(policy)) and not _same(found, wanted):
            made.close()
            made = _at_rate(made, id, wanted, make)
    except Exception:
        made.close()
        raise
    return SimulatedRobot(made, id, environments.control_rate(made), actuators, kwargs)


def check_rate(policy: DeployablePolicy, rate: float | None, any_rate: bool = False) -> None:
    """Refuse another rate than the policy's.

    Raises:
        DeployError: they differ, and `any_rate` is off.
    """
    own = _rate_of(policy)
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise DeployError(f"the control rate must be above 0 Hz, got {rate:g}")
    if own is None or rate is None or _same(own, rate):
        return
    message = (
        f"the policy was trained at {own:g} Hz and would act at {rate:g} Hz; its actions would "
        f"last {own / rate:.3g} times as long as it has learned"
    )
    if not any_rate:
        raise DeployError(f"{message}. Leave --rate away, or insist with --any-rate.")
    warnings.warn(message, DeployWarning, stacklevel=2)


def _rate_of(policy: DeployablePolicy) -> float | None:
    return policy.task.control_rate if policy.task else None


def _same(a: float | None, b: float | None) -> bool:
    return a is None or b is None or abs(a - b) <= SAME_RATE * b


def _at_rate(
    closed: environments.Env, id: str, rate: float, make: Callable[..., environments.Env]
) -> environments.Env:
    """An environment with as many physics steps in a control step as the rate asks for."""
    env_rate = environments.control_rate(closed) or math.nan
    problem = (
        f"{id} takes an action every {1 / env_rate:.4g} s ({env_rate:g} Hz), not at {rate:g} Hz"
    )
    model = getattr(closed.unwrapped, "model", None)
    timestep = getattr(getattr(model, "opt", None), "timestep", None)
    if timestep is None:
        raise DeployError(f"{problem}, and its rate cannot be changed")
    chunk = closed.size if isinstance(closed, ActionChunks) else 1
    skip = max(round(1 / (rate * chunk * timestep)), 1)
    if not _same(1 / (skip * chunk * timestep), rate):
        possible = ", ".join(f"{1 / (n * chunk * timestep):.4g}" for n in (1, 2, 3, 4, 5))
        raise DeployError(
            f"{problem}; with physics steps of {timestep:g} s it can run at {possible}, … Hz"
        )
    try:
        return make(frame_skip=skip)
    except NprobotError as error:
        fixed = "render_fps" in type(closed.unwrapped).metadata
        why = (
            "its metadata fix render_fps, so it runs at that rate alone"
            if fixed and isinstance(error.__cause__, AssertionError)
            else f"it takes no frame_skip ({error})"
        )
        raise DeployError(f"{problem}: {why}") from error


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
    fault: ControlFault | None
    late: int


def deploy_episodes(
    robot: SimulatedRobot,
    controller: Controller,
    *,
    episodes: int = 1,
    seed: int = 0,
    realtime: bool = False,
    clear_faults: bool = False,
    observers: Sequence[StepObserver] = (),
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Episode]:
    """Run a controller on a robot, episode by episode.

    The episodes start as those of `nprobot.training.evaluate` with the same seed. A fault does not
    end an episode: the robot gets the safe action to the end, as it would in the world. After that
    there are no more episodes, unless faults are cleared.

    Args:
        robot: from `make_robot`.
        controller: for the same policy.
        episodes: how many.
        seed: where their starts come from.
        realtime: one step each control period, with a watchdog; otherwise as fast as possible.
        clear_faults: clear a latched fault before the next episode.
        observers: are told of every step.
        clock: seconds.
        sleep: waits for the seconds that it is given.

    Yields:
        Each episode when it has ended.

    Raises:
        DeployError: real time was asked for, and the rate is unknown; or `episodes` is below 1.
    """
    if episodes < 1:
        raise DeployError(f"episodes must be 1 or more, got {episodes}")
    with ExitStack() as stack:
        pacer = None
        if realtime:
            rate = controller.rate or robot.rate
            if rate is None:
                raise DeployError(f"{robot.id} does not say how long a step is; name a --rate")
            timeout = max(WATCHDOG_PERIODS / rate, SHORTEST_WATCHDOG)
            message = f"no step for {timeout:.3g} s"
            trip = functools.partial(controller.trip, message, FaultKind.WATCHDOG)
            watchdog = stack.enter_context(Watchdog(timeout, trip))
            pacer = Pacer(rate, watchdog, clock=clock, sleep=sleep)
        for number, start in enumerate(episode_seeds(seed, episodes)):
            yield _run_episode(robot, controller, number, start, observers, pacer)
            if clear_faults:
                controller.clear_fault()
            if controller.fault is not None:
                return


def _run_episode(
    robot: SimulatedRobot,
    controller: Controller,
    number: int,
    seed: int,
    observers: Sequence[StepObserver],
    pacer: Pacer | None,
) -> Episode:
    late = pacer.late if pacer else 0
    observation, _ = robot.env.reset(seed=seed)
    controller.reset()
    if pacer is not None:
        pacer.start()
    total, length, done = 0.0, 0, False
    while not done:
        action = controller.step(observation, age=pacer.age() if pacer else 0.0)
        # `[()]` makes a number of an array without axes, which discrete environments want.
        observation, reward, terminated, truncated, info = robot.env.step(action[()])
        total += float(reward)
        length += 1
        done = terminated or truncated
        for observer in observers:
            observer(number, length, total, info)
        if pacer is not None and not done:
            pacer.wait()
    if not math.isfinite(total):
        controller.trip(f"the return of episode {number} is {total}")
    late = pacer.late - late if pacer else 0
    return Episode(number, total, length, controller.fault, late)
