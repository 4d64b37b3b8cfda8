"""`nprobot evaluate`: measure a trained policy, film it."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from nprobot.catalogue import learner_title
from nprobot.deploy.rendering import check_film, choose_backend, film_episode
from nprobot.policies.files import policy_file
from nprobot.policies.files.policy import recorded_rule
from nprobot.runs.folder import find_policy
from nprobot.training.config import EVALUATION_EPISODES
from nprobot.training.environments import silence_mujoco
from nprobot.training.evaluation import Evaluation, evaluate

from .console import facts, say
from .exit_codes import DONE
from .options import parse

ARM_TRACK = "nprobot/ArmTrack-v0"

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
    result = evaluate(policy, env, actuators=actuators, episodes=options.episodes, seed=seed)
    tracking = []
    if result.env == ARM_TRACK:
        from .arm_tracking import measure, tracking_table

        tracking = measure(policy, episodes=options.episodes, seed=options.seed)
    if options.json:
        extra = {"tracking": tracking} if tracking else {}
        print(json.dumps(as_json(result, folder) | extra))
        return DONE
    console = Console()
    provenance = policy.provenance
    learner = learner_title(recorded_rule(provenance))
    robot = f" on {result.actuators} actuators" if result.actuators else ""
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
