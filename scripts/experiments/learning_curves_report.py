"""Figure and table of `learning_curves.py` from its raw rows."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean, stdev

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from learning_curves import EPISODES, LEARNERS, RESULTS, SEEDS, TASKS, best_settings
from rows import FIGURES, ROOT, read

FIGURE = FIGURES / "learning_curves.png"
PAGE = ROOT / "docs" / "learning_curves.md"
COLOURS = dict(
    zip(
        LEARNERS,
        ("black", "#9ecae1", "#3182bd", "#fdae6b", "#e6550d", "#a50f15"),
        strict=True,
    )
)
SOLVED = {"InvertedPendulum-v5": 950.0}


def report() -> None:
    """Draw the figure and write the page."""
    rows, curves = read(RESULTS / "rows.csv"), read(RESULTS / "curves.csv")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    draw(curves)
    PAGE.write_text(page(rows))
    print(f"{FIGURE.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")


def draw(curves: list[dict[str, str]]) -> None:
    """Return over steps, mean over seeds and the range between them."""
    figure, axes = plt.subplots(1, len(TASKS), figsize=(11, 4.2), layout="constrained")
    for axis, task in zip(axes, TASKS, strict=True):
        for learner, colour in COLOURS.items():
            runs = defaultdict(list)
            for row in curves:
                if row["task"] == task and row["learner"] == learner:
                    runs[row["seed"]].append((float(row["step"]), float(row["return"])))
            if not runs:
                continue
            steps = np.array([step for step, _ in min(runs.values(), key=len)])
            returns = np.array([np.interp(steps, *zip(*run, strict=True)) for run in runs.values()])
            style = {"color": colour, "lw": 2.2 if learner == "BP" or "K = 8" in learner else 1.4}
            axis.plot(steps / 1e3, returns.mean(0), label=learner, **style)
            axis.fill_between(
                steps / 1e3, returns.min(0), returns.max(0), color=colour, alpha=0.12, lw=0
            )
        axis.set(title=task, xlabel="environment steps (thousands)")
        axis.grid(alpha=0.25)
        if task in SOLVED:
            axis.axhline(SOLVED[task], color="grey", ls=":", lw=1)
            axis.text(0, SOLVED[task] - 35, " solved", color="grey", size=8, va="top")
    axes[-1].set_ylim(bottom=-25)
    axes[0].set_ylabel("return of training episodes (with exploration)")
    axes[-1].legend(loc="lower right", fontsize=9)
    figure.suptitle(
        f"PPO by backpropagation and by node perturbation: mean and range of {len(SEEDS)} seeds",
        size=12,
    )
    figure.savefig(FIGURE, dpi=130)
    plt.close(figure)


def page(rows: list[dict[str, str]]) -> str:
    """The table as Markdown, with what was searched and how to make it again."""
    settings = best_settings()
    lines = [
        "# Learning curves",
        "",
        "![Return over environment steps](figures/learning_curves.png)",
        "",
        table(rows),
        "",
        f"Return: {EPISODES} deterministic episodes of the finished policy; mean over "
        f"{len(SEEDS)} seeds ± standard deviation between seeds (worst seed in brackets). Passes: "
        "network passes of one sample that learning took, actor and critic together. Minutes: on "
        "one core of a shared machine under changing load, so no measure of speed; see the table "
        "that `scripts/speed.py` makes for that.",
        "",
        "Every learner: 8 environments, 256 steps each between updates, 10 epochs, networks of "
        "64-64 tanh units, observations and rewards normalised, learning rate decayed linearly to "
        "0. Perturbation rules: σ = 0.01, random signs, no gradient clipping, η_R = 0.001, "
        "which was the default; with the present one, a tenth of it, DANP ends nearer to BP "
        "([benchmark.md](benchmark.md)). The "
        "learning rate (and BP's batch size) is the best of a search on Reacher-v5, the same for "
        "every learner:",
        "",
        search_table(),
        "",
        "Chosen: "
        + "; ".join(
            f"{learner} {rate:g} (batch {batch})" for learner, (rate, batch) in settings.items()
        )
        + ".",
        "",
        *ablation_lines(),
        "    python scripts/learning_curves.py search && python scripts/learning_curves.py run",
        "    python scripts/learning_curves.py ablate && python scripts/learning_curves.py report",
        "",
        "Raw rows with versions and the command of every run: `results/learning_curves/`.",
        "",
    ]
    return "\n".join(lines)


def table(rows: list[dict[str, str]]) -> str:
    """Return, passes and time of every learner on every task."""
    header = ["learner"]
    for task in TASKS:
        header += [f"{task}, {TASKS[task] // 1000}k steps", "passes forward / backward", "minutes"]
    lines = [header, ["---"] * len(header)]
    for learner in LEARNERS:
        cells = [learner]
        for task in TASKS:
            own = [row for row in rows if row["task"] == task and row["learner"] == learner]
            if not own:
                cells += ["–", "–", "–"]
                continue
            returns = [float(row["return_mean"]) for row in own]
            spread = f" ± {stdev(returns):.2f}" if len(returns) > 1 else ""
            forward, backward = (
                fmean(float(row[f"{way}_passes"]) for row in own) for way in ("forward", "backward")
            )
            cells += [
                f"{fmean(returns):.2f}{spread} ({min(returns):.2f})",
                f"{forward / 1e6:.1f} M / {backward / 1e6:.1f} M",
                f"{fmean(float(row['seconds']) for row in own) / 60:.1f}",
            ]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def ablation_lines() -> list[str]:
    """What DANP with K = 8 loses or gains when one setting is changed."""
    found = defaultdict(list)
    for row in read(RESULTS / "ablations.csv"):
        found[row["change"]].append(float(row["return_mean"]))
    if not found:
        return []
    steps = int(read(RESULTS / "ablations.csv")[0]["steps"]) // 1000
    return [
        "## One setting changed at a time",
        "",
        f"DANP, K = 8, Reacher-v5 after {steps}k steps, {len(SEEDS)} seeds: mean return ± standard "
        "deviation between seeds. This is where the defaults of `nprobot.PPO` come from.",
        "",
        "| change | return |",
        "| --- | --- |",
        *(
            f"| {change} | {fmean(own):.2f} ± {stdev(own):.2f} |"
            for change, own in found.items()
            if len(own) > 1
        ),
        "",
    ]


def search_table() -> str:
    """Mean return of every setting of the search."""
    found = defaultdict(list)
    for row in read(RESULTS / "search.csv"):
        key = (row["learner"], int(row["batch_size"]), float(row["learning_rate"]))
        found[key].append(float(row["return_mean"]))
    rates = sorted({rate for *_, rate in found})
    lines = [["learner", "batch", *(f"{rate:g}" for rate in rates)], ["---"] * (2 + len(rates))]
    for learner, batch in dict.fromkeys((learner, batch) for learner, batch, _ in found):
        means = [found[learner, batch, rate] for rate in rates]
        lines.append([learner, str(batch), *(f"{fmean(m):.2f}" if m else "–" for m in means)])
    lines_text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    steps = read(RESULTS / "search.csv")[0]["steps"]
    return f"{lines_text}\n\n(mean return after {int(steps) // 1000}k steps, two seeds each)"
