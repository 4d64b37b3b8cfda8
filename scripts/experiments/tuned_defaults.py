"""Tuned settings: the same small search for BP and for DANP, and files of what it finds.

For each task four or five choices a rule, the general defaults among them, on two seeds, or more
where the best are level; then the best of them beside the general defaults on two fresh seeds. What
is not better there is dropped for the general defaults, and the file says so. A run that has its
row is not repeated.

    python scripts/tune_defaults.py search --only sac-Pendulum-v1  # rows of results/tuning/rows.csv
    python scripts/tune_defaults.py judge --only sac-Pendulum-v1   # the same, on fresh seeds
    python scripts/tune_defaults.py write                          # nprobot/defaults/tuned/
    python scripts/tuned_table.py                                  # table in docs/tuning.md

SAC and TD3 are searched under NP with learned feedback too, their rule when none is given.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rows import ROOT, append, command_line, read

from nprobot.defaults import TunedDefaults, TunedScore, file_name, save
from nprobot.defaults.settings import ROOT as FILES
from nprobot.runs.versions import git_commit, versions
from nprobot.training.config import EVALUATION_EPISODES, RunConfig
from nprobot.training.run import train

ROWS = ROOT / "results" / "tuning" / "rows.csv"
RULES = ("bp", "danp", "np-feedback")
"""As rows name them."""
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
    """

    algo: str
    env: str
    steps: int

    @property
    def name(self) -> str:
        """For the command line."""
        return f"{self.algo}-{self.env}"


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
)
SHORT = (Task("ppo", "HalfCheetah-v5", 100_000), Task("ppo", "Hopper-v5", 100_000))
"""Searched, not written: what is best after so few steps is not what is best after 300,000. Their
files come from longer runs (`tuned_from_bench.py`)."""

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


def _rates(frame: Settings, *rates: float, schedule: str = "linear") -> dict[str, Settings]:
    return {
        f"rate {rate:g}, {schedule}": {"learning_rate": rate, "lr_schedule": schedule, **frame}
        for rate in rates
    }


def _often(frame: Settings) -> dict[str, Settings]:
    """A gradient step for every environment step, as in SB3, but eight of each at a time."""
    settings = {"learning_rate": 1e-3, **frame, "gradient_steps": 8}
    return {"rate 0.001, 8 gradient steps": settings}


_SAC: dict[str, Settings] = {
    GENERAL: {},
    # Of eight environment steps. With one, BP on Pendulum-v1 ended at -181 and -170, the general
    # defaults at -170: their rows are kept.
    **_rates({**SAC, "gradient_steps": 2}, 1e-3, 3e-3, 1e-2),
    **_often(SAC),
}
_TD3: dict[str, Settings] = {
    GENERAL: {},
    **_rates({**OFF_POLICY, "gradient_steps": 2}, 1e-3, 3e-3),
    **_often(OFF_POLICY),
}
_NRL: dict[str, Settings] = {
    GENERAL: {},
    "rate 0.001": {"learning_rate": 1e-3, "node_noise": 0.1, "normalise": "on"},
    "rate 0.01": {"learning_rate": 1e-2, "node_noise": 0.1, "normalise": "on"},
    "noise 0.2": {"learning_rate": 3e-3, "node_noise": 0.2, "normalise": "on"},
}
CHOICES: dict[tuple[str, str], dict[str, Settings]] = {
    ("ppo", "bp"): {GENERAL: {}, **_rates(PPO_BP, 3e-4, 1e-3, 3e-3)},
    ("ppo", "danp"): {
        GENERAL: {},
        **_rates(PPO_DANP, 1e-3, 1e-2),
        **_rates(PPO_DANP, 1e-3, schedule="constant"),
    },
    **{("nrl", rule): _NRL for rule in ("bp", "danp")},
    **{("sac", rule): _SAC for rule in RULES},
    **{("td3", rule): _TD3 for rule in RULES},
}
"""What is tried for an algorithm and a rule. The general defaults are runs with nothing set; a file
that repeats them has the values that are then in use. NRL's rule is its critic's."""


def main() -> None:
    """Search, judge or write."""
    parser = command_line(__doc__, "search", "judge", "write")
    known = [task.name for task in (*TASKS, *SHORT)]
    default = [task.name for task in TASKS]
    parser.add_argument("--only", nargs="+", default=default, choices=known, help="tasks")
    parser.add_argument("--rule", nargs="+", default=RULES, choices=RULES, help="rules")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks = [task for task in (*TASKS, *SHORT) if task.name in options.only]
    if options.stage == "write":
        for task in tasks:
            if task in TASKS:
                write(task)
        return
    for seed in SEARCH_SEEDS if options.stage == "search" else FRESH_SEEDS:
        for task in tasks:
            for rule in (own for own in options.rule if (task.algo, own) in CHOICES):
                if options.stage == "search":
                    choices = tuple(CHOICES[task.algo, rule])
                else:
                    break_ties(task, rule)
                    choices = (GENERAL, best(task, rule))
                for choice in dict.fromkeys(choices):
                    run(task, rule, choice, seed)


def run(task: Task, rule: str, choice: str, seed: int) -> None:
    """Train and keep the row, unless it is there."""
    key = {"algo": task.algo, "env": task.env, "rule": rule, "choice": choice, "seed": str(seed)}
    key |= {"steps": str(task.steps)}
    if any(all(row[name] == value for name, value in key.items()) for row in read(ROWS)):
        return
    config = plain(task, rule, seed).with_options(CHOICES[task.algo, rule][choice])
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, Path(folder) / "run")
    assert result.evaluation is not None, "every run ends with one"
    returned = f"{statistics.fmean(result.evaluation.returns):.4f}"
    row = key | {"return": returned}
    spent = round(time.process_time() - start, 1)
    append(ROWS, [{**row, "cpu_seconds": spent, **versions(), "commit": git_commit()}])
    print(f"{' '.join(key.values())}: {row['return']}, {spent:.0f} s of CPU", flush=True)


