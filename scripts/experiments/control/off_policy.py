"""SAC and TD3 by backpropagation and by node perturbation: one figure, one page.

Three seeds of every learner on every task; on the pendulums TD3 with more gradient steps, too.
Learning rates come from `search`, the same small search for every learner, on a seed that is not
reported.

`critic` tells how well each rule regresses a critic, the part where perturbation is weakest: the Q
values that a teacher gives transitions on Pendulum-v1 are learned anew, by one setting after the
other, so that what differs is the regression alone, not exploration or targets that move. The
teacher is SAC by backpropagation, half way through its learning.

    python -m scripts.experiments.control.off_policy search  # results/off_policy/search.csv
    python -m scripts.experiments.control.off_policy run     # rows.csv, curves.csv
    python -m scripts.experiments.control.off_policy critic  # critic.csv
    python -m scripts.experiments.control.off_policy report  # docs/off_policy.md and its figure
    python -m scripts.experiments.control.off_policy run --only task=Pendulum-v1 rule=DANP
"""

from __future__ import annotations

import copy
import functools
import math
import time
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

import nprobot
from nprobot.catalogue import learner_title

from ..pages import DOCS, markdown, panels, plot_mean, put_section, save_figure, seeds_of, spread
from ..rows import RESULTS, Only, Rows, column, command, keep, read, select

FOLDER = RESULTS / "off_policy"
TASKS: dict[str, tuple[int, int, int]] = {
    "Pendulum-v1": (20_000, 1, 1),
    "InvertedPendulum-v5": (20_000, 1, 2),
    "Reacher-v5": (100_000, 2, 1),
}
"""Environment steps, `train_freq` and `gradient_steps`."""
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "BP": ("bp", {}),
    "DANP": ("danp", {"samples": 8, "sigma": 1e-2, "decorrelation_lr": 1e-4}),
    "NP + feedback": ("np+feedback", {"samples": 1, "sigma": 1e-3}),
}
ALGORITHMS = ("SAC", "TD3")
SEEDS = (0, 1, 2)
SEARCH_TASK, SEARCH_SEED = "Pendulum-v1", 100
LEARNING_RATES = (1e-3, 3e-3)
ENVS = 8
AS_REPORTED = "as reported"
SLOW_TARGETS = "slow targets"
OFTEN = "eight gradient steps"
"""For eight environment steps, at the rate with which that was best for TD3 on InvertedPendulum-v5
(`tuned_defaults.py`): for TD3 on the tasks where it had not been reliable."""
OFTEN_TASKS, OFTEN_RATE = ("Pendulum-v1", "InvertedPendulum-v5"), 1e-3
SEARCHES = {SLOW_TARGETS: 8_000, AS_REPORTED: 20_000}
"""Conditions under which learning rates were tried, and for how many steps.

The first is SB3's τ and γ with four times the updates. It was given up for what it costs."""
POINTS = 40
"""Points of a curve."""
EPISODES = 20
"""Deterministic episodes that measure a finished policy."""
COMMON: dict[str, Any] = {
    "batch_size": 256,
    "buffer_size": 100_000,
    "learning_starts": 500,
    "tau": 0.02,
    "gamma": 0.98,
    "policy_kwargs": {"net_arch": [64, 64], "optimizer_kwargs": {"fused": True}},
    "device": "cpu",
}
"""The same for every learner; everything else is SB3's default."""

CRITIC_STEPS = (300, 750, 1500)
"""Gradient steps after which the test error is taken."""
ROWS, TEST_ROWS, BATCH = 6000, 1000, 256
CRITIC: dict[str, Any] = {
    "samples": 8,
    "sigma": 1e-2,
    "noise": "rademacher",
    "decorrelation_lr": 1e-3,
}
"""Settings of a rule that regresses a critic, where nothing else is said."""


