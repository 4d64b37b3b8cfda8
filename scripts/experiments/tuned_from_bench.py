"""Writes the package's files of tuned settings from searches that `nprobot bench` has run.

Long runs, 300,000 steps: two choices of rate and schedule for each learner, those of
`search_anchor.toml` (their rows are there and in `core`), compared on seeds 0, 1 and 2 and judged
on 3 and 4. A choice that is not better there is dropped for the general defaults, and the file says
so.

Short ones, 100,000 steps, for the tasks without: `search_tuned.toml` (for tasks that are not in it:
`search.toml`) holds the choices, `defaults.toml` what was best beside the general defaults on fresh
seeds. A rule whose best settings are its general defaults has one learner there, which counts as
both.

    nprobot bench results/benchmark/search_anchor.toml --out runs/anchor --seeds 0 1 2 3 4
    nprobot bench results/benchmark/search_tuned.toml --out runs/search
    nprobot bench results/benchmark/defaults.toml --out runs/defaults
    python scripts/tuned_from_bench.py       # files in nprobot/defaults/tuned/
    python scripts/tuned_table.py            # table in docs/tuning.md
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from nprobot.benchmark.rows import read as read_rows
from nprobot.defaults import TunedDefaults, TunedScore, file_name, save
from nprobot.defaults.settings import ROOT
from nprobot.training.config import RunConfig

RESULTS = Path(__file__).parents[1] / "results" / "benchmark"
LABELS = {"bp": "BP", "danp": "DANP"}
SEARCHES = ("search_tuned", "search")
"""By preference."""
KEPT = ("learning_rate", "lr_schedule", "batch_size", "gamma", "decorrelation_lr")
OWN: dict[str, dict[str, Any]] = {
    "bp": {"normalise": "on"},
    "danp": {"samples": 8, "sigma": 0.01, "decorrelation_lr": 0.001, "normalise": "on"},
    "np+feedback": {"samples": 1, "sigma": 0.001, "normalise": "on"},
}
"""What the learners of the suites have without saying so, or say in another place."""

LONG = (
    *("HalfCheetah-v5", "Hopper-v5", "InvertedDoublePendulum-v5", "Reacher-v5"),
    "nprobot/ArmReach-v0",
)
"""Tasks whose files come from the long runs."""
SEARCH_SEEDS, FRESH_SEEDS = (0, 1, 2), (3, 4)
Choice = tuple[float, str]
"""Learning rate and its schedule."""
CHOICES: dict[str, tuple[Choice, Choice]] = {
    "bp": ((3e-4, "constant"), (1e-3, "linear")),
    "danp": ((3e-3, "linear"), (1e-3, "constant")),
    "np+feedback": ((1e-3, "linear"), (3e-4, "constant")),
}
"""The general defaults of the time come first."""


def main() -> None:
    """Write the files of every environment where both rules' settings are worth having."""
    long = [row | {"suite": name} for name in ("core", "search_anchor") for row in read(name)]
    for env in LONG:
        for rule in CHOICES:
            try:
                own = of_long_runs(env, rule, [row for row in long if row["env"] == env])
            except KeyError as missing:
                print(f"{env} {rule}: not written, a run is missing: {missing}")
                continue
            keep(own)
    rows, searches = read("defaults"), {name: read(name) for name in SEARCHES}
    for env in sorted({row["env"] for row in rows} - {*LONG}):
        found = [own for rule in LABELS if (own := of_rule(env, rule, rows, searches))]
        # Never one without the other: that would compare a tuned rule with an untuned one.
        worth = len(found) == len(LABELS) and all(map(is_worth_it, found))
        for own in found:
            if worth:
                keep(own)
            else:
                print(f"{env} {own.rule}: {own.score}: not written")


def keep(own: TunedDefaults) -> None:
    """Write an entry into its table, unless it repeats the general defaults."""
    general = RunConfig(env=own.env, algo=own.algo, rule=own.rule)
    if general.with_options(own.settings).resolved() == general.resolved():
        print(f"{own.env} {own.rule}: {own.score}: the general defaults")
    else:
        print(f"{save(own, ROOT / file_name(own.env)).name} {own.rule}: {own.score}")