def plain(task: Task, rule: str, seed: int = 0) -> RunConfig:
    """A run with the general defaults."""
    name = rule.replace("-", "+")  # rows have the name that files had
    return RunConfig(env=task.env, algo=task.algo, rule=name, steps=task.steps, seed=seed)


def found(task: Task, rule: str) -> dict[tuple[str, int], dict[str, str]]:
    """Rows by choice and seed."""
    return {
        (row["choice"], int(row["seed"])): row
        for row in read(ROWS)
        if (row["algo"], row["env"], row["rule"]) == (task.algo, task.env, rule)
        and int(row["steps"]) == task.steps
        and row["choice"] in CHOICES[task.algo, rule]
    }


def break_ties(task: Task, rule: str) -> None:
    """Run the choices that the search cannot tell apart on further seeds."""
    for count, seed in enumerate(TIE_SEEDS):
        leading = leaders(task, rule, TIE_SEEDS[:count])
        if len(leading) > 1:
            for choice in leading:
                run(task, rule, choice, seed)


def best(task: Task, rule: str) -> str:
    """The choice with the best mean return over the seeds of the search.

    Raises:
        KeyError: a run is missing.
    """
    return leaders(task, rule, TIE_SEEDS)[0]


def leaders(task: Task, rule: str, ties: tuple[int, ...]) -> list[str]:
    """The choices that are best, after further seeds for those that are level.

    A choice that is level with the general defaults is no reason to leave them.
    """
    rows = found(task, rule)
    leading = list(CHOICES[task.algo, rule])
    for seeds in (SEARCH_SEEDS, *((seed,) for seed in ties)):
        means = {c: statistics.fmean(float(rows[c, s]["return"]) for s in seeds) for c in leading}
        leading = [choice for choice in leading if means[choice] == max(means.values())]
        if GENERAL in leading:
            return [GENERAL]
        if len(leading) == 1:
            break
    return leading


def write(task: Task) -> None:
    """Into the table of a task: all rules or none, which would compare tuned with untuned.

    An entry that repeats the general defaults is not written.
    """
    try:
        made = [of_rule(task, rule) for rule in RULES if (task.algo, rule) in CHOICES]
    except KeyError as missing:
        print(f"{task.name}: not written, a run is missing: {missing}")
        return
    for own in made:
        general = RunConfig(env=own.env, algo=own.algo, rule=own.rule)
        if general.with_options(own.settings).resolved() == general.resolved():
            continue
        print(f"{save(own, FILES / file_name(task.env)).name}, {own.rule}: {own.score}")


def of_rule(task: Task, rule: str) -> TunedDefaults:
    """What was found for a rule.

    Raises:
        KeyError: a run is missing.
    """
    rows = found(task, rule)
    picked = chosen = best(task, rule)

    def fresh(choice: str) -> tuple[float, ...]:
        return tuple(float(rows[choice, seed]["return"]) for seed in FRESH_SEEDS)

    remark = f"best of {len(CHOICES[task.algo, rule])} on its seeds: {picked}"
    if level := [choice for choice in leaders(task, rule, ()) if choice != picked]:
        remark += f", and level with it {' and '.join(level)} before further seeds"
    if statistics.fmean(fresh(picked)) < statistics.fmean(fresh(GENERAL)):
        chosen = GENERAL
        remark += f"; it did not hold on fresh seeds ({', '.join(map(str, fresh(picked)))})"
    own = settings_of(task, rule, chosen)
    options = " ".join(f"--{name.replace('_', '-')}{_word(value)}" for name, value in own.items())
    config = plain(task, rule)
    choices = len(CHOICES[task.algo, rule])
    last = rows[chosen, FRESH_SEEDS[-1]]
    return TunedDefaults(
        env=task.env,
        algo=task.algo,
        rule=config.rule,
        settings={name: list(v) if isinstance(v, tuple) else v for name, v in own.items()},
        score=TunedScore(
            steps=task.steps,
            episodes=EVALUATION_EPISODES,
            seeds=FRESH_SEEDS,
            tuned=fresh(chosen),
            general=fresh(GENERAL),
            command=f"nprobot train --env {task.env} --algo {task.algo} --rule {config.rule} "
            f"{options} --steps {task.steps} --seed {FRESH_SEEDS[0]}",
        ),
        search={
            "command": f"python scripts/tune_defaults.py search --only {task.name}",
            "seeds": list(SEARCH_SEEDS),
            "trials": choices,
            "environment_steps": choices * len(SEARCH_SEEDS) * task.steps,
            "steps": task.steps,
            "remark": remark,
            "versions": {name: last[name] for name in versions()},
            "commit": last["commit"][:7],
        },
    )


def settings_of(task: Task, rule: str, choice: str) -> dict[str, Any]:
    """What a choice sets, by name; for the general defaults the values of all that others set."""
    own = dict(CHOICES[task.algo, rule][choice])
    if choice == GENERAL:
        used = plain(task, rule).resolved().flat()
        own = {name: used[name] for other in CHOICES[task.algo, rule].values() for name in other}
    return own


def _word(value: object) -> str:
    """The value of an option on the command line."""
    return " " + (" ".join(map(str, value)) if isinstance(value, tuple) else str(value))


if __name__ == "__main__":
    main()
