"""A motor fails while the robot works: NRL continues to learn, the frozen policy does not.

A policy of the zoo, trained on ideal hardware, drives a robot, its network on a chip with node
noise that nobody reads. After the calibration one motor loses 60 % of its gain and another begins
to drift (a robot with one motor gets both). Everything is a call of `nprobot.adaptation.adapt`, as
in `nprobot adapt`.

    python -m scripts.experiments.hardware.adaptation run     # rows, curves, policies
    python -m scripts.experiments.hardware.adaptation film    # docs/figures/adaptation.gif
    python -m scripts.experiments.hardware.adaptation report  # figure and section in docs/
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from nprobot.adaptation import ActuatorFault, AdaptationConfig, adapt, save_adapted
from nprobot.deploy import choose_backend, load_policy
from nprobot.envs import NoisyActuators
from nprobot.training import environments
from nprobot.training.evaluation import episode_seeds, run_episodes

from ..pages import (
    DOCS,
    FIGURES,
    each,
    markdown,
    panels,
    picture,
    plot_each,
    put_section,
    save_figure,
    seeds_of,
)
from ..rows import RESULTS, Only, Row, Rows, column, command, keep, read, select

FOLDER = RESULTS / "adaptation"
FILM = FIGURES / "adaptation.gif"
SEEDS = (0, 1, 2)
WAYS = {"NRL": False, "frozen": True}
"""How a policy meets the faults, and whether it is frozen."""
BIN = 2_000
"""Steps whose episodes make one point of a curve."""


@dataclass(frozen=True)
class Case:
    """A policy and what happens to its robot."""

    policy: str
    faults: tuple[str, ...]
    steps: int = 100_000


CASES = {
    "Reacher-v5": Case("zoo:Reacher", ("gain:0=0.4", "drift:1=0.2")),
    "InvertedPendulum-v5": Case("zoo:InvertedPendulum", ("gain:0=0.4", "drift:0=0.1")),
    "InvertedDoublePendulum-v5": Case(
        "zoo:InvertedDoublePendulum", ("gain:0=0.4", "drift:0=0.1"), 150_000
    ),
    "nprobot/ArmReach-v0": Case("zoo:ArmReach", ("gain:1=0.4", "drift:3=0.3")),
}


def faults_of(case: Case) -> list[ActuatorFault]:
    """What happens."""
    return [ActuatorFault.parse(text) for text in case.faults]


def run(only: Only = ()) -> None:
    """Adapt what has no row."""
    jobs = itertools.product(CASES, SEEDS, WAYS)
    named = [{"task": task, "way": way, "seed": seed} for task, seed, way in jobs]
    keep(FOLDER / "rows.csv", named, meet, only=only, curves=FOLDER / "curves.csv")


def meet(task: str, way: str, seed: int) -> Row:
    """Let a policy meet the faults."""
    case, frozen = CASES[task], WAYS[way]
    config = AdaptationConfig(steps=case.steps, seed=seed, frozen=frozen, rule="anp")
    start = time.process_time()
    policy: Any = load_policy(case.policy)
    result = adapt(policy, partial(environments.make, task), faults_of(case), config)
    spent = round(time.process_time() - start, 1)
    folder = FOLDER / f"{task.rpartition('/')[2]}-adapted"
    if not frozen and seed == SEEDS[0] and not folder.exists():
        save_adapted(result, folder, faults_of(case), config)
    bins = itertools.groupby(result.episodes, key=lambda episode: (episode.step - 1) // BIN)
    return {
        "faults": " ".join(case.faults),
        "steps": result.steps,
        "struck": result.struck,
        "healthy": round(result.healthy.mean, 3),
        "before": round(result.before.mean, 3),
        "after": round(result.after.mean, 3),
        "recovered": "" if result.recovered is None else result.recovered,
        "episodes": len(result.after.returns),
        "forward_passes": result.forward_passes,
        "cpu_seconds": spent,
        "curve": [
            {"step": BIN * (n + 1), "return": round(fmean(one.total for one in own), 3)}
            for n, own in bins
        ],
    }


def film(task: str = "Reacher-v5", episodes: int = 4) -> None:
    """Film the faulty robot with the policy as it was (left) and adapted (right), the same goals.

    Args:
        task: the robot's.
        episodes: how many.
    """
    choose_backend()
    case = CASES[task]
    models = [fault.model(0.0, settled=True) for fault in faults_of(case)]
    policies = {
        "as it was": load_policy(case.policy),
        "adapted by NRL": load_policy(FOLDER / f"{task.rpartition('/')[2]}-adapted"),
    }
    sides: list[list[Any]] = []
    for name, policy in policies.items():
        made = environments.make(task, render_mode="rgb_array", width=480, height=480)
        env, frames = NoisyActuators(made, models, seed=0), []
        take = partial(photograph, frames, env, name)
        run_episodes(policy.predict, [env], episode_seeds(1, episodes), take)
        env.close()
        sides.append(frames)
    pictures = [
        Image.fromarray(np.concatenate(pair, axis=1)).quantize(48)
        for pair in zip(*sides, strict=True)
    ]
    pictures[0].save(FILM, save_all=True, append_images=pictures[1:], duration=40, loop=0)
    print(f"{FILM.name}: {FILM.stat().st_size / 1e3:.0f} kB, {len(pictures)} frames")


def photograph(
    frames: list[Any],
    env: NoisyActuators,
    text: str,
    number: int,
    length: int,
    total: float,
    info: Mapping[str, Any],
) -> None:
    """Take every second frame; a `StepObserver` from the fourth argument on."""
    if length % 2 == 0:
        # The camera looks from afar; this is the table.
        image = Image.fromarray(np.asarray(env.render())).crop((30, 130, 420, 390))
        ImageDraw.Draw(image).text((6, 4), f"{text}: {total:.1f}", fill="white")
        frames.append(np.asarray(image))


def report() -> None:
    """Draw the figure and write the section."""
    rows, curves = read(FOLDER / "rows.csv"), read(FOLDER / "curves.csv")
    tasks = [task for task in CASES if select(rows, task=task)]
    figure, axes = panels(len(tasks), (max(7.0, 4.2 * len(tasks)), 4.4))
    looks = {
        "NRL": ("#08519c", "NRL continues to learn", "after", "adapted, evaluated"),
        "frozen": ("#d94801", "frozen policy", "before", "policy as it was, evaluated"),
    }
    for axis, task in zip(axes, tasks, strict=True):
        own = select(rows, task=task)
        for way, (colour, label, which, evaluated) in looks.items():
            points = seeds_of(select(curves, task=task, way=way), "step", "return", 1e3)
            plot_each(axis, points, lw=1.2, color=colour, label=label)
            level = fmean(column(select(own, way="NRL"), which))
            axis.axhline(level, ls="--", lw=1, color=colour, label=evaluated)
        struck = float(own[0]["struck"]) / 1e3
        axis.axvline(struck, color="0.3", lw=1)
        text = " " + own[0]["faults"].replace(" ", "\n ")
        axis.text(struck, 0.02, text, transform=axis.get_xaxis_transform(), size=8)
        axis.set_title(task.removeprefix("nprobot/"), size=11)
        axis.set_xlabel("control steps of 8 robots (thousands)")
    axes[0].set_ylabel("return of episodes while it works")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=2, loc="outside lower center", frameon=False)
    save_figure(figure, "adaptation")
    put_section("adaptation", section(rows, tasks), DOCS / "hardware.md")


def section(rows: Rows, tasks: list[str]) -> list[str]:
    """The section as Markdown."""
    lines = []
    for task in tasks:
        own = [row for seed in SEEDS for row in select(rows, task=task, way="NRL", seed=seed)]
        digits = 0 if "Pendulum" in task else 1
        recovered = (
            f"{int(row['recovered']) // 1000}k steps" if row["recovered"] else "no" for row in own
        )
        lines.append(
            (
                *(task, ", ".join(f"`{fault}`" for fault in CASES[task].faults)),
                *(f"{fmean(column(own, key)):.{digits}f}" for key in ("healthy", "before")),
                *(each(column(own, "after"), digits), ", ".join(recovered)),
            )
        )
    heading = (
        *("robot", "faults", "healthy", "with faults, policy as it was"),
        *("adapted by NRL: mean (each seed)", "recovered after, each seed"),
    )
    return [
        *picture(
            "adaptation",
            "Return over time, with the faults marked",
            f"A line a seed ({len(SEEDS)}); dashed: mean of the deterministic evaluations.",
        ),
        *markdown(heading, lines),
        "",
        "Healthy, faults and adapted: returns of 40 deterministic episodes off the chip, mean over "
        "the seeds. Recovered after: steps of all eight robots from the faults until the mean of "
        "the last 40 episodes, on the noisy chip and while learning, had made good 80 % of the "
        "loss for the first time; a drift takes 20 s of the robot's time to develop.",
    ]


if __name__ == "__main__":
    command(__doc__, run, film, report)
