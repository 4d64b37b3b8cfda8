"""rsl_rl's runner on our quadruped: PPO under backpropagation and NP + feedback.

Each learner gets the same settings, robots and steps; ``bp`` is rsl_rl's own PPO, weight for weight
(a test compares them). A run is one row for each iteration, and is not repeated.

    python -m scripts.experiments.control.runner  # results/rsl_rl/rows.csv
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import time
from typing import Any

import torch
from rsl_rl.runners import OnPolicyRunner

from nprobot.rsl_rl import RunnerEnv

from ..rows import RESULTS, append, command, read

ROWS = RESULTS / "rsl_rl" / "rows.csv"
ENV, ROBOTS, STEPS, ITERATIONS, SEEDS = "nprobot/Quadruped-v0", 64, 24, 50, (0, 1, 2)
LEARNERS: dict[str, dict[str, Any]] = {
    "bp": {"class_name": "nprobot.rsl_rl:PPO", "rule": "bp"},
    "np+feedback": {"class_name": "nprobot.rsl_rl:PPO", "rule": "np+feedback"},
}


class Counted(RunnerEnv):
    """Robots whose rewards, falls and ends are noted."""

    rewards: list[float]
    falls: int

    def step(self, actions: torch.Tensor) -> tuple[Any, ...]:
        """As of the robots."""
        step = super().step(actions)
        self.rewards.append(float(step[1].mean()))
        self.falls += int((step[2] - step[3]["time_outs"]).sum())
        return step


def configuration(algorithm: dict[str, Any]) -> dict[str, Any]:
    """Of a runner; the algorithm's settings are those that rsl_rl's users begin with."""
    model = {"class_name": "MLPModel", "hidden_dims": [128, 128], "activation": "elu"}
    model |= {"obs_normalization": True}
    distribution = {"class_name": "GaussianDistribution", "init_std": 1.0}
    return {
        "num_steps_per_env": STEPS,
        "save_interval": 10**9,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": model | {"distribution_cfg": distribution},
        "critic": dict(model),
        "algorithm": {"num_learning_epochs": 5, "num_mini_batches": 4, **algorithm},
    }


def run(learner: str, seed: int) -> list[dict[str, Any]]:
    """Train once; a row for each iteration."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    env = Counted(ENV, ROBOTS, seed=seed, threads=1)
    rows: list[dict[str, Any]] = []
    with contextlib.redirect_stdout(io.StringIO()):
        runner = OnPolicyRunner(env, configuration(dict(LEARNERS[learner])))
        start = time.process_time()
        for iteration in range(ITERATIONS):
            env.rewards, env.falls = [], 0
            runner.learn(1)
            rows.append(
                {
                    "env": ENV,
                    "learner": learner,
                    "seed": seed,
                    "iteration": iteration + 1,
                    "steps": (iteration + 1) * ROBOTS * STEPS,
                    "reward_a_step": round(sum(env.rewards) / len(env.rewards), 5),
                    "falls": env.falls,
                    "std": round(float(runner.alg.get_policy().output_std.detach().mean()), 4),
                    "cpu_seconds": round(time.process_time() - start, 2),
                    "rsl_rl": importlib.metadata.version("rsl-rl-lib"),
                    "torch": torch.__version__,
                }
            )
    env.close()
    return rows


def learn() -> None:
    """Make the runs that are missing."""
    there = {(row["learner"], int(row["seed"])) for row in read(ROWS)}
    for seed in SEEDS:
        for learner in LEARNERS:
            if (learner, seed) not in there:
                rows = run(learner, seed)
                append(ROWS, rows)
                rewards = rows[0]["reward_a_step"], rows[-1]["reward_a_step"]
                print(learner, seed, *rewards, rows[-1]["cpu_seconds"], flush=True)


if __name__ == "__main__":
    command(__doc__, learn)
