"""A motor fails while the robot works: NRL goes on learning, and the frozen policy does not.

A policy of the zoo, trained on ideal hardware, drives a robot, its network on a chip with node
noise that nobody reads. After the calibration one motor loses 60 % of its gain and another begins
to drift (a robot with one motor gets both). Everything is a call of
`nprobot.adaptation.learning.adapt`, as in `nprobot adapt`. A run that has its row is not repeated.

    python scripts/adaptation.py run       # rows, curves and policies in results/adaptation/
    python scripts/adaptation.py film      # before and after, docs/figures/adaptation.gif
    python scripts/adaptation.py report    # figure and section in docs/
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import rows
import torch

from nprobot.adaptation.faults import Fault
from nprobot.adaptation.folder import save_adapted
from nprobot.adaptation.learning import AdaptationConfig, adapt
from nprobot.adaptation.result import Adapted
from nprobot.deploy.policies import load_policy
from nprobot.deploy.rendering import choose_backend
from nprobot.envs import NoisyActuators
from nprobot.training import environments
from nprobot.training.evaluation import episode_seeds

RESULTS = rows.ROOT / "results" / "adaptation"
FIGURE = rows.FIGURES / "adaptation.png"
FILM = rows.FIGURES / "adaptation.gif"
SEEDS = (0, 1, 2)
WAYS = {"NRL": True, "frozen": False}
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


def robot(task: str) -> Callable[[], environments.Env]:
    """Makes the robot of a task."""
    return lambda: environments.make(task)


def run(task: str, way: str, seed: int) -> tuple[dict[str, object], list[dict[str, object]], Any]:
    """The row of a run, those of its curve, and what came out of it."""
    case = CASES[task]
    config = AdaptationConfig(steps=case.steps, seed=seed, learn=WAYS[way])
    faults = [Fault.parse(text) for text in case.faults]
    start = time.process_time()
    result = adapt(load_policy(case.policy), robot(task), faults, config)  # type: ignore[arg-type]
    row: dict[str, object] = {
        "task": task,
        "way": way,
        "seed": seed,
        "faults": " ".join(case.faults),
        "steps": result.steps,
        "struck": result.struck,
        "healthy": round(result.healthy.mean, 3),
        "before": round(result.before.mean, 3),
        "after": round(result.after.mean, 3),
        "recovered": "" if result.recovered is None else result.recovered,
        "episodes": len(result.after.returns),
        "forward_passes": result.forward_passes,
        "cpu_seconds": round(time.process_time() - start, 1),
        **rows.versions(),
    }
    points = [
        {"task": task, "way": way, "seed": seed, "step": step, "return": round(value, 3)}
        for step, value in binned(result)
    ]
    return row, points, (result, faults, config)  # type: ignore[return-value]


def binned(result: Adapted) -> list[tuple[int, float]]:
    """Mean return of the episodes that ended in every `BIN` steps."""
    groups = itertools.groupby(result.episodes, key=lambda episode: (episode.step - 1) // BIN)
    return [(BIN * (n + 1), fmean(episode.total for episode in own)) for n, own in groups]


def run_all(tasks: list[str], seeds: list[int]) -> None:
    """Every case, seed and way that has no row yet."""
    table = RESULTS / "rows.csv"
    done = {(row["task"], row["way"], int(row["seed"])) for row in rows.read(table)}
    for task, seed, way in itertools.product(tasks, seeds, WAYS):
        if (task, way, seed) in done:
            continue
        row, points, (result, faults, config) = run(task, way, seed)
        folder = RESULTS / f"{task.rpartition('/')[2]}-adapted"
        if WAYS[way] and seed == SEEDS[0] and not folder.exists():
            save_adapted(result, folder, faults, config)
        rows.append(RESULTS / "curves.csv", points)
        rows.append(table, [row])
        print(*list(row.values())[:11], row["cpu_seconds"], flush=True)


def film(task: str = "Reacher-v5", episodes: int = 4) -> None:
    """The faulty robot with the policy as it was (left) and adapted (right), the same goals."""
    import numpy as np
    from PIL import Image, ImageDraw

    choose_backend()
    case = CASES[task]
    models = [Fault.parse(text).model(0.0, settled=True) for text in case.faults]
    policies = {
        "as it was": load_policy(case.policy),
        "adapted by NRL": load_policy(RESULTS / f"{task.rpartition('/')[2]}-adapted"),
    }
    sides = []
    for name, policy in policies.items():
        made = environments.make(task, render_mode="rgb_array", width=480, height=480)
        env = NoisyActuators(made, models, seed=0)
        frames = []
        for seed in episode_seeds(1, episodes):
            observation, _ = env.reset(seed=seed)
            done, total, step = False, 0.0, 0
            while not done:
                observation, reward, ended, cut, _ = env.step(policy.predict(observation))
                total, step, done = total + float(reward), step + 1, ended or cut
                if step % 2 == 0 or done:
                    # The camera looks from afar; this is the table.
                    image = Image.fromarray(np.asarray(env.render())).crop((30, 130, 420, 390))
                    ImageDraw.Draw(image).text((6, 4), f"{name}: {total:.1f}", fill="white")
                    frames.append(np.asarray(image))
        env.close()
        sides.append(frames)
    pictures = [
        Image.fromarray(np.concatenate(pair, axis=1)).quantize(48)
        for pair in zip(*sides, strict=True)
    ]
    FILM.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(FILM, save_all=True, append_images=pictures[1:], duration=40, loop=0)
    print(
        FILM.relative_to(rows.ROOT), f"{FILM.stat().st_size / 1e3:.0f} kB, {len(pictures)} frames"
    )


def report() -> None:
    """Draw the figure and write the section."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found, curves = rows.read(RESULTS / "rows.csv"), rows.read(RESULTS / "curves.csv")
    tasks = [task for task in CASES if any(row["task"] == task for row in found)]
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(max(7.0, 4.2 * len(tasks)), 4.4), squeeze=False
    )
    colours = {"NRL": "#08519c", "frozen": "#d94801"}
    for axis, task in zip(axes[0], tasks, strict=True):
        own = [row for row in found if row["task"] == task]
        for way, seed in itertools.product(WAYS, SEEDS):
            points = [
                (float(p["step"]) / 1e3, float(p["return"]))
                for p in curves
                if (p["task"], p["way"], int(p["seed"])) == (task, way, seed)
            ]
            label = {"NRL": "NRL goes on learning", "frozen": "frozen policy"}[way]
            if points:
                xs, ys = zip(*points, strict=True)
                axis.plot(xs, ys, lw=1.2, color=colours[way], label=label if seed == 0 else None)
        axis.axvline(float(own[0]["struck"]) / 1e3, color="0.3", lw=1)
        axis.text(
            float(own[0]["struck"]) / 1e3,
            0.02,
            " " + own[0]["faults"].replace(" ", "\n "),
            transform=axis.get_xaxis_transform(),
            size=8,
        )
        axis.axhline(
            fmean(float(row["after"]) for row in own if row["way"] == "NRL"),
            ls="--",
            lw=1,
            color=colours["NRL"],
            label="adapted, evaluated",
        )
        axis.axhline(
            fmean(float(row["before"]) for row in own),
            ls="--",
            lw=1,
            color=colours["frozen"],
            label="policy as it was, evaluated",
        )
        axis.set_title(task.removeprefix("nprobot/"), size=11)
        axis.set_xlabel("control steps of 8 robots (thousands)")
        axis.grid(alpha=0.25)
    axes[0, 0].set_ylabel("return of episodes while it works")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, ncol=2, loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(FIGURE, dpi=120)
    rows.put_section("adaptation", table(found, tasks))


