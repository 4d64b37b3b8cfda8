"""`nprobot evaluate`: measure a trained policy, film it."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from nprobot.catalogue import learner_title
from nprobot.deploy.rendering import check_film, choose_backend, film_episode
from nprobot.envs import ARM_TRACK, ROBOT
from nprobot.errors import ConfigError, NprobotError
from nprobot.policies.files import policy_file
from nprobot.policies.files.policy import Policy, recorded_rule
from nprobot.runs.atomic_files import quoted
from nprobot.runs.folder import find_policy
from nprobot.training.environments import silence_mujoco
from nprobot.training.evaluation import Evaluation, evaluate, task_of, trust
from nprobot.training.run_config import EVALUATION_EPISODES

from .arguments import FilmOptions, moved, parse
from .terminal import DONE, facts, say

HELP = """\
Run a policy without exploration and without learning, from its policy file alone.

examples:
  nprobot evaluate runs/reacher
  nprobot evaluate runs/reacher/checkpoints/step_000100000 --episodes 100 --json
  nprobot evaluate runs/reacher --record reacher.mp4
  nprobot evaluate runs/reacher --actuators servo
      on noisy actuators; "ideal" for none
  nprobot evaluate runs/fit
      the errors of a fit on its data; of arm-inverse-dynamics, on the arm
  nprobot evaluate runs/fit --env nprobot/ArmTrack-v0
      what a fit of arm-inverse-dynamics is worth as feed-forward of the arm
"""


@dataclass(frozen=True)
class Evaluate:
    """Options of the command."""

    policy: Annotated[Path, tyro.conf.Positional]
    """A run folder (its newest checkpoint counts) or a folder with a policy file."""
    episodes: int = EVALUATION_EPISODES
    """How many episodes."""
    env: str | None = None
    """Environment id. Left out: the one it was trained on."""
    trust: bool = False
    """Import the module that the policy's environment is in, which runs it."""
    env_kwargs: dict[str, int | float | bool | str] = field(default_factory=dict)
    """Arguments of the environment, as name value pairs. Left out: those of the training."""
    robot: str | None = None
    """Another model file for a policy of nprobot/Robot-v0 than the one it was trained on."""
    actuators: str | None = None
    """Noisy actuators before the robot: servo, torque-motor, worn-gearbox, easy, medium, hard, or
    ideal for none. Left out: those it was trained with."""
    chip: str | None = None
    """Noisy chip to run its network on, as for train, or ideal for none. Left out: the one that it
    was trained on."""
    seed: int = 0
    """Seed of the starts of the episodes, which are the same for every policy."""
    json: bool = False
    """Print one JSON object instead of a table."""
    record: Path | None = None
    """Film the first episode, as .mp4."""
    film: FilmOptions = field(default_factory=FilmOptions)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(Evaluate, arguments, "evaluate", HELP)
    options.film.check(options.record)
    if options.episodes < 1:
        raise ConfigError(f"--episodes must be 1 or more, got {options.episodes}")
    folder = find_policy(options.policy)
    if (folder / "model.json").exists() and options.env is None:
        made = _model_without_robot(folder, options)
        if made is not None:
            return made
    policy = policy_file.load(folder)
    if options.trust:
        trust(policy)
    env, actuators, seed = options.env, options.actuators, options.seed
    if options.record is not None:
        check_film(options.record, options.film.force)
        choose_backend()  # before mujoco is imported
    silence_mujoco()
    kwargs: dict[str, Any] | None = dict(options.env_kwargs) or None
    if options.robot is not None:
        id, own = task_of(policy, env, kwargs)
        kwargs = moved(dict(own), options.robot, id)
    task: dict[str, Any] = {"env_kwargs": kwargs, "actuators": actuators, "seed": seed}
    if options.record is not None:
        film_episode(policy, options.record, env, **task, **options.film.look)
    result = evaluate(policy, env, chip=options.chip, episodes=options.episodes, **task)
    tracking = []
    used = policy.task.kwargs if policy.task and kwargs is None else kwargs or {}
    if result.env == ARM_TRACK or (result.env == ROBOT and used.get("task") == "track"):
        tracking = measure(policy, result.env, used, episodes=options.episodes, seed=seed)
    if options.json:
        extra = {"tracking": tracking} if tracking else {}
        print(json.dumps(as_json(result, folder) | extra))
        return DONE
    console = Console()
    provenance = policy.provenance
    learner = learner_title(recorded_rule(provenance))
    robot = f" on {result.actuators} actuators" if result.actuators else ""
    robot += f", on a chip ({result.chip})" if result.chip else ""
    console.print(
        facts(
            f"{result.env}{robot}: deterministic episodes, seed {result.seed}",
            {
                "episodes": str(len(result.returns)),
                "return": str(result),
                "lowest, highest": f"{min(result.returns):.1f}, {max(result.returns):.1f}",
                "episode length": f"{statistics.fmean(result.lengths):.1f} steps",
                "trained with": f"{str(provenance.get('algorithm', '?')).upper()} with "
                f"{learner}, {provenance.get('steps', '?')} steps, "
                f"seed {provenance.get('seed', '?')}",
            },
        ),
        highlight=False,
        markup=False,  # names come from a file
    )
    if tracking:
        console.print(tracking_table(tracking), highlight=False)
    say(console, f"Policy: {folder}")
    if options.record is not None:
        say(console, f"Film: {options.record}")
    return DONE


