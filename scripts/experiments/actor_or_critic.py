"""Where node perturbation loses to backpropagation in PPO: in the actor or in the critic?

One network learns by DANP with K = 8, the other by backpropagation on the same decorrelated layers
(DBP); both learn at DANP's rate and batch size. Both by DANP, and both by DBP, are the ends of the
scale. Three seeds, 100k steps each; a finished row is not repeated, so a cut-off costs one run.

    python scripts/actor_or_critic.py run      # results/actor_or_critic/rows.csv
    python scripts/actor_or_critic.py report   # table in docs/variance.md
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rows import append, put_section, read, versions
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn
from typing_extensions import override

import nprobot
from nprobot.learning.rule import LearningRule, Loss
from nprobot.policies.sb3_networks import Actor

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "results" / "actor_or_critic" / "rows.csv"
PAGE = ROOT / "docs" / "variance.md"
TASKS = ("Reacher-v5", "HalfCheetah-v5")
RULES = ("danp", "dbp")
SEEDS = (0, 1, 2)
STEPS, ENVS, EPISODES = 100_000, 8, 50


class TwoRules(LearningRule):
    """One rule for the actor, one for the critic."""

    plain_name = "two"

    def __init__(self, actor: LearningRule, critic: LearningRule) -> None:
        super().__init__(decorrelated=True, seed=0)
        self.rules = (actor, critic)

    def _of(self, network: nn.Module) -> LearningRule:
        return self.rules[0 if isinstance(network, Actor) else 1]

    @override
    def backward(
        self,
        network: nn.Module,
        inputs: Any,
        loss: Loss,
        *,
        noise: Sequence[Tensor] | None = None,
    ) -> Tensor:
        return self._of(network).backward(network, inputs, loss, perturbations=noise)

    @override
    def decorrelate(self, network: nn.Module, *, scale: float = 1.0) -> None:
        self._of(network).decorrelate(network, scale=scale)

    @override
    def decorrelation_loss(self, network: nn.Module) -> float:
        return self._of(network).decorrelation_loss(network)


def run(task: str, actor: str, critic: str, seed: int) -> dict[str, Any]:
    """Train once and measure the finished policy."""

    def rule(name: str, place: int) -> LearningRule:
        return nprobot.learning_rule(
            name, sigma=1e-2, samples=8, noise="rademacher", seed=2 * seed + place
        )

    started = time.process_time()
    env = VecNormalize(make_vec_env(task, ENVS, seed=seed))
    both = TwoRules(rule(actor, 0), rule(critic, 1))
    model = nprobot.PPO("MlpPolicy", env, rule=both, n_steps=256, seed=seed, device="cpu")
    with torch.enable_grad():  # DBP differentiates
        model.learn(STEPS)
    env.training, env.norm_reward = False, False
    mean, _ = evaluate_policy(model, env, EPISODES)
    return {
        "env": task, "actor": actor, "critic": critic, "seed": seed, "steps": STEPS,
        "return": round(float(mean), 3), "episodes": EPISODES,
        "cpu_seconds": round(time.process_time() - started, 1), **versions(),
    }  # fmt: skip


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    if parser.parse_args().what == "report":
        put_section("actor or critic", table(read(ROWS)), PAGE)
        return
    torch.set_num_threads(1)
    done = {(r["env"], r["actor"], r["critic"], int(r["seed"])) for r in read(ROWS)}
    for job in itertools.product(TASKS, RULES, RULES, SEEDS):
        if job not in done:
            row = run(*job)
            append(ROWS, [row])
            print(row, flush=True)


def table(rows: list[dict[str, str]]) -> list[str]:
    """Return by who learned how, mean ± standard deviation over seeds."""
    lines = [
        f"| after {STEPS // 1000}k steps | both DANP | actor DANP, critic BP "
        "| actor BP, critic DANP | both BP |",
        "|---|---|---|---|---|",
    ]
    for task in TASKS:
        cells = []
        for pair in (("danp", "danp"), ("danp", "dbp"), ("dbp", "danp"), ("dbp", "dbp")):
            own = [
                float(r["return"])
                for r in rows
                if (r["env"], r["actor"], r["critic"]) == (task, *pair)
            ]
            digits = 2 if task.startswith("Reacher") else 0
            cells.append(
                f"{statistics.fmean(own):.{digits}f} ± {statistics.stdev(own):.{digits}f}"
                if len(own) > 1
                else ""
            )
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
