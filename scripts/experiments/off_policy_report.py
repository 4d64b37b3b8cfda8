"""Figure and page of `off_policy.py` and `off_policy_critic.py` from their raw rows."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean, stdev

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from off_policy import (
    ALGORITHMS,
    AS_REPORTED,
    COMMON,
    ENVS,
    EPISODES,
    OFTEN,
    RESULTS,
    ROOT,
    RULES,
    SEARCH_SEED,
    SEARCH_TASK,
    TASKS,
)
from rows import read

FIGURE = ROOT / "docs" / "figures" / "off_policy.png"
PAGE = ROOT / "docs" / "off_policy.md"
COLOURS = {"BP": "black", "DANP": "#a50f15", "NP + feedback": "#756bb1"}
LINES = {("SAC", AS_REPORTED): "-", ("TD3", AS_REPORTED): ":", ("TD3", OFTEN): "--"}
FLOORS = {"Pendulum-v1": -1600.0, "Reacher-v5": -25.0}
"""Where the axes end: what a random policy gets would squeeze the rest."""

Rows = list[dict[str, str]]


def report() -> None:
    """Draw the figure and write the page."""
    draw(read(RESULTS / "curves.csv"))
    PAGE.write_text(page())
    print(f"{FIGURE.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")


def draw(curves: Rows) -> None:
    """Return over steps, mean over seeds and the range between them."""
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    tasks = [task for task in TASKS if select(curves, task=task)]
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(4.4 * len(tasks), 4.8), layout="constrained", squeeze=False
    )
    axes = panels[0]
    for axis, task in zip(axes, tasks, strict=True):
        for rule, colour in COLOURS.items():
            for (algorithm, condition), line in LINES.items():
                runs = defaultdict(list)
                kind = {"task": task, "algorithm": algorithm, "rule": rule, "condition": condition}
                for row in select(curves, **kind):
                    runs[row["seed"]].append((float(row["step"]), float(row["return"])))
                if not runs:
                    continue
                steps = np.array([step for step, _ in min(runs.values(), key=len)])
                found = np.array([np.interp(steps, *zip(*r, strict=True)) for r in runs.values()])
                label = f"{algorithm} by {rule}" + f", {condition}" * (condition == OFTEN)
                axis.plot(steps / 1e3, found.mean(0), line, color=colour, lw=1.6, label=label)
                axis.fill_between(
                    steps / 1e3, found.min(0), found.max(0), color=colour, alpha=0.1, lw=0
                )
        axis.set(title=task, xlabel="environment steps (thousands)")
        axis.set_ylim(bottom=FLOORS.get(task))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("return of training episodes (with exploration)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle("SAC and TD3 by backpropagation and by perturbation: mean and range of seeds")
    figure.savefig(FIGURE, dpi=130)
    plt.close(figure)


def page() -> str:
    """The page with new tables between its marks, ``<!-- name -->`` and ``<!-- end -->``."""
    parts = {
        "results": results_table(read(RESULTS / "rows.csv")),
        "search": search_table(read(RESULTS / "search.csv")),
        "critic": critic_table(read(RESULTS / "critic.csv")),
        "settings": settings(),
    }
    text = PAGE.read_text()
    for name, part in parts.items():
        mark = f"<!-- {name} -->"
        before, after = text.split(mark)
        text = f"{before}{mark}\n\n{part}\n\n<!-- end -->{after.split('<!-- end -->', 1)[1]}"
    return text


def results_table(rows: Rows) -> str:
    """Return, passes and time of every learner on every task, at every rate that it has had."""
    measured = ["return", "worst", "env steps", "gradient steps"]
    lines = [
        ["task", "learner", "rate", "seeds", *measured, "passes forward / backward", "minutes"]
    ]
    for task in TASKS:
        for algorithm in ALGORITHMS:
            for rule in RULES:
                learner = select(rows, task=task, algorithm=algorithm, rule=rule)
                kinds = {(row["condition"], row["learning_rate"]) for row in learner}
                for condition, rate in sorted(kinds, key=lambda own: (own[0], -float(own[1]))):
                    own = select(learner, learning_rate=rate, condition=condition)
                    lines.append([task, f"{algorithm} by {rule}", rate, *results(own)])
    return table(lines)


def results(own: Rows) -> list[str]:
    """The cells of one learner on one task."""
    found = [float(row["return_mean"]) for row in own]
    spread = f" ± {stdev(found):.1f}" if len(found) > 1 else ""
    forward, backward, minutes = (
        fmean(float(row[name]) for row in own)
        for name in ("forward_passes", "backward_passes", "processor_seconds")
    )
    return [
        str(len(own)),
        f"{fmean(found):.1f}{spread}",
        f"{min(found):.1f}",
        f"{int(own[0]['steps']):,}",
        f"{int(own[0]['gradient_steps']):,}",
        f"{forward / 1e6:.0f} M / {backward / 1e6:.0f} M",
        f"{minutes / 60:.1f}",
    ]


def search_table(rows: Rows) -> str:
    """Return of every learning rate that was tried, under every condition."""
    tried = list(dict.fromkeys(map(tried_as, rows)))
    lines = [["learner", *tried]]
    for rule in RULES:
        for algorithm in ALGORITHMS:
            own = {
                tried_as(row): f"{float(row['return_mean']):.0f}"
                for row in select(rows, algorithm=algorithm, rule=rule)
            }
            if own:
                lines.append([f"{algorithm} by {rule}", *(own.get(key, "–") for key in tried)])
    where = f"{SEARCH_TASK}, seed {SEARCH_SEED}; return of {EPISODES} deterministic episodes"
    return f"{table(lines)}\n\n({where})"


def tried_as(row: dict[str, str]) -> str:
    """Condition, length and learning rate of a run of the search."""
    return f"{row['condition']}, {int(row['steps']) // 1000}k steps, {row['learning_rate']}"


def critic_table(rows: Rows) -> str:
    """Error of a critic learned by every setting."""
    errors = [name for name in (rows[0] if rows else {}) if name.startswith("nmse")]
    after = [f"after {name.removeprefix('nmse_')}" for name in errors]
    lines = [["rule", "learning rate", "units", "changed", *after, "ms a step"]]
    lines += [
        [
            *(row["rule"].upper(), row["learning_rate"], row["activation"]),
            row["changes"].replace("_", " ") or "–",
            *(f"{float(row[name]):.4f}" for name in errors),
            row["milliseconds"],
        ]
        for row in rows
    ]
    return table(lines)


def settings() -> str:
    """What all learners have in common, from the script that ran them."""
    each = {
        task: ENVS * frequency // gradient_steps
        for task, (_, frequency, gradient_steps) in TASKS.items()
    }
    steps = ", ".join(f"{count} on {task}" for task, count in each.items())
    layers = "-".join(map(str, COMMON["policy_kwargs"]["net_arch"]))
    return (
        f"{ENVS} environments, networks of {layers} ReLU units, batches of "
        f"{COMMON['batch_size']}, τ = {COMMON['tau']}, γ = {COMMON['gamma']}, "
        f"{COMMON['learning_starts']} random steps to begin with. "
        f"Environment steps for one gradient step: {steps}; 1 in the rows of TD3 with the most "
        "gradient steps."
    )


def select(rows: Rows, **wanted: str) -> Rows:
    """The rows with these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def table(lines: list[list[str]]) -> str:
    """A Markdown table; the first line is its header."""
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
