"""Tuned settings: the same small search for every rule of a task, and tables of what it finds.

For each task four or five choices a rule, the general defaults among them, on two seeds, or more
where the best are level; then the best of them beside the general defaults on two fresh seeds. What
is not better there, or says nothing else than the general defaults, gets no entry.

PPO's long runs come from the benchmark, 300,000 steps: two choices of rate and schedule for each
rule, those of `search_anchor.toml` (their rows are there and in `core`), compared on seeds 0, 1 and
2 and judged on 3 and 4. Swimmer's, 100,000 steps: `search_tuned.toml` holds the choices,
`defaults.toml` what was best beside the general defaults on fresh seeds.

    python -m scripts.experiments.control.tuned_defaults search --only sac-Pendulum-v1  # rows
    python -m scripts.experiments.control.tuned_defaults judge --only sac-Pendulum-v1  # fresh seeds
    nprobot bench results/benchmark/search_anchor.toml --out runs/anchor --seeds 0 1 2 3 4
    nprobot bench results/benchmark/search_tuned.toml --out runs/search
    nprobot bench results/benchmark/defaults.toml --out runs/defaults
    python -m scripts.experiments.control.tuned_defaults write  # nprobot/defaults/tuned/
    python -m scripts.experiments.control.tuned_defaults report  # table in docs/tuning.md

SAC and TD3 are searched under NP with learned feedback too, their rule when none is given.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nprobot import benchmark
from nprobot.catalogue import rule_named
from nprobot.defaults import TunedDefaults, TunedScore, file_name, known, save
from nprobot.defaults.settings import ROOT as TABLES
from nprobot.runs.versions import versions
from nprobot.training import RunConfig
from nprobot.training import train as train_run
from nprobot.training.run_config import EVALUATION_EPISODES

from ..pages import DOCS, markdown, put_section
from ..rows import RESULTS, Row, Rows, column, command, keep, read, select

ROWS = RESULTS / "tuning" / "rows.csv"
RULES = ("bp", "danp", "np+feedback")
SEARCH_SEEDS, FRESH_SEEDS = (100, 101), (1000, 1001)
TIE_SEEDS = (102, 103)
"""For choices that are all at the top of a task, above the general defaults: one seed after the
other, until one of them is ahead."""
GENERAL = "general"
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """What is searched on.

    Attributes:
        algo: algorithm.
        env: environment id.
        steps: environment steps of a run.
        long_enough: whether what is best is best in longer runs, too, and is written.
    """

    algo: str
    env: str
    steps: int
    long_enough: bool = True

    @property
    def name(self) -> str:
        """For the command line."""
        return f"{self.algo}-{self.env}"

    def rules(self) -> list[str]:
        """What it is searched under."""
        return [rule for rule in RULES if (self.algo, rule) in CHOICES]

    def jobs(self, rule: str, choices: Sequence[str], seed: int) -> list[Row]:
        """Runs of these choices."""
        key = {"algo": self.algo, "env": self.env, "rule": rule, "seed": seed, "steps": self.steps}
        return [{**key, "choice": choice} for choice in choices]


TASKS = (
    Task("ppo", "InvertedPendulum-v5", 30_000),
    Task("nrl", "InvertedPendulum-v5", 50_000),
    Task("nrl", "Reacher-v5", 100_000),
    Task("sac", "Pendulum-v1", 20_000),
    Task("sac", "InvertedPendulum-v5", 10_000),
    Task("sac", "Reacher-v5", 20_000),
    Task("td3", "Pendulum-v1", 20_000),
    Task("td3", "InvertedPendulum-v5", 10_000),
    Task("td3", "Reacher-v5", 20_000),
    Task("ppo", "HalfCheetah-v5", 100_000, long_enough=False),
    Task("ppo", "Hopper-v5", 100_000, long_enough=False),
)
NAMES = tuple(task.name for task in TASKS if task.long_enough)

PPO_BP = {"batch_size": 64, "normalise": "on"}
PPO_DANP = {
    **{"samples": 8, "batch_size": 256, "sigma": 0.01, "decorrelation_lr": 1e-4},
    "normalise": "on",
}
OFF_POLICY: dict[str, Any] = {
    **{"envs": 8, "normalise": "on", "hidden": (64, 64), "lr_schedule": "linear"},
    **{"batch_size": 256, "learning_starts": 500, "tau": 0.02, "gamma": 0.98},
}
"""The frame of docs/off_policy.md: eight environments, small networks, faster targets."""
SAC: dict[str, Any] = {**OFF_POLICY, "ent_coef_start": 0.01}
"""A temperature that begins at the scale of normalised rewards."""
FAST_R = {"decorrelation_lr": 1e-3}


def _rates(frame: Settings, *rates: float, schedule: str = "linear") -> dict[str, Settings]:
    return {
        f"rate {rate:g}, {schedule}": {"learning_rate": rate, "lr_schedule": schedule, **frame}
        for rate in rates
    }


def _often(frame: Settings) -> dict[str, Settings]:
    """A gradient step for every environment step, as in SB3, but eight of each at a time."""
    settings = {"learning_rate": 1e-3, **frame, "gradient_steps": 8}
    return {"rate 0.001, 8 gradient steps": settings}


def _nrl(rate: float, node_noise: float) -> Settings:
    return {"learning_rate": rate, "node_noise": node_noise, "normalise": "on", **FAST_R}


_SAC: dict[str, Settings] = {
    # Of eight environment steps. With one, BP on Pendulum-v1 ended at -181 and -170, the general
    # defaults at -170: their rows are kept.
    **_rates({**SAC, "gradient_steps": 2}, 1e-3, 3e-3, 1e-2),
    **_often(SAC),
}
_TD3: dict[str, Settings] = {
    **_rates({**OFF_POLICY, "gradient_steps": 2}, 1e-3, 3e-3),
    **_often(OFF_POLICY),
}
_NRL: dict[str, Settings] = {
    GENERAL: FAST_R,
    "rate 0.001": _nrl(1e-3, 0.1),
    "rate 0.01": _nrl(1e-2, 0.1),
    "noise 0.2": _nrl(3e-3, 0.2),
}
_EARLIER: Settings = {"learning_rate": 3e-3, "lr_schedule": "linear", "hidden": (64, 64)}
CHOICES: dict[tuple[str, str], dict[str, Settings]] = {
    ("ppo", "bp"): {GENERAL: {}, **_rates(PPO_BP, 3e-4, 1e-3, 3e-3)},
    ("ppo", "danp"): {
        GENERAL: {},
        **_rates(PPO_DANP, 1e-3, 1e-2),
        **_rates(PPO_DANP, 1e-3, schedule="constant"),
    },
    **{("nrl", rule): _NRL for rule in ("bp", "danp")},
    **{
        (algo, rule): {GENERAL: _EARLIER if rule == "np+feedback" else {}, **choices}
        for algo, choices in (("sac", _SAC), ("td3", _TD3))
        for rule in RULES
    },
}
"""What is tried for an algorithm and a rule. The general defaults are those of the time: R of NRL
was ten times as fast, and NP with feedback was not at stable-baselines3's settings. NRL's rule is
its critic's."""


