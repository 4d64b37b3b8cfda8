"""Tuned settings of SAC: a small search over the learning rate, the same for BP and for DANP.

The frame is that of docs/off_policy.md: eight environments, small networks, one gradient step for
several environment steps, faster targets, a temperature that begins at the scale of normalised
rewards. Three rates in it and the general defaults (stable-baselines3's: one environment, a
gradient step for each of its steps, at many times the cost) are compared on two seeds, and the best
with the general defaults on two fresh ones. A run that has its row is not repeated.

    python scripts/tune_off_policy.py search --only Pendulum-v1   # rows of results/tuning/sac.csv
    python scripts/tune_off_policy.py judge --only Pendulum-v1    # the same, on fresh seeds
    python scripts/tune_off_policy.py write                       # files in nprobot/defaults/tuned/
    python scripts/tuned_table.py                                 # table in docs/tuning.md
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rows import ROOT, append, command_line, read

from nprobot.defaults import TunedDefaults, save
from nprobot.defaults.files import Score, with_settings
from nprobot.defaults.lookup import ROOT as FILES
from nprobot.defaults.lookup import file_name
from nprobot.training.config import EVALUATION_EPISODES, RunConfig
from nprobot.training.runner import train
from nprobot.training.versions import git_commit, versions

ROWS = ROOT / "results" / "tuning" / "sac.csv"
ALGO = "sac"
STEPS = 20_000
ENVS = ("Pendulum-v1", "InvertedPendulum-v5")
GRADIENT_STEPS = 2
"""For eight environment steps. With one, BP on Pendulum-v1 ended at -181 and -170, the general
defaults at -170: their rows are kept."""
FRAME: dict[str, Any] = {
    **{"envs": 8, "normalise": "on", "hidden": (64, 64), "lr_schedule": "linear"},
    **{"batch_size": 256, "learning_starts": 500, "tau": 0.02, "gamma": 0.98},
    "ent_coef_start": 0.01,
}
SB3: dict[str, Any] = {
    **{"envs": 1, "normalise": "off", "learning_rate": 3e-4, "lr_schedule": "constant"},
    **{"batch_size": 256, "gradient_steps": 1},
}
"""What the general defaults are, for a file that finds them best."""
RULES = ("bp", "danp")
RATES = (1e-3, 3e-3, 1e-2)
SEARCH_SEEDS, FRESH_SEEDS = (100, 101), (1000, 1001)
GENERAL = "general"


def main() -> None:
    """Search, judge or write."""
    parser = command_line(__doc__, "search", "judge", "write")
    parser.add_argument("--only", nargs="+", default=ENVS, help="environments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(env, rule) for env in options.only for rule in RULES]
    if options.stage == "search":
        for seed in SEARCH_SEEDS:
            for env, rule in cells:
                for rate in (*RATES, None):
                    run(env, rule, rate, seed)
    elif options.stage == "judge":
        for seed in FRESH_SEEDS:
            for env, rule in cells:
                run(env, rule, best_rate(env, rule), seed)
                run(env, rule, None, seed)
    else:
        for env in options.only:
            write(env)


def run(env: str, rule: str, rate: float | None, seed: int) -> None:
    """Train and keep the row, unless it is there; None is the general defaults."""
    key = {"env": env, "rule": rule, "rate": GENERAL, "gradient_steps": "", "seed": str(seed)}
    if rate is not None:
        key |= {"rate": str(rate), "gradient_steps": str(GRADIENT_STEPS)}
    if any(all(row[name] == value for name, value in key.items()) for row in read(ROWS)):
        return
    config = RunConfig(env=env, algo=ALGO, rule=rule, steps=STEPS, seed=seed)
    if rate is not None:
        config = with_settings(config, settings(rate))
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, Path(folder) / "run")
    assert result.evaluation is not None, "every run ends with one"
    row = key | {"return": f"{statistics.fmean(result.evaluation.returns):.4f}"}
    spent = round(time.process_time() - start, 1)
    append(ROWS, [{**row, "cpu_seconds": spent, **versions(), "commit": git_commit()}])
    print(f"{' '.join(key.values())}: {row['return']}, {spent:.0f} s of CPU", flush=True)


def settings(rate: float) -> dict[str, Any]:
    """The frame with a learning rate, as options of `nprobot train`."""
    return {**FRAME, "gradient_steps": GRADIENT_STEPS, "learning_rate": rate}


def present(env: str, rule: str) -> list[dict[str, str]]:
    """The rows of an environment and a rule, but for those with other gradient steps."""
    return [
        row
        for row in read(ROWS)
        if (row["env"], row["rule"]) == (env, rule)
        and row["gradient_steps"] in ("", str(GRADIENT_STEPS))
    ]


def best_rate(env: str, rule: str) -> float | None:
    """The rate with the best mean return over the seeds of the search; None: the defaults are."""
    found: dict[str, list[float]] = {}
    for row in present(env, rule):
        if int(row["seed"]) in SEARCH_SEEDS:
            found.setdefault(row["rate"], []).append(float(row["return"]))
    best = max(found, key=lambda rate: statistics.fmean(found[rate]))
    return None if best == GENERAL else float(best)


def write(env: str) -> None:
    """The files of an environment, if the settings are worth having for both rules."""
    made = [tuned for rule in RULES if (tuned := of_rule(env, rule))]
    # Never one without the other: that would compare a tuned rule with an untuned one.
    worth = (
        len(made) == len(RULES)
        and any(one.settings != SB3 for one in made)
        and all(
            statistics.fmean(one.score.tuned) >= statistics.fmean(one.score.general) for one in made
        )
    )
    for one in made:
        file = save(one, FILES / file_name(env, ALGO, one.rule)) if worth else None
        print(f"{env} {one.rule}: {one.score}: {file.name if file else 'not written'}")


def of_rule(env: str, rule: str) -> TunedDefaults | None:
    """What was found for a rule; None if a run is missing."""
    rows = {(row["rate"], int(row["seed"])): float(row["return"]) for row in present(env, rule)}
    rate = best_rate(env, rule)
    name = GENERAL if rate is None else str(rate)
    wanted = [(which, seed) for which in (name, GENERAL) for seed in FRESH_SEEDS]
    if any(key not in rows for key in wanted):
        return None
    own = SB3 if rate is None else settings(rate)
    options = " ".join(f"--{name.replace('_', '-')} {_word(value)}" for name, value in own.items())
    return TunedDefaults(
        env=env,
        algo=ALGO,
        rule=rule,
        settings={name: list(v) if isinstance(v, tuple) else v for name, v in own.items()},
        score=Score(
            steps=STEPS,
            episodes=EVALUATION_EPISODES,
            seeds=FRESH_SEEDS,
            tuned=tuple(rows[name, seed] for seed in FRESH_SEEDS),
            general=tuple(rows[GENERAL, seed] for seed in FRESH_SEEDS),
            command=f"nprobot train --env {env} --algo {ALGO} --rule {rule} {options} "
            f"--steps {STEPS} --seed {FRESH_SEEDS[0]}",
        ),
        search={
            "command": f"python scripts/tune_off_policy.py search --only {env}",
            "seeds": list(SEARCH_SEEDS),
            "trials": len(RATES) + 1,
            "environment_steps": (len(RATES) + 1) * len(SEARCH_SEEDS) * STEPS,
            "steps": STEPS,
            "versions": versions(),
            "commit": git_commit()[:7],
        },
    )


def _word(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    main()
