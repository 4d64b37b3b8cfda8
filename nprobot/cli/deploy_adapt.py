"""`nprobot deploy --adapt`: the policy continues to learn on the robot that it runs on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from nprobot.adaptation.config import AdaptationConfig
from nprobot.errors import ConfigError
from nprobot.training.evaluation import DeployablePolicy

from .adapt import default_folder, learn, show
from .console import say
from .exit_codes import DONE, INTERRUPTED

if TYPE_CHECKING:
    from nprobot.training.environments import Env


@dataclass(frozen=True)
class AdaptOptions:
    """Learning on the robot."""

    adapt: bool = False
    """Continue to learn on this robot with NRL, by forward passes only, and say what that
    changed."""
    adapt_steps: int = 50_000
    """Control steps that it learns for; in the first fifth it only finds out what to expect."""
    adapt_out: Path | None = None
    """The policy folder for what was learned. Left out: adapted-NAME-TIME."""


def adapt_on_robot(
    policy: DeployablePolicy,
    reference: str,
    make_robot: Callable[[], Env],
    actuators: str | None,
    options: AdaptOptions,
    *,
    seed: int,
    as_json: bool,
) -> int:
    """Learn on one robot, keep what was learned, and say what changed; returns the exit code.

    Args:
        policy: what it starts from.
        reference: how the user named it.
        make_robot: makes the robot with ideal actuators.
        actuators: preset of its actuators; None for ideal ones.
        options: of the command.
        seed: of everything random.
        as_json: print one JSON object instead of a table.

    Raises:
        RuleError: NRL cannot train the policy.
        ExistsError: the folder is there already.
    """
    if options.adapt_steps < 5:
        raise ConfigError(f"--adapt-steps must be 5 or more, got {options.adapt_steps}")
    config = AdaptationConfig(
        steps=options.adapt_steps,
        calibration=options.adapt_steps // 5,
        robots=1,
        actuators=actuators,
        seed=seed,
    )
    out = options.adapt_out or default_folder(reference)
    console = Console(stderr=as_json)
    result = learn(policy, make_robot, (), config, out, console)
    if as_json:
        before, after = result.before, result.after
        facts = {
            "env": after.env,
            "steps": result.steps,
            "return_before": before.mean,
            "return_after": after.mean,
            "returns_before": before.returns,
            "returns_after": after.returns,
            "policy": str(out),
        }
        print(json.dumps(facts))
    else:
        show(console, result)
        say(console, f"Policy: {out}")
    return INTERRUPTED if result.interrupted else DONE
