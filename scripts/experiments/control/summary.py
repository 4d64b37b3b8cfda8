"""The one table of results in README.md: backprop beside learned feedback.

    nprobot bench results/benchmark/control.toml --out runs/control
    python -m scripts.experiments.control.summary

The first makes the rows of control, which are kept in results/benchmark/control.jsonl.

Inverse dynamics, the transformer and the noisy chip come from the rows of `inverse_dynamics.py`,
`language.py` and `hidden_noise.py`. A task of control whose runs are not all there is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

import tyro

from nprobot.benchmark import Results
from nprobot.benchmark import read as read_benchmark
from nprobot.benchmark.aggregates import improvement, iqm
from nprobot.benchmark.results import BenchmarkTask

from ..pages import DOCS, markdown, put_section, spread
from ..rows import RESULTS, ROOT, Rows, column, read, select

OURS = "NP + feedback, K = 1"
HEADING = ("task", "what is measured", "seeds", "backprop", "learned feedback", "paper's rule")


def write() -> None:
    """Replace the tables in README.md and in the notebook of the runs."""
    rows = read_benchmark(path) if (path := RESULTS / "benchmark/control.jsonl").exists() else []
    results = Results.of(rows)
    table = markdown(HEADING, [*control_lines(results), *fitted_lines()])
    put_section("results", table, ROOT / "README.md")
    put_section("answer", answer(results), DOCS / "control.md")
    put_section("control", control_table(results), DOCS / "control.md")


def number(values: Sequence[float]) -> str:
    """Mean ± standard deviation in four digits or so, with a real minus sign."""
    size = abs(fmean(values))
    digits = 0 if size >= 200 else 1 if size >= 1 else 4
    return spread(values, digits).replace("-", "−")


def control_lines(results: Results) -> Iterator[Sequence[str]]:
    """A line for each task of control on which both learners are done with the same seeds."""
    for task in results.tasks:
        if both_done(results, task):
            measure = f"return, {task.steps // 1000}k steps"
            both = (number(list(results.returns(task, name))) for name in ("BP", OURS))
            yield str(task), measure, str(len(results.seeds(task, "BP"))), *both, "–"


def fitted_lines() -> Iterator[Sequence[str]]:
    """What is no control."""
    yield inverse_dynamics_line()
    yield language_line()
    yield chip_line()


def language_line() -> Sequence[str]:
    """A small GPT, each learner at its better rate."""
    rows = [row for row in read(RESULTS / "language/rows.csv") if int(row["seed"]) < 100]
    cells = [column(select(rows, rule=rule), "nats") for rule in ("bp", "np+feedback")]
    seeds = "/".join(dict.fromkeys(str(len(cell)) for cell in cells))
    both = (spread(cell, 3) for cell in cells)
    return "letters of a text, a small transformer", "nats a letter", seeds, *both, "–"


def inverse_dynamics_line() -> Sequence[str]:
    """Inverse dynamics of the arm, K = 1, equal epochs."""
    rows = select(read(RESULTS / "inverse_dynamics/rows.csv"), budget="epochs", samples=1)
    cells = [column(select(rows, rule=rule), "test") for rule in ("bp", "dnp+feedback", "danp")]
    measure = "unexplained variance of test data, 12 epochs"
    seeds = "/".join(dict.fromkeys(str(len(cell)) for cell in cells))
    return "inverse dynamics of a 7-joint arm", measure, seeds, *map(number, cells)


def chip_line() -> Sequence[str]:
    """Regression on a chip whose noise nobody can read, node noise .06."""
    rows = select(read(RESULTS / "hidden_noise/regression.jsonl"), noise=0.06)
    learners = ("BP through the chip (oracle)", "NP + feedback", "ANP")
    cells = [at_best_rate(select(rows, learner=name)) for name in learners]
    seeds = "/".join(dict.fromkeys(str(len(cell)) for cell in cells))
    return (
        "regression on a noisy chip",
        "unexplained variance, on the chip",
        seeds,
        *map(number, cells),
    )


def at_best_rate(rows: Rows) -> list[float]:
    """Errors by seed at the better of a learner's rates."""
    rates = {str(row["rate"]) for row in rows}
    found = [column(select(rows, rate=rate), "nmse") for rate in rates]
    return min(found, key=lambda errors: (-len(errors), fmean(errors)))


def answer(results: Results) -> list[str]:
    """Three sentences: over all tasks, run against run, task by task."""
    done = [task for task in results.tasks if both_done(results, task)]
    if not done:
        return ["> **In short.** The runs are not finished. What is here is made from their rows."]
    ours, theirs = ([results.scores(task, name) for task in done] for name in (OURS, "BP"))
    seeds = max(len(results.seeds(task, "BP")) for task in done)
    above = [str(task) for task, own in zip(done, ours, strict=True) if own.mean() > 1]
    below = [str(task) for task, own in zip(done, ours, strict=True) if own.mean() < 1]
    counts = (("above", above), ("below", below))
    parts = [f"{word} it on {', '.join(tasks)}" for word, tasks in counts if tasks]
    return [
        f"> **In short.** Over {len(done)} tasks, with stable-baselines3's settings for both and "
        f"up to {seeds} seeds, learned feedback goes {iqm(ours)} of the way from the random "
        f"policy to the mean of backpropagation (interquartile mean; backpropagation itself: "
        f"{iqm(theirs)}).",
        f"> A run of it ends above one of backpropagation with probability "
        f"{improvement(ours, theirs)} (95 % bootstrap intervals).",
        f"> Its mean is {' and '.join(parts) or 'that of backpropagation on every task'}.",
    ]


def control_table(results: Results) -> list[str]:
    """Every seed of every task."""
    lines = []
    for task in results.tasks:
        for learner in results.learners:
            own = results.returns(task, learner)
            if len(own):
                numbers = ", ".join(number([value]) for value in own)
                seeds = results.seeds(task, learner)
                shown = f"{min(seeds)}–{max(seeds)}" if len(seeds) > 1 else str(seeds[0])
                lines.append((str(task), learner, shown, number(list(own)), numbers))
    return markdown(("task", "learner", "seeds", "mean ± sd", "each seed"), lines)


def both_done(results: Results, task: BenchmarkTask) -> bool:
    """Whether both learners have runs on a task with the same seeds."""
    mine, others = (results.seeds(task, name) for name in (OURS, "BP"))
    return bool(mine) and mine == others


if __name__ == "__main__":
    tyro.cli(write, description=__doc__)
