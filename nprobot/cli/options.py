"""Command-line options from frozen dataclasses, the same way for every command; robots by file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro

from nprobot.catalogue import rule_named, rules
from nprobot.envs import ROBOT
from nprobot.errors import ConfigError
from nprobot.training.config import RunConfig
from nprobot.training.environments import LIMIT, WRAPPER

Arguments = TypeVar("Arguments")

OLD_FLAGS = {"--hardware": "--actuators"}
"""Flags of earlier versions, and what they are called now."""


def parse(
    options: type[Arguments],
    arguments: Sequence[str],
    command: str,
    description: str,
    default: Arguments | None = None,
    old_flags: Mapping[str, str] = OLD_FLAGS,
) -> Arguments:
    """Read the options of a command.

    Args:
        options: frozen dataclass; the docstrings of its fields are their help.
        arguments: the command line after the command.
        command: its name.
        description: what it does, with examples; for the help.
        default: what options that are not given stay at.
        old_flags: flags of earlier versions, and what they are called now.

    Returns:
        The options. Exits with code 2, after a message with near matches, if there is no such
        option or a value does not fit.
    """
    return tyro.cli(
        options,
        prog=f"nprobot {command}",
        description=description,
        args=understand_old_flags(arguments, old_flags),
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
    )


def understand_old_flags(
    arguments: Sequence[str], old_flags: Mapping[str, str] = OLD_FLAGS
) -> list[str]:
    """The command line as this version writes it; says on stderr what has another name now."""
    understood, notes = [], {}
    feedback, flag = "--feedback" in arguments, ""
    for argument in arguments:
        word, equals, value = argument.partition("=")
        if word.startswith("--"):
            flag = word
        if word in ("--feedback", "--no-feedback"):
            notes[word] = f"{word} is part of the rule's name now, as in --rule np+feedback"
            continue
        if (new := old_flags.get(word)) is not None:
            notes[word] = f"{word} is called {new} now"
            argument = f"{new}{equals}{value}"
        elif feedback and flag == "--rule":
            if word != flag:
                argument = _with_feedback(argument)
            elif equals:
                argument = f"{word}={_with_feedback(value)}"
        understood.append(argument)
    if notes:
        print(f"Note: {'; '.join(notes.values())}.", file=sys.stderr)
    return understood


def _with_feedback(rule: str) -> str:
    """The rule with feedback; backpropagation, which may stand beside it, stays as it is."""
    known = rules().get(rule)
    return rule if known and not known.perturbs else rule_named(rule, feedback=True).name


@dataclass(frozen=True)
class RobotOptions:
    """A robot from a file in place of --env, and what is put around an environment."""

    robot: str | None = None
    """An MJCF or URDF file, or a robot of the package (`nprobot robots`); --env is nprobot/Robot-v0
    then, and --env-kwargs sets options of the task: `control_rate 100 reward.energy -0.1`."""
    task: str | None = None
    """What the robot does: velocity, stand, reach, track, hover, or a TOML file of yours (`nprobot
    robots task velocity` prints one). Left out: what suits it."""
    term: tuple[str, ...] = ()
    """Reward terms of yours, as module:function or module:function=weight."""
    randomise: bool = False
    """Another robot in each episode: mass, friction, gains, pushes, sensor noise, actuators."""
    max_episode_steps: int | None = None
    """Cut episodes off after so many steps."""
    wrapper: tuple[str, ...] = ()
    """Wrappers of yours around the environment, as module:Class, the innermost first."""

    def apply(self, config: RunConfig) -> RunConfig:
        """The run on that robot, or the run as it is if none was named.

        Raises:
            ConfigError: options contradict each other.
            NprobotError: the robot or the task cannot be loaded.
        """
        if self.robot is None and (self.task or self.term or self.randomise):
            raise ConfigError("--task, --term and --randomise are for a robot: name one by --robot")
        kwargs: dict[str, Any] = dict(config.env_kwargs)
        if self.robot is not None:
            if config.env not in (RunConfig().env, ROBOT):
                raise ConfigError(f"give --robot or --env {config.env}, not both")
            config = config.replace(env=ROBOT)
            kwargs = {**self.settings(), **kwargs}
        if self.max_episode_steps is not None:
            kwargs[LIMIT] = self.max_episode_steps
        if self.wrapper:
            kwargs[WRAPPER] = ",".join(self.wrapper)
        return config.replace(env_kwargs=kwargs)

    def settings(self) -> dict[str, Any]:
        """Arguments of `nprobot/Robot-v0`; a task file goes in as its text."""
        from nprobot.envs.robots import ROBOTS, load_task
        from nprobot.envs.robots.robot_env import task_for

        assert self.robot is not None, "there is a robot"
        task = self.task
        if task is None:
            task = task_for(self.robot).task
        elif Path(task).suffix == ".toml":
            task = load_task(task).to_toml()
        # A path is kept whole: a policy finds its robot from any directory.
        name = self.robot if self.robot in ROBOTS else str(Path(self.robot).expanduser().resolve())
        settings: dict[str, Any] = {"model": name, "task": task}
        for term in self.term:
            function, _, weight = term.partition("=")
            if ":" not in function:
                raise ConfigError(
                    f"--term is module:function or module:function=weight, got {term}"
                )
            try:
                settings[f"reward.{function}"] = float(weight or 1.0)
            except ValueError:
                raise ConfigError(f"--term {function}: {weight!r} is no weight") from None
        if self.randomise:
            settings["randomise"] = True
        return settings


def moved(kwargs: dict[str, Any], robot: str | None, env: str | None) -> dict[str, Any] | None:
    """Arguments of a policy's environment with its robot from another file; None to leave them.

    Args:
        kwargs: those that the policy was trained with.
        robot: the file; None: as it was.
        env: id of the environment.

    Raises:
        ConfigError: the policy was not trained on a robot from a file.
    """
    if robot is None:
        return None
    if env != ROBOT:
        raise ConfigError(f"--robot is for policies of {ROBOT}; this one is of {env}")
    return {**kwargs, **{"model": RobotOptions(robot=robot, task="stand").settings()["model"]}}
