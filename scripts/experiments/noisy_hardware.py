"""Four ways to control a robot with noisy motors by a noisy chip: raw rows, figure and table.

Every robot has the actuators `torque-motor`, every actor sits on a chip with 30 % mismatch of its
weights and node noise of 6 %, and `level` scales all of that. Evaluation is on the same hardware,
noise and all, with learning switched off. A run that has its row is not repeated.

    python scripts/noisy_hardware.py run       # rows.csv in results/noisy_hardware/
    python scripts/noisy_hardware.py report    # figure and section in docs/
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import gymnasium
import numpy as np
import rows
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import nprobot
from nprobot.envs import NoisyActuators
from nprobot.envs.actuators import scale_noise
from nprobot.policies.chip.crossbar import put_on_chip
from nprobot.policies.chip.nonidealities import ChipModel, GaussianNoise, WeightMismatch

TABLE = rows.ROOT / "results" / "noisy_hardware" / "rows.csv"
FIGURE = rows.FIGURES / "noisy_hardware.png"
ROBOTS, STEPS, SEEDS, EPISODES = 8, 100_000, (0, 1, 2), 20
LEVELS = {
    "InvertedPendulum-v5": (0.0, 1.0, 2.0),
    "Reacher-v5": (0.0, 1.0, 2.0),
    "nprobot/ArmReach-v0": (0.0, 1.0),
}
"""On each task, the multiples of the hardware's noise."""
IDEAL, IN_THE_LOOP = "BP-PPO, ideal model", "BP-PPO, hardware in the loop"
BP: dict[str, Any] = {
    "rule": "bp",
    "learning_rate": LinearSchedule(1e-3, 0.0, 1.0),
    "batch_size": 256,
    "n_steps": 256,
}
"""The learning rate is what the search in docs/learning_curves.md found best for BP; of its batch
sizes this is the faster one, as good as the other within the noise of the search."""


@dataclass(frozen=True)
class Way:
    """A way of learning: an algorithm, its arguments, and where it learns."""

    learner: Callable[..., Any]
    settings: dict[str, Any]
    through_hardware: bool = True


WAYS = {
    "DANP-PPO": Way(nprobot.PPO, {"rule": "danp", "n_steps": 256}),
    "NRL": Way(nprobot.NRL, {}),
    IN_THE_LOOP: Way(nprobot.PPO, BP),
    IDEAL: Way(nprobot.PPO, BP, through_hardware=False),
}

WITHOUT_NOISE = {
    "NRL": "has nothing to learn from",
    IN_THE_LOOP: "is the ideal model",
}
"""What need not be run on silent hardware, and why."""


def chip(level: float) -> list[ChipModel]:
    """What is wrong with the chip."""
    return [WeightMismatch(0.3 * level), GaussianNoise(0.06 * level)]


def robots(task: str, level: float, seed: int, sensor: str | None) -> VecNormalize:
    """The robots side by side, each with actuators of its own."""

    def make(rank: int) -> Callable[[], gymnasium.Env[Any, Any]]:
        def made() -> gymnasium.Env[Any, Any]:
            motors = scale_noise("torque-motor", level) if level else "ideal"
            secret = np.random.SeedSequence((seed, rank))
            return Monitor(NoisyActuators(gymnasium.make(task), motors, sensor=sensor, seed=secret))

        return made

    return VecNormalize(DummyVecEnv([make(rank) for rank in range(ROBOTS)]))


def learner(name: str, task: str, level: float, seed: int) -> Any:  # noqa: ANN401 - SB3's
    """A model that has learned nothing yet, with its robots, its actor on the chip."""
    way = WAYS[name]
    settings = dict(way.settings)
    if way.learner is nprobot.NRL:
        settings |= {"node_noise": chip(level), "device_seed": seed}
        env = robots(task, level, seed, "current-sense")
        return way.learner("MlpPolicy", env, seed=seed, device="cpu", **settings)
    env = robots(task, level, seed, None)
    model = way.learner("MlpPolicy", env, seed=seed, device="cpu", **settings)
    if level:
        policy = model.policy
        actor = nn.ModuleList([policy.mlp_extractor.policy_net, policy.action_net])
        put_on_chip(actor, chip(level), seed=1_000 + seed, device_seed=seed)
    return model


