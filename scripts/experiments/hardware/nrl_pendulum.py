"""InvertedPendulum-v5 learned on noisy hardware: raw rows, a figure and a table in docs/.

Every way of learning meets three seeds; evaluation is on the same noisy hardware, with learning
switched off.

    python -m scripts.experiments.hardware.nrl_pendulum run  # rows.csv, curves.csv in results/nrl/
    python -m scripts.experiments.hardware.nrl_pendulum report  # figure and section in docs/
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import gymnasium
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

import nprobot
from nprobot.algorithms import REINFORCE
from nprobot.envs.actuators import WhiteNoise

from ..pages import DOCS, markdown, panels, picture, put_section, save_figure, seeds_of
from ..rows import RESULTS, Only, Row, Rows, column, command, keep, read, select
from .robots import EPISODES, ROBOTS, Actuators, learn, measure, robots

TABLE = RESULTS / "nrl" / "rows.csv"
CURVES = TABLE.with_name("curves.csv")
TASK, STEPS, SEEDS = "InvertedPendulum-v5", 150_000, (0, 1, 2)
SOLVED = gymnasium.spec(TASK).reward_threshold or 0.0


@dataclass(frozen=True)
class Way:
    """Hardware, and a way of learning on it."""

    about: str
    learner: Callable[..., OnPolicyAlgorithm]
    settings: dict[str, Any] = field(default_factory=dict)
    actuators: Actuators | None = None
    sensor: str | None = None


FAST_R: dict[str, Any] = {"decorrelation_lr": 1e-3}
NRL: dict[str, Any] = {"rule": "danp", "rule_kwargs": FAST_R}
"""With an R as fast as the defaults had it then."""
WAYS = {
    "NRL, noisy chip": Way(
        "hidden: node noise 0.1 in every layer; two passes", nprobot.NRL, NRL | {"node_noise": 0.1}
    ),
    "NRL, analog chip and torque motor": Way(
        "hidden: 30 % mismatch, node noise 0.06, converter; motor noise, with a noisy sensor",
        nprobot.NRL,
        NRL | {"node_noise": "analog"},
        "torque-motor",
        "current-sense",
    ),
    "NRL, noisy actuator only": Way(
        "hidden: actuator noise 0.1, with a noisy sensor; ideal network",
        nprobot.NRL,
        NRL | {"noise_source": "actuators"},
        WhiteNoise(0.1),
        "current-sense",
    ),
    "NRL, injected noise": Way(
        "known: node noise 0.1 that the learner adds",
        nprobot.NRL,
        NRL | {"noise_source": "injected"},
    ),
    "REINFORCE, the backprop twin": Way(
        "known: action noise 0.1 that the learner adds; backpropagation", REINFORCE, NRL
    ),
    "DANP-PPO, servo": Way(
        "latency, lag, backlash, quantisation, noise of a servo; PPO's own exploration",
        nprobot.PPO,
        {"rule": "danp", "rule_kwargs": FAST_R, "n_steps": 256},
        "servo",
    ),
}


def run(only: Only = ()) -> None:
    """Learn and measure what has no row."""
    jobs = itertools.product(SEEDS, WAYS)
    named = [{"way": name, "seed": seed} for seed, name in jobs]
    keep(TABLE, named, train, only=only, curves=CURVES)


def train(way: str, seed: int) -> Row:
    """Learn and evaluate."""
    own = WAYS[way]
    env = robots(TASK, own.actuators, seed=seed, sensor=own.sensor)
    model = own.learner("MlpPolicy", env, seed=seed, device="cpu", **own.settings)
    row = learn(model, STEPS)
    solved = next((p["step"] for p in row["curve"] if p["return"] >= SOLVED), "")
    return {**row, "solved_after": solved, **measure(model, env, seed)}


def report() -> None:
    """Draw the figure and write the section."""
    curves = read(CURVES)
    figure, axes = panels(len(WAYS), (12, 6), rows=2, sharex=True, sharey=True)
    for axis, name in zip(axes, WAYS, strict=True):
        for seed, curve in enumerate(seeds_of(select(curves, way=name), "step", "return", 1e3)):
            axis.plot(*curve, lw=1.3, label=f"seed {seed}")
        axis.axhline(SOLVED, color="grey", ls=":", lw=1)
        axis.set_title(name, size=11)
    axes[0].legend(loc="lower right")
    figure.supxlabel("environment steps (thousands)", size=10)
    figure.supylabel("return of training episodes", size=10)
    figure.suptitle(f"{TASK} on noisy hardware; dotted: solved", size=12)
    save_figure(figure, "nrl_pendulum")
    put_section("nrl_pendulum", section(read(TABLE)), DOCS / "hardware.md")


def section(rows: Rows) -> list[str]:
    """Figure and table as Markdown."""
    heading = (
        *("learner", "hardware, and who knows its noise"),
        f"return, {len(SEEDS)} seeds (worst episode)",
        *("solved after", "forward / backward passes", "CPU seconds"),
    )
    lines = []
    for name, way in WAYS.items():
        own = [row for seed in SEEDS for row in select(rows, way=name, seed=seed)]
        if not own:
            continue
        returns = ", ".join(f"{value:.0f}" for value in column(own, "return_mean"))
        solved = ", ".join(
            f"{int(row['solved_after']) // 1000}k" if row["solved_after"] else "–" for row in own
        )
        forward, backward, seconds = (
            fmean(column(own, key)) for key in ("forward_passes", "backward_passes", "cpu_seconds")
        )
        lines.append(
            (
                *(name, way.about, f"{returns} ({min(column(own, 'return_min')):.0f})", solved),
                *(f"{forward / 1e6:.1f} M / {backward / 1e6:.1f} M", f"{seconds:.0f}"),
            )
        )
    return [
        *picture(
            "nrl_pendulum",
            "Return over environment steps",
            f"A line a seed ({len(SEEDS)}), each the mean of the last 20 training episodes.",
        ),
        *markdown(heading, lines),
        "",
        f"{STEPS // 1000}k steps of {ROBOTS} robots side by side, defaults of `nprobot.NRL` and "
        "`nprobot.PPO` (η_R = 1e-3), observations and rewards normalised. Return: the mean of "
        f"{EPISODES} episodes after learning, on the same noisy hardware, for each seed, and the "
        f"worst episode of all; 1000 is the most there is, {SOLVED:.0f} counts as solved. Solved "
        "after: steps until the mean of the last 20 training episodes first got there. It can fall "
        "again, as the curves show: NRL's learning rate does not decay, and it explores all along.",
        "",
    ]


if __name__ == "__main__":
    command(__doc__, run, report)
