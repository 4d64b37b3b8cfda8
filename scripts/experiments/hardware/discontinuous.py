"""Policies of units that jump, which no gradient gets past: raw rows, figure and table.

InvertedPendulum-v5 is controlled by a network whose hidden units are signs, or have 3 bits, or in
which the outputs have 3 bits, too. Their derivative is zero wherever it exists; so plain
backpropagation trains the last layer alone, on whatever the others happen to compute, and where the
outputs jump it trains nothing. The critic, which no robot carries, has tanh units for all.

    python -m scripts.experiments.hardware.discontinuous run     # results/discontinuous/*.csv
    python -m scripts.experiments.hardware.discontinuous report  # figure and section in docs/
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import nprobot
from nprobot.policies.activations import Quantised, Sign, StraightThrough
from nprobot.policies.chip import put_on_chip

from ..pages import (
    DOCS,
    each,
    markdown,
    panels,
    picture,
    plot_each,
    put_section,
    save_figure,
    seeds_of,
)
from ..rows import RESULTS, Only, Row, Rows, column, command, keep, read, select
from .robots import ROBOTS, learn, measure

TABLE = RESULTS / "discontinuous" / "rows.csv"
CURVES = TABLE.with_name("curves.csv")
TASK, STEPS, SEEDS = "InvertedPendulum-v5", 80_000, (0, 1, 2)
HIDDEN = [16, 16]
NODE_NOISE = 0.1
"""Of the chip that DANP and NRL learn and run on; BP has a silent digital network."""
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
        {"node_noise": NODE_NOISE, "rule": "danp", "rule_kwargs": {"decorrelation_lr": 1e-3}},
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


def run(only: Only = ()) -> None:
    """Learn and measure what has no row."""
    jobs = itertools.product(SEEDS, UNITS, WAYS)
    named = [{"units": units, "way": way, "seed": seed} for seed, units, way in jobs]
    keep(TABLE, named, train, only=only, curves=CURVES)


def train(units: str, way: str, seed: int) -> Row:
    """Learn and evaluate."""
    own, unit = WAYS[way], UNITS[units]
    activation = (lambda: StraightThrough(unit())) if own.surrogate else unit
    policy = {"net_arch": HIDDEN, "activation_fn": activation}
    env = VecNormalize(make_vec_env(TASK, ROBOTS, seed=seed))
    model = own.learner(
        "MlpPolicy", env, seed=seed, device="cpu", policy_kwargs=policy, **own.settings
    )
    smooth_critic(model.policy)
    if units == OUTPUTS_TOO:
        make_outputs_jump(model, activation)
    if own.chip:
        policy_net = [model.policy.mlp_extractor.policy_net, model.policy.action_net]
        put_on_chip(nn.ModuleList(policy_net), NODE_NOISE, seed=1_000 + seed)
    before = hidden_weights(model.policy)
    row = learn(model, own.steps)
    moved = float((hidden_weights(model.policy) - before).norm())
    return {**row, "hidden_weights_moved": round(moved, 4), **measure(model, env, seed)}


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


def report() -> None:
    """Draw the figure and write the section."""
    curves = read(CURVES)
    figure, axes = panels(len(UNITS), (12.5, 3.8), sharey=True)
    for axis, units in zip(axes, UNITS, strict=True):
        for number, name in enumerate(WAYS):
            own = seeds_of(select(curves, units=units, way=name), "step", "return", 1e3)
            plot_each(axis, own, lw=1.3, color=f"C{number}", label=name)
        axis.axhline(gymnasium.spec(TASK).reward_threshold, color="grey", ls=":", lw=1)
        axis.set_title(f"units: {units}", size=11)
        axis.set_xlabel("environment steps (thousands)")
    axes[0].set_ylabel("return of training episodes")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    save_figure(figure, "discontinuous")
    shown = picture(
        "discontinuous", "Return over steps with units that jump", "A line a seed (three)."
    )
    put_section("discontinuous", [*shown, *table(read(TABLE))], DOCS / "hardware.md")


def table(rows: Rows) -> list[str]:
    """What every way gets out of every kind of unit."""
    lines = []
    for name, way in WAYS.items():
        found = [
            [row for seed in SEEDS for row in select(rows, units=units, way=name, seed=seed)]
            for units in UNITS
        ]
        cells = (each(column(own, "return_mean"), 0) for own in found)
        lines.append((name, way.about, f"{way.steps // 1000}k", *cells))
    units = (f"{kind}: return, each seed" for kind in UNITS)
    return markdown(("learner", "what it is", "steps", *units), lines)


if __name__ == "__main__":
    command(__doc__, run, report)
