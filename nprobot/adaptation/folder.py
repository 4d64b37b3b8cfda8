"""What an adaptation leaves on disk: a policy folder with its card, its curve and its episodes."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from nprobot.errors import ExistsError
from nprobot.policies.files import policy_file
from nprobot.policies.files.card import CARD_FILE, CURVE_FILE, card
from nprobot.policies.files.policy import Policy
from nprobot.runs.files import reporting_storage
from nprobot.runs.versions import versions

from .faults import Fault
from .learning import AdaptationConfig
from .result import WINDOW, Adapted, LearningEpisode, running_return

EPISODES_FILE = "adaptation.csv"


def refuse_folder(path: Path) -> None:
    """Raise `ExistsError` if there is something at `path`."""
    if path.exists():
        raise ExistsError(f"{path} is there already; choose another --out, or remove it")


def save_adapted(
    result: Adapted, path: Path, faults: Sequence[Fault], config: AdaptationConfig
) -> Policy:
    """Write a policy folder; it appears whole or not at all.

    Args:
        result: of `nprobot.adaptation.adapt`.
        path: the folder to make.
        faults: that it was adapted to.
        config: how.

    Returns:
        The policy, with its origin in its provenance.

    Raises:
        ExistsError: there is something at `path`.
        StorageError: the folder cannot be written.
    """
    refuse_folder(path)
    policy = replace(result.policy, provenance=_provenance(result, faults, config))
    writing = path.with_name(f".{path.name}.writing")
    with reporting_storage(path):
        shutil.rmtree(writing, ignore_errors=True)
        policy_file.save(policy, writing)
        (writing / CURVE_FILE).write_bytes(picture(result, faults))
        (writing / EPISODES_FILE).write_text(_table(result.episodes), encoding="utf-8")
        (writing / CARD_FILE).write_text(card(policy), encoding="utf-8")
        os.rename(writing, path)
    return policy


def _provenance(
    result: Adapted, faults: Sequence[Fault], config: AdaptationConfig
) -> dict[str, Any]:
    """Where the policy was trained, where it was adapted, and what that was good for."""
    before, after = result.before, result.after
    ills = [str(fault) for fault in faults]
    robot = config.hardware or "ideal"
    told = f" with the faults {', '.join(ills)}" if ills else ""
    return {
        **{key: value for key, value in result.policy.provenance.items() if key != "command"},
        "description": (
            f"It went on learning by NRL, {result.steps:,} steps, on a robot with {robot} actuators"
            f"{told}. There the return was {before.mean:.1f} before and is {after.mean:.1f} after; "
            "the score below is that one."
        ),
        "evaluation": {
            "env": after.env,
            "seed": after.seed,
            "returns": list(after.returns),
            "lengths": list(after.lengths),
            "versions": versions(),
        },
        "adaptation": {
            "faults": ills,
            "steps": result.steps,
            "forward_passes": result.forward_passes,
            "backward_passes": 0,
            "return_healthy": result.healthy.mean,
            "return_before": before.mean,
            "return_after": after.mean,
            "recovered_after": result.recovered,
            "config": dataclasses.asdict(config),
        },
    }


def _table(episodes: Sequence[LearningEpisode]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "return", "length"])
    writer.writerows((e.step, e.total, e.length) for e in episodes)
    return text.getvalue()


def picture(result: Adapted, faults: Sequence[Fault]) -> bytes:
    """Return over steps with the moment of the faults, as PNG."""
    figure = Figure(figsize=(7.0, 4.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps, means = running_return(result.episodes)
    axes.plot(
        steps, [e.total for e in result.episodes], ".", color="#9ecae1", ms=3, label="episode"
    )
    axes.plot(steps, means, color="#08519c", lw=2, label=f"mean of {WINDOW}, while learning")
    levels = {"healthy robot": (result.healthy.mean, "#31a354")}
    if faults:
        levels["faulty robot, policy as it was"] = (result.before.mean, "#d94801")
    levels["adapted"] = (result.after.mean, "#08519c")
    for name, (level, colour) in levels.items():
        axes.axhline(level, color=colour, lw=1, ls="--", label=f"{name}: {level:.1f}")
    label = ", ".join(map(str, faults)) or "learning begins"
    axes.axvline(result.struck, color="0.3", lw=1)
    axes.annotate(
        label,
        (result.struck, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(4, -4),
        textcoords="offset points",
        va="top",
        size=9,
    )
    axes.set_title(f"{result.after.env}: NRL goes on learning on the robot")
    axes.set_xlabel("control steps, all robots together")
    axes.set_ylabel("return of an episode")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, framealpha=0.9, edgecolor="none", markerscale=3)
    data = io.BytesIO()
    figure.savefig(data)
    return data.getvalue()
