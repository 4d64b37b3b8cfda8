"""From a run to a policy folder that can be given away: policy, scores, card, curve, ONNX."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nprobot.policies import policy_file
from nprobot.policies.card import CARD_FILE, CURVE_FILE, card
from nprobot.policies.onnx_file import check_agreement, save_onnx
from nprobot.policies.policy import Policy
from nprobot.training.errors import RunExistsError
from nprobot.training.evaluation import Evaluation, evaluate
from nprobot.training.run_folder import CONFIG_FILE, RunFolder, find_policy
from nprobot.training.versions import versions

from .errors import DeployError

EPISODES = 100
DEFAULT_FOLDER = "policy"
"""Where in a run its export goes."""


class ExportError(DeployError, ValueError):
    """A run cannot be exported as asked."""


@dataclass(frozen=True)
class Export:
    """An exported policy.

    Attributes:
        folder: the policy folder.
        policy: with scores and licence in its provenance.
        evaluation: the scores; None if it was not measured.
        onnx: largest difference of an ONNX action to numpy's; None without an ONNX file.
        torch: the same of torch's actions to numpy's.
    """

    folder: Path
    policy: Policy
    evaluation: Evaluation | None
    onnx: float | None
    torch: float | None


def export_run(
    run: str | Path,
    out: str | Path | None = None,
    *,
    onnx: bool = False,
    episodes: int = EPISODES,
    seed: int = 0,
    licence: str | None = None,
    reference: str = "FOLDER",
) -> Export:
    """Make a policy folder from a run: policy file, card with curve and scores.

    The folder appears whole or not at all.

    Args:
        run: a run folder (its newest checkpoint counts), or one of its checkpoints.
        out: the folder to make; by default ``policy`` in the run.
        onnx: also write `policy.onnx`, checked against numpy and torch to 1e-5.
        episodes: deterministic episodes that measure it; 0 for none.
        seed: of those episodes.
        licence: under which the policy may be used, such as "MIT".
        reference: what the card tells people to give to `nprobot deploy`.

    Raises:
        RunExistsError: `out` is there already.
        PolicyFileError: the run has no policy, or the forms of the policy disagree.
        ExportError: `episodes` is negative.
    """
    if episodes < 0:
        raise ExportError(f"episodes must be 0 or more, got {episodes}")
    run = Path(run)
    source = find_policy(run)
    policy = policy_file.load(source)
    home = _run_of(run, source)
    target = Path(out) if out is not None else (home.path if home else source) / DEFAULT_FOLDER
    if target.exists():
        raise RunExistsError(f"{target} is there already; choose another --out, or remove it")
    evaluation = evaluate(policy, episodes=episodes, seed=seed) if episodes else None
    policy = replace(policy, provenance=_provenance(policy.provenance, home, evaluation, licence))
    writing = target.with_name(f".{target.name}.writing")
    shutil.rmtree(writing, ignore_errors=True)  # left by an export that was cut off
    policy_file.save(policy, writing)
    differences = _check_onnx(policy, writing) if onnx else (None, None)
    curve = _curve(home, writing)
    (writing / CARD_FILE).write_text(card(policy, reference=reference, curve=curve), "utf-8")
    os.rename(writing, target)
    return Export(target, policy, evaluation, *differences)


def _run_of(given: Path, source: Path) -> RunFolder | None:
    """The run that a policy belongs to: as given, or the one around a checkpoint."""
    path = given if given != source else Path(os.path.abspath(source)).parent.parent
    return RunFolder.open(path) if (path / CONFIG_FILE).exists() else None


def _provenance(
    made: Mapping[str, Any],
    home: RunFolder | None,
    evaluation: Evaluation | None,
    licence: str | None,
) -> dict[str, Any]:
    """What is known of a policy, with what the export adds."""
    provenance = {**made, "licence": licence}
    if home is not None:
        command = json.loads((home.path / CONFIG_FILE).read_text(encoding="utf-8")).get("command")
        provenance["command"] = command and without_paths(command)
    if evaluation is not None:
        provenance["evaluation"] = {
            "env": evaluation.env,
            "seed": evaluation.seed,
            "returns": list(evaluation.returns),
            "lengths": list(evaluation.lengths),
            "versions": versions(),
        }
    return provenance


def without_paths(command: str) -> str:
    """A training command without the folder it wrote to, which is nobody else's business."""
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return shlex.join(kept)


def _check_onnx(policy: Policy, folder: Path) -> tuple[float, float]:
    """Write `policy.onnx`; its difference and that of torch to numpy."""
    difference = save_onnx(policy, folder)
    import torch

    from nprobot.policies.torch_policy import TorchPolicy

    network = TorchPolicy(policy)

    def predict(x: Any) -> Any:  # noqa: ANN401 - arrays
        with torch.no_grad():
            return network(torch.as_tensor(x)).numpy()

    return difference, check_agreement(policy, predict, what="torch")


def _curve(home: RunFolder | None, folder: Path) -> bool:
    """Copy the run's learning curve, drawing it if the run was cut off before it did."""
    if home is None:
        return False
    if not home.curve.exists():
        from nprobot.training.curve import draw_curve

        draw_curve(home)
    shutil.copyfile(home.curve, folder / CURVE_FILE)
    return True