def of_long_runs(env: str, rule: str, rows: list[dict[str, Any]]) -> TunedDefaults:
    """What was found for a rule in long runs.

    Raises:
        KeyError: a run is missing.
    """
    found = {
        ((row["settings"]["learning_rate"], row["settings"]["lr_schedule"]), row["seed"]): row
        for row in rows
        if row["rule"] == rule and is_general(row)
    }

    def returns(choice: Choice, seeds: tuple[int, ...]) -> tuple[float, ...]:
        return tuple(round(found[choice, seed]["return_mean"], 4) for seed in seeds)

    choices = CHOICES[rule]
    general = choices[0]
    picked = chosen = max(choices, key=lambda c: statistics.fmean(returns(c, SEARCH_SEEDS)))
    remark = f"best of {len(choices)}: rate {picked[0]:g}, {picked[1]}"
    if statistics.fmean(returns(picked, FRESH_SEEDS)) < statistics.fmean(
        returns(general, FRESH_SEEDS)
    ):
        chosen = general
        held = ", ".join(map(str, returns(picked, FRESH_SEEDS)))
        remark += f"; it did not hold on fresh seeds ({held})"
    first = found[chosen, FRESH_SEEDS[0]]
    name = first["suite"]
    suite = name if name == "core" else f"results/benchmark/{name}.toml"
    seeds = " ".join(map(str, FRESH_SEEDS))
    return TunedDefaults(
        env=env,
        algo="ppo",
        rule=rule,
        settings=settings_of(first),
        score=TunedScore(
            steps=first["steps"],
            episodes=first["episodes"],
            seeds=FRESH_SEEDS,
            tuned=returns(chosen, FRESH_SEEDS),
            general=returns(general, FRESH_SEEDS),
            command=f'nprobot bench {suite} --env {env} --learner "{first["learner"]}" '
            f"--seeds {seeds}",
        ),
        search={
            "command": f"nprobot bench results/benchmark/search_anchor.toml --env {env} "
            f"--rule {rule}",
            "seeds": list(SEARCH_SEEDS),
            "trials": len(choices),
            "environment_steps": len(choices) * len(SEARCH_SEEDS) * first["steps"],
            "steps": first["steps"],
            "remark": remark,
            "versions": first["versions"],
            "commit": first["commit"][:7],
        },
    )


def settings_of(row: dict[str, Any]) -> dict[str, Any]:
    """What a file says of the settings that a run had."""
    kept = {name: row["settings"][name] for name in KEPT if name in row["settings"]}
    return kept | {k: v for k, v in OWN[row["rule"]].items() if k not in kept}


def is_general(row: dict[str, Any]) -> bool:
    """Whether a row differs from the general defaults in rate and schedule at most."""
    own = row["settings"]
    kinds = {"bp": (None, 64), "danp": (8, 256), "np+feedback": (1, 64)}
    return (
        (row["samples"], own["batch_size"]) == kinds[row["rule"]]
        and (row["algo"], row["envs"]) == ("ppo", 8)
        and own.get("normalise", "on") == "on"
        and own.get("decorrelation_lr", 1e-4) == 1e-4
    )


def is_worth_it(found: TunedDefaults) -> bool:
    """Whether the settings are at least as good as the general defaults."""
    return statistics.fmean(found.score.tuned) >= statistics.fmean(found.score.general)


def of_rule(
    env: str, rule: str, rows: list[dict[str, Any]], searches: dict[str, list[dict[str, Any]]]
) -> TunedDefaults | None:
    """What was found for a rule; None if it was not measured on every seed."""
    label = LABELS[rule]
    tuned = [r for r in rows if (r["env"], r["learner"]) == (env, f"{label}, tuned")]
    general = [r for r in rows if (r["env"], r["learner"]) == (env, f"{label}, general")]
    if not tuned or (general and len(general) != len(tuned)):
        return None
    name = next(n for n, own in searches.items() if any(r["env"] == env for r in own))
    trials = [r for r in searches[name] if (r["env"], r["rule"]) == (env, rule)]
    if name == "search":  # its other batch sizes were not tried on every task
        batch = tuned[0]["settings"]["batch_size"]
        trials = [r for r in trials if r["settings"]["batch_size"] == batch]
    return settings(env, rule, tuned, general or tuned, trials, name)


def settings(
    env: str,
    rule: str,
    tuned: list[dict[str, Any]],
    general: list[dict[str, Any]],
    trials: list[dict[str, Any]],
    name: str,
) -> TunedDefaults:
    """The file's content.

    Args:
        env: environment id.
        rule: learning rule.
        tuned: rows with the settings.
        general: rows with the general defaults, of the same seeds.
        trials: rows of the search.
        name: of the search's suite.
    """
    first = tuned[0]
    own = {r["seed"]: r["return_mean"] for r in tuned}
    other = {r["seed"]: r["return_mean"] for r in general}
    seeds = sorted(own)
    seeds_of_search = sorted({r["seed"] for r in trials})
    choices = len(trials) // len(seeds_of_search)
    return TunedDefaults(
        env=env,
        algo="ppo",
        rule=rule,
        settings=settings_of(first),
        score=TunedScore(
            steps=first["steps"],
            episodes=first["episodes"],
            seeds=tuple(seeds),
            tuned=tuple(round(own[seed], 4) for seed in seeds),
            general=tuple(round(other[seed], 4) for seed in seeds),
            command="nprobot bench results/benchmark/defaults.toml "
            f'--env {env} --learner "{first["learner"]}"',
        ),
        search={
            "command": f"nprobot bench results/benchmark/{name}.toml --env {env} --rule {rule}",
            "seeds": seeds_of_search,
            "trials": choices,
            "environment_steps": sum(r["steps"] for r in trials),
            "steps": trials[0]["steps"],
            "remark": f"{choices} choices, {len(seeds_of_search)} seed(s)",
            "versions": first["versions"],
            "commit": first["commit"][:7],
        },
    )


def read(name: str) -> list[dict[str, Any]]:
    """The finished rows of a benchmark."""
    return [row for row in read_rows(RESULTS / f"{name}.jsonl") if row["status"] == "done"]


if __name__ == "__main__":
    main()