def search(only: tuple[str, ...] = NAMES, rules: tuple[str, ...] = RULES) -> None:
    """Try every choice.

    Args:
        only: these tasks.
        rules: these rules.
    """
    for seed in SEARCH_SEEDS:
        for task, rule in searched(only, rules):
            keep(ROWS, task.jobs(rule, tuple(CHOICES[task.algo, rule]), seed), train)


def judge(only: tuple[str, ...] = NAMES, rules: tuple[str, ...] = RULES) -> None:
    """Run the best choice, and the general defaults, on fresh seeds.

    Args:
        only: these tasks.
        rules: these rules.
    """
    for task, rule in searched(only, rules):
        for count, seed in enumerate(TIE_SEEDS):
            leading = leaders(task, rule, TIE_SEEDS[:count])
            if len(leading) > 1:  # the search cannot tell them apart
                keep(ROWS, task.jobs(rule, leading, seed), train)
        best = leaders(task, rule, TIE_SEEDS)[0]
        for seed in FRESH_SEEDS:
            keep(ROWS, task.jobs(rule, tuple(dict.fromkeys((GENERAL, best))), seed), train)


def searched(only: Sequence[str], rules: Sequence[str]) -> list[tuple[Task, str]]:
    """Tasks and rules."""
    if unknown := {*only} - {task.name for task in TASKS}:
        raise SystemExit(f"no such task: {', '.join(unknown)}")
    own = [task for task in TASKS if task.name in only]
    return [(task, rule) for task in own for rule in task.rules() if rule in rules]