def evaluate(model: Any, statistics: Any, task: str, level: float, seed: int) -> list[float]:  # noqa: ANN401
    """Returns of fresh episodes on the hardware, noise and all, without learning."""
    env = robots(task, level, 10_000 + seed, None)
    env.obs_rms, env.training, env.norm_reward = statistics, False, False
    env.seed(10_000 + seed)
    returns, _ = evaluate_policy(model, env, EPISODES, return_episode_rewards=True)
    env.close()
    return list(returns)  # type: ignore[arg-type]


def run(name: str, task: str, seed: int, levels: list[float]) -> Iterator[dict[str, object]]:
    """A row for every level. What learns in an ideal model learns once."""
    way, model, seconds = WAYS[name], None, 0.0
    for level in levels:
        if model is None or way.through_hardware:
            model = learner(name, task, level if way.through_hardware else 0.0, seed)
            start = time.process_time()
            model.learn(STEPS)
            seconds = time.process_time() - start
        deployed = model
        if level and not way.through_hardware:
            deployed = learner(name, task, level, seed)
            deployed.policy.load_state_dict(model.policy.state_dict())
        returns = evaluate(deployed, model.get_vec_normalize_env().obs_rms, task, level, seed)
        yield {
            "task": task,
            "way": name,
            "level": level,
            "seed": seed,
            "steps": STEPS,
            "return_mean": round(fmean(returns), 3),
            "return_min": round(min(returns), 3),
            "episodes": EPISODES,
            "forward_passes": model.rule.forward_passes,
            "backward_passes": model.rule.backward_passes,
            "cpu_seconds": round(seconds, 1),
            **rows.versions(),
        }


def run_all(tasks: list[str], names: list[str], seeds: list[int]) -> None:
    """Every level, way and seed that has no row yet; the preset's own noise first."""
    done = {(r["task"], r["way"], float(r["level"]), int(r["seed"])) for r in rows.read(TABLE)}
    for first in (True, False):
        for seed, task, name in itertools.product(seeds, tasks, names):
            levels = [
                level
                for level in LEVELS[task]
                if (task, name, level, seed) not in done
                and (not first or level == 1.0 or name == IDEAL)
                and (level or name not in WITHOUT_NOISE)
            ]
            for row in run(name, task, seed, levels):
                rows.append(TABLE, [row])
                done.add((task, name, float(row["level"]), seed))  # type: ignore[arg-type]
                print(*list(row.values())[:6], row["cpu_seconds"], flush=True)


def report() -> None:
    """Draw the figure and write the section."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = rows.read(TABLE)
    figure, axes = plt.subplots(1, len(LEVELS), figsize=(12, 4))
    for axis, (task, levels) in zip(axes, LEVELS.items(), strict=True):
        for number, name in enumerate(WAYS):
            own = {level: returns(found, task, name, level) for level in levels}
            seen = {level: values for level, values in own.items() if values}
            (line,) = axis.plot(list(seen), [fmean(v) for v in seen.values()], lw=1.6, label=name)
            for level, values in seen.items():
                place = [level + 0.02 * (number - 1.5)] * len(values)
                axis.plot(place, values, "o", ms=4, color=line.get_color(), alpha=0.7)
        axis.set_title(task.removeprefix("nprobot/"), size=11)
        axis.set_xlabel("noise of chip and motors, × the preset")
        axis.set_xticks(levels)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("return on the noisy hardware")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=130)
    rows.put_section("noisy_hardware", table(found))


def returns(found: list[dict[str, str]], task: str, name: str, level: float) -> list[float]:
    """Mean returns of a way, one for each seed."""
    return [
        float(row["return_mean"])
        for row in sorted(found, key=lambda row: int(row["seed"]))
        if (row["task"], row["way"], float(row["level"])) == (task, name, level)
    ]


def table(found: list[dict[str, str]]) -> list[str]:
    """The section as Markdown."""
    lines = ["![Return against the level of noise](figures/noisy_hardware.png)", ""]
    lines.append("| task | noise | " + " | ".join(WAYS) + " |")
    lines.append("|---|---|" + "---|" * len(WAYS))
    for task, levels in LEVELS.items():
        for level in levels:
            cells = []
            for name in WAYS:
                values = returns(found, task, name, level)
                digits = 0 if "Pendulum" in task else 1
                each = ", ".join(f"{value:.{digits}f}" for value in values)
                cells.append(f"**{fmean(values):.{digits}f}** ({each})" if values else "–")
            lines.append(f"| {task} | × {level:g} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Run or report."""
    parser = rows.command_line(__doc__, "run", "report")
    parser.add_argument("--tasks", nargs="+", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stage == "run":
        run_all(options.tasks, options.ways, options.seeds)
    else:
        report()


if __name__ == "__main__":
    main()
