"""Learning where all noise is hidden: how near feedback comes to backprop through the noisy chip.

Every node of the network is on an emulated chip, noisy in learning and in evaluation; learners read
activities, inputs and losses. `bp` differentiates the weights as written through the noisy
activity: an oracle that no chip has. Each line of a file of rows is one run.

    python -m scripts.experiments.hardware.hidden_noise PART

Parts are

    regression  a teacher network, minutes
    size        how small the noise may be
    chips       other noise, read-outs, devices
    correction  of the guess, by strength and K
    data        recordings and images, minutes
    control     PPO, hours
    nrl         NRL, half an hour
    adapt       after a change, half an hour
    long        these four, seed by seed
    tables      into docs/experiments/hidden_noise.md
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

import nprobot
from nprobot.adaptation import ActuatorFault, AdaptationConfig, adapt
from nprobot.deploy import load_policy
from nprobot.envs import NoisyActuators
from nprobot.envs.datasets import inverse_dynamics, load_sarcos, moments, split_rows
from nprobot.policies import mlp
from nprobot.training import environments

ROOT = Path(__file__).parents[3]
ROWS = ROOT / "results" / "hidden_noise"
DATA = Path(os.environ.get("NPROBOT_DATA", ROOT.parent / "shared" / "data"))
"""Where the recordings of SARCOS lie, which are not ours to give."""
PAGE = ROOT / "docs" / "experiments" / "hidden_noise.md"
SIZES = (21, 64, 64, 7)
STEPS = 3000
BATCH = 64

ORACLE = "BP through the chip (oracle)"
FEEDBACK = "NP + feedback"
LEARNERS: dict[str, dict[str, Any]] = {
    ORACLE: {"name": "bp"},
    "ANP": {"name": "anp", "samples": 1},
    FEEDBACK: {"name": "np+feedback"},
    "DNP + feedback": {"name": "dnp+feedback"},
}
RATES = {
    "bp": (3e-3, 1e-2),
    "anp": (1e-3, 3e-3),
    "np+feedback": (3e-3, 1e-2),
    "dnp+feedback": (3e-3, 1e-2),
}
"""Two learning rates for each, falling to 0 by a cosine; the better is shown."""

CHIPS: dict[str, list[dict[str, Any] | float | str]] = {
    "white .06": [0.06],
    "white .06, read in 510 levels to ±12": [0.06, {"model": "Converter"}],
    "white .06, 30 % mismatch, 510 levels (analog)": ["analog"],
    "white .06, offsets .04 ± .1": [0.06, {"model": "Offset", "value": 0.04, "spread": 0.1}],
    "telegraph ±.06": [{"model": "TelegraphNoise", "amplitude": 0.06}],
    "in proportion to the activity, 10 %": [{"model": "MultiplicativeNoise", "std": 0.1}],
    "spintronic": ["spintronic"],
}


class Teacher:
    """A random tanh network whose outputs are standardised, on normal inputs."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(1000 + seed)
        self.network = mlp(list(SIZES), "tanh")
        with torch.no_grad():
            for layer in self.network:
                if isinstance(layer, nn.Linear):
                    layer.weight.normal_(0.0, 1.0 / math.sqrt(layer.in_features))
                    layer.bias.normal_(0.0, 0.1)
            y = self.network(self.inputs(10_000))
        self.mean, self.std = y.mean(0), y.std(0)

    def inputs(self, rows: int) -> Tensor:
        """Normal inputs."""
        return torch.randn(rows, SIZES[0], generator=self.generator)

    @torch.no_grad()
    def batch(self, rows: int) -> tuple[Tensor, Tensor]:
        """Inputs and what the teacher makes of them."""
        x = self.inputs(rows)
        return x, (self.network(x) - self.mean) / self.std


