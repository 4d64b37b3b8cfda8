"""`nprobot deploy`: run a trained policy on a simulated robot, or offer it to other programs."""

from __future__ import annotations

import json
import signal
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import tyro
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nprobot.deploy.conditions import Conditions, EquippedRobot, policy_under
from nprobot.deploy.controller import RECORDED, Controller, load_policy
from nprobot.deploy.flight_recorder import FlightRecord, replay
from nprobot.deploy.loop_timing import short_duration
from nprobot.deploy.rendering import Film, check_film, choose_backend, require_display
from nprobot.deploy.safety import MISSED_DEADLINES, Damping, Hold, Safety, Zero
from nprobot.deploy.server import LOOPBACK, PORT, MessageServer, PolicyServer, is_loopback
from nprobot.deploy.simulation import (
    Episode,
    SimulatedRobot,
    check_rate,
    deploy_episodes,
    make_robot,
)
from nprobot.deploy.steering import Steering
from nprobot.errors import ConfigError, DeployError
from nprobot.runs.atomic_files import free_name, refuse_file
from nprobot.runs.interruption import exit_code, note
from nprobot.training.environments import silence_mujoco
from nprobot.training.evaluation import (
    DeployablePolicy,
    StepObserver,
    step_limit,
    task_of,
    trust,
)

from .adapt import AdaptOptions, adapt_on_robot
from .arguments import FilmOptions, moved, parse
from .terminal import DONE, FAILED, INTERRUPTED, LiveDisplay, facts, say
from .view import serve_page

HELP = """\
Run a policy on a simulated robot: as fast as possible or in real time, with
limits on what it may do, and a record of what it did. Needs no torch.

examples:
  nprobot deploy zoo:InvertedPendulum --record pendulum.mp4
  nprobot deploy runs/reacher --actuators servo --realtime --episodes 10
  nprobot deploy my-policy --slew 20 --safe-action hold --flight flight.npz
  nprobot deploy my-policy --replay flight.npz
  nprobot deploy my-policy --actuators worn-gearbox --adapt
  nprobot deploy my-policy --serve
  nprobot deploy zoo:ArmReach --web
      push it, break a motor, turn up the noise: on a page in the browser
"""


@dataclass(frozen=True)
class SimulationOptions:
    """The simulated robot."""

    env: str | None = None
    """Environment id. Left out: the one it was trained on."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Arguments of the environment, as name value pairs."""
    trust: bool = False
    """Import the module that the policy's environment is in, which runs it."""
    robot: str | None = None
    """Another model file for a policy of nprobot/Robot-v0 than the one it was trained on."""
    rate: float | None = None
    """Actions a second of simulated time. Left out: what the policy was trained at."""
    any_rate: bool = False
    """Allow another rate than the policy was trained at."""


@dataclass(frozen=True)
class RunOptions:
    """What is done with it."""

    episodes: int | None = None
    """How many episodes. Left out: 1, and with --web until Ctrl-C."""
    seed: int = 0
    """Seed of the starts of the episodes, as for `nprobot evaluate`."""
    realtime: bool = False
    """One step each control period of the clock, with a watchdog. Left out: as fast as possible."""
    record: Path | None = None
    """Film it, as .mp4; needs no screen."""
    viewer: bool = False
    """Show it in a window."""
    flight: Path | None = None
    """Where the flight record goes, as .npz: all episodes, for nprobot fit --demonstrations to
    learn from. Left out: the last 10,000 steps, written only after a fault."""
    replay: Path | None = None
    """Run nothing; replay a flight record and compare the actions."""
    json: bool = False
    """Print one JSON object at the end instead of a table."""


@dataclass(frozen=True)
class SafetyOptions:
    """Limits between policy and robot; what is left out is not checked."""

    safe_action: Literal["zero", "hold", "damping"] = "zero"
    """What the robot is told after a fault."""
    velocities: tuple[int, ...] = ()
    """For damping: where in the observation the joint velocity of each actuator is."""
    damping: tuple[float, ...] = (1.0,)
    """For damping: action units per rad/s (or m/s), one number or one for each actuator."""
    action_low: tuple[float, ...] | None = None
    """Lowest action, one number or one for each actuator."""
    action_high: tuple[float, ...] | None = None
    """Highest action."""
    slew: tuple[float, ...] | None = None
    """Largest change of the action, in units a second."""
    observation_low: tuple[float, ...] | None = None
    """Lowest observation, one number or one for each element; below it is a fault."""
    observation_high: tuple[float, ...] | None = None
    """Highest observation."""
    observation_deviations: float | None = None
    """Standard deviations from the mean of training beyond which an observation is a fault."""
    max_age: float | None = None
    """Seconds after which an observation is stale."""
    max_repeats: int | None = None
    """Identical observations in a row after which a sensor counts as frozen."""
    max_missed_deadlines: int = MISSED_DEADLINES
    """Actions in a row that may take longer than a control period before it is a fault."""
    clear_faults: bool = False
    """Clear a fault before the next episode instead of ending there."""


