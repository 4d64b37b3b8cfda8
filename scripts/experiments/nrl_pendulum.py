"""InvertedPendulum-v5 learned on noisy hardware: raw rows, a figure and a table in docs/.

Every way of learning meets three seeds; evaluation is on the same noisy hardware, with learning
switched off. A run that has its row is not repeated, so a cut-off costs one run.

    python scripts/nrl_pendulum.py run       # rows.csv, curves.csv in results/nrl/
    python scripts/nrl_pendulum.py report    # figure and section in docs/
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import gymnasium
import numpy as np
import rows
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import nprobot
from nprobot.algorithms.nrl_reinforce import REINFORCE
from nprobot.envs import NoisyActuators
from nprobot.envs.actuators import ActuatorModel, WhiteNoise

TABLE = rows.ROOT / "results" / "nrl" / "rows.csv"
CURVES = TABLE.with_name("curves.csv")
FIGURE = rows.FIGURES / "nrl_pendulum.png"
TASK, STEPS, ENVS, SEEDS, EPISODES = "InvertedPendulum-v5", 150_000, 8, (0, 1, 2), 20
SOLVED = gymnasium.spec(TASK).reward_threshold
EVERY = 2_000
"""Steps between two points of a curve."""


@dataclass(frozen=True)
class Way:
    """Hardware, and a way of learning on it."""

    about: str
    learner: Callable[..., OnPolicyAlgorithm]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    actuators: str | ActuatorModel | None = None
    sensor: str | None = None


WAYS = {
    "NRL, noisy chip": Way(
        "hidden: node noise 0.1 in every layer; two passes", nprobot.NRL, {"node_noise": 0.1}
    ),
    "NRL, analog chip and torque motor": Way(
        "hidden: 30 % mismatch, node noise 0.06, converter; motor noise, with a noisy sensor",
        nprobot.NRL,
        {"node_noise": "analog"},
        "torque-motor",
        "current-sense",
    ),
    "NRL, noisy actuator only": Way(
        "hidden: actuator noise 0.1, with a noisy sensor; ideal network",
        nprobot.NRL,
        {"noise": "actuators"},
        WhiteNoise(0.1),
        "current-sense",
    ),
    "NRL, injected noise": Way(
        "known: node noise 0.1 that the learner adds", nprobot.NRL, {"noise": "injected"}
    ),
    "REINFORCE, the backprop twin": Way(
        "known: action noise 0.1 that the learner adds; backpropagation", REINFORCE
    ),
    "DANP-PPO, servo": Way(
        "latency, lag, backlash, quantisation, noise of a servo; PPO's own exploration",
        nprobot.PPO,
        {"rule": "danp", "rule_kwargs": {"decorrelation_lr": 1e-3}, "n_steps": 256},
        "servo",
    ),
}


def environment(way: Way, seed: int) -> VecNormalize:
    """The robots, each with actuators of its own."""

    def make(rank: int) -> Callable[[], gymnasium.Env[Any, Any]]:
        def made() -> gymnasium.Env[Any, Any]:
            env: gymnasium.Env[Any, Any] = gymnasium.make(TASK)
            if way.actuators is not None:
                secret = np.random.SeedSequence((seed, rank))
                env = NoisyActuators(env, way.actuators, sensor=way.sensor, seed=secret)
            return Monitor(env)

        return made

    return VecNormalize(DummyVecEnv([make(rank) for rank in range(ENVS)]))


class Curve(BaseCallback):
    """Notes the mean return of the last 20 episodes now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        episodes = list(self.model.ep_info_buffer or ())[-20:]
        if episodes and self.num_timesteps % EVERY < ENVS:
            self.points.append((self.num_timesteps, fmean(e["r"] for e in episodes)))
        return True


