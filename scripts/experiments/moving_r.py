"""How far does decorrelation move a policy by itself? DANP-PPO with three rates of R.

Every step of R changes what the layers compute, whatever the weights do. After 40k steps, in one
more update of the policy, each minibatch moves it twice: by the weights and by R. Both moves are
measured as the KL divergence of the action distributions on the whole rollout, in nats.

    python scripts/moving_r.py run      # results/moving_r/rows.csv, about 5 minutes
    python scripts/moving_r.py report   # table in docs/variance.md
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import torch
from rows import ROOT, append, command_line, put_section, read, versions
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

import nprobot

ROWS = ROOT / "results" / "moving_r" / "rows.csv"
PAGE = ROOT / "docs" / "variance.md"
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


def run(task: str, rate: float, seed: int) -> dict[str, Any]:
    """Train, then measure one update."""
    env = VecNormalize(make_vec_env(task, ENVS, seed=seed))
    model = nprobot.PPO(
        "MlpPolicy",
        env,
        3e-3,
        rule="danp",
        rule_kwargs={"samples": 8, "decorrelation_lr": rate},
        n_steps=N_STEPS,
        seed=seed,
        device="cpu",
    )
    model.learn(STEPS)
    moves = Moves(model)
    model.learn(ENVS * N_STEPS, reset_num_timesteps=False)
    return {
        "env": task, "decorrelation_lr": rate, "seed": seed, "steps": STEPS,
        "kl_by_weights": statistics.fmean(moves.by_weights),
        "kl_by_r": statistics.fmean(moves.by_r), **versions(),
    }  # fmt: skip


def table(rows: list[dict[str, str]]) -> list[str]:
    """KL by the weights and by R, a row a task."""
    lines = [
        "| KL of a step of weights / R, nats | " + " | ".join(f"η_R = {r:g}" for r in RATES) + " |",
        f"|{'---|' * (1 + len(RATES))}",
    ]
    for task in TASKS:
        cells = []
        for rate in RATES:
            own = [r for r in rows if (r["env"], float(r["decorrelation_lr"])) == (task, rate)]
            pair = [statistics.fmean(float(r[f"kl_by_{k}"]) for r in own) for k in ("weights", "r")]
            cells.append(" / ".join(f"{kl:.1e}" for kl in pair))
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Run or report."""
    if command_line(__doc__, "run", "report").parse_args().stage == "report":
        put_section("moving r", table(read(ROWS)), PAGE)
        return
    torch.set_num_threads(1)
    done = {(r["env"], float(r["decorrelation_lr"]), int(r["seed"])) for r in read(ROWS)}
    for seed, task, rate in itertools.product(SEEDS, TASKS, RATES):
        if (task, rate, seed) not in done:
            row = run(task, rate, seed)
            append(ROWS, [row])
            print(row, flush=True)


if __name__ == "__main__":
    main()