def train(algo: str, env: str, rule: str, seed: int, steps: int, choice: str) -> Row:
    """Train and evaluate."""
    config = RunConfig(env=env, algo=algo, rule=rule, steps=steps, seed=seed)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        config = config.with_options(CHOICES[algo, rule][choice])
        result = train_run(config, Path(folder) / "run")
    assert result.evaluation is not None, "every run ends with one"
    returned = f"{statistics.fmean(result.evaluation.returns):.4f}"
    return {"return": returned, "cpu_seconds": round(time.process_time() - start, 1)}


def leaders(task: Task, rule: str, ties: tuple[int, ...]) -> list[str]:
    """The choices that are best, after further seeds for those that are level.

    A choice that is level with the general defaults is no reason to leave them.

    Raises:
        KeyError: a run is missing.
    """
    rows = found(task, rule)
    leading = list(CHOICES[task.algo, rule])
    for seeds in (SEARCH_SEEDS, *((seed,) for seed in ties)):
        means = {c: statistics.fmean(returns(rows, c, seeds)) for c in leading}
        leading = [choice for choice in leading if means[choice] == max(means.values())]
        if GENERAL in leading:
            return [GENERAL]
        if len(leading) == 1:
            break
    return leading


def found(task: Task, rule: str) -> dict[tuple[str, int], Row]:
    """Rows by choice and seed."""
    key = {"algo": task.algo, "env": task.env, "rule": rule, "steps": task.steps}
    return {(row["choice"], int(row["seed"])): row for row in select(read(ROWS), **key)}


def returns(
    rows: Mapping[tuple[str, int], Row], choice: str, seeds: Sequence[int]
) -> tuple[float, ...]:
    """Of every seed."""
    return tuple(float(rows[choice, seed]["return"]) for seed in seeds)


def write() -> None:
    """Write the entries of the package's tables."""
    makers: list[tuple[str, Callable[[], TunedDefaults]]] = [
        (f"{task.name} {rule}", partial(of_search, task, rule))
        for task, rule in searched(NAMES, RULES)
    ]
    makers += [
        (f"ppo-{env} {rule}", partial(of_long_runs, env, rule)) for env in LONG for rule in LABELS
    ]
    makers += [(f"ppo-Swimmer-v5 {rule}", partial(of_swimmer, rule)) for rule in LABELS]
    for name, make in makers:
        try:
            tuned = make()
        except KeyError as missing:
            print(f"{name}: a run is missing: {missing}")
            continue
        if is_worth_it(tuned):
            print(f"{name}: {save(tuned, TABLES / file_name(tuned.env)).name}: {tuned.score}")
        else:
            print(f"{name}: no entry: {tuned.search['remark']}: {tuned.score}")


def is_worth_it(tuned: TunedDefaults) -> bool:
    """Whether settings are better than the general defaults, and other than those.

    The default learner leaves known settings only for what beats them by more than seeds differ.
    """
    general = RunConfig(env=tuned.env, algo=tuned.algo, rule=tuned.rule)
    score = tuned.score
    gain = statistics.fmean(score.tuned) - statistics.fmean(score.general)
    spread = max(max(own) - min(own) for own in (score.tuned, score.general))
    clear = gain > spread if rule_named(tuned.rule).feedback else gain >= 0
    return clear and general.with_options(tuned.settings).resolved() != general.resolved()