def search(only: Only = ()) -> None:
    """Try every learning rate for every learner, under both conditions."""
    jobs = [
        job_of(SEARCH_TASK, algorithm, rule, SEARCH_SEED, steps, rate, condition)
        for condition, steps in SEARCHES.items()
        for rule in RULES
        for rate in LEARNING_RATES
        for algorithm in ALGORITHMS
    ]
    keep(FOLDER / "search.csv", jobs, train, only=only)


def run(only: Only = ()) -> None:
    """Train every learner with the rate that `search` found best for it."""
    best = best_rates()
    # One seed of everything first: a run that is cut off has something of each.
    jobs = [
        job_of(task, algorithm, rule, seed, steps, best[algorithm, rule], AS_REPORTED)
        for seed in SEEDS
        for task, (steps, _, _) in TASKS.items()
        for rule in RULES
        for algorithm in ALGORITHMS
        if (algorithm, rule) in best
    ]
    jobs += [
        job_of(task, "TD3", rule, seed, TASKS[task][0], OFTEN_RATE, OFTEN)
        for seed in SEEDS
        for task in OFTEN_TASKS
        for rule in RULES
    ]
    keep(FOLDER / "rows.csv", jobs, train, only=only, curves=FOLDER / "curves.csv")


def job_of(*values: Any) -> dict[str, Any]:
    """A run, by the arguments of `train` in their order."""
    names = ("task", "algorithm", "rule", "seed", "steps", "learning_rate", "condition")
    return dict(zip(names, values, strict=True))


def best_rates() -> dict[tuple[str, str], float]:
    """Learning rate with the best return in runs as long as the reported ones, of every learner."""
    found: dict[tuple[str, str], dict[float, float]] = {}
    kind = {"condition": AS_REPORTED, "steps": SEARCHES[AS_REPORTED]}
    for row in select(read(FOLDER / "search.csv"), **kind):
        own = found.setdefault((row["algorithm"], row["rule"]), {})
        own[float(row["learning_rate"])] = float(row["return_mean"])
    return {learner: max(own, key=lambda rate: own[rate]) for learner, own in found.items()}


