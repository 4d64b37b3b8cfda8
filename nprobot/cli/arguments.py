"""Command-line options from frozen dataclasses, the same way for every command; robots by file."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from nprobot.catalogue import rule_named, rules
from nprobot.envs import ROBOT
from nprobot.errors import ConfigError, EnvironmentUnavailableError, UnknownNameError
from nprobot.training.environments import LIMIT, WRAPPER
from nprobot.training.run_config import RunConfig

Arguments = TypeVar("Arguments")

OLD_FLAGS = {"--hardware": "--actuators"}
"""Flags of earlier versions, and what they are called now."""

_NAMES: set[str] = set()
"""Options of the command at hand, as they are called in Python."""
_PYTHON = re.compile(r"(?<![\w.-])(\w+)=(?:'([^']*)'|\"([^\"]*)\"|(…))")
"""How messages for Python name an option with its value: ``rule='bp'``."""

REGISTRY = ConstructorRegistry()


@REGISTRY.primitive_rule
def _whole_number(about: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    """Whole numbers as people write them: 100000, 100_000, 1e5."""
    if about.type is not int:
        return None

    def read(words: list[str]) -> int:
        with contextlib.suppress(ValueError):
            return int(words[0])
        number = float(words[0])
        if not number.is_integer():
            raise ValueError(f"{words[0]} is not a whole number")
        return int(number)

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


@dataclass(frozen=True)
class FilmOptions:
    """The film that --record makes."""

    film_size: tuple[int, int] | None = None
    """Width and height, pixels. Left out: as the environment draws, mostly 480 480."""
    film_rate: float | None = None
    """Frames a second, at most. Left out: 30."""
    camera: str | None = None
    """Name of a camera of the model, or free for one that shows the whole robot. Left out: the
    environment's own, or free if it has none."""
    force: bool = False
    """Replace the file that is there already."""

    def check(self, record: Path | None) -> None:
        """Refuse what no film can have, before anything is made.

        Raises:
            ConfigError: a size or rate that is none, or no film.
        """
        given = {"--film-size": self.film_size, "--film-rate": self.film_rate,
                 "--camera": self.camera}  # fmt: skip
        if record is None and (named := [n for n, value in given.items() if value is not None]):
            raise ConfigError(f"{', '.join(named)} is of a film: name --record FILE.mp4")
        if self.film_size is not None and not all(16 <= n <= 4096 for n in self.film_size):
            raise ConfigError(f"--film-size takes 16 to 4096 pixels, got {self.film_size}")
        if self.film_rate is not None and not 0 < self.film_rate <= 1000:
            raise ConfigError(f"--film-rate takes 1 to 1000 frames a second, got {self.film_rate}")

    @property
    def look(self) -> dict[str, Any]:
        """Arguments of `nprobot.deploy.Film`."""
        return {
            "size": self.film_size,
            "rate": self.film_rate,
            "camera": self.camera,
            "force": self.force,
        }


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
        The options. Exits with code 0 after the help, if that was asked for.

    Raises:
        UnknownNameError: there is no such option; with near matches.
        ConfigError: a value does not fit, or is missing.
    """
    names = list(_fields(options))
    _NAMES.update(names)
    understood = understand_old_flags(arguments, old_flags)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                options,
                prog=f"nprobot {command}",
                description=description,
                args=understood,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
                registry=REGISTRY,
            )
    except SystemExit as end:
        if not end.code:
            raise
    raise _mistake(said.getvalue(), command, [_flag(name) for name in names], understood)


def _mistake(said: str, command: str, flags: list[str], given: Sequence[str]) -> ConfigError:
    """The parser's complaint as an error of ours: its first paragraph, without the box."""
    # A box with a title and, below a rule, further help; in ASCII where the terminal wants it.
    lines = [line.strip("│╭╰╮╯|+ ") for line in said.splitlines()]
    rules = [i for i, line in enumerate(lines) if re.search("─{3}|-{3}", line)] or [-1]
    text = " ".join(filter(None, lines[rules[0] + 1 : rules[1] if len(rules) > 1 else None]))
    hint = f"`nprobot {command} --help` explains the options."
    if text.startswith("Unrecognized options:"):
        words = text.removeprefix("Unrecognized options:").replace(",", " ").split()
        word = next((w for w in words if w.startswith("-")), words[0] if words else "")
        if not word.startswith("-"):
            return ConfigError(f"{word!r} belongs to no option. {hint}")
        # An abbreviation comes first: --step means --steps, and not --n-steps.
        begun = sorted((flag for flag in flags if flag.startswith(word)), key=len)
        error = UnknownNameError("option", word, flags, hint)
        near = [*begun[:2], *(flag for flag in error.near if flag not in begun)][:3]
        return ConfigError(
            f"unknown option {word!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")
            + f" {hint}"
        )  # fmt: skip
    if missing := re.match(r"Missing from .*?: (?:\S*[A-Z]+ )?(.*?)\.? ?\(required\)", text):
        return ConfigError(f"something is missing: {missing[1]}. {hint}")
    text = text.replace("'None', ", "").replace(", 'None'", "").replace("(", "").replace(")", "")
    wrong = re.match(
        r"Error parsing (\S+): no type matching (.+?) could be .*? from \[(.*?)\]", text
    )
    if wrong:
        kinds = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path", "STR": "text"}
        kind = kinds.get(wrong[2], f"one of {wrong[2]}")
        return ConfigError(f"{wrong[1]} takes {kind}, got {wrong[3].strip(chr(39))!r}. {hint}")
    return ConfigError(f"{text.rstrip('.')}. {hint}")


def _fields(options: Any) -> Iterator[str]:  # noqa: ANN401 - a dataclass
    """Names of all options, those of groups too."""
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _fields(hints[field.name])
        else:
            yield field.name


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check_device(device: str | None) -> None:
    """Refuse what is no device; whether there is one, torch knows.

    Raises:
        UnknownNameError: it is neither cpu nor cuda nor cuda:N.
    """
    if device is not None and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise UnknownNameError("device", device, ("cpu", "cuda"), "Known: cpu, cuda, cuda:0.")


def require_device(device: str | None) -> None:
    """Refuse a GPU that torch does not see.

    Raises:
        EnvironmentUnavailableError: there is none.
    """
    import torch

    if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
        raise EnvironmentUnavailableError(
            f"torch sees no CUDA device here, and the device is {device!r}; leave --device away"
        )


def as_flags(message: str) -> str:
    """A message with the options of the command at hand under the names that they have here."""
    if not _NAMES:
        return message

    def with_value(found: re.Match[str]) -> str:
        value = found[2] or found[3] or "VALUE"
        return f"{_flag(found[1])} {value}" if found[1] in _NAMES else found[0]

    message = _PYTHON.sub(with_value, message)
    names = "|".join(sorted((n for n in _NAMES if "_" in n), key=len, reverse=True))
    if not names:
        return message
    return re.sub(rf"(?<![\w/.'-])({names})(?![\w/=(.])", lambda found: _flag(found[1]), message)


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
    """Steps after which an episode is cut off."""
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
