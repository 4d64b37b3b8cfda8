"""Puts what the benchmark `core` found into the pages that tell of it.

    nprobot bench core --out runs/core --seeds 0 1 2 3 4   # results/benchmark/core.jsonl
    nprobot bench core --out runs/fresh --env HalfCheetah-v5 InvertedDoublePendulum-v5 \
        --seeds 5 6 7 8 9 10 11 12 \
        --learner BP "NP + feedback, K = 1" "NP + feedback, K = 8"   # fresh_seeds.jsonl
    python scripts/benchmark_pages.py                    # tables in README.md and docs/, figures

What is said about them stays a person's.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rows import FIGURES, ROOT, put_section

from nprobot.benchmark import Results as Report
from nprobot.benchmark import read
from nprobot.benchmark.aggregates import improvement
from nprobot.benchmark.page import MARKDOWN, draw, render, sections

Row = dict[str, Any]
RESULTS = ROOT / "results" / "benchmark"
VARIANCE, README = ROOT / "docs" / "variance.md", ROOT / "README.md"
BENCHMARK = ROOT / "docs" / "benchmark.md"
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


class Results:
    """The finished runs, by learner and task."""

    def __init__(self, *names: str) -> None:
        self.rows: list[Row] = []
        for name in names:
            self.rows += read(RESULTS / f"{name}.jsonl")

    def of(self, learner: str, task: str) -> list[Row]:
        """In the order of their seeds."""
        found = [
            row
            for row in self.rows
            if (row["learner"], row["env"], row["status"]) == (learner, task, "done")
        ]
        return sorted(found, key=lambda row: int(row["seed"]))

    def returns(self, learner: str, task: str) -> list[float]:
        """Of each seed."""
        return [row["return_mean"] for row in self.of(learner, task)]

    def share(self, learner: str, task: str) -> str:
        """How much of BP's way from the random policy the mean of the seeds is."""
        if not (own := self.returns(learner, task)):
            return "–"
        start, end = (statistics.fmean(self.returns(n, task)) for n in ("random", "BP"))
        few = "" if len(own) > 2 else f" ({len(own)} seed{'s' * (len(own) > 1)})"
        return f"{100 * (statistics.fmean(own) - start) / (end - start):.0f} %{few}"

    def cell(self, learner: str, task: str) -> str:
        """Mean and each seed."""
        if not (own := self.returns(learner, task)):
            return "–"
        places = 1 if max(map(abs, own)) < 100 else 0
        mean, *each = (f"{x:.{places}f}".replace("-", "−") for x in (statistics.fmean(own), *own))
        return f"**{mean}** ({', '.join(each)})"

    def cost(self, learner: str, tasks: Sequence[str]) -> tuple[str, str]:
        """Passes forward and backward, and CPU seconds, mean over runs."""
        own = [row for task in tasks for row in self.of(learner, task)]
        forward, backward, seconds = (
            statistics.fmean(row[name] for row in own)
            for name in ("forward_passes", "backward_passes", "cpu_seconds")
        )
        passes = (f"{x / 1e6:.1f} M" if x else "none" for x in (forward, backward))
        return " / ".join(passes), f"{seconds:.0f}"


def heading(*cells: str) -> list[str]:
    """The first two lines of a table."""
    return [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]


def label(learner: str) -> str:
    """How a learner is called in a table: of earlier settings in italics."""
    return f"*{learner}*" if learner in EARLIER else learner


