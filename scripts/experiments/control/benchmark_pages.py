"""Puts what the benchmark `core` found into the pages that tell of it.

    nprobot bench core --out runs/core --seeds 0 1 2 3 4   # results/benchmark/core.jsonl
    nprobot bench core --out runs/fresh --env HalfCheetah-v5 InvertedDoublePendulum-v5 \
        --seeds 5 6 7 8 9 10 11 12 \
        --learner BP "NP + feedback, K = 1" "NP + feedback, K = 8"   # fresh_seeds.jsonl
    python -m scripts.experiments.control.benchmark_pages  # tables in README.md and docs/, figures

What is said about them stays a person's.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import tyro

from nprobot.benchmark import Results, read
from nprobot.benchmark.aggregates import improvement
from nprobot.benchmark.page import MARKDOWN, draw, render, sections

from ..pages import DOCS, FIGURES, markdown, put_section
from ..rows import RESULTS, Row, Rows, column, select

FOUR = ("Reacher-v5", "HalfCheetah-v5", "Hopper-v5", "InvertedDoublePendulum-v5")
ALL = ("InvertedPendulum-v5", *FOUR, "Swimmer-v5", "nprobot/ArmReach-v0")
NOW = (
    *("BP", "NP + feedback, K = 1", "NP + feedback, K = 8", "NP + feedback, K = 1, batch 256"),
    *("DANP, K = 8", "ARS", "random"),
)
EARLIER = (
    "NP + feedback, K = 1, batch 256, B every second step",
    "NP + feedback, K = 8, batch 256, B every second step",
    "DANP, K = 8, R at 0.001",
)
"""Of settings and versions that are not the default any more."""
OF_ALL = (
    *("NP + feedback, K = 1", "DANP, K = 8", "DANP, K = 1", "DNP, K = 1", "ANP, K = 1"),
    *("NP, K = 1", "DNP, K = 8", "ANP, K = 8", "NP, K = 8"),
    *("SB3 PPO, its defaults", "ARS", "CMA-ES"),
)
DRAWN = ("BP", "NP + feedback, K = 1", "DANP, K = 8", "ARS", "CMA-ES")
"""Whose curves are shown: more would hide each other."""
PARTS = {
    "Over all tasks": "scores",
    "Task by task": "tasks",
    "At equal cost": "cost",
    "What a run spends": "ledger",
}
"""Parts of a report that the page has, and its places for them."""
SEARCHED = {
    **{"BP": ("bp", None), "NP + feedback, K = 1": ("np+feedback", 1)},
    "NP + feedback, K = 8": ("np+feedback", 8),
    "DANP, K = 8": ("danp", 8),
}
"""Whose settings the search for the anchor compared, their rules and K."""
FRESH = ("HalfCheetah-v5", "InvertedDoublePendulum-v5")
"""Tasks of the runs on seeds that no setting was chosen by."""
REPORTED = range(5)
"""Seeds of the comparison; others are of a search."""


def write() -> None:
    """Replace the tables and figures."""
    core = finished("core")
    put_report(read(RESULTS / "benchmark" / "core.jsonl"))
    both = core + finished("core_earlier")
    variance = DOCS / "variance.md"
    searched = settings_table(core + finished("search_anchor"), ALL[1:])
    put_section("settings", searched, variance)
    put_section("returns", returns_table(both, (*NOW, *EARLIER), FOUR), variance)
    put_section("fresh", fresh_table(finished("fresh_seeds"), both), variance)
    put_section("shares", shares_table(both, (*OF_ALL, *EARLIER), ALL), DOCS / "benchmark.md")


def finished(name: str) -> Rows:
    """The finished runs of a benchmark."""
    return select(read(RESULTS / "benchmark" / f"{name}.jsonl"), status="done")


def put_report(rows: Rows) -> None:
    """What the report of a benchmark shows, into the page: tables, findings, two figures."""
    shown = Results.of(row for row in rows if row["learner"] in ("BP", "random", *OF_ALL))
    pictures = draw(shown)
    (FIGURES / "benchmark_scores.png").write_bytes(pictures["scores"])
    drawn = Results.of(row for row in rows if row["learner"] in DRAWN)
    (FIGURES / "benchmark_curves.png").write_bytes(draw(drawn)["curves_env_steps"])
    for part in render(MARKDOWN, shown, sections(shown, pictures)).split("## ")[1:]:
        title, _, text = part.partition("\n")
        if name := PARTS.get(title.partition(":")[0]):
            put_section(name, [text.strip()], DOCS / "benchmark.md")


def returns(rows: Rows, learner: str, task: str) -> list[float]:
    """Of each seed, in their order."""
    own = sorted(select(rows, learner=learner, env=task), key=lambda row: int(row["seed"]))
    return column(own, "return_mean")


def short(task: str) -> str:
    """A task without its namespace."""
    return task.rpartition("/")[2]


def label(learner: str) -> str:
    """How a learner is called in a table: of earlier settings in italics."""
    return f"*{learner}*" if learner in EARLIER else learner


def number(value: float, places: int) -> str:
    """With a real minus sign."""
    return f"{value:.{places}f}".replace("-", "−")


def returns_table(rows: Rows, learners: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """Returns of every seed, and what they cost."""
    lines = []
    for learner in learners:
        cells = [label(learner)]
        for task in tasks:
            own = returns(rows, learner, task)
            places = 1 if max(map(abs, own), default=0) < 100 else 0
            numbers = ", ".join(number(value, places) for value in own)
            mean = f"**{number(statistics.fmean(own), places)}** ({numbers})" if own else "–"
            cells.append(mean)
        every = [row for task in tasks for row in select(rows, learner=learner, env=task)]
        forward, backward, seconds = (
            statistics.fmean(column(every, name))
            for name in ("forward_passes", "backward_passes", "cpu_seconds")
        )
        passes = (f"{count / 1e6:.1f} M" if count else "none" for count in (forward, backward))
        lines.append([*cells, " / ".join(passes), f"{seconds:.0f}"])
    spent = ("passes forward / backward", "CPU s")
    return markdown(("PPO, 300k steps", *map(short, tasks), *spent), lines)


def way(rows: Rows, own: Sequence[float], task: str) -> float:
    """How much of BP's way from the random policy the mean of some returns is, per cent."""
    start, end = (statistics.fmean(returns(rows, name, task)) for name in ("random", "BP"))
    return 100 * (statistics.fmean(own) - start) / (end - start)