def run(name: str, seed: int) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Learn and evaluate; the row of the result, and those of the curve."""
    way = WAYS[name]
    env = environment(way, seed)
    model = way.learner("MlpPolicy", env, seed=seed, device="cpu", **way.settings)
    curve = Curve()
    start = time.process_time()
    model.learn(STEPS, callback=curve)
    seconds = time.process_time() - start
    env.training = env.norm_reward = False
    env.seed(10_000 + seed)
    returns, _ = evaluate_policy(model, env, EPISODES, return_episode_rewards=True)
    row: dict[str, object] = {
        "way": name,
        "seed": seed,
        "steps": STEPS,
        "return_mean": fmean(returns),
        "return_min": min(returns),
        "episodes": EPISODES,
        "solved_after": next((step for step, value in curve.points if value >= SOLVED), ""),
        "forward_passes": model.rule.forward_passes,
        "backward_passes": model.rule.backward_passes,
        "cpu_seconds": round(seconds, 1),
        **rows.versions(),
    }
    points = [{"way": name, "seed": seed, "step": s, "return": r} for s, r in curve.points]
    return row, points  # type: ignore[return-value]


def run_all(names: list[str], seeds: list[int]) -> None:
    """Every way with every seed that has no row yet."""
    done = {(row["way"], int(row["seed"])) for row in rows.read(TABLE)}
    for seed in seeds:
        for name in names:
            if (name, seed) not in done:
                row, points = run(name, seed)
                rows.append(CURVES, points)
                rows.append(TABLE, [row])
                print(f"{name}, seed {seed}: {row['return_mean']:.1f}", flush=True)


def report() -> None:
    """Draw the figure and write the page."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for point in rows.read(CURVES):
        curves[point["way"]][point["seed"]].append((float(point["step"]), float(point["return"])))
    figure, axes = plt.subplots(2, 3, figsize=(12, 6), sharex=True, sharey=True)
    for axis, name in zip(axes.flat, WAYS, strict=True):
        for seed, points in sorted(curves[name].items()):
            steps, returns = np.array(points).T
            axis.plot(steps / 1e3, returns, lw=1.3, label=f"seed {seed}")
        axis.axhline(SOLVED, color="grey", ls=":", lw=1)
        axis.set_title(name, size=11)
        axis.grid(alpha=0.25)
    axes[0, 0].legend(loc="lower right", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("environment steps (thousands)")
    for axis in axes[:, 0]:
        axis.set_ylabel("return of training episodes")
    figure.suptitle(f"{TASK} on noisy hardware; dotted: solved", size=12)
    figure.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=130)
    rows.put_section("nrl_pendulum", section(rows.read(TABLE)))


def section(found: list[dict[str, str]]) -> list[str]:
    """Figure and table as Markdown."""
    lines = [
        "![Return over environment steps](figures/nrl_pendulum.png)",
        "",
        f"| learner | hardware, and who knows its noise | return, {len(SEEDS)} seeds (worst "
        "episode) | solved after | forward / backward passes | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, way in WAYS.items():
        own = sorted((row for row in found if row["way"] == name), key=lambda row: row["seed"])
        if not own:
            continue
        returns = ", ".join(f"{float(row['return_mean']):.0f}" for row in own)
        worst = min(float(row["return_min"]) for row in own)
        solved = ", ".join(
            f"{int(row['solved_after']) // 1000}k" if row["solved_after"] else "–" for row in own
        )
        forward, backward, seconds = (
            fmean(float(row[key]) for row in own)
            for key in ("forward_passes", "backward_passes", "cpu_seconds")
        )
        lines.append(
            f"| {name} | {way.about} | {returns} ({worst:.0f}) | {solved} "
            f"| {forward / 1e6:.1f} M / {backward / 1e6:.1f} M | {seconds:.0f} |"
        )
    lines += [
        "",
        f"{STEPS // 1000}k steps of {ENVS} robots side by side, defaults of `nprobot.NRL` and "
        "`nprobot.PPO`, observations and rewards normalised. Return: the mean of "
        f"{EPISODES} episodes after learning, on the same noisy hardware, for each seed, and the "
        f"worst episode of all; 1000 is the most there is, {SOLVED:.0f} counts as solved. Solved "
        "after: steps until the mean of the last 20 training episodes first got there. It can fall "
        "again, as the curves show: NRL's learning rate does not decay, and it goes on exploring.",
        "",
    ]
    return lines


def main() -> None:
    """Run or report."""
    parser = rows.command_line(__doc__, "run", "report")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of `run`")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="of `run`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stage == "run":
        run_all(options.ways, options.seeds)
    else:
        report()


if __name__ == "__main__":
    main()
