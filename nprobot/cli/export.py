"""`nprobot export`: make a policy folder that can be given away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from nprobot.catalogue import trust_flag
from nprobot.deploy.policy_folder import EPISODES, export_run
from nprobot.policies.files.policy import Policy
from nprobot.runs.atomic_files import quoted
from nprobot.training.environments import silence_mujoco

from .arguments import parse
from .terminal import DONE, facts, say

HELP = """\
Make a policy folder: the policy file, scores, a card with the learning curve,
and on request an ONNX file with normaliser and action scaling inside.

examples:
  nprobot export runs/reacher
  nprobot export runs/reacher --onnx --licence MIT --out reacher-policy
  nprobot deploy reacher-policy
"""


@dataclass(frozen=True)
class ExportOptions:
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional]
    """The folder of a run or fit (its newest checkpoint counts), or one of its checkpoints."""
    out: Path | None = None
    """The folder to make. Left out: RUN/policy."""
    onnx: bool = False
    """Also write policy.onnx, checked against numpy and torch to 1e-5."""
    episodes: int = EPISODES
    """Deterministic episodes that the scores on the card come from; 0 for none."""
    seed: int = 0
    """Seed of the starts of these episodes."""
    trust: bool = False
    """Import the module that the policy's environment is in, which runs it."""
    licence: str | None = None
    """Licence under which others may use the policy, such as MIT; the card states it."""


def _errors(policy: Policy) -> str:
    """The errors of a fit by split, such as ``nmse .02 (test)``."""
    scores = policy.provenance.get("scores") or {}
    return ", ".join(
        f"{name} {value:.4g} ({split})"
        for split, values in scores.items()
        for name, value in list(values.items())[:1]
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    options = parse(ExportOptions, arguments, "export", HELP)
    silence_mujoco()
    result = export_run(
        options.run,
        options.out,
        onnx=options.onnx,
        episodes=options.episodes,
        seed=options.seed,
        licence=options.licence,
        trust=options.trust,
    )
    console = Console()
    rows = {
        "files": ", ".join(sorted(file.name for file in result.folder.iterdir())),
        "score": (_errors(result.policy) or "not measured")
        if result.evaluation is None
        else f"{result.evaluation} ({len(result.evaluation.returns)} deterministic episodes)",
        "licence": options.licence or "not stated; name one with --licence before you share it",
    }
    if result.onnx is not None and result.torch is not None:
        rows["largest difference"] = (
            f"ONNX to numpy {result.onnx:.1e}, torch to numpy {result.torch:.1e}"
        )
    task = result.policy.task
    title = task.id if task else "policy"
    console.print(facts(title, rows), highlight=False, markup=False)
    say(console, f"Policy: {result.folder}")
    flags = trust_flag(task.id, task.kwargs) if task else " --serve"
    say(console, f"Next: nprobot deploy {quoted(result.folder)}{flags}")
    return DONE