def shares_table(rows: Rows, learners: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """How much of BP's way from the random policy each learner goes."""
    lines = []
    for learner in learners:
        cells = [label(learner)]
        for task in tasks:
            own = returns(rows, learner, task)
            few = "" if len(own) > 2 else f" ({len(own)} seed{'s' * (len(own) > 1)})"
            cells.append(f"{way(rows, own, task):.0f} %{few}" if own else "–")
        lines.append(cells)
    return markdown(("% of BP's way", *map(short, tasks)), lines)


def settings_table(rows: Rows, tasks: Sequence[str]) -> list[str]:
    """Returns under every setting that was tried: reported seeds, and in brackets another one."""
    lines = []
    for learner, (rule, samples) in SEARCHED.items():
        own = [row for row in select(rows, rule=rule, samples=samples) if is_searched(row)]
        for setting in sorted({setting_of(row) for row in own}):
            found = [row for row in own if setting_of(row) == setting]
            cells = (settings_cell(select(found, env=task)) for task in tasks)
            lines.append((f"{learner}, {setting}", *cells))
    return markdown(("300k steps", *map(short, tasks)), lines)


def is_searched(row: Row) -> bool:
    """Whether a row is of a learner whose settings were compared, and of a long run."""
    batch = 256 if row["rule"] == "danp" else 64
    return (
        row["algo"] == "ppo"
        and row["settings"]["batch_size"] == batch
        and row["env"] != "InvertedPendulum-v5"
    )


def setting_of(row: Row) -> str:
    """Rate, schedule, environments and normalisation, in words."""
    own = row["settings"]
    falls = "falling from " if own["lr_schedule"] == "linear" else "constant "
    words = [f"{falls}{own['learning_rate']:g}"]
    if row["envs"] != 8:
        words.append("1 environment")
    if own.get("normalise") == "off":
        words.append("nothing normalised")
    return ", ".join(words)


def settings_cell(rows: Rows) -> str:
    """Mean and each of the reported seeds, and the others."""

    def text(value: float) -> str:
        return number(value, 1 if abs(value) < 200 else 0)

    rows = sorted(rows, key=lambda row: int(row["seed"]))
    own = [row["return_mean"] for row in rows if row["seed"] in REPORTED]
    others = [row["return_mean"] for row in rows if row["seed"] not in REPORTED]
    parts = []
    if own:
        parts.append(f"**{text(statistics.fmean(own))}** ({', '.join(map(text, own))})")
    if others:
        parts.append(f"[{', '.join(map(text, others))}]")
    return " ".join(parts) or "–"


def fresh_table(fresh: Rows, before: Rows) -> list[str]:
    """What remains of the settings' returns on seeds that nobody has chosen by.

    Args:
        fresh: these runs.
        before: with those of the random policy.
    """
    lines = []
    for task in FRESH:
        backprop = returns(fresh, "BP", task)
        for learner in NOW[:3]:
            own = returns(fresh, learner, task)
            mean = f"{statistics.fmean(own):.0f} ± {statistics.stdev(own):.0f}"
            cells = [f"{task}, {learner}", str(len(own)), mean, f"{statistics.median(own):.0f}"]
            share = f"{way(fresh + select(before, learner='random'), own, task):.0f}"
            better = "–" if learner == "BP" else str(improvement([own], [backprop]))
            lines.append([*cells, share, better])
    heading = ("task, learner", "seeds", "mean ± sd", "median", "% of BP's way", "P(beats BP)")
    return markdown(heading, lines)


if __name__ == "__main__":
    tyro.cli(write, description=__doc__)