def table(found: list[dict[str, str]], tasks: list[str]) -> list[str]:
    """The section as Markdown."""
    lines = [
        "![Return over time, with the faults marked](figures/adaptation.png)",
        "",
        "| robot | faults | healthy | with faults, policy as it was | adapted by NRL: mean (each "
        "seed) | recovered after, each seed |",
        "|---|---|---|---|---|---|",
    ]
    for task in tasks:
        own = sorted(
            (row for row in found if row["task"] == task and row["way"] == "NRL"),
            key=lambda row: int(row["seed"]),
        )
        if not own:
            continue
        digits = 0 if "Pendulum" in task else 1
        after = [float(row["after"]) for row in own]
        cells = [
            task,
            "`" + CASES[task].faults[0] + "`, `" + CASES[task].faults[1] + "`",
            *(
                f"{fmean(float(row[key]) for row in own):.{digits}f}"
                for key in ("healthy", "before")
            ),
            f"**{fmean(after):.{digits}f}** (" + ", ".join(f"{v:.{digits}f}" for v in after) + ")",
            ", ".join(
                f"{int(row['recovered']) // 1000}k steps" if row["recovered"] else "no"
                for row in own
            ),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Healthy, faults and adapted: returns of 40 deterministic episodes off the chip, mean over "
        "the seeds. Recovered after: steps of all eight robots from the faults until the mean of "
        "the last 40 episodes, on the noisy chip and while learning, had made good 80 % of the "
        "loss for the first time; a drift takes 20 s of the robot's time to develop.",
    ]
    return lines


def main() -> None:
    """Run, film or report."""
    parser = rows.command_line(__doc__, "run", "film", "report")
    parser.add_argument("--tasks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stage == "run":
        run_all(options.tasks, options.seeds)
    elif options.stage == "film":
        film()
    else:
        report()


if __name__ == "__main__":
    main()
