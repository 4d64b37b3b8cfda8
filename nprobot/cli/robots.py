"""`nprobot robots`: the robots of the package, and what is in a model file of yours."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from nprobot.deploy.rendering import choose_backend
from nprobot.envs import ROBOT, robots
from nprobot.errors import ConfigError, DeployError, NprobotError
from nprobot.training.environments import Env, make, silence_mujoco

from .arguments import parse
from .terminal import DONE, FAILED, facts, say

HELP = """\
Robots from MuJoCo model files: those of the package, and yours.

examples:
  nprobot robots
      the robots of the package
  nprobot robots check scene.xml
      what is in a file: joints, actuators, feet, cameras; what is missing or odd;
      what the robot does when it is told nothing; a picture of it
  nprobot robots task velocity > my_task.toml
      a task to edit, for `nprobot train --robot scene.xml --task my_task.toml`
  nprobot train --robot scene.xml --task velocity
"""

TRIAL = 4.0
"""Seconds that a robot is tried for."""


@dataclass(frozen=True)
class Robots:
    """Options of the command."""

    action: Annotated[Literal["list", "check", "task"], tyro.conf.Positional] = "list"
    """list the robots of the package; check a model file; print a task as TOML."""
    what: Annotated[str, tyro.conf.Positional] = ""
    """To check: a file, or a robot of the package. To print: the name of a task."""
    task: str | None = None
    """The task that a robot is tried in. Left out: what suits it."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Options of that task, as name value pairs."""
    picture: Path | None = None
    """File for the picture, .png. Left out: NAME-check.png in this folder."""
    json: bool = False
    """Print JSON instead of tables."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(Robots, arguments, "robots", HELP)
    if options.action == "task":
        print_task(options.what or "velocity")
        return DONE
    if options.action == "check":
        if not options.what:
            raise ConfigError("name a model file: nprobot robots check scene.xml")
        return check(options)
    if options.json:
        print(json.dumps({name: about for name, (_, about) in robots.ROBOTS.items()}, indent=1))
        return DONE
    console = Console()
    console.print(
        facts("robots of the package", {name: about for name, (_, about) in robots.ROBOTS.items()})
    )
    console.print(facts("tasks", {str(name): about for name, about in robots.TASKS.items()}))
    say(console, "Train one: nprobot train --robot quadruped --task velocity")
    say(console, "Yours: nprobot robots check scene.xml")
    return DONE


def print_task(name: str) -> None:
    """Print a task as TOML, with what else it could have as comments."""
    task = robots.load_task(name)
    about = robots.TASKS[task.task]
    print(f"# A task for `nprobot train --robot FILE --task THIS.toml`: {about}.")
    print(f"# Parts of an observation: {', '.join(robots.PARTS)}.")
    print(f"# Reward terms: {', '.join(robots.TERMS)}; or module:function of yours.")
    print(task.to_toml(), end="")


def check(options: Robots) -> int:
    """Say what is in a model file; exit code 1 if no task can run on it."""
    picture = options.picture
    if picture is not None and picture.suffix.lower() != ".png":
        raise ConfigError(f"a picture is a .png, got {picture}")
    problem = ""
    try:
        choose_backend()  # before mujoco draws
    except DeployError as error:
        if picture is not None:
            raise
        problem = str(error)
    silence_mujoco()
    robot = robots.inspect_robot(options.what)
    trial, env = _try(robot, options, drawn=not problem)
    if env is not None and not problem:
        picture = picture or Path(f"{robot.name}-check.png")
        draw(env, picture)
        env.close()
    if options.json:
        print(json.dumps({**robot.to_dict(), "trial": trial, "picture": picture and str(picture)}))
        return DONE if env is not None else FAILED
    console = Console(width=max(Console().width, 100))
    show(console, robot, trial)
    if env is None:
        return FAILED
    if problem:
        say(console, f"Not drawn: {problem}")
    else:
        say(console, f"Picture: {picture}")
    task = options.task or robot.suits[0]
    say(console, f"Train it: nprobot train --robot {options.what} --task {task}")
    return DONE


def show(console: Console, robot: robots.RobotDescription, trial: dict[str, Any]) -> None:
    """Print a description for a person."""
    ranges = {j.name: (j.low, j.high) for j in robot.joints}
    base = {"free": "moves freely", "planar": "moves on a boom", "fixed": "does not move"}
    console.print(
        facts(
            robot.name,
            {
                "base": f"{robot.base_body}, {base[robot.base]}",
                "mass": f"{robot.mass:.4g} kg",
                "home": f"{robot.home_source}"
                + ("" if robot.base == "fixed" else f", base {robot.home_height:.3g} m high"),
                "feet": ", ".join(robot.feet) or "none",
                "end effector": robot.end_effector.replace(":", " "),
                "keyframes": ", ".join(robot.keyframes) or "none",
                "cameras": ", ".join(robot.cameras) or "none",
                "floor": "yes" if robot.has_floor else "no",
                "physics step": f"{robot.timestep:g} s",
            },
        ),
        highlight=False,
        markup=False,
    )
    joints = Table("joint", "from", "to", "", "home", title="joints", title_justify="left")
    for joint in robot.joints:
        low, high = ranges[joint.name]
        home = f"{robot.home[joint.qpos]:.3g}"
        joints.add_row(joint.name, f"{low:.3g}", f"{high:.3g}", joint.unit, home)
    console.print(joints, highlight=False, markup=False)
    actuators = Table(
        *("actuator", "kind", "drives", "command from", "to", "by its", "force"),
        title="actuators",
        title_justify="left",
    )
    for actuator in robot.actuators:
        actuators.add_row(
            *(actuator.name, actuator.kind, actuator.drives),
            *(f"{actuator.low:.4g}", f"{actuator.high:.4g}", actuator.source),
            f"{actuator.force:.4g}",
        )
    console.print(actuators, highlight=False, markup=False)
    for finding in robot.findings:
        say(console, f"Odd: {finding}.")
    for line in trial["says"]:
        say(console, line)


def _try(
    robot: robots.RobotDescription, options: Robots, *, drawn: bool
) -> tuple[dict[str, Any], Env | None]:
    """Run the task with actions of 0 and with random ones; the environment, at its start."""
    task = options.task or robot.suits[0]
    size = {"width": 960, "height": 720} if drawn else {}
    kwargs = {"model": os.fspath(options.what), "task": task, **size, **options.env_kwargs}
    try:
        env = make(ROBOT, kwargs, render_mode="rgb_array" if drawn else None)
    except NprobotError as error:
        return {"task": task, "says": [f"The task {task!r} cannot run: {error}"]}, None
    base = env.unwrapped
    assert isinstance(base, robots.RobotEnv)
    seen, still = env.observation_space.shape, np.zeros(env.action_space.shape or ())
    says = [
        f"Task {base.task.task}: {still.size} actions at {1 / base.dt:.4g} Hz, {seen and seen[0]} "
        f"numbers observed ({', '.join(base.task.observations)})."
    ]
    result: dict[str, Any] = {"task": base.task.task, "control_rate": 1 / base.dt, "says": says}
    env.action_space.seed(0)
    for name, what in (("still", "actions of 0"), ("random", "random actions")):
        rewards: list[float] = []
        fell = cut = False
        env.reset(seed=0)
        while not (fell or cut or len(rewards) * base.dt >= TRIAL):
            _, reward, fell, cut, _ = env.step(
                env.action_space.sample() if name == "random" else still
            )
            rewards.append(float(reward))
        seconds, mean = len(rewards) * base.dt, statistics.fmean(rewards)
        end = f"ends after {seconds:.2g} s" if fell else f"lasts {seconds:.2g} s"
        says.append(f"With {what} it {end}, reward {mean:.3g} a step.")
        result[name] = {"seconds": seconds, "ended": fell, "reward": mean}
    if base.unstable:
        says.append(
            "The simulation breaks down: damped servos (actions.damping 0.5) or a smaller "
            "timestep may help."
        )
    result["unstable"] = base.unstable
    env.reset(seed=0)
    return result, env


def draw(env: Any, picture: Path) -> None:  # noqa: ANN401 - an environment
    """Write a picture of a robot at the start of an episode."""
    from PIL import Image

    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(env.render())).save(picture)