@dataclass(frozen=True)
class ServeOptions:
    """The controller for other programs."""

    serve: bool = False
    """Answer JSON messages on a ZeroMQ socket for other programs, and simulate no robot."""
    web: bool = False
    """Show the robot on a page in the browser, in real time, where it can be pushed, broken and
    commanded. Needs nprobot[view]."""
    ghost: str | None = None
    """With --web: a second policy, drawn pale in the same scene."""
    host: str = LOOPBACK
    """Address to listen on. Beyond this machine, anybody who reaches it controls the robot."""
    port: int | None = None
    """Port to listen on; 0 for any that is free. Left out: 5757 for --serve, 8080 for --web."""


@dataclass(frozen=True)
class Deploy:
    """Options of the command."""

    policy: Annotated[str, tyro.conf.Positional]
    """A policy folder, a run folder, an .onnx file, or zoo:NAME (`nprobot policies` lists them)."""
    backend: Literal["numpy", "onnx"] = "numpy"
    """What evaluates the policy; onnx takes the folder's policy.onnx."""
    robot: SimulationOptions = field(default_factory=SimulationOptions)
    conditions: Conditions = field(default_factory=Conditions)
    steering: Steering = field(default_factory=Steering)
    run: RunOptions = field(default_factory=RunOptions)
    safety: SafetyOptions = field(default_factory=SafetyOptions)
    server: ServeOptions = field(default_factory=ServeOptions)
    learning: AdaptOptions = field(default_factory=AdaptOptions)
    film: FilmOptions = field(default_factory=FilmOptions)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(Deploy, arguments, "deploy", HELP)
    options.film.check(options.run.record)
    if options.run.episodes is not None and options.run.episodes < 1:
        raise ConfigError(f"--episodes must be 1 or more, got {options.run.episodes}")
    if options.run.flight is not None:
        refuse_file(options.run.flight, options.film.force)
    policy = load_policy(options.policy, backend=options.backend)
    if options.robot.trust:
        trust(policy)
    if options.learning.adapt:
        _refuse_with_adapt(options)
        robot = options.robot
        with _warnings_as_lines():
            # Once, for its errors and warnings; every robot after it is made in silence.
            _robot_of(policy, robot).env.close()
        return adapt_on_robot(
            policy,
            options.policy,
            lambda: _robot_of(policy, robot).env,
            options.conditions.actuators,
            options.learning,
            seed=options.run.seed,
            as_json=options.run.json,
        )
    if options.run.replay is not None:
        result = replay(FlightRecord.load(options.run.replay), policy)
        print(result)
        return DONE if result.identical else FAILED
    if options.server.web:
        return _show(policy, options)
    return _serve(policy, options) if options.server.serve else _simulate(policy, options)


