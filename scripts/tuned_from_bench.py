"""Writes the package's files of tuned settings from searches that `nprobot bench` has run.

`search_tuned.toml` (for tasks that are not in it: `search.toml`) holds the choices, `defaults.toml`
what was best beside the general defaults on fresh seeds; the benchmarks keep their rows beside
their suites. A rule whose best settings are its general defaults has one learner there, which
counts as both.

    nprobot bench results/benchmark/search_tuned.toml --out runs/search
    nprobot bench results/benchmark/defaults.toml --out runs/defaults
    python scripts/tuned_from_bench.py       # files in nprobot/defaults/tuned/, if they are better
    python scripts/tuned_table.py            # table in docs/tuning.md
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from nprobot.defaults import TunedDefaults
from nprobot.defaults.files import Score, save
from nprobot.defaults.lookup import ROOT, file_name

RESULTS = Path(__file__).parents[1] / "results" / "benchmark"
LABELS = {"bp": "BP", "danp": "DANP"}
SEARCHES = ("search_tuned", "search")
"""By preference."""
KEPT = ("learning_rate", "lr_schedule", "batch_size", "gamma", "decorrelation_lr")
OWN: dict[str, dict[str, Any]] = {
    "bp": {"normalise": "on"},
    "danp": {"samples": 8, "sigma": 0.01, "decorrelation_lr": 0.001, "normalise": "on"},
}
"""What the learners of the suites have without saying so, or say in another place."""


def main() -> None:
    """Write the files of every environment where both rules' settings are worth having."""
    rows, searches = read("defaults"), {name: read(name) for name in SEARCHES}
    for env in sorted({row["env"] for row in rows}):
        found = [own for rule in LABELS if (own := of_rule(env, rule, rows, searches))]
        # Never one without the other: that would compare a tuned rule with an untuned one.
        worth = len(found) == len(LABELS) and all(map(is_worth_it, found))
        for own in found:
            verdict = "not written"
            if worth:
                verdict = save(own, ROOT / file_name(env, own.algo, own.rule)).name
            print(f"{env} {own.rule}: {own.score}: {verdict}")


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
    kept = {name: first["settings"][name] for name in KEPT if name in first["settings"]}
    seeds_of_search = sorted({r["seed"] for r in trials})
    choices = len(trials) // len(seeds_of_search)
    return TunedDefaults(
        env=env,
        algo="ppo",
        rule=rule,
        settings=kept | {k: v for k, v in OWN[rule].items() if k not in kept},
        score=Score(
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
    path = RESULTS / f"{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["status"] == "done"]


if __name__ == "__main__":
    main()
