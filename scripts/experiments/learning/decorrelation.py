"""Does decorrelation pay? Regression and control, with R's steps as they are and followed by W.

Every learner in the forms "as is" (the paper's: a step of R changes what the network computes),
"kept" (W follows R, so the function stays), "kept, κ = .5" (with whitening) and "kept, scale" (R
keeps its norm). Weight decay 0 and .1 (AdamW) for all of them, backprop included.

    python -m scripts.experiments.learning.decorrelation regression
    python -m scripts.experiments.learning.decorrelation control
    python -m scripts.experiments.learning.decorrelation cost
    python -m scripts.experiments.learning.decorrelation report  # tables in docs/decorrelation.md

The first three write rows to results/decorrelation/. A row is written as soon as its run is
finished, and a finished run is not repeated: after a cut-off, start the same command again. Runs
are ordered by what they tell, seed by seed.

Regression: equal passes for all (a backward pass counts as two, a noisy one as one), rates and η_R
by the validation rows of a seed that is not reported. Control: PPO with stable-baselines3's
settings (DANP: this package's), 8 environments x 256 steps, observations and rewards normalised.
The arm's rates are those that the search of docs/regression.md found for all three of its rules.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

import nprobot
from nprobot.envs.datasets import inverse_dynamics, load_sarcos
from nprobot.errors import NonFiniteError
from nprobot.learning.decorrelation import (
    decorrelated_layers,
    layer_states,
    moved_by_decorrelation,
    update,
)
from nprobot.policies import mlp
from nprobot.training.environments import silence_mujoco

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "results" / "decorrelation"
PAGE = ROOT / "docs" / "experiments" / "decorrelation.md"


@dataclass(frozen=True)
class Learner:
    """A rule in a form.

    Attributes:
        rule: its name.
        form: of decorrelation; empty for plain rules.
        settings: of the rule.
        moments: whether Adam's moments move with the weights (regression only).
    """

    rule: str
    form: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    moments: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.rule}, {self.form}" if self.form else self.rule

    @property
    def passes(self) -> int:
        """Of a row in a step; a backward pass counts as two."""
        return 3 if self.rule in ("bp", "dbp") else 1 + self.settings.get("samples", 1)


FORMS: dict[str, dict[str, Any]] = {
    "as is": {},
    "kept": {"keep_function": True},
    "kept, κ = .5": {"keep_function": True, "whitening": 0.5},
    "kept, scale": {"keep_function": True, "keep_scale": True},
}


def _learners() -> dict[str, Learner]:
    eight = {"samples": 8}
    plain = [Learner("bp"), Learner("np+feedback"), Learner("anp", settings=eight)]
    rules: dict[str, dict[str, Any]] = {"dbp": {}, "dnp+feedback": {}, "danp": eight}
    forms = [
        Learner(rule, form, {**own, **settings})
        for rule, own in rules.items()
        for form, settings in FORMS.items()
    ]
    moments = [
        Learner(rule, "kept, moments", FORMS["kept"], True) for rule in ("dbp", "dnp+feedback")
    ]
    return {learner.name: learner for learner in (*plain, *forms, *moments)}


LEARNERS = _learners()
CORE = ("np+feedback", "dnp+feedback, kept", "bp", "dnp+feedback, as is")
KAPPA = ("dnp+feedback, kept, κ = .5", "dbp, kept, κ = .5", "danp, kept, κ = .5")
DBP, DANP = ("dbp, as is", "dbp, kept"), ("danp, as is", "danp, kept")
SCALE = ("dnp+feedback, kept, scale", "danp, kept, scale", "dbp, kept, scale")
DECAYS = (0.0, 0.1)
SEEDS = (21, 22, 23, 24, 25)


def read(part: str) -> list[dict[str, Any]]:
    """The rows so far."""
    path = RESULTS / f"{part}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]  # the last may be cut off


def append(part: str, row: dict[str, Any]) -> None:
    """Add a row, with what it was made with."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    packages = ("torch", "mujoco", "gymnasium", "numpy", "stable-baselines3")
    row |= {
        "command": " ".join(
            ["python", "-m", "scripts.experiments.learning.decorrelation", *sys.argv[1:]]
        ),
        "commit": _commit(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    with (RESULTS / f"{part}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


@functools.cache
def _commit() -> str:
    """Of the code that runs: asked before the first run, as the tree may change meanwhile."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


# --------------------------------------------------------------------------------- regression


@dataclass(frozen=True)
class Task:
    """A regression task: standardised rows, and how long and how it is learned."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    hidden: tuple[int, ...]
    batch_size: int
    passes: int
    rates: tuple[float, ...]
    decorrelation_rates: tuple[float, ...]


def sarcos() -> Task:
    """The SARCOS arm; blocks of time."""
    data = load_sarcos(DATA / "sarcos_inv_test.mat")
    splits = [(s.inputs, s.targets) for s in (data.train, data.validation, data.test)]
    return _task(splits, (64, 64), 64, 180, (3e-3, 1e-2), (1e-2,))


def arm() -> Task:
    """The simulated arm, by trajectory."""
    data = inverse_dynamics()
    splits = [(s.inputs, s.targets) for s in (data.train, data.validation, data.test)]
    return _task(splits, (128, 128), 256, 204, (1e-2,), (1e-4,))


def baxter() -> Task:
    """A real arm: angle and velocity to torque, by recording; its authors' test recordings."""
    files = sorted((DATA / "baxter").glob("*.csv"))
    recordings = {f.name: np.loadtxt(f, skiprows=1) for f in files}
    learned = [table for name, table in recordings.items() if name.startswith("training")]
    tests = [table for name, table in recordings.items() if name.startswith("test")]
    splits = []
    for tables in (learned[:-2], learned[-2:], tests):
        table = np.concatenate(tables)
        splits.append((table[:, :14], table[:, 14:21]))
    return _task(splits, (64, 64), 256, 24, (3e-3, 1e-2), (1e-3,))


def _task(splits: Sequence[tuple[NDArray[Any], NDArray[Any]]], *how: Any) -> Task:
    (x, y), _, _ = splits
    scale = [(a.mean(0), np.where(a.std(0) > 0, a.std(0), 1)) for a in (x, y)]
    standard = [
        tuple(torch.tensor((a - m) / s, dtype=torch.float32) for a, (m, s) in zip(p, scale))  # noqa: B905
        for p in splits
    ]
    return Task(*standard, *how)  # type: ignore[arg-type]


TASKS = {"SARCOS": sarcos, "arm-inverse-dynamics": arm, "Baxter": baxter}
SEARCH_SEED = 20
REGRESSION: tuple[tuple[str, tuple[str, ...], tuple[float, ...], tuple[int, ...]], ...] = (
    ("SARCOS", (*CORE, *DBP, *DANP), (0.0,), SEEDS[:3]),
    ("arm-inverse-dynamics", (*CORE, *DBP), (0.1,), SEEDS[:3]),
    ("SARCOS", ("dbp, kept, scale", "dbp, kept, moments", *KAPPA), (0.0,), SEEDS[:3]),
    ("SARCOS", (*CORE, *DBP, *DANP), DECAYS, SEEDS),
    ("Baxter", (*CORE, *DBP, *DANP), (0.0,), SEEDS),
    ("arm-inverse-dynamics", (*CORE, *DBP, *DANP), (0.1,), SEEDS),
    ("SARCOS", (*SCALE, *KAPPA), DECAYS, SEEDS),
    ("Baxter", (*CORE, *DBP, *DANP, *KAPPA), DECAYS, SEEDS),
)
"""Tasks, learners, weight decays and seeds in the order in which they run."""


def fit(
    task: Task, learner: Learner, rate: float, decorrelation_rate: float, decay: float, seed: int
) -> dict[str, Any]:
    """Learn, and the errors at the epoch that was best on the validation rows."""
    torch.manual_seed(seed)
    (x, y), order = task.train, torch.Generator().manual_seed(seed)
    rule = nprobot.learning_rule(
        learner.rule,
        **{"sigma": 1e-3, "seed": seed, "decorrelation_lr": decorrelation_rate},
        **learner.settings,
    )
    network = mlp([x.shape[1], *task.hidden, y.shape[1]], "tanh", rule.decorrelated)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=decay, fused=True)
    epochs, steps = task.passes // learner.passes, -(-len(x) // task.batch_size)
    best = {"validation": math.inf, "test": math.inf, "train": math.inf, "best_epoch": 0}
    started = time.perf_counter()
    try:
        for epoch in range(epochs):
            for i, rows in enumerate(torch.randperm(len(x), generator=order).tensor_split(steps)):
                share = 0.5 + 0.5 * math.cos(math.pi * (epoch * steps + i) / (epochs * steps))
                optimizer.param_groups[0]["lr"] = rate * share
                optimizer.zero_grad()
                targets = y[rows]
                rule.backward(network, x[rows], lambda out, t=targets: (out - t).square().mean(-1))
                optimizer.step()
                if learner.moments:
                    move_moments(rule, network, optimizer, share)
                elif rule.decorrelated:
                    rule.decorrelate(network, scale=share)
            error = nmse(network, *task.validation)
            if error < best["validation"]:
                best |= {"validation": error, "best_epoch": epoch + 1}
                best |= {"test": nmse(network, *task.test), "train": nmse(network, x, y)}
    except NonFiniteError:
        best |= {"diverged": True}
    seconds = time.perf_counter() - started
    return best | {
        **{"epochs": epochs, "passes": epochs * learner.passes, "seconds": round(seconds, 2)},
        **states(network, rule),
    }


def move_moments(
    rule: Any,  # noqa: ANN401
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scale: float,
) -> None:
    """`rule.decorrelate`, and Adam's moments as the gradients g Mᵀ would have made them."""
    layers = [layer for _, layer in decorrelated_layers(network)]
    before = [layer.R.clone() for layer in layers]
    rule.decorrelate(network, scale=scale)
    for layer, old in zip(layers, before, strict=True):
        M = torch.linalg.solve(old, layer.R, left=False)
        state = optimizer.state[layer.weight]
        state["exp_avg"].copy_(state["exp_avg"] @ M.mT)
        state["exp_avg_sq"].copy_(state["exp_avg_sq"] @ M.square().mT)


@torch.no_grad()
def nmse(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean over the targets of their mean squared error over their variance."""
    error = (network(x) - y).square().mean(0) / y.var(0, unbiased=False)
    return float(error.mean())


def states(network: nn.Module, rule: Any) -> dict[str, Any]:  # noqa: ANN401
    """What decorrelation has made of a network: the worst layer, or all of them together."""
    if not rule.decorrelated:
        return {}
    found = layer_states(network, rule.remembered_inputs(network))
    return {
        "condition": max(s.condition for s in found),
        "correlation": statistics.fmean(s.correlation for s in found),
        "input_scale": statistics.fmean(s.scale for s in found),
        "weight_norm": math.hypot(*(s.weight_norm for s in found)),
        "folded_norm": math.hypot(*(s.folded_norm for s in found)),
    }


def regression(arguments: argparse.Namespace) -> None:
    """Search on one seed, then all seeds, task by task."""
    done = {_key(row): row for row in read("regression")}

    def run(
        name: str, learner: Learner, rates: tuple[float, float], decay: float, seed: int
    ) -> Any:  # noqa: ANN401
        key = (name, learner.name, *rates, decay, seed)
        if key not in done:
            result = fit(loaded(name), learner, *rates, decay, seed)
            row = {
                **{"task": name, "learner": learner.name, "rate": rates[0], "eta": rates[1]},
                **{"decay": decay, "seed": seed, **result},
            }
            append("regression", row)
            done[key] = row
            print(key, f"{row['test']:.4f} ({row['seconds']:.0f} s)", flush=True)
        return done[key]["validation"]

    @functools.cache
    def loaded(name: str) -> Task:
        return TASKS[name]()

    for name, forms, decays, seeds in REGRESSION[: arguments.blocks]:
        if name not in (arguments.task or TASKS):
            continue
        chosen: dict[tuple[str, float], tuple[float, float]] = {}
        for form, decay in itertools.product(forms, decays):
            learner, task = LEARNERS[form], loaded(name)
            etas = task.decorrelation_rates if learner.form else (0.0,)
            grid = list(itertools.product(task.rates, etas))
            chosen[form, decay] = grid[0]
            if len(grid) > 1:
                errors = [run(name, learner, rates, decay, SEARCH_SEED) for rates in grid]
                chosen[form, decay] = grid[int(np.argmin(errors))]
        for seed, form, decay in itertools.product(seeds, forms, decays):
            run(name, LEARNERS[form], chosen[form, decay], decay, seed)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("task", "learner", "rate", "eta", "decay", "seed")
    return tuple(row[key] for key in keys)


# ------------------------------------------------------------------------------------ control

STEPS = {
    "HalfCheetah-v5": 200_000,
    "Reacher-v5": 150_000,
    "InvertedDoublePendulum-v5": 150_000,
    "nprobot/ArmReach-v0": 150_000,
    "Walker2d-v5": 300_000,
}
ENVS, N_STEPS, EPISODES = 8, 256, 20
CHEETAH, REACHER, DOUBLE, ARM_REACH, WALKER = STEPS
PLAN: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[float, ...], tuple[int, ...]], ...] = (
    ((CHEETAH,), CORE, (0.0,), SEEDS[:3]),
    ((CHEETAH,), DANP, DECAYS, SEEDS[:3]),
    ((CHEETAH,), CORE, (0.1,), SEEDS[:3]),
    ((CHEETAH,), CORE, (0.0,), SEEDS),
    ((REACHER, DOUBLE), CORE, (0.0,), SEEDS[:3]),
    ((CHEETAH,), ("dnp+feedback, kept, scale", KAPPA[0], *DBP), (0.0,), SEEDS[:3]),
    ((ARM_REACH, WALKER), CORE, (0.0,), SEEDS[:3]),
    ((REACHER, DOUBLE, ARM_REACH, WALKER), CORE, DECAYS, SEEDS),
    ((CHEETAH,), (*CORE, *DBP, *DANP, "anp", *KAPPA, *SCALE), DECAYS, SEEDS),
    ((REACHER, DOUBLE, ARM_REACH, WALKER), (*DBP, *DANP, "anp", *KAPPA, *SCALE), DECAYS, SEEDS),
)
"""Tasks, learners, weight decays and seeds in the order in which they run."""


class MoveByR(BaseCallback):
    """Measures in the last update how far R alone moves the policy between two minibatches.

    Args:
        total: steps of the run.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total
        self.nats: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model = self.model
        assert isinstance(model, nprobot.PPO)
        if not model.rule.decorrelated or self.num_timesteps < self.total:
            return
        rule, actor, decorrelate = model.rule, model.actor, model.rule.decorrelate
        rows = _rows(model)

        def measured(network: nn.Module, *, scale: float = 1.0) -> None:
            if network is not actor:
                decorrelate(network, scale=scale)
                return
            del rule.decorrelate  # type: ignore[method-assign]
            self.nats.append(moved_by_decorrelation(rule, actor, rows, divergence, scale=scale))
            rule.decorrelate = measured  # type: ignore[method-assign]

        rule.decorrelate = measured  # type: ignore[method-assign]


def _rows(model: nprobot.PPO) -> Tensor:
    """Observations of the last rollout, normalised."""
    observations = torch.as_tensor(model.rollout_buffer.observations).float()
    return observations.reshape(-1, observations.shape[-1])


def divergence(old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> Tensor:
    """KL(old ‖ new) of diagonal Gaussians in nats, shape (B,); in double precision."""
    (mean, log_std), (other, other_log_std) = ([y.double() for y in pair] for pair in (old, new))
    variance = torch.exp(2 * other_log_std)
    terms = other_log_std - log_std - 0.5
    return (terms + (torch.exp(2 * log_std) + (mean - other).square()) / (2 * variance)).sum(-1)


def train(env_id: str, learner: Learner, decay: float, seed: int) -> dict[str, Any]:
    """A run of PPO and what it came to."""
    started = time.perf_counter()
    env = VecNormalize(make_vec_env(env_id, ENVS, seed=seed))
    policy: dict[str, Any] = {}
    if decay:
        policy["optimizer_class"] = torch.optim.AdamW
        policy["optimizer_kwargs"] = {"weight_decay": decay, "eps": 1e-5, "fused": True}
    model = nprobot.PPO(
        "MlpPolicy",
        env,
        rule=learner.rule,
        rule_kwargs=learner.settings,
        n_steps=N_STEPS,
        policy_kwargs=policy,
        seed=seed,
        device="cpu",
    )
    move = MoveByR(STEPS[env_id])
    model.learn(STEPS[env_id], callback=move)
    exploring = [episode["r"] for episode in list(model.ep_info_buffer)[-EPISODES:]]  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    row: dict[str, Any] = {
        "env": env_id,
        "learner": learner.name,
        "decay": decay,
        "seed": seed,
        "steps": model.num_timesteps,
        "exploring": statistics.fmean(exploring),
        "returns": evaluate(model, env, env_id, seed, deterministic=True),
        "sampled_returns": evaluate(model, env, env_id, seed, deterministic=False),
        "seconds": round(seconds, 1),
        **looks(model),
    }
    row["deterministic"] = statistics.fmean(row["returns"])
    row["sampled"] = statistics.fmean(row["sampled_returns"])
    if model.rule.decorrelated:
        row["nats_by_R"] = statistics.fmean(move.nats)
        row |= states(model.actor, model.rule)
    return row


def evaluate(
    model: nprobot.PPO, env: VecNormalize, env_id: str, seed: int, *, deterministic: bool
) -> list[float]:
    """Return of the first episode of each of 20 environments; the normaliser stands still."""
    torch.manual_seed(seed)
    other = VecNormalize(
        make_vec_env(env_id, EPISODES, seed=10_000 + seed), training=False, norm_reward=False
    )
    other.obs_rms = env.obs_rms
    observations = other.reset()
    returns: dict[int, float] = {}
    while len(returns) < EPISODES:
        actions, _ = model.predict(observations, deterministic=deterministic)  # type: ignore[arg-type]
        observations, _, dones, infos = other.step(actions)
        for i in np.flatnonzero(dones):
            returns.setdefault(int(i), round(float(infos[i]["episode"]["r"]), 3))
    other.close()
    return [returns[i] for i in range(EPISODES)]


@torch.no_grad()
def looks(model: nprobot.PPO) -> dict[str, float]:
    """What might make the mean action do worse than the actions that were tried."""
    policy = model.policy
    rows = _rows(model)
    latent = policy.mlp_extractor.forward_actor(rows)
    mean = policy.action_net(latent)
    return {
        "std": float(policy.log_std.exp().mean()),
        "mean_beyond_bounds": float((mean.abs() > 1).float().mean()),
        "mean_size": float(mean.square().mean().sqrt()),
        "saturated": float((latent.abs() > 0.98).float().mean()),
        "observations_clipped": float((rows.abs() >= 10).float().mean()),
    }


def control(arguments: argparse.Namespace) -> None:
    """All runs of the plan, or those asked for."""
    silence_mujoco()
    done = {(r["env"], r["learner"], r["decay"], r["seed"]) for r in read("control")}
    for key in _runs(arguments):
        env_id, name, decay, seed = key
        if key not in done:
            row = train(env_id, LEARNERS[name], decay, seed)
            append("control", row)
            done.add(key)
            print(
                key,
                f"deterministic {row['deterministic']:.1f} exploring {row['exploring']:.1f}",
                f"({row['seconds']:.0f} s)",
                flush=True,
            )


def _runs(arguments: argparse.Namespace) -> Iterator[tuple[str, str, float, int]]:
    for envs, learners, decays, seeds in PLAN[: arguments.blocks]:
        for env, seed, decay, name in itertools.product(envs, seeds, decays, learners):
            if env in (arguments.env or STEPS) and name in (arguments.learner or LEARNERS):
                yield env, name, decay, seed


# --------------------------------------------------------------------------------------- cost


def cost(arguments: argparse.Namespace) -> None:
    """Microseconds of CPU of a step of R, alone and with the weights following, by width and rows.

    CPU time, as a busy machine makes others wait; the lowest of seven measurements.
    """
    del arguments
    for width, rows in itertools.product((64, 256, 1024), (64, 256, 1000)):
        x, W = torch.randn(rows, width), torch.randn(width, width) / width**0.5
        for lr in (1e-4, 1e-2):
            row: dict[str, Any] = {"width": width, "rows": rows, "lr": lr}
            for name, settings in {
                "alone": {},
                "followed": {"weight": W},
                "scale": {"weight": W, "keep_scale": True},
            }.items():
                R, times = torch.eye(width), []
                for _ in range(7):
                    repeats = max(2, 400 * 64**2 // width**2)
                    started = time.process_time()
                    for _ in range(repeats):
                        update(R, x, lr, **settings)  # type: ignore[arg-type]
                        R.copy_(torch.eye(width))
                    times.append((time.process_time() - started) / repeats)
                row[name] = round(1e6 * min(times), 1)
            append("cost", row)
            print(row, flush=True)


# ------------------------------------------------------------------------------------- report


def report(arguments: argparse.Namespace) -> None:
    """Write the tables of the page."""
    del arguments
    put_section("cost", cost_table())
    put_section("regression", regression_table())
    put_section("control", control_table())


def cost_table() -> list[str]:
    """The latest row of each size."""
    latest = {(r["width"], r["rows"], r["lr"]): r for r in read("cost")}
    lines = [
        "| width | rows | η_R | R alone, µs | W follows | and scale |",
        "|---|---|---|---|---|---|",
    ]
    for (width, rows, lr), r in sorted(latest.items()):
        more = [f"{r[name]:.0f} (x {r[name] / r['alone']:.2f})" for name in ("followed", "scale")]
        lines.append(f"| {width} | {rows} | {lr:g} | {r['alone']:.0f} | {' | '.join(more)} |")
    return lines


def regression_table() -> list[str]:
    """Test nMSE of every learner, mean and spread over the seeds, relative to backprop's best."""
    rows = [r for r in read("regression") if r["seed"] != SEARCH_SEED]
    lines = []
    for task in dict.fromkeys(r["task"] for r in rows):
        lines += [
            f"**{task}**, test nMSE: mean (lowest to highest; seeds)",
            *("", "| learner | decay 0 | decay .1 | best over BP's best |", "|---|---|---|---|"),
        ]
        own = [r for r in rows if r["task"] == task]
        errors = {
            (name, decay): [r["test"] for r in own if (r["learner"], r["decay"]) == (name, decay)]
            for name, decay in itertools.product(LEARNERS, DECAYS)
        }
        best = {
            name: min((statistics.fmean(e) for d in DECAYS if (e := errors[name, d])), default=0)
            for name in LEARNERS
        }
        for name in LEARNERS:
            if best[name]:
                cells = [_spread(errors[name, decay], "{:.4f}") for decay in DECAYS]
                ratio = f"{best[name] / best['bp']:.2f}" if best["bp"] else ""
                lines.append(f"| {name} | {' | '.join(cells)} | {ratio} |")
        lines.append("")
    return lines[:-1] if lines else ["No rows yet."]


def control_table() -> list[str]:
    """Deterministic and exploring returns of every learner, seed by seed."""
    rows = read("control")
    lines = []
    for env in dict.fromkeys(r["env"] for r in rows):
        lines += [
            f"**{env}**, {STEPS[env]:,} steps: mean over the seeds (each seed)",
            "",
            "| learner | decay | deterministic | exploring | scatter of episodes | nats by R |",
            "|---|---|---|---|---|---|",
        ]
        for name, decay in itertools.product(LEARNERS, DECAYS):
            own = sorted(
                (r for r in rows if (r["env"], r["learner"], r["decay"]) == (env, name, decay)),
                key=lambda r: r["seed"],
            )
            if own:
                digits = "{:.0f}" if abs(own[0]["exploring"]) > 50 else "{:.1f}"
                cells = [_each([r[k] for r in own], digits) for k in ("deterministic", "exploring")]
                cells.append(digits.format(statistics.fmean(np.std(r["returns"]) for r in own)))
                nats = [r["nats_by_R"] for r in own if "nats_by_R" in r]
                cells.append(f"{statistics.fmean(nats):.0e}" if nats else "")
                lines.append(f"| {name} | {decay:g} | {' | '.join(cells)} |")
        lines.append("")
    return lines[:-1] if lines else ["No rows yet."]


def _spread(values: Sequence[float], digits: str) -> str:
    if not values:
        return ""
    low, mean, high = (digits.format(f(values)) for f in (min, statistics.fmean, max))
    return f"{mean} ({low} to {high}; {len(values)})"


def _each(values: Sequence[float], digits: str) -> str:
    mean, *each = (digits.format(v) for v in (statistics.fmean(values), *values))
    return f"**{mean}** ({', '.join(each)})"


def put_section(name: str, lines: Sequence[str]) -> None:
    """Replace what stands in the page between ``<!-- name -->`` and ``<!-- end name -->``."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{PAGE} has no place for {name}: put {begin.strip()} and {end} there")
    PAGE.write_text(before + begin + "\n".join([*lines, ""]) + end + after, encoding="utf-8")


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = parser.add_subparsers(required=True)
    for stage in (regression, control, cost, report):
        one = stages.add_parser(stage.__name__, help=(stage.__doc__ or "").split("\n")[0])
        one.set_defaults(stage=stage)
        if stage in (regression, control):
            one.add_argument("--blocks", type=int, help="how many of the plan, from the first")
        if stage is regression:
            one.add_argument("--task", action="append", choices=TASKS, help="repeatable")
        if stage is control:
            one.add_argument("--env", action="append", choices=STEPS, help="repeatable")
            one.add_argument("--learner", action="append", choices=LEARNERS, help="repeatable")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _commit()
    arguments.stage(arguments)


if __name__ == "__main__":
    main()