def fit(
    learner: Mapping[str, Any], chip: Sequence[Any], rate: float, seed: int
) -> dict[str, float]:
    """Test error on the noisy chip after learning, and how B lies to the weights."""
    teacher = Teacher(seed)
    rule = nprobot.learning_rule(**{"seed": seed, **learner})
    torch.manual_seed(seed)
    network = mlp(list(SIZES), "tanh", decorrelated=rule.decorrelated)
    noisy = nprobot.NoisyNetwork(network, chip, seed=seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    started = time.process_time()
    for _ in range(STEPS):
        x, y = teacher.batch(BATCH)
        optimizer.zero_grad()
        rule.backward(noisy, x, lambda output, y=y: (output - y).square().mean(-1))
        optimizer.step()
        rule.decorrelate(noisy, scale=schedule.get_last_lr()[0] / rate)
        schedule.step()
    seconds = time.process_time() - started
    x, y = teacher.batch(20_000)
    with torch.no_grad():
        error = float((noisy(x) - y).square().mean() / y.var(0).mean())
    row = {"nmse": error, "seconds": seconds}
    found = cosines(rule, {"": noisy}).values()
    return row | {f"cosine_{number}": value for number, value in enumerate(found, 1)}


def learners(names: Sequence[str], *, both: bool = False, **given: Any) -> Iterator[dict[str, Any]]:
    """Runs of some learners, at the rate that is the better in the regression or at both."""
    for name in names:
        for rate in RATES[LEARNERS[name]["name"]][0 if both else 1 :]:
            yield {"learner": name, **given, "rate": rate}


def regression_runs() -> Iterator[dict[str, Any]]:
    """The teacher, by size of the noise."""
    for names in ((ORACLE, FEEDBACK), ("ANP", "DNP + feedback")):
        for seed in range(5):
            for noise in (0.06, 0.03, 0.2):
                yield from learners(names, both=True, noise=noise, seed=seed)


def size_runs() -> Iterator[dict[str, Any]]:
    """From no noise at all to more than any chip should have."""
    for seed in range(2):
        for noise in (0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.4):
            yield from learners((ORACLE, FEEDBACK), noise=noise, seed=seed)


def chip_runs() -> Iterator[dict[str, Any]]:
    """Other noise, read-outs and devices."""
    for seed in range(2):
        for chip in CHIPS:
            yield from learners((ORACLE, FEEDBACK, "ANP"), chip=chip, seed=seed)


def correction_runs() -> Iterator[dict[str, Any]]:
    """The correction of the guess, by strength and K."""
    for seed in range(2):
        for samples in (1, 8):
            for correction in (0.0, 0.01, 0.1, 1.0):
                given = {"noise": 0.06, "samples": samples, "correction": correction}
                yield {"learner": FEEDBACK, **given, "rate": 1e-2, "seed": seed}


CONTROL_STEPS = {
    "InvertedPendulum-v5": 16_384,
    "Reacher-v5": 100_000,
    "HalfCheetah-v5": 100_000,
    "Hopper-v5": 150_000,
    "nprobot/ArmReach-v0": 150_000,
}
CONTROL_RULES: dict[str, dict[str, Any]] = {
    "bp": {},
    "np+feedback": {},
    "danp": {"learning_rate": 1e-3, "max_grad_norm": None, "rule_kwargs": {"samples": 1}},
    "dnp+feedback": {},
}
"""What differs from stable-baselines3's settings."""
POINTS = 3
"""Evaluations of a run; the last of 20 episodes, the others of 10."""


CONTROL_CHIPS = (
    "analog",
    "spintronic",
    "TelegraphNodeNoise:amplitude=0.06",
    "MultiplicativeNoise:std=0.1",
    "0.06,Offset:value=0.04:spread=0.1",
    "0.06,DeadNodes:share=0.1",
    "0.06,Converter:bound=3:levels=255",
)


def control_runs() -> Iterator[dict[str, Any]]:
    """PPO, all noise hidden: the network's, and then the actuators' as well."""
    three = ("np+feedback", "bp", "danp")
    stages = [
        (range(3), ("Reacher-v5", "HalfCheetah-v5", "InvertedPendulum-v5"), None, 0.06),
        (range(3), ("InvertedPendulum-v5", "Reacher-v5"), "torque-motor", 0.06),
        (range(3, 5), ("InvertedPendulum-v5", "Reacher-v5", "HalfCheetah-v5"), None, 0.06),
        (range(3), ("Hopper-v5", "nprobot/ArmReach-v0"), None, 0.06),
        (range(3), ("Reacher-v5", "HalfCheetah-v5"), None, 0.2),
        *((range(3), ("Reacher-v5",), None, chip) for chip in CONTROL_CHIPS),
    ]
    for seeds, envs, actuators, chip in stages:
        for seed in seeds:
            for env in envs:
                for rule in three:
                    yield {
                        **{"env": env, "rule": rule, "chip": str(chip)},
                        **{"actuators": actuators, "seed": seed},
                    }


def control(env: str, rule: str, chip: str, actuators: str | None, seed: int) -> dict[str, Any]:
    """PPO with actor and critic on a noisy chip, in rollouts, learning and evaluation.

    The settings are stable-baselines3's (3e-4, constant, batches of 64), ANP's rate 1e-3; eight
    environments, observations and rewards normalised.
    """
    started = time.process_time()
    steps = CONTROL_STEPS[env]

    def make(count: int, seed: int) -> VecNormalize:
        wrapper: dict[str, Any] = {}
        if actuators is not None:
            wrapper = {"wrapper_class": NoisyActuators, "wrapper_kwargs": {"models": actuators}}
        return VecNormalize(make_vec_env(env, count, seed=seed, **wrapper))

    vector, other = make(8, seed), make(10, 10_000 + seed)
    other.training = other.norm_reward = False
    model = nprobot.PPO(
        "MlpPolicy",
        vector,
        rule=rule,
        seed=seed,
        chip=chip,
        device="cpu",
        **{"n_steps": 256, "batch_size": 64, "max_grad_norm": 0.5, **CONTROL_RULES[rule]},
    )
    model.schedule_timesteps = steps
    row: dict[str, Any] = {"steps": steps, "curve": []}
    for point in range(1, POINTS + 1):
        model.learn(steps * point // POINTS - model.num_timesteps, reset_num_timesteps=point == 1)
        other.obs_rms = vector.obs_rms
        episodes = 20 if point == POINTS else 10
        returns, _ = evaluate_policy(model, other, episodes, return_episode_rewards=True)
        row["curve"].append(round(mean(returns), 2))
    exploring = [episode["r"] for episode in list(model.ep_info_buffer)[-20:]]
    return row | {
        "return": mean(returns),
        "returns": returns,
        "exploring": mean(exploring),
        "std": float(model.policy.log_std.detach().exp().mean()),
        "cosines": cosines(model.rule, getattr(model, "networks", {})),
        "seconds": time.process_time() - started,
    }


def cosines(rule: nprobot.LearningRule, networks: Mapping[str, nn.Module]) -> dict[str, float]:
    """How the matrices of networks that a rule has met lie to the weights, by network and layer."""
    found = {}
    fits = getattr(getattr(rule, "feedback", None), "fits", {})
    for (where, network), own in zip(networks.items(), fits.values(), strict=False):
        for name, fit in own.items():
            layer: Any = network.get_submodule(name)
            weight = layer.folded_weight() if rule.decorrelated else layer.weight
            cosine = torch.cosine_similarity(fit.matrix.mT.flatten(), weight.detach().flatten(), 0)
            found[f"{where} {name}"] = round(float(cosine), 4)
    return found


DEPLOYED = "BP on the ideal model, then put on the chip"
DATA_LEARNERS: dict[str, tuple[dict[str, Any], float]] = {
    ORACLE: ({"name": "bp"}, 1e-2),
    DEPLOYED: ({"name": "bp"}, 1e-2),
    FEEDBACK: ({"name": "np+feedback"}, 1e-2),
    "ANP, K = 1": ({"name": "anp", "samples": 1}, 3e-3),
    "ANP, K = 8": ({"name": "anp", "samples": 8}, 3e-3),
}
"""Rules and learning rates, which fall to 0 by a cosine."""
DATA_STEPS = 1500


@cache
def dataset(task: str) -> tuple[list[tuple[Tensor, Tensor]], tuple[int, ...]]:
    """Standardised rows to learn from and to test on, and the sizes of the network."""
    if task == "digits":
        x, labels = load_digits(return_X_y=True)
        data = split_rows(np.asarray(x, np.float64) / 16, np.asarray(labels), seed=0)
        rows = [(data.train.inputs, data.train.targets), (data.test.inputs, data.test.targets)]
        return [
            (torch.tensor(a - 0.3).float(), torch.tensor(b).flatten().long()) for a, b in rows
        ], (64, 64, 10)
    data = load_sarcos(DATA / "sarcos_inv_test.mat") if task == "SARCOS" else inverse_dynamics()
    scale = [moments(part) for part in (data.train.inputs, data.train.targets)]
    splits = [
        tuple(
            torch.tensor((a - m) / s).float()
            for a, (m, s) in zip((split.inputs, split.targets), scale, strict=True)
        )
        for split in (data.train, data.test)
    ]
    sizes = (splits[0][0].shape[1], 64, 64, splits[0][1].shape[1])
    return splits, sizes  # type: ignore[return-value]


def data_runs() -> Iterator[dict[str, Any]]:
    """Recordings and images, by size of the noise."""
    for seed in range(3):
        for noise in (0.1, 0.01, 0.03, 0.3):
            for task in ("SARCOS", "arm-inverse-dynamics", "digits"):
                for learner in DATA_LEARNERS:
                    yield {"task": task, "learner": learner, "noise": noise, "seed": seed}


def learn_data(task: str, learner: str, noise: float, seed: int) -> dict[str, Any]:
    """Test error on the noisy chip: normalised mean square, or the share of wrong labels."""
    ((x, y), (test_x, test_y)), sizes = dataset(task)
    settings, rate = DATA_LEARNERS[learner]
    rule = nprobot.learning_rule(**settings, seed=seed)
    torch.manual_seed(seed)
    network: nn.Module = mlp(list(sizes), "tanh")
    if learner != DEPLOYED:
        network = nprobot.NoisyNetwork(network, noise, seed=seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, DATA_STEPS)
    generator = torch.Generator().manual_seed(seed)
    started = time.process_time()

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.dtype == torch.long:
            return outputs.logsumexp(-1) - outputs.gather(
                -1, targets.expand(outputs.shape[:-1]).unsqueeze(-1)
            ).squeeze(-1)
        return (outputs - targets).square().mean(-1)

    for _ in range(DATA_STEPS):
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        optimizer.zero_grad()
        rule.backward(network, x[chosen], lambda output, own=y[chosen]: losses(output, own))
        optimizer.step()
        schedule.step()
    if learner == DEPLOYED:
        network = nprobot.NoisyNetwork(network, noise, seed=seed)
    with torch.no_grad():
        outputs = torch.stack([network(test_x) for _ in range(5)])
    if test_y.dtype == torch.long:
        error = float((outputs.argmax(-1) != test_y).float().mean())
    else:
        error = float((outputs - test_y).square().mean() / test_y.var(0).mean())
    return {"error": error, "rate": rate, "seconds": time.process_time() - started}


NRL_STEPS = {"InvertedPendulum-v5": 50_000, "Reacher-v5": 40_000}
SOLVED = {"InvertedPendulum-v5": (200.0, 950.0), "Reacher-v5": (-11.0, -10.0)}
"""Returns of training episodes, noise and all, whose first times are told: near, and solved."""
BIN = 2_000
"""Steps whose episodes make one point of a curve."""


def nrl_runs() -> Iterator[dict[str, Any]]:
    """NRL with and without feedback, at several rates first."""
    for seed in range(5):
        for env in NRL_STEPS:
            for rule in ("np+feedback", "danp", "dnp+feedback"):
                for rate in (3e-3, 1e-2) if seed == 0 else (3e-3,):
                    yield {"env": env, "rule": rule, "rate": rate, "noise": 0.1, "seed": seed}


def nrl(env: str, rule: str, rate: float, noise: float, seed: int) -> dict[str, Any]:
    """NRL of eight robots on a chip whose every node is noisy; its other settings are defaults."""
    started = time.process_time()
    vector = VecNormalize(make_vec_env(env, 8, seed=seed))
    model = nprobot.NRL(
        "MlpPolicy", vector, rate, rule=rule, node_noise=noise, seed=seed, device="cpu"
    )
    curve: list[float] = []
    while model.num_timesteps < NRL_STEPS[env]:
        model.ep_info_buffer = None
        model.learn(BIN, reset_num_timesteps=model.num_timesteps == 0)
        episodes = model.ep_info_buffer or ()
        curve.append(round(mean(e["r"] for e in episodes), 2) if episodes else math.nan)
    vector.training = vector.norm_reward = False
    returns, _ = evaluate_policy(model, vector, 20, return_episode_rewards=True)
    solved = {
        name: next((BIN * (n + 1) for n, value in enumerate(curve) if value >= level), None)
        for name, level in zip(("near", "solved"), SOLVED[env], strict=True)
    }
    return {
        **{"steps": model.num_timesteps, "return": mean(returns)},
        **solved,
        "curve": curve,
        "passes": model.forward_passes,
        "seconds": time.process_time() - started,
    }


ADAPT_CASES: dict[str, dict[str, Any]] = {
    "weaker motors": {"faults": ("gain:0=0.4", "gain:1=0.4")},
    "weaker motor and drift": {"faults": ("gain:0=0.4", "drift:1=0.2")},
    "drift": {"faults": ("drift:0=0.2", "drift:1=0.2")},
    "10 % of the nodes dead": {"faults": (), "dead_nodes": 0.1},
    "weaker motor and drift, ideal actuators": {
        **{"faults": ("gain:0=0.4", "drift:1=0.2"), "steps": 60_000, "actuators": None}
    },
}


def adapt_runs() -> Iterator[dict[str, Any]]:
    """A policy of the zoo after a change, by what passes credit down."""
    for seed in range(5):
        for case in ADAPT_CASES:
            for rule in ("np+feedback", "anp"):
                for rate in (3e-4, 1e-4, 1e-3) if seed < 2 else (3e-4, 1e-4):
                    yield {"case": case, "rule": rule, "rate": rate, "seed": seed}


def adapt_to(case: str, rule: str, rate: float, seed: int) -> dict[str, Any]:
    """`nprobot adapt zoo:Reacher` with torque motors that are read by their sensor."""
    started = time.process_time()
    own = dict(ADAPT_CASES[case])
    faults = [ActuatorFault.parse(text) for text in own.pop("faults")]
    how = {"steps": 80_000, "actuators": "torque-motor", **own}
    config = AdaptationConfig(rule=rule, learning_rate=rate, seed=seed, **how)
    policy: Any = load_policy("zoo:Reacher")
    result = adapt(policy, partial(environments.make, "Reacher-v5"), faults, config)
    return {
        "healthy": result.healthy.mean,
        "before": result.before.mean,
        "after": result.after.mean,
        "recovered": result.recovered,
        "seconds": time.process_time() - started,
    }


def versions() -> dict[str, str]:
    """What a row was made with."""
    return {p: importlib.metadata.version(p) for p in ("torch", "mujoco", "gymnasium", "numpy")}


def read(stage: str) -> list[dict[str, Any]]:
    """The rows of a stage; none if there are none yet."""
    path = ROWS / f"{stage}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


RUNS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "regression": regression_runs,
    "size": size_runs,
    "chips": chip_runs,
    "correction": correction_runs,
    "control": control_runs,
    "data": data_runs,
    "nrl": nrl_runs,
    "adapt": adapt_runs,
}
EXPERIMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "control": control,
    "data": learn_data,
    "nrl": nrl,
    "adapt": adapt_to,
}
"""Those that are no regression of the teacher."""