def train(
    task: str,
    algorithm: str,
    rule: str,
    seed: int,
    steps: int,
    learning_rate: float,
    condition: str,
) -> dict[str, Any]:
    """Train and measure."""
    _, train_freq, gradient_steps = TASKS[task]
    name, rule_kwargs = RULES[rule]
    settings: dict[str, Any] = {
        **copy.deepcopy(COMMON),  # SB3 writes into `policy_kwargs`
        **{"rule": name, "rule_kwargs": rule_kwargs, "seed": seed},
        **{"train_freq": train_freq, "gradient_steps": gradient_steps},
        "learning_rate": LinearSchedule(learning_rate, 0.0, 1.0),
    }
    envs = ENVS
    if condition == OFTEN:
        settings |= {"gradient_steps": ENVS}
    if condition == SLOW_TARGETS:
        envs = 4
        settings |= {"gradient_steps": 2, "tau": 0.005, "gamma": 0.99}
        if name == "danp":
            settings["rule_kwargs"] = rule_kwargs | {"decorrelation_lr": 1e-3}
    env = VecNormalize(make_vec_env(task, envs, seed=seed), gamma=settings["gamma"])
    model: nprobot.SAC | nprobot.TD3
    if algorithm == "SAC":
        model = nprobot.SAC("MlpPolicy", env, ent_coef="auto_0.01", **settings)
    else:
        size = env.action_space.shape
        noise = NormalActionNoise(np.zeros(size), np.full(size, 0.1))
        model = nprobot.TD3("MlpPolicy", env, action_noise=noise, **settings)
    curve = Curve(steps)
    wall, processor = time.perf_counter(), time.process_time()
    model.learn(steps, callback=curve)
    row = {
        **{"gradient_steps": model._n_updates, "episodes": EPISODES},
        "seconds": round(time.perf_counter() - wall, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "forward_passes": model.forward_passes,
        "backward_passes": model.backward_passes,
        **{"samples": model.rule.samples, "sigma": model.rule.sigma},
    }
    final = returns(model, task, env)
    row |= {"return_mean": float(final.mean()), "return_sd": stdev(final.tolist())}
    return {**row, "curve": curve.points()}


class Curve(BaseCallback):
    """Returns of the training episodes, averaged over each stretch of the run."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.stretch = steps / POINTS
        self.found: dict[int, list[float]] = {}

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                stretch = math.ceil(self.num_timesteps / self.stretch)
                self.found.setdefault(stretch, []).append(info["episode"]["r"])
        return True

    def points(self) -> Rows:
        """Steps at the ends of the stretches, and mean returns."""
        return [
            {"step": round(n * self.stretch), "return": fmean(own)} for n, own in self.found.items()
        ]


def returns(model: BaseAlgorithm, task: str, normaliser: VecNormalize) -> npt.NDArray[np.float64]:
    """Returns of deterministic episodes, side by side, the first of every environment."""
    env = make_vec_env(task, EPISODES, seed=10_000, vec_env_cls=DummyVecEnv)
    observations = env.reset()
    total, running = np.zeros(EPISODES), np.ones(EPISODES, bool)
    while running.any():
        actions, _ = model.predict(normaliser.normalize_obs(observations), deterministic=True)
        observations, rewards, dones, _ = env.step(actions)
        total += rewards * running
        running &= ~dones
    env.close()
    return total


@dataclass(frozen=True)
class Setting:
    """One way to learn."""

    rule: str
    learning_rate: float = 1e-3
    activation: str = "relu"
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def job(self) -> dict[str, str]:
        """What tells its row from others."""
        return {
            "rule": self.rule,
            "learning_rate": str(self.learning_rate),
            "activation": self.activation,
            "changes": " ".join(f"{name}={value}" for name, value in self.changes.items()),
        }


SETTINGS = [
    *(Setting("bp", rate, act) for act in ("relu", "tanh") for rate in (1e-3, 3e-3)),
    *(Setting("danp", rate, act) for act in ("relu", "tanh") for rate in (1e-3, 3e-3)),
    *(Setting(rule) for rule in ("np", "anp", "dnp", "dinp")),
    *(Setting("danp", changes={"samples": samples}) for samples in (1, 2, 4, 32)),
    *(Setting("danp", changes={"sigma": sigma}) for sigma in (1e-3, 1e-1)),
    *(Setting("danp", changes={"decorrelation_lr": rate}) for rate in (1e-4, 1e-2)),
    Setting("danp", changes={"noise": "gaussian"}),
    *(Setting("dnp+feedback", rate) for rate in (1e-3, 3e-3)),
    Setting("dnp+feedback", changes={"samples": 1}),
    Setting("anp", 3e-3),
    *(Setting("danp", 3e-3, changes={"decorrelation_lr": rate}) for rate in (1e-5, 1e-4)),
    Setting("dnp+feedback", 3e-3, changes={"decorrelation_lr": 1e-4}),
    *(Setting("danp", 3e-3, changes={"decorrelation_lr": 1e-4, "samples": k}) for k in (1, 32)),
    Setting("danp", 1e-2, changes={"decorrelation_lr": 1e-4}),
    Setting("np+feedback", 3e-3, changes={"samples": 1, "sigma": 1e-3}),
    *(
        Setting(rule, 3e-3, changes={"samples": k, "noise": noise, **slow})
        for rule, slow in (("np", {}), ("danp", {"decorrelation_lr": 1e-4}))
        for k in (32, 128)
        for noise in ("rademacher", "orthogonal")
    ),
]


def critic(only: Only = ()) -> None:
    """Regress a critic by every setting."""
    keep(FOLDER / "critic.csv", [s.job for s in SETTINGS], regress_by, only=only)


def regress_by(**job: str) -> dict[str, float]:
    """A setting's error, by what tells its row from others."""
    return regress(next(setting for setting in SETTINGS if setting.job == job))


@functools.cache
def teacher() -> tuple[Tensor, Tensor]:
    """Observations with actions, and the Q values that a half-trained critic gives them."""
    env = VecNormalize(make_vec_env("Pendulum-v1", 4, seed=9))
    model = nprobot.SAC(
        "MlpPolicy",
        env,
        LinearSchedule(3e-3, 0.0, 1.0),
        rule="bp",
        **copy.deepcopy(COMMON) | {"tau": 0.005, "gamma": 0.99},
        gradient_steps=2,
        ent_coef="auto_0.01",
        seed=9,
    )
    model.learn(3_000)
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(ROWS, env=env)
    assert isinstance(batch.observations, Tensor)
    with torch.no_grad():
        values = torch.cat(model.critic(batch.observations, batch.actions), dim=1).mean(1)
    return torch.cat([batch.observations, batch.actions], dim=1), values / values.std()


def regress(setting: Setting) -> dict[str, float]:
    """Normalised mean squared error on rows held out, and processor time of a step."""
    inputs, targets = teacher()
    torch.manual_seed(0)
    rule = nprobot.learning_rule(setting.rule, seed=0, **CRITIC | setting.changes)
    network = nprobot.policies.mlp(
        [inputs.shape[1], 64, 64, 1],
        activation=setting.activation,
        decorrelated=rule.decorrelated,
    )
    optimizer = torch.optim.Adam(network.parameters(), setting.learning_rate, fused=True)
    found: dict[str, float] = {}
    start = time.process_time()
    for step in range(1, CRITIC_STEPS[-1] + 1):
        rows = torch.randint(TEST_ROWS, ROWS, (BATCH,))
        target = targets[rows]
        optimizer.zero_grad()
        rule.backward(network, inputs[rows], lambda q, y=target: (q.squeeze(-1) - y).square())
        optimizer.step()
        rule.decorrelate(network)
        if step in CRITIC_STEPS:
            with torch.no_grad():
                error = network(inputs[:TEST_ROWS]).squeeze(-1) - targets[:TEST_ROWS]
            found[f"nmse_{step}"] = float(error.square().mean() / targets[:TEST_ROWS].var())
    found["milliseconds"] = round(1e3 * (time.process_time() - start) / CRITIC_STEPS[-1], 2)
    return found


COLOURS = {"BP": "black", "DANP": "#a50f15", "NP + feedback": "#756bb1"}
LINES = {("SAC", AS_REPORTED): "-", ("TD3", AS_REPORTED): ":", ("TD3", OFTEN): "--"}
FLOORS = {"Pendulum-v1": -1600.0, "Reacher-v5": -25.0}
"""Where the axes end: what a random policy gets would squeeze the rest."""


def report() -> None:
    """Draw the figure and write the tables of the page."""
    draw(read(FOLDER / "curves.csv"))
    parts = {
        "results": results_table(read(FOLDER / "rows.csv")),
        "search": search_table(read(FOLDER / "search.csv")),
        "critic": critic_table(read(FOLDER / "critic.csv")),
        "settings": [settings()],
    }
    for name, lines in parts.items():
        put_section(name, lines, DOCS / "off_policy.md")


def draw(curves: Rows) -> None:
    """Return over steps, mean over seeds and the range between them."""
    tasks = [task for task in TASKS if select(curves, task=task)]
    figure, axes = panels(len(tasks), (4.4 * len(tasks), 4.8))
    for axis, task in zip(axes, tasks, strict=True):
        for rule, colour in COLOURS.items():
            for (algorithm, condition), line in LINES.items():
                kind = {"algorithm": algorithm, "rule": rule, "condition": condition}
                own = seeds_of(select(curves, task=task, **kind), "step", "return", 1e3)
                label = f"{algorithm} by {rule}" + f", {condition}" * (condition == OFTEN)
                plot_mean(axis, own, ls=line, color=colour, lw=1.6, label=label)
        axis.set(title=task, xlabel="environment steps (thousands)")
        axis.set_ylim(bottom=FLOORS.get(task))
    axes[0].set_ylabel("return while exploring")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle("SAC and TD3: mean and range of seeds")
    save_figure(figure, "off_policy")


def results_table(rows: Rows) -> list[str]:
    """Return, passes and time of every learner on every task, at every rate that it has had."""
    measured = ("return", "worst", "env steps", "gradient steps", "passes forward / backward")
    lines = []
    for task in TASKS:
        for algorithm in ALGORITHMS:
            for rule in RULES:
                learner = select(rows, task=task, algorithm=algorithm, rule=rule)
                kinds = {(row["condition"], row["learning_rate"]) for row in learner}
                for condition, rate in sorted(kinds, key=lambda own: (own[0], -float(own[1]))):
                    own = select(learner, learning_rate=rate, condition=condition)
                    lines.append([task, f"{algorithm} by {rule}", rate, *results(own)])
    return markdown(("task", "learner", "rate", "seeds", *measured, "minutes"), lines)


def results(own: Rows) -> list[str]:
    """The cells of one learner on one task."""
    found = column(own, "return_mean")
    forward, backward, seconds = (
        fmean(column(own, name))
        for name in ("forward_passes", "backward_passes", "processor_seconds")
    )
    return [
        *(str(len(own)), spread(found, 1), f"{min(found):.1f}"),
        *(f"{int(own[0][name]):,}" for name in ("steps", "gradient_steps")),
        f"{forward / 1e6:.0f} M / {backward / 1e6:.0f} M",
        f"{seconds / 60:.1f}",
    ]


def search_table(rows: Rows) -> list[str]:
    """Return of every learning rate that was tried, under every condition."""
    tried = list(dict.fromkeys(map(tried_as, rows)))
    lines = []
    for rule in RULES:
        for algorithm in ALGORITHMS:
            own = {
                tried_as(row): f"{float(row['return_mean']):.0f}"
                for row in select(rows, algorithm=algorithm, rule=rule)
            }
            if own:
                lines.append([f"{algorithm} by {rule}", *(own.get(key, "–") for key in tried)])
    where = f"({SEARCH_TASK}, seed {SEARCH_SEED}; return of {EPISODES} deterministic episodes)"
    return [*markdown(("learner", *tried), lines), "", where]


def tried_as(row: dict[str, str]) -> str:
    """Condition, length and learning rate of a run of the search."""
    return f"{row['condition']}, {int(row['steps']) // 1000}k steps, {row['learning_rate']}"


def critic_table(rows: Rows) -> list[str]:
    """Error of a critic learned by every setting."""
    lines = (
        [
            *(learner_title(row["rule"]), row["learning_rate"], row["activation"]),
            row["changes"].replace("_", " ") or "–",
            *(f"{float(row[f'nmse_{steps}']):.4f}" for steps in CRITIC_STEPS),
            row["milliseconds"],
        ]
        for row in rows
    )
    after = (f"after {steps}" for steps in CRITIC_STEPS)
    return markdown(("rule", "learning rate", "units", "changed", *after, "ms a step"), lines)


def settings() -> str:
    """What all learners have in common."""
    each = {
        task: ENVS * frequency // gradient_steps
        for task, (_, frequency, gradient_steps) in TASKS.items()
    }
    steps = ", ".join(f"{count} on {task}" for task, count in each.items())
    layers = "-".join(map(str, COMMON["policy_kwargs"]["net_arch"]))
    return (
        f"{ENVS} environments, networks of {layers} ReLU units, batches of "
        f"{COMMON['batch_size']}, τ = {COMMON['tau']}, γ = {COMMON['gamma']}, "
        f"{COMMON['learning_starts']} random steps to begin with. "
        f"Environment steps for one gradient step: {steps}; 1 in the rows of TD3 with the most "
        "gradient steps."
    )


if __name__ == "__main__":
    command(__doc__, search, run, critic, report)