def _model_without_robot(folder: Path, options: Evaluate) -> int | None:
    """The errors of a fit that controls no environment, on its own data; None if it does.

    Raises:
        ConfigError: an option needs a robot, or the data cannot be made again.
    """
    if (folder / "policy.json").exists() and policy_file.load(folder).task is not None:
        return None
    from nprobot.regression.data import Source
    from nprobot.regression.fit_folder import FitFolder

    given = {"--actuators": options.actuators, "--record": options.record}
    if refused := [name for name, value in given.items() if value is not None]:
        raise ConfigError(
            f"{options.policy} is a model that controls no robot; leave {', '.join(refused)} away, "
            "or name the environment that takes its outputs as actions (--env)"
        )
    run = next(
        (path for path in (options.policy, folder.resolve().parent.parent) if _is_fit(path)), None
    )
    source = FitFolder.open(run).source if run else {}
    if not source:
        raise ConfigError(
            f"{options.policy} is a model that controls no robot, and does not say where its data "
            "came from; evaluate the folder of the fit, or name an environment (--env)"
        )
    from nprobot.regression.fit_run import score_model, score_rows
    from nprobot.regression.model import load as load_model

    from .fit import error_table
    from .fit import load as load_data

    model = load_model(folder)
    scores = score_model(model, load_data(Source.from_dict(source)))
    if options.json:
        rows = score_rows(model, scores)
        print(
            json.dumps({"task": model.description["task"], "scores": rows, "policy": str(folder)})
        )
        return DONE
    console = Console()
    console.print(error_table(model, scores), highlight=False)
    say(console, f"Policy: {folder}")
    say(console, f"Next: nprobot export {quoted(options.policy)}")
    return DONE


def _is_fit(path: Path) -> bool:
    from nprobot.regression.fit_folder import FitFolder

    try:
        FitFolder.open(path)
    except NprobotError:
        return False
    return True


def as_json(result: Evaluation, folder: Path) -> dict[str, object]:
    """An evaluation as a JSON object; the spread of a single episode is null."""
    return {
        **dataclasses.asdict(result),
        "episodes": len(result.returns),
        "return_mean": result.mean,
        "return_sd": None if math.isnan(result.sd) else result.sd,
        "policy": str(folder),
    }


COLUMNS = {
    "position_error": ("joint error", 1000, "mrad"),
    "feedback_torque": ("PD torque", 1, "N·m"),
    "torque_error": ("wrong torque", 1, "N·m"),
}


def measure(
    policy: Policy, env: str, kwargs: Mapping[str, Any], *, episodes: int, seed: int
) -> list[dict[str, Any]]:
    """Track with PD control alone, with the policy, and with exact inverse dynamics.

    Args:
        policy: a controller of `nprobot/ArmTrack-v0`, or of a robot at the task track.
        env: id of the environment.
        kwargs: its arguments.
        episodes: how many references.
        seed: where they come from.

    Returns:
        A row a controller and robot: `position_error` in rad RMS, `feedback_torque` and
        `torque_error` in N·m RMS. Where the policy gives the whole torque (``control="torque"``),
        there is no PD control to compare with.
    """
    from nprobot.regression.tracking import SHIFTED, track

    if policy.task is None or policy.task.id != env:
        kwargs = {}
    controllers: dict[str, Any] = {"this policy": policy}
    if kwargs.get("control", "feedforward") == "feedforward":
        controllers = {"PD alone": None, **controllers, "exact model": "exact"}
    rows = []
    robots: dict[str, Mapping[str, float]] = {"as it is": {}}
    if env == ARM_TRACK:
        robots["loaded"] = SHIFTED
    for robot, shift in robots.items():
        for name, controller in controllers.items():
            result = track(
                controller, env=env, episodes=episodes, seed=seed, env_kwargs={**kwargs, **shift}
            )
            values = {column: getattr(result, column) for column in COLUMNS}
            rows.append({"robot": robot, "controller": name, **values})
    return rows


def tracking_table(rows: list[dict[str, Any]]) -> Table:
    """The rows of `measure` for a person."""
    from nprobot.regression.tracking import SHIFTED

    table = Table(
        *("arm", "controller", *(f"{name}, {unit}" for name, _, unit in COLUMNS.values())),
        box=box.SIMPLE_HEAD,
        title="tracking, root mean squares over steps and joints",
        title_justify="left",
        title_style="bold",
        caption=f"loaded: {SHIFTED['payload']:g} kg payload, friction × "
        f"{SHIFTED['friction_scale']:g}"
        if any(row["robot"] == "loaded" for row in rows)
        else None,
        caption_justify="left",
    )
    for column in table.columns[2:]:
        column.justify = "right"
    seen = ""
    for row in rows:
        numbers = [f"{row[name] * scale:.2f}" for name, (_, scale, _) in COLUMNS.items()]
        table.add_row("" if row["robot"] == seen else row["robot"], row["controller"], *numbers)
        seen = row["robot"]
    return table