def of_search(task: Task, rule: str) -> TunedDefaults:
    """What was found for a rule.

    Raises:
        KeyError: a run is missing.
    """
    rows = found(task, rule)
    best = leaders(task, rule, TIE_SEEDS)[0]
    choices = CHOICES[task.algo, rule]
    remark = f"best of {len(choices)} on its seeds: {best}"
    if level := [choice for choice in leaders(task, rule, ()) if choice != best]:
        remark += f", and level with it {' and '.join(level)} before further seeds"
    tuned, general = (returns(rows, choice, FRESH_SEEDS) for choice in (best, GENERAL))
    last = rows[best, FRESH_SEEDS[-1]]
    settings = {} if best == GENERAL else choices[best]
    options = " ".join(
        f"--{name.replace('_', '-')} "
        + (" ".join(map(str, value)) if isinstance(value, tuple) else str(value))
        for name, value in settings.items()
    )
    return TunedDefaults(
        env=task.env,
        algo=task.algo,
        rule=rule,
        settings={name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()},
        score=TunedScore(
            **{"steps": task.steps, "episodes": EVALUATION_EPISODES, "seeds": FRESH_SEEDS},
            **{"tuned": tuned, "general": general},
            command=f"nprobot train --env {task.env} --algo {task.algo} --rule {rule} "
            f"{options} --steps {task.steps} --seed {FRESH_SEEDS[0]}",
        ),
        search=search_of(
            f"python -m scripts.experiments.control.tuned_defaults search --only {task.name}",
            SEARCH_SEEDS,
            len(choices),
            task.steps,
            remark,
            {name: last[name] for name in versions()},
            last["commit"],
        ),
    )


def search_of(
    command: str,
    seeds: Sequence[int],
    trials: int,
    steps: int,
    remark: str,
    made_with: Mapping[str, str],
    commit: str,
) -> dict[str, Any]:
    """What a table says of a search."""
    return {
        "command": command,
        "seeds": list(seeds),
        "trials": trials,
        "environment_steps": trials * len(seeds) * steps,
        "steps": steps,
        "remark": remark,
        "versions": dict(made_with),
        "commit": commit[:7],
    }


# ---------------------------------------------------------------------- from the benchmark's rows

LONG = (
    *("HalfCheetah-v5", "Hopper-v5", "InvertedDoublePendulum-v5", "Reacher-v5"),
    "nprobot/ArmReach-v0",
)
LABELS = {"bp": "BP", "danp": "DANP"}
"""Rules whose settings come from there. NP with feedback had the same choices; the one that held,
stable-baselines3's, is its default now."""
LONG_CHOICES = {
    "bp": ((3e-4, "constant"), (1e-3, "linear")),
    "danp": ((3e-3, "linear"), (1e-3, "constant")),
}
"""Learning rate and its schedule; the general defaults come first."""
LONG_SEEDS, LAST_SEEDS = (0, 1, 2), (3, 4)
KEPT = ("learning_rate", "lr_schedule", "batch_size", "gamma", "decorrelation_lr")
OWN: dict[str, Settings] = {
    "bp": {"normalise": "on"},
    "danp": {"samples": 8, "sigma": 0.01, "decorrelation_lr": 0.001, "normalise": "on"},
}
"""What the learners of the suites have without saying so, or say in another place."""


def finished(*names: str) -> Rows:
    """The finished rows of benchmarks, with the suites that they are of."""
    files = {name: RESULTS / "benchmark" / f"{name}.jsonl" for name in names}
    rows = [row | {"suite": name} for name, file in files.items() for row in benchmark.read(file)]
    return select(rows, status="done")


