"""Four ways to control a robot with noisy motors by a noisy chip: raw rows, figure and table.

Every robot has the actuators `torque-motor`, every actor sits on a chip with 30 % mismatch of its
weights and node noise of 6 %, and `level` scales all of that. Evaluation is on the same hardware,
noise and all, with learning switched off.

    python -m scripts.experiments.hardware.noisy_hardware run     # results/noisy_hardware/rows.csv
    python -m scripts.experiments.hardware.noisy_hardware report  # figure and section in docs/
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import nprobot
from nprobot.envs.actuators import scale_noise
from nprobot.policies.chip import ChipModel, GaussianNoise, WeightMismatch, put_on_chip

from ..pages import DOCS, each, markdown, panels, picture, put_section, save_figure
from ..rows import RESULTS, Only, Row, Rows, column, command, keep, read, select
from .robots import learn, measure, robots

TABLE = RESULTS / "noisy_hardware" / "rows.csv"
STEPS, SEEDS = 100_000, (0, 1, 2)
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
    "NRL": Way(nprobot.NRL, {"rule": "danp", "rule_kwargs": {"decorrelation_lr": 1e-3}}),
    IN_THE_LOOP: Way(nprobot.PPO, BP),
    IDEAL: Way(nprobot.PPO, BP, through_hardware=False),
}

WITHOUT_NOISE = {
    "NRL": "has nothing to learn from",
    IN_THE_LOOP: "is the ideal model",
}
"""What need not be run on silent hardware, and why."""


def run(only: Only = ()) -> None:
    """Learn and measure what has no row; the preset's own noise first."""
    jobs = [
        {"task": task, "way": way, "level": level, "seed": seed}
        for first in (True, False)
        for seed, task, way in itertools.product(SEEDS, LEVELS, WAYS)
        for level in LEVELS[task]
        if (level == 1.0 or way == IDEAL) == first and (level or way not in WITHOUT_NOISE)
    ]
    keep(TABLE, jobs, train, only=only)


def train(task: str, way: str, level: float, seed: int) -> Row:
    """Learn and evaluate."""
    through_hardware = WAYS[way].through_hardware
    model, row = learned(way, task, level if through_hardware else 0.0, seed)
    deployed = model
    if level and not through_hardware:
        deployed = learner(way, task, level, seed)
        deployed.policy.load_state_dict(model.policy.state_dict())
    env = actuated(task, level, 10_000 + seed, None)
    env.obs_rms = model.get_vec_normalize_env().obs_rms
    row = {**row, **measure(deployed, env, seed)}
    env.close()
    return row


@functools.lru_cache(maxsize=1)
def learned(way: str, task: str, level: float, seed: int) -> tuple[Any, Row]:
    """A model that has learned. What learns in an ideal model learns once for all levels."""
    model = learner(way, task, level, seed)
    row = learn(model, STEPS)
    del row["curve"]
    return model, row


def learner(way: str, task: str, level: float, seed: int) -> Any:  # noqa: ANN401 - SB3's
    """A model that has learned nothing yet, with its robots, its actor on the chip."""
    own = WAYS[way]
    settings = dict(own.settings)
    online = own.learner is nprobot.NRL
    if online:
        settings |= {"node_noise": chip(level), "device_seed": seed}
    env = actuated(task, level, seed, "current-sense" if online else None)
    model = own.learner("MlpPolicy", env, seed=seed, device="cpu", **settings)
    if level and not online:
        policy = model.policy
        actor = nn.ModuleList([policy.mlp_extractor.policy_net, policy.action_net])
        put_on_chip(actor, chip(level), seed=1_000 + seed, device_seed=seed)
    return model


def actuated(task: str, level: float, seed: int, sensor: str | None) -> VecNormalize:
    """The robots, their motors as noisy as the level says."""
    motors = scale_noise("torque-motor", level) if level else "ideal"
    return robots(task, motors, seed=seed, sensor=sensor)


def chip(level: float) -> list[ChipModel]:
    """What is wrong with the chip."""
    return [WeightMismatch(0.3 * level), GaussianNoise(0.06 * level)]


def report() -> None:
    """Draw the figure and write the section."""
    rows = read(TABLE)
    figure, axes = panels(len(LEVELS), (12, 4))
    for axis, (task, levels) in zip(axes, LEVELS.items(), strict=True):
        for number, name in enumerate(WAYS):
            seen = {level: own for level in levels if (own := returns(rows, task, name, level))}
            (line,) = axis.plot(list(seen), [fmean(v) for v in seen.values()], lw=1.6, label=name)
            for level, values in seen.items():
                place = [level + 0.02 * (number - 1.5)] * len(values)
                axis.plot(place, values, "o", ms=4, color=line.get_color(), alpha=0.7)
        axis.set_title(task.removeprefix("nprobot/"), size=11)
        axis.set_xlabel("noise of chip and motors, × the preset")
        axis.set_xticks(levels)
    axes[0].set_ylabel("return on the noisy hardware")
    axes[0].legend()
    save_figure(figure, "noisy_hardware")
    shown = picture(
        "noisy_hardware",
        "Return against the level of noise",
        "A dot a seed (three), lines through their means.",
    )
    put_section("noisy_hardware", [*shown, *table(rows)], DOCS / "hardware.md")


def returns(rows: Rows, task: str, way: str, level: float) -> list[float]:
    """Mean returns of a way, one for each seed."""
    own = select(rows, task=task, way=way, level=level)
    return [value for seed in SEEDS for value in column(select(own, seed=seed), "return_mean")]


def table(rows: Rows) -> list[str]:
    """Returns of every way at every level."""
    lines = []
    for task, levels in LEVELS.items():
        digits = 0 if "Pendulum" in task else 1
        for level in levels:
            cells = (each(returns(rows, task, name, level), digits) for name in WAYS)
            lines.append((task, f"× {level:g}", *cells))
    return markdown(("task", "noise", *WAYS), lines)


if __name__ == "__main__":
    command(__doc__, run, report)
