"""`nprobot evaluate`: measure a trained policy, film it."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from nprobot.catalogue import learner_title
from nprobot.deploy.rendering import check_film, choose_backend, film_episode
from nprobot.envs import ARM_TRACK
from nprobot.policies.files import policy_file
from nprobot.policies.files.policy import Policy, recorded_rule
from nprobot.runs.folder import find_policy
from nprobot.training.config import EVALUATION_EPISODES
from nprobot.training.environments import silence_mujoco
from nprobot.training.evaluation import Evaluation, evaluate

from .options import parse
from .terminal import DONE, facts, say

HELP = """\
Run a policy without exploration and without learning, from its policy file alone.

examples:
  nprobot evaluate runs/reacher
  nprobot evaluate runs/reacher/checkpoints/step_000100000 --episodes 100 --json
  nprobot evaluate runs/reacher --record reacher.mp4
  nprobot evaluate runs/reacher --actuators servo
      on noisy actuators; "ideal" for none
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
    actuators: str | None = None
    """Noisy actuators before the robot: servo, torque-motor, worn-gearbox, easy, medium, hard, or
    ideal for none. Left out: those it was trained with."""
    chip: str | None = None
    """Noisy chip to run its network on, as for train, or ideal for none. Left out: the one that it
    was trained on."""
    seed: int = 0
    """Where the starts of the episodes come from; the same ones for every policy."""
    json: bool = False
    """Print one JSON object instead of a table."""
    record: Path | None = None
    """Film the first episode, as .mp4."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(Evaluate, arguments, "evaluate", HELP)
    folder = find_policy(options.policy)
    policy = policy_file.load(folder)
    env, actuators, seed = options.env, options.actuators, options.seed
    if options.record is not None:
        check_film(options.record)
        choose_backend()  # before mujoco is imported
    silence_mujoco()
    if options.record is not None:
        film_episode(policy, options.record, env, actuators=actuators, seed=seed)
    result = evaluate(
        policy,
        env,
        actuators=actuators,
        chip=options.chip,
        episodes=options.episodes,
        seed=seed,
    )
    tracking = []
    if result.env == ARM_TRACK:
        tracking = measure(policy, episodes=options.episodes, seed=options.seed)
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
    )
    if tracking:
        console.print(tracking_table(tracking), highlight=False)
    say(console, f"Policy: {folder}")
    if options.record is not None:
        say(console, f"Film: {options.record}")
    return DONE


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


def measure(policy: Policy, *, episodes: int, seed: int) -> list[dict[str, Any]]:
    """Track with PD control alone, with the policy, and with exact inverse dynamics.

    Args:
        policy: a controller of `nprobot/ArmTrack-v0`.
        episodes: how many references.
        seed: where they come from.

    Returns:
        A row a controller and robot: `position_error` in rad RMS, `feedback_torque` and
        `torque_error` in N·m RMS. Where the policy gives the whole torque (``control="torque"``),
        there is no PD control to compare with.
    """
    from nprobot.regression.tracking import SHIFTED, track

    kwargs = {} if policy.task is None or policy.task.id != ARM_TRACK else policy.task.kwargs
    controllers: dict[str, Any] = {"this policy": policy}
    if kwargs.get("control", "feedforward") == "feedforward":
        controllers = {"PD alone": None, **controllers, "exact model": "exact"}
    rows = []
    robots: Mapping[str, Mapping[str, float]] = {"as it is": {}, "loaded": SHIFTED}
    for robot, shift in robots.items():
        for name, controller in controllers.items():
            result = track(controller, episodes=episodes, seed=seed, env_kwargs={**kwargs, **shift})
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
        f"{SHIFTED['friction_scale']:g}",
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