def later(run: Mapping[str, Any]) -> int:
    """The round in which a run is made."""
    usual = {"rate": (3e-3, 3e-4), "actuators": (None,), "chip": ("0.06",)}
    extra = run.get("rule") == "dnp+feedback" or any(
        name in run and run[name] not in values for name, values in usual.items()
    )
    return int(run.get("seed", 0)) + 2 * extra


LONG = ("data", "nrl", "control", "adapt")


def make(stages: Sequence[str]) -> None:
    """Run what stages lack, one run after the other; first what says most, with seed 0."""
    ROWS.mkdir(parents=True, exist_ok=True)
    runs = [(stage, run) for stage in stages for run in RUNS[stage]()]
    for stage, run in sorted(runs, key=lambda entry: later(entry[1])):
        done = read(stage)
        if any(run.items() <= row.items() for row in done):
            continue
        if stage in EXPERIMENTS:
            result = EXPERIMENTS[stage](**run)
        else:
            learner = dict(LEARNERS[run["learner"]])
            learner |= {k: run[k] for k in ("samples", "correction") if k in run}
            chip = CHIPS[run["chip"]] if "chip" in run else [run["noise"]]
            result = fit(learner, chip, run["rate"], run["seed"])
        row = {**run, **result, **versions()}
        with (ROWS / f"{stage}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def best(rows: Sequence[Mapping[str, Any]], **wanted: Any) -> list[float]:
    """Errors by seed at the better of a learner's rates; [] if there are no such rows."""
    by_rate: dict[float, list[float]] = {}
    for row in rows:
        if wanted.items() <= row.items():
            by_rate.setdefault(row["rate"], []).append(row["nmse"])
    return min(by_rate.values(), key=lambda errors: (-len(errors), mean(errors)), default=[])


def error_table(stage: str, key: str) -> list[str]:
    """A table of errors: a line for each learner, a column for each noise or chip."""
    rows = read(stage)
    columns = list(dict.fromkeys(row[key] for row in rows))
    columns = sorted(columns) if key == "noise" else columns
    lines = [f"| | {' | '.join(map(str, columns))} |", "|---|" + "---|" * len(columns)]
    for learner in LEARNERS:
        cells = []
        for column in columns:
            errors = best(rows, **{"learner": learner, key: column})
            cells.append(f"{mean(errors):.4f} ({len(errors)})" if errors else "")
        if any(cells):
            lines.append(f"| {learner} | {' | '.join(cells)} |")
    ratios = []
    for column in columns:
        pair = [best(rows, **{"learner": one, key: column}) for one in (FEEDBACK, ORACLE)]
        ratios.append(f"{mean(pair[0]) / mean(pair[1]):.2f}" if all(pair) else "")
    return [*lines, f"| *{FEEDBACK} over the oracle* | {' | '.join(ratios)} |"]


def correction_table() -> list[str]:
    """A table of errors: a line for each K, a column for each strength."""
    rows = read("correction")
    strengths = sorted({row["correction"] for row in rows})
    lines = [f"| strength | {' | '.join(map(str, strengths))} |", "|---|" + "---|" * len(strengths)]
    for samples in sorted({row["samples"] for row in rows}):
        found = [best(rows, samples=samples, correction=c) for c in strengths]
        cells = [f"{mean(errors):.4f} ({len(errors)})" if errors else "" for errors in found]
        lines.append(f"| K = {samples} | {' | '.join(cells)} |")
    return lines


def control_table() -> list[str]:
    """A table of returns: a line for each task and rule, with every seed."""
    rows = read("control")
    lines = [
        "| task | chip | actuators | rule | return, deterministic | exploring |",
        "|---|---|---|---|---|---|",
    ]
    cases = dict.fromkeys((row["env"], row["chip"], row["actuators"]) for row in rows)
    for env, chip, actuators in cases:
        for rule in CONTROL_RULES:
            key = {"env": env, "chip": chip, "actuators": actuators, "rule": rule}
            own = [row for row in rows if key.items() <= row.items()]
            if own:
                digits = 1 if env.startswith("Reacher") else 0
                cells = [
                    f"**{mean(row[k] for row in own):.{digits}f}** ("
                    + ", ".join(f"{row[k]:.{digits}f}" for row in own)
                    + ")"
                    for k in ("return", "exploring")
                ]
                lines.append(
                    f"| {env} | {chip} | {actuators or 'ideal'} | {rule} | {cells[0]} "
                    f"| {cells[1]} |"
                )
    return lines


def data_table() -> list[str]:
    """A table of errors: a line for each learner, columns by task and noise."""
    rows = read("data")
    columns = sorted({(row["task"], row["noise"]) for row in rows})
    heading = " | ".join(f"{task} {noise:g}" for task, noise in columns)
    lines = [f"| | {heading} |", "|---|" + "---|" * len(columns)]
    for learner in DATA_LEARNERS:
        cells = []
        for task, noise in columns:
            key = {"task": task, "noise": noise, "learner": learner}
            own = [row["error"] for row in rows if key.items() <= row.items()]
            cells.append(f"{mean(own):.4f} ({len(own)})" if own else "")
        lines.append(f"| {learner} | {' | '.join(cells)} |")
    return lines


def robot_table(stage: str, case: str, columns: Sequence[str]) -> list[str]:
    """A table of NRL: a line for each case, rule and rate; in each cell all seeds."""
    rows = read(stage)
    lines = [f"| | rule | rate | {' | '.join(columns)} |", "|---|---|---|" + "---|" * len(columns)]
    for key in sorted({(row[case], row["rule"], row["rate"]) for row in rows}):
        own = [row for row in rows if (row[case], row["rule"], row["rate"]) == key]
        cells = [", ".join(_short(row.get(column)) for row in own) for column in columns]
        lines.append(f"| {key[0]} | {key[1]} | {key[2]:g} | {' | '.join(cells)} |")
    return lines


def _short(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 1000:.0f}k" if isinstance(value, int) else f"{value:.1f}"


def tables() -> None:
    """Put the rows into the page, between the marks of each table."""
    page = PAGE.read_text(encoding="utf-8")
    for name, table in {
        "regression": lambda: error_table("regression", "noise"),
        "size": lambda: error_table("size", "noise"),
        "chips": lambda: error_table("chips", "chip"),
        "correction": correction_table,
        "control": control_table,
        "data": data_table,
        "nrl": lambda: robot_table("nrl", "env", ("near", "solved", "return")),
        "adapt": lambda: robot_table("adapt", "case", ("healthy", "before", "after", "recovered")),
    }.items():
        lines = table() if read(name) else [f"No rows yet: `hidden_noise.py {name}` makes them."]
        begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        before, _, rest = page.partition(begin)
        page = before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=(*RUNS, "long", "tables"))
    torch.set_num_threads(1)
    stage = parser.parse_args().stage
    if stage == "tables":
        tables()
    else:
        make(LONG if stage == "long" else [stage])


if __name__ == "__main__":
    main()
