"""PPO with the exact gradient in place of the estimate, and with gradients clipped in two ways.

NP with feedback clips the gradients of actor and critic each, stable-baselines3 clips both by their
common norm. With the exact gradient in our update only that is left of what tells the two apart;
with feedback and SB3's clipping, only the estimate. Tasks, settings, seeds and final returns are
those of the benchmark, from its rows.

    python scripts/clipping.py run      # results/clipping/rows.csv; a finished row is not repeated
    python scripts/clipping.py report   # table in docs/variance.md
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any
from unittest import mock

from rows import ROOT, append, command_line, put_section, read
from torch import nn
from typing_extensions import override

from nprobot import PPO
from nprobot.algorithms.ppo import _fuse
from nprobot.benchmark import RunSpec, execute
from nprobot.benchmark import read as read_rows
from nprobot.policies.distributions import action_distribution
from nprobot.policies.sb3_networks import Actor, Critic

ROWS = ROOT / "results" / "clipping" / "rows.csv"
BENCHMARK = ROOT / "results" / "benchmark"
PAGE = ROOT / "docs" / "variance.md"
CHEETAH, DOUBLE = "HalfCheetah-v5", "InvertedDoublePendulum-v5"
EACH, TOGETHER = "each", "together"
BP, K1, K8 = "BP", "NP + feedback, K = 1", "NP + feedback, K = 8"
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


class OurUpdate(PPO):
    """Our update for every rule, backpropagation among them."""

    @override
    def _setup_model(self) -> None:
        super()._setup_model()
        self.actor, self.critic = Actor(self.policy), Critic(self.policy)
        self.distribution = action_distribution(self.action_space)
        _fuse(self.policy.optimizer)  # rounds otherwise, and so ends elsewhere

    @override
    def train(self) -> None:
        self._train()


class ClippedTogether(PPO):
    """One norm for actor and critic, as in SB3."""

    @override
    def _clip(self, networks: Iterable[Iterable[nn.Parameter]]) -> list[float]:
        return [*super()._clip([chain.from_iterable(networks)]), 0.0]


def main() -> None:
    """Run or report."""
    if command_line(__doc__, "run", "report").parse_args().stage == "report":
        put_section("clipping", table(), PAGE)
        return
    done = {(row["env"], row["learner"], int(row["seed"])) for row in read(ROWS)}
    for case in CASES:
        for seed in case.seeds:
            if (case.env, case.learner, seed) not in done:
                run(case, seed)


def run(case: Case, seed: int) -> None:
    """Train and keep the row."""
    there = benchmark_rows(case)[0]
    spec = RunSpec.of_row(there).replace(seed=seed)
    exact = spec.rule == "bp"
    with mock.patch("nprobot.algorithms.ppo.PPO", OurUpdate if exact else ClippedTogether):
        row = execute(spec)
    kept = {"env": case.env, "learner": case.learner, "clipped": EACH if exact else TOGETHER}
    kept |= {"seed": seed, "steps": spec.steps, "return": f"{row['return_mean']:.4f}"}
    kept |= {"cpu_seconds": f"{row['cpu_seconds']:.0f}"}
    append(ROWS, [{**kept, **row["versions"], "commit": row["commit"]}])
    print(kept, flush=True)


def benchmark_rows(case: Case) -> list[dict[str, Any]]:
    """What the benchmark has of a learner."""
    found = []
    for name in ("core", "search_anchor"):
        rows = read_rows(BENCHMARK / f"{name}.jsonl")
        found += [row for row in rows if row["env"] == case.env]
    return [row for row in found if row["learner"] in case.names and row["status"] == "done"]


def table() -> list[str]:
    """Mean return and every seed, with the clipping of the benchmark and with the other."""
    lines = ["| return after 300k steps | gradients clipped together | each |", "|---|---|---|"]
    for case in CASES:
        there = {row["seed"]: row["return_mean"] for row in benchmark_rows(case)}
        here = {
            int(row["seed"]): float(row["return"])
            for row in read(ROWS)
            if (row["env"], row["learner"]) == (case.env, case.learner)
        }
        exact = case.learner == BP
        gradient = (
            "exact gradient" if exact else f"NP + feedback, K = {8 if case.learner == K8 else 1}"
        )
        together, each = (there, here) if exact else (here, there)
        lines.append(f"| {case.env}, {gradient} | {cell(together)} | {cell(each)} |")
    return lines


def cell(returns: dict[int, float]) -> str:
    """Mean and seeds in order."""
    ordered = [returns[seed] for seed in sorted(returns)]
    return f"**{statistics.fmean(ordered):.0f}** ({', '.join(f'{value:.0f}' for value in ordered)})"


if __name__ == "__main__":
    main()
