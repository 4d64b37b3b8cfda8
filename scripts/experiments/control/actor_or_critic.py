"""Where node perturbation loses to backpropagation in PPO: in the actor or in the critic?

One network learns by DANP with K = 8, the other by backpropagation on the same decorrelated layers
(DBP); both learn at DANP's rate and batch size. Both by DANP, and both by DBP, are the ends of the
scale. Three seeds, 100k steps each.

    python -m scripts.experiments.control.actor_or_critic run     # results/actor_or_critic/rows.csv
    python -m scripts.experiments.control.actor_or_critic report  # table in docs/variance.md
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn
from typing_extensions import override

import nprobot
from nprobot.catalogue import RuleTraits
from nprobot.learning import LearningRule, Loss
from nprobot.policies.sb3_networks import Actor

from ..pages import DOCS, markdown, put_section, spread
from ..rows import RESULTS, Only, column, command, keep, read, select

ROWS = RESULTS / "actor_or_critic" / "rows.csv"
TASKS = ("Reacher-v5", "HalfCheetah-v5")
RULES = ("danp", "dbp")
SEEDS = (0, 1, 2)
STEPS, ENVS, EPISODES = 100_000, 8, 50


class TwoRules(LearningRule):
    """One rule for the actor, one for the critic."""

    traits = RuleTraits("two", "Two rules", "one rule for the actor, one for the critic", "")

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
        perturbations: Sequence[Tensor] | None = None,
    ) -> Tensor:
        return self._of(network).backward(network, inputs, loss, perturbations=perturbations)

    @override
    def decorrelate(self, network: nn.Module, *, scale: float = 1.0) -> None:
        self._of(network).decorrelate(network, scale=scale)

    @override
    def decorrelation_loss(self, network: nn.Module) -> float:
        return self._of(network).decorrelation_loss(network)


def run(only: Only = ()) -> None:
    """Train and measure what has no row."""
    jobs = itertools.product(TASKS, RULES, RULES, SEEDS)
    names = ("env", "actor", "critic", "seed")
    keep(ROWS, [dict(zip(names, job, strict=True)) for job in jobs], train, only=only)


def train(env: str, actor: str, critic: str, seed: int) -> dict[str, Any]:
    """Train once and measure the finished policy."""

    def rule(name: str, place: int) -> LearningRule:
        settings: dict[str, Any] = {"sigma": 1e-2, "samples": 8, "noise": "rademacher"}
        return nprobot.learning_rule(name, decorrelation_lr=1e-3, seed=2 * seed + place, **settings)

    started = time.process_time()
    envs = VecNormalize(make_vec_env(env, ENVS, seed=seed))
    model = nprobot.PPO(
        *("MlpPolicy", envs, LinearSchedule(3e-3, 0.0, 1.0)),
        rule=TwoRules(rule(actor, 0), rule(critic, 1)),
        **{"n_steps": 256, "batch_size": 256, "max_grad_norm": float("inf")},
        seed=seed,
        device="cpu",
    )
    with torch.enable_grad():  # DBP differentiates
        model.learn(STEPS)
    envs.training, envs.norm_reward = False, False
    mean, _ = evaluate_policy(model, envs, EPISODES)
    spent = round(time.process_time() - started, 1)
    found = {"return": round(float(mean), 3), "episodes": EPISODES, "cpu_seconds": spent}
    return {"steps": STEPS, **found}


def report() -> None:
    """Return by who learned how, mean ± standard deviation over seeds."""
    who = ("both DANP", "actor DANP, critic BP", "actor BP, critic DANP", "both BP")
    rows, lines = read(ROWS), []
    for task in TASKS:
        digits = 2 if task.startswith("Reacher") else 0
        cells = (
            spread(column(select(rows, env=task, actor=actor, critic=critic), "return"), digits)
            for actor, critic in itertools.product(RULES, RULES)
        )
        lines.append((task, *cells))
    lines = markdown((f"after {STEPS // 1000}k steps", *who), lines)
    put_section("actor or critic", lines, DOCS / "variance.md")


if __name__ == "__main__":
    command(__doc__, run, report)