def returns_table(results: Results, learners: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """Returns of every seed, and what they cost."""
    names = [task.rpartition("/")[2] for task in tasks]
    lines = heading("PPO, 300k steps", *names, "passes forward / backward", "CPU s")
    for learner in learners:
        cells = [results.cell(learner, task) for task in tasks]
        lines.append(f"| {' | '.join([label(learner), *cells, *results.cost(learner, tasks)])} |")
    return lines


def shares_table(results: Results, learners: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """How much of BP's way from the random policy each learner goes."""
    lines = heading("% of BP's way", *(task.rpartition("/")[2] for task in tasks))
    for learner in learners:
        cells = [results.share(learner, task) for task in tasks]
        lines.append(f"| {' | '.join([label(learner), *cells])} |")
    return lines


def settings_table(rows: Sequence[Row], tasks: Sequence[str]) -> list[str]:
    """Returns under every setting that was tried: reported seeds, and in brackets another one."""
    names = [task.rpartition("/")[2] for task in tasks]
    lines = heading("300k steps", *names)
    for learner, which in SEARCHED.items():
        own = [r for r in rows if (r["rule"], r["samples"]) == which and is_searched(r)]
        for setting in sorted({setting_of(row) for row in own}):
            cells = [
                settings_cell([r for r in own if (setting_of(r), r["env"]) == (setting, task)])
                for task in tasks
            ]
            lines.append(f"| {' | '.join([f'{learner}, {setting}', *cells])} |")
    return lines


def is_searched(row: Row) -> bool:
    """Whether a row is of a learner whose settings were compared, and of a long run."""
    batch = 256 if row["rule"] == "danp" else 64
    return (
        row["algo"] == "ppo"
        and row["settings"]["batch_size"] == batch
        and row["rule"] != "np"
        and row["env"] != "InvertedPendulum-v5"
    )


def fresh_table(fresh: Results, start: Results) -> list[str]:
    """What remains of the settings' returns on seeds that nobody has chosen by.

    Args:
        fresh: these runs.
        start: with those of the random policy.
    """
    columns = ("seeds", "mean ± sd", "median", "% of BP's way", "P(beats BP)")
    lines = heading("task, learner", *columns)
    for task in FRESH:
        low = statistics.fmean(start.returns("random", task))
        backprop = fresh.returns("BP", task)
        for learner in NOW[:3]:
            own = fresh.returns(learner, task)
            mean, middle = statistics.fmean(own), statistics.median(own)
            way = (mean - low) / (statistics.fmean(backprop) - low)
            cells = [f"{task}, {learner}", str(len(own))]
            cells += [f"{mean:.0f} ± {statistics.stdev(own):.0f}", f"{middle:.0f}"]
            if learner == "BP":
                cells += ["100", "–"]
            else:
                cells += [f"{100 * way:.0f}", str(improvement([own], [backprop]))]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


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


def settings_cell(rows: Sequence[Row]) -> str:
    """Mean and each of the reported seeds, and the others."""
    rows = sorted(rows, key=lambda row: int(row["seed"]))
    own = [row["return_mean"] for row in rows if row["seed"] in REPORTED]
    others = [row["return_mean"] for row in rows if row["seed"] not in REPORTED]
    parts = []
    if own:
        mean, *each = map(number, (statistics.fmean(own), *own))
        parts.append(f"**{mean}** ({', '.join(each)})")
    if others:
        parts.append(f"[{', '.join(map(number, others))}]")
    return " ".join(parts) or "–"


def number(value: float) -> str:
    """Four digits or so, and a real minus sign."""
    return f"{value:.{1 if abs(value) < 200 else 0}f}".replace("-", "−")


def put_report(rows: Sequence[Row]) -> None:
    """What the report of a benchmark shows, into the page: tables, findings, two figures."""
    shown = Report.of(row for row in rows if row["learner"] in ("BP", "random", *OF_ALL))
    pictures = draw(shown)
    (FIGURES / "benchmark_scores.png").write_bytes(pictures["scores"])
    drawn = Report.of(row for row in rows if row["learner"] in DRAWN)
    (FIGURES / "benchmark_curves.png").write_bytes(draw(drawn)["curves_env_steps"])
    for part in render(MARKDOWN, shown, sections(shown, pictures)).split("## ")[1:]:
        title, _, text = part.partition("\n")
        if name := PARTS.get(title.partition(":")[0]):
            put_section(name, [text.strip()], BENCHMARK)


def main() -> None:
    """Replace the tables."""
    put_report(Results("core").rows)
    results = Results("core", "core_earlier")
    searched = Results("core", "search_anchor").rows
    put_section("settings", settings_table(searched, ALL[1:]), VARIANCE)
    put_section("returns", returns_table(results, (*NOW, *EARLIER), FOUR), VARIANCE)
    put_section("fresh", fresh_table(Results("fresh_seeds"), results), VARIANCE)
    put_section("shares", shares_table(results, (*NOW[1:-1], *EARLIER), FOUR), VARIANCE)
    put_section("shares", shares_table(results, OF_ALL, ALL), README)


if __name__ == "__main__":
    main()
