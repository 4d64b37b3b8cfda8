"""PPO with the exact gradient in place of the estimate, and with gradients clipped in two ways.

NP with feedback clips the gradients of actor and critic each, stable-baselines3 clips both by their
common norm. With the exact gradient in our update only that is left of what tells the two apart;
with feedback and SB3's clipping, only the estimate. Tasks, settings, seeds and final returns are
those of the benchmark, from its rows.

    python -m scripts.experiments.control.clipping run     # results/clipping/rows.csv
    python -m scripts.experiments.control.clipping report  # table in docs/variance.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from unittest import mock

from torch import nn
from typing_extensions import override

from nprobot import PPO, benchmark, catalogue
from nprobot.learning.rules import Backpropagation

from ..pages import DOCS, each, markdown, put_section
from ..rows import RESULTS, Only, Row, Rows, column, command, keep, read, select

ROWS = RESULTS / "clipping" / "rows.csv"
CHEETAH, DOUBLE = "HalfCheetah-v5", "InvertedDoublePendulum-v5"
EACH, TOGETHER = "each", "together"
BP, K8 = "BP", "NP + feedback, K = 8"
K1_CONSTANT = "NP + feedback, 3e-4 constant, 8 envs"


@dataclass(frozen=True)
class Case:
    """A learner of the benchmark, with the other clipping.

    Attributes:
        env: task.
        learner: its name there.
        seeds: of the runs.
        others: names of rows of the same learner with other seeds.
    """

    env: str
    learner: str
    seeds: tuple[int, ...]
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names of its rows."""
        return self.learner, *self.others


CASES = (
    Case(CHEETAH, BP, (0, 1, 2, 3, 4, 100), ("BP, 3e-4 constant, 8 envs",)),
    Case(CHEETAH, K1_CONSTANT, (0, 1, 2, 3, 4, 100)),
    Case(DOUBLE, BP, (0, 1, 2, 3), ("BP, 1e-3 linear, 8 envs",)),
    Case(DOUBLE, K8, (0, 1, 2, 3)),
)


@catalogue.rule(
    name="exact", title="Exact gradient", about="BP in our update", citation="", perturbs=False
)
class ExactGradient(Backpropagation):
    """Backpropagation that goes through our update, not stable-baselines3's."""


class ClippedTogether(PPO):
    """One norm for actor and critic, as in SB3."""

    @override
    def _clip(self, networks: Mapping[str, Iterable[nn.Parameter]]) -> dict[str, float]:
        return super()._clip({"both": list(chain(*networks.values()))})


def run(only: Only = ()) -> None:
    """Train what has no row."""
    jobs = [
        {"env": case.env, "learner": case.learner, "seed": seed}
        for case in CASES
        for seed in case.seeds
    ]
    keep(ROWS, jobs, train, only=only)


def train(env: str, learner: str, seed: int) -> Row:
    """Train with the settings of the benchmark."""
    case = next(own for own in CASES if (own.env, own.learner) == (env, learner))
    spec = benchmark.RunSpec.of_row(benchmark_rows(case)[0]).replace(seed=seed)
    if spec.rule == "bp":
        clipped, row = EACH, benchmark.execute(spec.replace(rule=f"{__name__}:exact"))
    else:
        with mock.patch("nprobot.algorithms.ppo.PPO", ClippedTogether):
            clipped, row = TOGETHER, benchmark.execute(spec)
    if row["status"] != "done":
        raise SystemExit(f"{env}, {learner}, seed {seed}: {row['error']}")
    found = {"clipped": clipped, "steps": spec.steps, "return": f"{row['return_mean']:.4f}"}
    return {**found, "cpu_seconds": f"{row['cpu_seconds']:.0f}"}


def benchmark_rows(case: Case) -> Rows:
    """What the benchmark has of a learner."""
    files = (RESULTS / "benchmark" / f"{name}.jsonl" for name in ("core", "search_anchor"))
    rows: Rows = [row for file in files for row in benchmark.read(file)]
    own = select(rows, env=case.env, status="done")
    return [row for row in own if row["learner"] in case.names]


def report() -> None:
    """Mean return and every seed, with the clipping of the benchmark and with the other."""
    rows, lines = read(ROWS), []
    for case in CASES:
        there = returns(benchmark_rows(case), "return_mean")
        here = returns(select(rows, env=case.env, learner=case.learner), "return")
        exact = case.learner == BP
        estimate = f"NP + feedback, K = {8 if case.learner == K8 else 1}"
        pair = (there, here) if exact else (here, there)
        gradient = "exact gradient" if exact else estimate
        lines.append((f"{case.env}, {gradient}", *(each(own, 0) for own in pair)))
    heading = ("return after 300k steps", "gradients clipped together", "each")
    put_section("clipping", markdown(heading, lines), DOCS / "variance.md")


def returns(rows: Rows, name: str) -> list[float]:
    """In the order of the seeds; of two rows with the same seed the later."""
    by_seed = dict(zip(map(int, column(rows, "seed")), column(rows, name), strict=True))
    return [by_seed[seed] for seed in sorted(by_seed)]


if __name__ == "__main__":
    command(__doc__, run, report)