def of_long_runs(env: str, rule: str) -> TunedDefaults:
    """What was found in long runs.

    Raises:
        KeyError: a run is missing.
    """
    rows = {
        ((row["settings"]["learning_rate"], row["settings"]["lr_schedule"]), row["seed"]): row
        for row in select(finished("core", "search_anchor"), env=env, rule=rule)
        if is_general(row)
    }

    def found(choice: tuple[float, str], seeds: Sequence[int]) -> list[Row]:
        return [rows[choice, seed] for seed in seeds]

    def mean(choice: tuple[float, str]) -> float:
        return statistics.fmean(column(found(choice, LONG_SEEDS), "return_mean"))

    choices = LONG_CHOICES[rule]
    best = max(choices, key=mean)
    tuned, general = (found(choice, LAST_SEEDS) for choice in (best, choices[0]))
    suite = tuned[0]["suite"]
    where = suite if suite == "core" else f"results/benchmark/{suite}.toml"
    seeds = " ".join(map(str, LAST_SEEDS))
    return of_bench(
        tuned,
        general,
        f'nprobot bench {where} --env {env} --learner "{tuned[0]["learner"]}" --seeds {seeds}',
        search=search_of(
            f"nprobot bench results/benchmark/search_anchor.toml --env {env} --rule {rule}",
            LONG_SEEDS,
            len(choices),
            tuned[0]["steps"],
            f"best of {len(choices)}: rate {best[0]:g}, {best[1]}",
            tuned[0]["versions"],
            tuned[0]["commit"],
        ),
    )


def is_general(row: Row) -> bool:
    """Whether a row differs from the general defaults in rate and schedule at most."""
    own = row["settings"]
    kinds = {"bp": (None, 64), "danp": (8, 256)}
    return (
        (row["samples"], own["batch_size"]) == kinds[row["rule"]]
        and (row["algo"], row["envs"]) == ("ppo", 8)
        and own.get("normalise", "on") == "on"
        and own.get("decorrelation_lr", 1e-4) == 1e-4
    )


def of_swimmer(rule: str) -> TunedDefaults:
    """What was found for Swimmer."""
    env, label = "Swimmer-v5", f"{LABELS[rule]}, tuned"
    rows = select(finished("defaults"), env=env)
    tuned, general = (select(rows, learner=f"{LABELS[rule]}, {w}") for w in ("tuned", GENERAL))
    trials = select(finished("search_tuned"), env=env, rule=rule)
    seeds = sorted({row["seed"] for row in trials})
    choices = len(trials) // len(seeds)
    return of_bench(
        tuned,
        general,
        f'nprobot bench results/benchmark/defaults.toml --env {env} --learner "{label}"',
        search=search_of(
            f"nprobot bench results/benchmark/search_tuned.toml --env {env} --rule {rule}",
            seeds,
            choices,
            trials[0]["steps"],
            f"{choices} choices, {len(seeds)} seed(s)",
            tuned[0]["versions"],
            tuned[0]["commit"],
        ),
    )


def of_bench(tuned: Rows, general: Rows, command: str, search: Mapping[str, Any]) -> TunedDefaults:
    """Settings of the rows of a benchmark, judged by the general defaults' rows."""
    first = tuned[0]
    settings = {name: first["settings"][name] for name in KEPT if name in first["settings"]}
    return TunedDefaults(
        env=first["env"],
        algo="ppo",
        rule=first["rule"],
        settings={**settings, **{k: v for k, v in OWN[first["rule"]].items() if k not in settings}},
        score=TunedScore(
            **{name: first[name] for name in ("steps", "episodes")},
            seeds=tuple(row["seed"] for row in tuned),
            tuned=tuple(round(value, 4) for value in column(tuned, "return_mean")),
            general=tuple(round(value, 4) for value in column(general, "return_mean")),
            command=command,
        ),
        search=dict(search),
    )


# -------------------------------------------------------------------------------------- the table


def report() -> None:
    """Write the table of the page from the package's tables."""
    put_section("tuned", table(), DOCS / "tuning.md")


def table() -> list[str]:
    """The table as Markdown."""
    heading = ("environment", "algorithm", "rule", "steps", "general defaults", "tuned", "settings")
    return markdown(heading, map(cells, known()))


def cells(tuned: TunedDefaults) -> Iterator[str]:
    """A row."""
    score = tuned.score
    yield from (tuned.env, tuned.algo.upper(), rule_named(tuned.rule).title, f"{score.steps:,}")
    for own in (score.general, score.tuned):
        yield f"{statistics.fmean(own):.2f} ({', '.join(f'{value:.2f}' for value in own)})"
    yield ", ".join(f"{name} {value}" for name, value in tuned.settings.items())


if __name__ == "__main__":
    command(__doc__, search, judge, write, report)
