"""`nprobot adapt`: let a trained policy go on learning on a robot that breaks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from nprobot.adaptation.faults import KINDS, Fault, check_actuators, usual_faults
from nprobot.deploy.controller import load_policy
from nprobot.deploy.simulation import make_robot
from nprobot.training.environments import silence_mujoco
from nprobot.training.evaluation import DeployablePolicy

from .console import facts, say
from .displays import SECONDS_BETWEEN_LINES
from .exit_codes import DONE, INTERRUPTED
from .options import parse

if TYPE_CHECKING:
    from nprobot.adaptation.result import Adapted, LearningEpisode
    from nprobot.training.environments import Env

HELP = """\
Let a trained policy go on learning on a simulated robot whose actuators become
faulty: by NRL, on-line, with forward passes only. For the first steps it learns
only what to expect; then the faults strike. At the end there is a policy folder
with what was learned, a curve, and the episodes.

A fault is KIND:ACTUATOR=SIZE, actuators numbered from 0 on:
{kinds}

examples:
  nprobot adapt zoo:Reacher
      the usual faults: gain:0=0.4 and drift:1=0.2
  nprobot adapt runs/reacher --fault gain:0=0.4 offset:1=-0.1 --steps 100000
  nprobot adapt my-policy --fault fade:0=0.5 --actuators torque-motor --robots 1
  nprobot adapt my-policy --frozen
      the same without learning, to compare with
"""


@dataclass(frozen=True)
class RobotOptions:
    """The simulated robots, and what happens to them."""

    env: str | None = None
    """Environment id. Left out: the one it was trained on."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Arguments of the environment, as name value pairs."""
    fault: tuple[str, ...] = ()
    """Faults that strike after the calibration. Left out: gain:0=0.4 and drift:1=0.2."""
    actuators: str | None = None
    """Actuators between policy and robot: servo, torque-motor, worn-gearbox, easy, medium, hard."""
    robots: int = 8
    """Identical robots side by side, which learn together."""


@dataclass(frozen=True)
class LearningOptions:
    """How it learns."""

    steps: int = 100_000
    """Control steps of all robots together, calibration included."""
    calibration: int = 20_000
    """The first of them, in which the policy stays as it is; at their end the faults strike."""
    noise: str = "network"
    """Where perturbations come from: network (a noisy chip; nobody reads its noise), actuators
    (their own noise, by a noisy sensor; needs --actuators), injected (by the learner)."""
    node_noise: float = 0.05
    """Standard deviation of the noise in the network, in half ranges of an action."""
    learning_rate: float = 3e-4
    """Of the policy."""
    seed: int = 0
    """Of everything random."""
    frozen: bool = False
    """Learn nothing; for comparison."""


@dataclass(frozen=True)
class Adapt:
    """Options of the command."""

    policy: Annotated[str, tyro.conf.Positional]
    """A run folder, a policy folder, or zoo:NAME."""
    out: Path | None = None
    """The policy folder to make. Left out: adapted-NAME-TIME."""
    robot: RobotOptions = field(default_factory=RobotOptions)
    learning: LearningOptions = field(default_factory=LearningOptions)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    kinds = "\n".join(f"  {kind:<7} {about}" for kind, (_, about) in KINDS.items())
    options = parse(Adapt, arguments, "adapt", HELP.format(kinds=kinds))
    policy = load_policy(options.policy)
    faults = tuple(map(Fault.parse, options.robot.fault))
    out = options.out or default_folder(options.policy)

    import torch

    from nprobot.adaptation.folder import refuse_folder, save_adapted
    from nprobot.adaptation.learning import AdaptationConfig, adapt
    from nprobot.adaptation.networks import check_trainable

    trainable = check_trainable(policy)
    refuse_folder(out)
    actuators = trainable.action.outputs
    faults = faults or usual_faults(actuators)
    check_actuators(faults, actuators)
    learning = options.learning
    config = AdaptationConfig(
        steps=learning.steps,
        calibration=learning.calibration,
        robots=options.robot.robots,
        noise=learning.noise,
        node_noise=learning.node_noise,
        hardware=options.robot.actuators,
        learning_rate=learning.learning_rate,
        seed=learning.seed,
        learn=not learning.frozen,
    )
    torch.set_num_threads(1)
    silence_mujoco()
    console = Console()
    make = robot_maker(policy, options.robot.env, options.robot.env_kwargs)
    told = ", ".join(map(str, faults))
    say(console, f"{options.policy}: {told} after {config.calibration:,} steps")
    with ProgressDisplay(console, config.steps) as shown:
        result = adapt(trainable, make, faults, config, observer=shown)
    save_adapted(result, out, faults, config)
    show(console, result)
    say(console, f"Policy: {out}")
    if result.interrupted:
        return INTERRUPTED
    say(console, f"Next: nprobot deploy {out}")
    return DONE


def default_folder(reference: str) -> Path:
    """Where an adapted policy goes if nobody says."""
    name = reference.removeprefix("zoo:").rstrip("/").rpartition("/")[2] or "policy"
    return Path(f"adapted-{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def robot_maker(
    policy: DeployablePolicy, env: str | None, env_kwargs: dict[str, int | float | bool | str]
) -> Callable[[], Env]:
    """Makes the robot that the policy was trained for, ideal."""

    def make() -> Env:
        return make_robot(policy, env, env_kwargs=env_kwargs or None).env

    return make


class ProgressDisplay:
    """How far learning is: a bar on a terminal, a line now and then anywhere else."""

    def __init__(self, console: Console, steps: int | None, recent: int = 40) -> None:
        self.console = console
        self._steps = steps
        self._recent = recent
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES
        self._bar = (
            Progress(
                BarColumn(bar_width=30),
                TextColumn("{task.completed:,.0f} steps{task.fields[figures]}"),
                console=console,
                transient=True,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> ProgressDisplay:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=self._steps, figures="")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, step: int, episodes: Sequence[LearningEpisode]) -> None:
        """A control step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=self._figures(episodes))
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS_BETWEEN_LINES
            say(self.console, f"step {step:,}{self._figures(episodes)}")

    def _figures(self, episodes: Sequence[LearningEpisode]) -> str:
        last = [episode.total for episode in episodes[-self._recent :]]
        return f", return {statistics.fmean(last):.1f}" if last else ""


def show(console: Console, result: Adapted) -> None:
    """Print what learning on the robot has changed."""
    count = len(result.after.returns)
    recovered = "no" if result.recovered is None else f"after {result.recovered:,} steps"
    rows = {"healthy robot": f"{result.healthy} (policy as it was)"}
    if result.before is result.healthy:
        rows = {}
        recovered = ""
    rows |= {"before": f"{result.before} (policy as it was)", "after": f"{result.after} (adapted)"}
    if recovered:
        rows["recovered"] = recovered
    rows |= {
        "steps": f"{result.steps:,}, of which {min(result.struck, result.steps):,} calibration",
        "passes": f"{result.forward_passes:,} forward, none backward",
    }
    title = f"{result.after.env}: return of {count} episodes without exploration"
    console.print(facts(title, rows), highlight=False, markup=False)