def _simulate(policy: DeployablePolicy, options: Deploy) -> int:
    run = options.run
    if run.viewer and run.record is not None:
        raise DeployError("--viewer and --record cannot go together: a robot is drawn in one way")
    mode = None
    if run.viewer:
        require_display()
        mode = "human"
    if run.record is not None:
        check_film(run.record, options.film.force)
        choose_backend()  # before mujoco is imported
        mode = "rgb_array"
    silence_mujoco()
    with _warnings_as_lines():
        made = _robot_of(policy, options.robot, mode)
        robot = EquippedRobot(made, options.conditions, steering=options.steering).robot
        policy = policy_under(policy, options.conditions, run.seed)
    planned = 1 if run.episodes is None else run.episodes
    # Who asks for the record gets all of it, to learn from; else what matters is the end.
    steps = planned * (step_limit(robot.env) or RECORDED) if run.flight is not None else 0
    controller = Controller(
        policy,
        rate=robot.rate,
        safety=safety_of(options.safety),
        record=max(steps, RECORDED),
        about=robot.about,
    )
    console = Console(stderr=run.json)
    episodes: list[Episode] = []
    interrupted = False
    with ExitStack() as stack:
        stack.callback(robot.env.close)
        observers: list[StepObserver] = []
        if run.record is not None:
            observers.append(stack.enter_context(Film(run.record, robot.env, **options.film.look)))
        display = stack.enter_context(EpisodeDisplay(console, robot, controller, planned))
        observers.append(display)
        try:
            for episode in deploy_episodes(
                robot,
                controller,
                episodes=planned,
                seed=run.seed,
                realtime=run.realtime,
                clear_faults=options.safety.clear_faults,
                observers=observers,
            ):
                episodes.append(episode)
                display.ended(episode)
        except KeyboardInterrupt:
            interrupted = True
        except Exception:
            save_flight_record(console, controller, run.flight, True)
            raise
    faulted = any(episode.fault for episode in episodes) or controller.fault is not None
    if run.json:
        print(json.dumps(as_json(robot.id, episodes, controller)))
    else:
        summary(console, robot, controller, episodes)
    if run.record is not None:
        say(console, f"Film: {run.record}")
    save_flight_record(console, controller, run.flight, faulted)
    if interrupted:
        return INTERRUPTED
    return FAILED if faulted else DONE


def _show(policy: DeployablePolicy, options: Deploy) -> int:
    """The robot on a page in the browser."""
    # viser is not imported elsewhere, and only in the process of the page.
    from nprobot.view import LiveLoop, LiveRobot

    run, server = options.run, options.server
    if run.viewer or run.record is not None or server.serve:
        raise DeployError("--web does not go with --viewer, --record or --serve")
    silence_mujoco()
    policies = [policy, *([] if server.ghost is None else [load_policy(server.ghost)])]
    with _warnings_as_lines():
        robots = [
            LiveRobot(
                one,
                _robot_of(one, options.robot),
                options.conditions,
                steering=options.steering,
                safety=safety_of(options.safety),
                seed=run.seed,
            )
            for one in policies
        ]
    robot, *ghost = robots
    console = Console(stderr=run.json)
    loop = LiveLoop(
        [robot],
        ghost=ghost[0] if ghost else None,
        title=f"nprobot: {options.policy}",
        episodes=run.episodes,
    )
    interrupted = serve_page(loop, server.host, server.port, console)
    if run.json:
        print(json.dumps(as_json(robot.equipped.robot.id, robot.episodes, robot.controller)))
    else:
        summary(console, robot.equipped.robot, robot.controller, robot.episodes)
    steps = robot.controller.steps
    say(console, f"Real time: {loop.lateness:,} ticks too late, of {steps:,} steps")
    fault = robot.controller.fault
    save_flight_record(console, robot.controller, run.flight, fault is not None)
    if interrupted and run.episodes is not None:
        return INTERRUPTED
    return FAILED if fault else DONE


def _robot_of(
    policy: DeployablePolicy, options: SimulationOptions, render_mode: str | None = None
) -> SimulatedRobot:
    kwargs: dict[str, Any] | None = dict(options.env_kwargs) or None
    if options.robot is not None:
        id, own = task_of(policy, options.env, kwargs)
        kwargs = moved(dict(own), options.robot, id)
    return make_robot(
        policy,
        options.env,
        env_kwargs=kwargs,
        rate=options.rate,
        any_rate=options.any_rate,
        render_mode=render_mode,
    )


def _refuse_with_adapt(options: Deploy) -> None:
    """Refuse what has no meaning while a policy learns.

    Raises:
        DeployError: such an option was given.
    """
    given = {
        "--serve": options.server.serve,
        "--web (nprobot adapt --web shows it)": options.server.web,
        "conditions other than --actuators": options.conditions
        != Conditions(actuators=options.conditions.actuators),
        "--command, --target and --push": options.steering != Steering(),
        "--replay": options.run.replay is not None,
        "--realtime": options.run.realtime,
        "--record": options.run.record is not None,
        "--viewer": options.run.viewer,
        "--flight": options.run.flight is not None,
        "--episodes": options.run.episodes != RunOptions().episodes,
        "the limits of the safety supervisor": options.safety != SafetyOptions(),
    }
    refused = [name for name, is_given in given.items() if is_given]
    if refused:
        raise DeployError(
            f"--adapt does not go with {', '.join(refused)}: it learns on simulated robots as fast "
            "as they go, for --adapt-steps control steps, without the controller around the "
            "policy. Deploy the adapted policy afterwards."
        )


