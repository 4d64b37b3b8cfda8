"""Learning curves of PPO by backpropagation and by node perturbation: one figure, one page.

Three seeds of every learner on InvertedPendulum-v5 (100k steps) and Reacher-v5 (300k). Every run is
a call of `nprobot train`, which is kept in the row. Learning rates come from `search`, the same
small search for every learner.

    python -m scripts.experiments.control.learning_curves search  # search.csv
    python -m scripts.experiments.control.learning_curves run     # rows.csv, curves.csv
    python -m scripts.experiments.control.learning_curves report  # the page and its figure
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from statistics import fmean

from ..pages import DOCS, markdown, panels, plot_mean, put_section, save_figure, seeds_of, spread
from ..rows import RESULTS, ROOT, Only, Row, Rows, column, command, keep, read, select

FOLDER = RESULTS / "learning_curves"
RUNS = ROOT / "runs" / "learning_curves"
TASKS = {"InvertedPendulum-v5": 100_000, "Reacher-v5": 300_000}
SOLVED = {"InvertedPendulum-v5": 950.0}
FAST_R = ("--decorrelation-lr", "0.001")
"""The default when these curves were made; it is a tenth of that now (docs/benchmark.md)."""
LEARNERS: dict[str, tuple[str, ...]] = {
    "BP": ("--rule", "bp"),
    "NP": ("--rule", "np", "--samples", "1"),
    "ANP": ("--rule", "anp", "--samples", "1"),
    "DNP": ("--rule", "dnp", "--samples", "1", *FAST_R),
    "DANP": ("--rule", "danp", "--samples", "1", *FAST_R),
    "DANP, K = 8": ("--rule", "danp", "--samples", "8", *FAST_R),
}
COLOURS = ("black", "#9ecae1", "#3182bd", "#fdae6b", "#e6550d", "#a50f15")
COMMON = (
    *("--defaults", "general", "--n-steps", "256", "--lr-schedule", "linear"),
    *("--normalise", "on", "--sigma", "0.01"),
)
"""What helps every learner: decay of the learning rate, normalised observations and rewards."""
SEEDS = (0, 1, 2)
SEARCH_TASK, SEARCH_STEPS, SEARCH_SEEDS = "Reacher-v5", 100_000, (100, 101)
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
BATCH_SIZES = {"BP": (64, 256)}
"""Tried by `search`; the perturbation rules have 256."""
EPISODES = 100
"""Deterministic episodes that measure a finished policy."""


def search(only: Only = ()) -> None:
    """Try every learning rate for every learner, and for BP the batch size."""
    jobs = [
        job(SEARCH_TASK, learner, SEARCH_STEPS, seed, rate, batch)
        for seed, rate, learner in itertools.product(SEARCH_SEEDS, LEARNING_RATES, LEARNERS)
        for batch in BATCH_SIZES.get(learner, (256,))
    ]
    keep(FOLDER / "search.csv", jobs, train, only=only)


def run(only: Only = ()) -> None:
    """Train every learner with the settings that `search` found best."""
    best = best_settings()
    jobs = [
        job(task, learner, TASKS[task], seed, *best[learner])
        for task, seed, learner in itertools.product(TASKS, SEEDS, LEARNERS)
    ]
    keep(FOLDER / "rows.csv", jobs, train, only=only, curves=FOLDER / "curves.csv")


def job(*values: str | float) -> Row:
    """A run, by the arguments of `train` in their order."""
    names = ("task", "learner", "steps", "seed", "learning_rate", "batch_size")
    return dict(zip(names, values, strict=True))


def best_settings() -> dict[str, tuple[float, int]]:
    """Learning rate and batch size with the best mean return in the search, of every learner."""
    returns: dict[str, dict[tuple[float, int], list[float]]] = {}
    for row in read(FOLDER / "search.csv"):
        setting = (float(row["learning_rate"]), int(row["batch_size"]))
        own = returns.setdefault(row["learner"], {}).setdefault(setting, [])
        own.append(float(row["return_mean"]))
    if missing := set(LEARNERS) - set(returns):
        sys.exit(f"no search rows for {', '.join(missing)}: run the stage `search` first")
    return {
        learner: max(own, key=lambda setting: fmean(own[setting]))
        for learner, own in returns.items()
    }


def train(
    task: str, learner: str, steps: int, seed: int, learning_rate: float, batch_size: int
) -> Row:
    """Train and measure."""
    words = ["train", "--env", task, *LEARNERS[learner], "--steps", str(steps)]
    words += ["--seed", str(seed), "--learning-rate", str(learning_rate)]
    words += ["--batch-size", str(batch_size), *COMMON]
    folder = RUNS / f"{task}-{learner}-{seed}-{learning_rate}-{batch_size}".replace(" ", "")
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was cut off
    nprobot(*words, "--out", str(folder))
    evaluation = json.loads(nprobot("evaluate", str(folder), "--episodes", str(EPISODES), "--json"))
    description = json.loads((folder / "checkpoints" / "last" / "policy.json").read_text())
    progress = read(folder / "progress.csv")
    made = description["provenance"]
    return {
        **{name: evaluation[name] for name in ("return_mean", "return_sd")},
        "episodes": EPISODES,
        **{name: made[name] for name in ("forward_passes", "backward_passes")},
        "seconds": max(float(r["time/time_elapsed"]) for r in progress if r["time/time_elapsed"]),
        "command": f"nprobot {shlex.join(words)}",
        "curve": [
            {"step": r["time/total_timesteps"], "return": r["rollout/ep_rew_last"]}
            for r in progress
            if r.get("rollout/ep_rew_last")
        ],
    }


def nprobot(*arguments: str) -> str:
    """What a command prints; it has one thread."""
    done = subprocess.run(
        [sys.executable, "-m", "nprobot", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{shlex.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def report() -> None:
    """Draw the figure and write the tables of the page."""
    page, best = DOCS / "learning_curves.md", best_settings()
    chosen = (f"{learner} {rate:g} (batch {batch})" for learner, (rate, batch) in best.items())
    put_section("results", results_table(read(FOLDER / "rows.csv")), page)
    search_lines = search_table(read(FOLDER / "search.csv"))
    put_section("search", [*search_lines, "", f"Chosen: {'; '.join(chosen)}."], page)
    draw(read(FOLDER / "curves.csv"))


def draw(curves: Rows) -> None:
    """Return over steps, mean over seeds and the range between them."""
    figure, axes = panels(len(TASKS), (11, 4.2))
    for axis, task in zip(axes, TASKS, strict=True):
        for learner, colour in zip(LEARNERS, COLOURS, strict=True):
            own = seeds_of(select(curves, task=task, learner=learner), "step", "return", 1e3)
            width = 2.2 if learner == "BP" or "K = 8" in learner else 1.4
            plot_mean(axis, own, color=colour, lw=width, label=learner)
        axis.set(title=task, xlabel="environment steps (thousands)")
        if task in SOLVED:
            axis.axhline(SOLVED[task], color="grey", ls=":", lw=1)
            axis.text(0, SOLVED[task] - 35, " solved", color="grey", size=8, va="top")
    axes[-1].set_ylim(bottom=-25)
    axes[0].set_ylabel("return while exploring")
    axes[-1].legend(loc="lower right")
    figure.suptitle(
        f"PPO by backpropagation and by node perturbation: mean and range of {len(SEEDS)} seeds",
        size=12,
    )
    save_figure(figure, "learning_curves")


def results_table(rows: Rows) -> list[str]:
    """Return, passes and time of every learner on every task."""
    heading, lines = ["learner"], []
    for task, steps in TASKS.items():
        heading += [f"{task}, {steps // 1000}k steps", "passes forward / backward", "minutes"]
    for learner in LEARNERS:
        cells = [learner]
        for task in TASKS:
            own = select(rows, task=task, learner=learner)
            returns = column(own, "return_mean")
            forward, backward, seconds = (
                fmean(column(own, name))
                for name in ("forward_passes", "backward_passes", "seconds")
            )
            cells += [
                f"{spread(returns, 2)} ({min(returns):.2f})",
                f"{forward / 1e6:.1f} M / {backward / 1e6:.1f} M",
                f"{seconds / 60:.1f}",
            ]
        lines.append(cells)
    return markdown(heading, lines)


def search_table(rows: Rows) -> list[str]:
    """Mean return of every setting of the search."""
    lines = []
    for learner, batch in dict.fromkeys((row["learner"], row["batch_size"]) for row in rows):
        own = select(rows, learner=learner, batch_size=batch)
        tried = (column(select(own, learning_rate=rate), "return_mean") for rate in LEARNING_RATES)
        lines.append([learner, batch, *(f"{fmean(found):.2f}" for found in tried)])
    return markdown(("learner", "batch", *(f"{rate:g}" for rate in LEARNING_RATES)), lines)


if __name__ == "__main__":
    command(__doc__, search, run, report)
