"""`nprobot policies`: list the trained policies that come with nprobot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from nprobot.catalogue import learner_title
from nprobot.policies import zoo
from nprobot.policies.files.card import network_name
from nprobot.policies.files.policy import recorded_rule

from .arguments import parse
from .terminal import DONE, say

WIDEST = 200
"""Columns of text that no table here exceeds."""

HELP = """\
List the zoo: trained policies that come with nprobot, each with a card.

examples:
  nprobot policies
  nprobot policies --json
  nprobot deploy zoo:InvertedPendulum --record pendulum.mp4
"""


@dataclass(frozen=True)
class Policies:
    """Options of the command."""

    pattern: Annotated[str, tyro.conf.Positional] = ""
    """Only those whose name contains this."""
    json: bool = False
    """Print one JSON array instead of a table."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(Policies, arguments, "policies", HELP)
    chosen = [name for name in zoo.names() if options.pattern.lower() in name.lower()]
    if not chosen:
        zoo.folder(options.pattern)  # says what it could have been
    listed = [describe(name) for name in chosen]
    if options.json:
        print(json.dumps(listed, indent=1))
        return DONE
    # Names are for copying: rather a line too long for the window than a name cut short.
    console = Console(width=WIDEST)
    table = Table(
        *("policy", "environment", "network", "rule", "trained for", "Hz", "return"),
        box=box.SIMPLE_HEAD,
    )
    for column in table.columns[4:]:
        column.justify = "right"
    for row in listed:
        learner = learner_title(recorded_rule(row))
        table.add_row(
            *(f"zoo:{row['name']}", row["environment"], row["network"], learner),
            *(_effort(row), f"{row['control_rate'] or 0:g}", _score(row)),
        )
    console.print(table, highlight=False, markup=False)
    say(console, "Run one: nprobot deploy zoo:NAME")
    say(console, f"Cards: {zoo.ROOT}")
    return DONE


def describe(name: str) -> dict[str, Any]:
    """A policy of the zoo as a JSON object."""
    policy = zoo.load_policy(name)
    made, task = policy.provenance, policy.task
    evaluation = made.get("evaluation") or {}
    returns = evaluation.get("returns") or []
    return {
        "name": name,
        "environment": task.id if task else None,
        "environment_arguments": dict(task.kwargs) if task else {},
        "control_rate": task.control_rate if task else None,
        "network": network_name(policy),
        "algorithm": made.get("algorithm"),
        "rule": made.get("rule"),
        "feedback": bool(made.get("feedback")),
        "steps": made.get("steps"),
        "epochs": made.get("epochs"),
        "return_mean": statistics.fmean(returns) if returns else None,
        "return_sd": statistics.stdev(returns) if len(returns) > 1 else None,
        "episodes": len(returns),
        "tracking_error": (evaluation.get("tracking") or {}).get("position_error"),
        "licence": made.get("licence"),
    }


def _effort(row: dict[str, Any]) -> str:
    """How long a policy learned: passes over data, or steps of an environment."""
    return f"{row['epochs']:,} epochs" if row["epochs"] else f"{row['steps']:,} steps"


def _score(row: dict[str, Any]) -> str:
    if row["return_mean"] is None:
        return "not measured"
    spread = "" if row["return_sd"] is None else f" ± {row['return_sd']:.1f}"
    tracking = row["tracking_error"]
    error = "" if tracking is None else f" ({1000 * tracking:.1f} mrad RMS)"
    return f"{row['return_mean']:.1f}{spread}{error}"