def _serve(policy: DeployablePolicy, options: Deploy) -> int:
    robot, server_options = options.robot, options.server
    with _warnings_as_lines():
        check_rate(policy, robot.rate, robot.any_rate)
    controller = Controller(policy, rate=robot.rate, safety=safety_of(options.safety))
    port = PORT if server_options.port is None else server_options.port
    with PolicyServer(controller, server_options.host, port) as server:
        console = Console()
        if not is_loopback(server_options.host):
            print(
                f"Warning: anybody who reaches {server.endpoint} controls the robot; there is no "
                "password and no encryption.",
                file=sys.stderr,
            )
        say(console, f"Serving {options.policy} at {server.endpoint}; Ctrl-C ends it.")
        sys.stdout.flush()
        with until_told_to_stop(server) as ended:
            server.serve()
        say(console, f"{server.answered:,} messages, {controller.latency.summary()}")
    if controller.fault is not None:
        say(console, f"Fault: {controller.fault}")
    save_flight_record(console, controller, options.run.flight, controller.fault is not None)
    return exit_code() if ended else DONE


def save_flight_record(
    console: Console, controller: Controller, path: Path | None, faulted: bool
) -> None:
    """Save the flight record where it was asked for, or somewhere after a fault."""
    if path is None and faulted:
        path = free_name(Path(f"flight-{time.strftime('%Y%m%d-%H%M%S')}.npz"))
    if path is not None:
        say(console, f"Flight record: {controller.recorder.record().save(path)}")


def safety_of(options: SafetyOptions) -> Safety:
    """The safety settings that the options mean."""
    safe: Zero | Hold | Damping
    if options.safe_action == "damping":
        gains = options.damping
        safe = Damping(options.velocities, gains[0] if len(gains) == 1 else gains)
    else:
        if options.velocities:
            raise ConfigError("--velocities belongs to --safe-action damping")
        safe = Zero() if options.safe_action == "zero" else Hold()
    return Safety(
        safe_action=safe,
        action_low=options.action_low,
        action_high=options.action_high,
        slew=options.slew,
        observation_low=options.observation_low,
        observation_high=options.observation_high,
        observation_deviations=options.observation_deviations,
        max_age=options.max_age,
        max_repeats=options.max_repeats,
        max_missed_deadlines=options.max_missed_deadlines,
    )


def as_json(env: str, episodes: list[Episode], controller: Controller) -> dict[str, Any]:
    """The episodes as a JSON object."""
    latency = controller.latency.summary()
    totals = [episode.total for episode in episodes]
    return {
        "env": env,
        "rate": controller.rate,
        "episodes": len(episodes),
        "returns": totals,
        "lengths": [episode.length for episode in episodes],
        "return_mean": statistics.fmean(totals) if totals else None,
        "faults": [str(episode.fault) for episode in episodes if episode.fault],
        "late": sum(episode.late for episode in episodes),
        "latency": {
            "p50": latency.p50 if latency.steps else None,
            "p99": latency.p99 if latency.steps else None,
            "max": latency.longest,
            "missed": latency.missed,
        },
    }


@contextmanager
def until_told_to_stop(server: MessageServer) -> Iterator[list[int]]:
    """Let Ctrl-C, or a polite kill, end the serving and not the program; gives the signal."""
    ended: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield ended  # signals reach the main thread only
        return
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        note(number)
        ended.append(number)
        server.stop()

    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield ended
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show what Python warns of as lines for a person, without the place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"Warning: {text}", file=sys.stderr)


SECONDS_BETWEEN_LOOKS = 0.25
ROWS = 10
"""Episodes that the live table shows; the last ones."""


class EpisodeDisplay(LiveDisplay[Live]):
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
        super().__init__(console, Live(console=console, auto_refresh=False, transient=True))
        self._robot = robot
        self._controller = controller
        self._planned = episodes
        self._episodes: list[Episode] = []
        self._running: tuple[int, int, float] | None = None
        self._next_look = 0.0

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
