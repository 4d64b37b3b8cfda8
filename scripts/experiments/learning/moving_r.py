"""How far does decorrelation move a policy by itself? DANP-PPO with three rates of R.

Every step of R changes what the layers compute, whatever the weights do. After 40k steps, in one
more update of the policy, each minibatch moves it twice: by the weights and by R. Both moves are
measured as the KL divergence of the action distributions on the whole rollout, in nats.

    python -m scripts.experiments.learning.moving_r run     # results/moving_r/rows.csv, 5 minutes
    python -m scripts.experiments.learning.moving_r report  # table in docs/variance.md
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

import nprobot

from ..pages import DOCS, markdown, put_section
from ..rows import RESULTS, Only, column, command, keep, read, select

ROWS = RESULTS / "moving_r" / "rows.csv"
TASKS, RATES, SEEDS = ("Reacher-v5", "HalfCheetah-v5"), (1e-3, 1e-4, 1e-5), (0, 1, 2)
STEPS, ENVS, N_STEPS = 40_960, 8, 256


class Moves:
    """Measures what the weights and R each do to the actor, minibatch by minibatch.

    Args:
        model: PPO whose next update is measured.
    """

    def __init__(self, model: nprobot.PPO) -> None:
        self.model = model
        self.by_weights: list[float] = []
        self.by_r: list[float] = []
        self._observations = torch.zeros(0)
        self._before: tuple[Tensor, ...] = ()
        self._train, self._decorrelate = model.train, model.rule.decorrelate
        model.train = self.train  # type: ignore[method-assign]
        model.rule.decorrelate = self.decorrelate  # type: ignore[method-assign]

    def train(self) -> None:
        """An update, measured."""
        buffer = self.model.rollout_buffer
        self._observations = torch.as_tensor(buffer.observations).flatten(0, 1).float()
        self._before = self.outputs()
        self._train()

    def decorrelate(self, network: nn.Module, *, scale: float = 1.0) -> None:
        """The weights have moved already; R is about to."""
        if network is not self.model.actor:
            self._decorrelate(network, scale=scale)
            return
        between = self.outputs()
        self._decorrelate(network, scale=scale)
        after = self.outputs()
        self.by_weights.append(divergence(self._before, between))
        self.by_r.append(divergence(between, after))
        self._before = after

    @torch.no_grad()
    def outputs(self) -> tuple[Tensor, ...]:
        """Mean and log standard deviation of the actions of the rollout."""
        return tuple(y.clone() for y in self.model.actor(self._observations))


def divergence(old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> float:
    """Mean KL(old ‖ new) of diagonal Gaussians, in nats."""
    (mean, log_std), (other, other_log_std) = old, new
    variance = torch.exp(2 * other_log_std)
    terms = other_log_std - log_std
    terms = terms + (torch.exp(2 * log_std) + (mean - other).square()) / (2 * variance) - 0.5
    return float(terms.sum(-1).mean())


def run(only: Only = ()) -> None:
    """Train and measure what has no row."""
    jobs = itertools.product(SEEDS, TASKS, RATES)
    named = [{"env": task, "decorrelation_lr": rate, "seed": seed} for seed, task, rate in jobs]
    keep(ROWS, named, train, only=only)


def train(env: str, decorrelation_lr: float, seed: int) -> dict[str, Any]:
    """Train, then measure one update."""
    model = nprobot.PPO(
        "MlpPolicy",
        VecNormalize(make_vec_env(env, ENVS, seed=seed)),
        3e-3,
        rule="danp",
        rule_kwargs={"samples": 8, "sigma": 1e-2, "decorrelation_lr": decorrelation_lr},
        **{"n_steps": N_STEPS, "batch_size": 256, "max_grad_norm": float("inf")},
        seed=seed,
        device="cpu",
    )
    model.learn(STEPS)
    moves = Moves(model)
    model.learn(ENVS * N_STEPS, reset_num_timesteps=False)
    by_weights, by_r = statistics.fmean(moves.by_weights), statistics.fmean(moves.by_r)
    return {"steps": STEPS, "kl_by_weights": by_weights, "kl_by_r": by_r}


def report() -> None:
    """KL by the weights and by R, a row a task."""
    rows, lines = read(ROWS), []
    for task in TASKS:
        cells = [task]
        for rate in RATES:
            own = select(rows, env=task, decorrelation_lr=rate)
            pair = [statistics.fmean(column(own, f"kl_by_{who}")) for who in ("weights", "r")]
            cells.append(" / ".join(f"{kl:.1e}" for kl in pair))
        lines.append(cells)
    heading = ("KL of a step of weights / R, nats", *(f"η_R = {rate:g}" for rate in RATES))
    put_section("moving r", markdown(heading, lines), DOCS / "variance.md")


if __name__ == "__main__":
    command(__doc__, run, report)
