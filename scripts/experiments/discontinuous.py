"""Policies of units that jump, which no gradient gets past: raw rows, figure and table.

InvertedPendulum-v5 is controlled by a network whose hidden units are signs, or have 3 bits, or in
which the outputs have 3 bits, too. Their derivative is zero wherever it exists; so plain
backpropagation trains the last layer alone, on whatever the others happen to compute, and where the
outputs jump it trains nothing. The critic, which no robot carries, has tanh units for all.
A run that has its row is not repeated.

    python scripts/discontinuous.py run       # rows.csv and curves.csv in results/discontinuous/
    python scripts/discontinuous.py report    # figure and section in docs/
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import gymnasium
import rows
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import nprobot
from nprobot.policies.activations import Quantised, Sign, StraightThrough
from nprobot.policies.chip.crossbar import put_on_chip

TABLE = rows.ROOT / "results" / "discontinuous" / "rows.csv"
CURVES = TABLE.with_name("curves.csv")
FIGURE = rows.FIGURES / "discontinuous.png"
TASK, STEPS, ROBOTS, SEEDS, EPISODES = "InvertedPendulum-v5", 80_000, 8, (0, 1, 2), 20
HIDDEN = [16, 16]
NODE_NOISE = 0.1
"""Of the chip that DANP and NRL learn and run on; BP has a silent digital network."""
EVERY = 2_000
"""Steps between two points of a curve."""
UNITS: dict[str, Callable[[], nn.Module]] = {
    "sign": Sign,
    "3 bits": Quantised,
    "3 bits, outputs too": Quantised,
}
OUTPUTS_TOO = "3 bits, outputs too"


@dataclass(frozen=True)
class Way:
    """A way of learning: an algorithm and its arguments."""

    about: str
    learner: Callable[..., Any]
    settings: dict[str, Any] = field(default_factory=dict)
    chip: bool = False
    surrogate: bool = False
    steps: int = STEPS


BP: dict[str, Any] = {
    "rule": "bp",
    "learning_rate": LinearSchedule(1e-3, 0.0, 1.0),
    "batch_size": 256,
    "n_steps": 256,
}
WAYS = {
    "DANP-PPO": Way(
        "from hidden node noise of 0.1, nine noisy passes",
        nprobot.PPO,
        {"rule": "danp", "n_steps": 256},
        chip=True,
    ),
    "NRL": Way(
        "from hidden node noise of 0.1, on-line, two noisy passes",
        nprobot.NRL,
        {"node_noise": NODE_NOISE},
        steps=150_000,
    ),
    "BP-PPO": Way("plain backpropagation: the hidden layers' gradients are 0", nprobot.PPO, BP),
    "BP-PPO, straight-through": Way(
        "backpropagation with a straight line for a derivative: the bound",
        nprobot.PPO,
        BP,
        surrogate=True,
    ),
}


class Curve(BaseCallback):
    """Notes the mean return of the last 20 episodes now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        episodes = list(self.model.ep_info_buffer or ())[-20:]
        if episodes and self.num_timesteps % EVERY < ROBOTS:
            self.points.append((self.num_timesteps, fmean(e["r"] for e in episodes)))
        return True


def run(units: str, name: str, seed: int) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Learn and evaluate; the row of the result, and those of the curve."""
    way, unit = WAYS[name], UNITS[units]
    policy = {
        "net_arch": HIDDEN,
        "activation_fn": (lambda: StraightThrough(unit())) if way.surrogate else unit,
    }
    env = VecNormalize(make_vec_env(TASK, ROBOTS, seed=seed))
    model = way.learner(
        "MlpPolicy", env, seed=seed, device="cpu", policy_kwargs=policy, **way.settings
    )
    smooth_critic(model.policy)
    if units == OUTPUTS_TOO:
        make_outputs_jump(model, policy["activation_fn"])
    if way.chip:
        policy_net = [model.policy.mlp_extractor.policy_net, model.policy.action_net]
        put_on_chip(nn.ModuleList(policy_net), NODE_NOISE, seed=1_000 + seed)
    before = hidden_weights(model.policy)
    curve = Curve()
    start = time.process_time()
    model.learn(way.steps, callback=curve)
    seconds = time.process_time() - start
    moved = float((hidden_weights(model.policy) - before).norm())
    env.training = env.norm_reward = False
    env.seed(10_000 + seed)
    returns, _ = evaluate_policy(model, env, EPISODES, return_episode_rewards=True)
    row: dict[str, object] = {
        "units": units,
        "way": name,
        "seed": seed,
        "steps": way.steps,
        "return_mean": round(fmean(returns), 2),  # type: ignore[arg-type]
        "return_min": min(returns),  # type: ignore[type-var]
        "episodes": EPISODES,
        "hidden_weights_moved": round(moved, 4),
        "forward_passes": model.rule.forward_passes,
        "backward_passes": model.rule.backward_passes,
        "cpu_seconds": round(seconds, 1),
        **rows.versions(),
    }
    own = {"units": units, "way": name, "seed": seed}
    return row, [{**own, "step": step, "return": round(value, 2)} for step, value in curve.points]


def smooth_critic(policy: Any) -> None:  # noqa: ANN401 - of PPO or NRL
    """Give the critic tanh units."""
    critic = policy.critic if hasattr(policy, "critic") else policy.mlp_extractor.value_net
    for number, module in enumerate(critic):
        if isinstance(module, Sign | Quantised | StraightThrough):
            critic[number] = nn.Tanh()


def make_outputs_jump(model: Any, unit: Callable[[], nn.Module]) -> None:  # noqa: ANN401
    """Put a unit behind the last layer of the actor: actions have as many values as it has."""
    if hasattr(model.policy, "action_net"):
        model.policy.action_net = nn.Sequential(model.policy.action_net, unit())
        if model.rule.name != "bp":
            model.actor.head = model.policy.action_net
    else:
        model.policy.actor.append(unit())


def hidden_weights(policy: Any) -> torch.Tensor:  # noqa: ANN401
    """The weights before the actor's hidden units, in one vector."""
    actor = policy.actor if hasattr(policy, "actor") else policy.mlp_extractor.policy_net
    layers = [module for module in actor if isinstance(module, nn.Linear)][: len(HIDDEN)]
    return torch.cat([layer.weight.detach().flatten() for layer in layers])


def run_all(units: list[str], names: list[str], seeds: list[int]) -> None:
    """Every kind of unit, way and seed that has no row yet."""
    done = {(row["units"], row["way"], int(row["seed"])) for row in rows.read(TABLE)}
    for seed, kind, name in itertools.product(seeds, units, names):
        if (kind, name, seed) not in done:
            row, points = run(kind, name, seed)
            rows.append(CURVES, points)
            rows.append(TABLE, [row])
            print(*list(row.values())[:8], row["cpu_seconds"], flush=True)


def report() -> None:
    """Draw the figure and write the section."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found, curves = rows.read(TABLE), rows.read(CURVES)
    figure, axes = plt.subplots(1, len(UNITS), figsize=(12.5, 3.8), sharey=True)
    for axis, units in zip(axes, UNITS, strict=True):
        for number, name in enumerate(WAYS):
            for seed in SEEDS:
                points = [
                    (float(p["step"]) / 1e3, float(p["return"]))
                    for p in curves
                    if (p["units"], p["way"], int(p["seed"])) == (units, name, seed)
                ]
                if points:
                    label = name if seed == SEEDS[0] else None
                    axis.plot(*zip(*points, strict=True), lw=1.3, color=f"C{number}", label=label)
        threshold = gymnasium.spec(TASK).reward_threshold
        axis.axhline(threshold, color="grey", ls=":", lw=1)
        axis.set_title(f"units: {units}", size=11)
        axis.set_xlabel("environment steps (thousands)")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel(f"return of training episodes, {TASK}")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=120)
    rows.put_section("discontinuous", table(found))


def table(found: list[dict[str, str]]) -> list[str]:
    """The section as Markdown."""
    lines = [
        "![Return over steps with units that jump](figures/discontinuous.png)",
        "",
        "| learner | what it is | steps | "
        + " | ".join(f"{u}: return, each seed" for u in UNITS)
        + " |",
        "|---|---|---|" + "---|" * len(UNITS),
    ]
    for name, way in WAYS.items():
        cells = []
        for units in UNITS:
            own = sorted(
                (row for row in found if (row["units"], row["way"]) == (units, name)),
                key=lambda row: int(row["seed"]),
            )
            values = [float(row["return_mean"]) for row in own]
            each = ", ".join(f"{value:.0f}" for value in values)
            cells.append(f"**{fmean(values):.0f}** ({each})" if values else "–")
        lines.append(f"| {name} | {way.about} | {way.steps // 1000}k | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Run or report."""
    parser = rows.command_line(__doc__, "run", "report")
    parser.add_argument("--units", nargs="+", choices=UNITS, default=list(UNITS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stage == "run":
        run_all(options.units, options.ways, options.seeds)
    else:
        report()


if __name__ == "__main__":
    main()
