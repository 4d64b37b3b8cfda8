"""Clones of experts by every rule, what they are worth on the robot, and PPO that starts from them.

Experts fly with ideal actuators and behind `servo`, and are recorded by `nprobot deploy --flight`.
For each rule and seed a clone is fitted to a record (other first weights, other batches; the record
and its split stay), and flies 10 other episodes under the conditions of the record. PPO then starts
from the clone as `nprobot train --from` does (the critic learns first, updates end early) and at
once. The quadruped is trained first, for it is not in the zoo; the policy of its best evaluation
flies:

    nprobot train --robot quadruped --task velocity --randomise --actuators servo --steps 2000000 \
        --seed 0 --evaluate-every 200000 --out runs/quad_servo
    cp -r runs/quad_servo/best runs/quadruped

    python -m scripts.experiments.control.demonstrations record   # flights in runs/demonstrations
    python -m scripts.experiments.control.demonstrations clone    # …/demonstrations/clones.csv
    python -m scripts.experiments.control.demonstrations improve  # …/demonstrations/improved.csv
    python -m scripts.experiments.control.demonstrations report   # tables in docs/experiments
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

from nprobot.catalogue import learner_title
from nprobot.cli.deploy import main as deploy
from nprobot.deploy import load_policy
from nprobot.policies.files.policy import Policy
from nprobot.regression import fit
from nprobot.regression.data import Source
from nprobot.training import evaluate, train
from nprobot.training.from_policy import Start
from nprobot.training.run_config import RunConfig

from ..pages import DOCS, each, markdown, put_section, spread
from ..rows import RESULTS, ROOT, Only, Row, column, command, keep, read, select

FLIGHTS = ROOT / "runs" / "demonstrations"
CLONES = RESULTS / "demonstrations" / "clones.csv"
IMPROVED = RESULTS / "demonstrations" / "improved.csv"


@dataclass(frozen=True)
class Expert:
    """What is cloned.

    Attributes:
        policy: zoo:NAME, or a run.
        title: for the page.
        actuators: behind which it flies.
        episodes: of the record.
    """

    policy: str
    title: str
    actuators: tuple[str, ...] = ("ideal", "servo")
    episodes: int = 20

    def load(self) -> Policy:
        """The policy."""
        path = self.policy if self.policy.startswith("zoo:") else ROOT / self.policy
        policy = load_policy(path)
        assert isinstance(policy, Policy)
        return policy


EXPERTS = {
    "cheetah": Expert("zoo:HalfCheetah", "`zoo:HalfCheetah`, 20 episodes"),
    "quadruped": Expert("runs/quadruped", "quadruped, velocity commands, 20 episodes", ("servo",)),
}
FLOWN = [(name, actuators) for name, expert in EXPERTS.items() for actuators in expert.actuators]
RULES = ("bp", "np+feedback")
WAYS = ("gently", "at once")
SEEDS = range(5)
EPISODES = 10
EPOCHS, RATE, HIDDEN = 40, 3e-3, (64, 64)
"""The same for every rule."""
STEPS = 40_960
"""Of PPO."""


def record(only: Only = ()) -> None:
    """Fly the experts."""
    FLIGHTS.mkdir(parents=True, exist_ok=True)
    for name, actuators in FLOWN:
        expert = EXPERTS[name]
        file = flight(name, actuators)
        if file.exists() or not all(word in file.name for word in only):
            continue
        reference = expert.policy if ":" in expert.policy else str(ROOT / expert.policy)
        # Other starts than those that clones are measured on.
        words = [reference, "--episodes", str(expert.episodes), "--seed", "1000"]
        noisy = [] if actuators == "ideal" else ["--actuators", actuators]
        deploy([*words, *noisy, "--flight", str(file)])


def flight(expert: str, actuators: str) -> Path:
    """The record of an expert."""
    return FLIGHTS / f"{expert}-{actuators}.npz"


def clone(only: Only = ()) -> None:
    """Fit and measure what has no row; the expert itself has one, too."""
    names = ("expert", "actuators", "rule", "seed")
    experts = ((*flown, "expert", 0) for flown in FLOWN)
    clones = ((*flown, rule, seed) for seed, flown, rule in itertools.product(SEEDS, FLOWN, RULES))
    jobs = [dict(zip(names, job, strict=True)) for job in (*experts, *clones)]
    keep(CLONES, jobs, fly, only=only)


def fly(expert: str, actuators: str, rule: str, seed: int) -> Row:
    """One clone, or the expert, on its robot."""
    nmse, passes, backward = 0.0, 0, 0
    if rule == "expert":
        policy = EXPERTS[expert].load()
    else:
        folder = clone_folder(expert, actuators, rule, seed)
        shutil.rmtree(folder, ignore_errors=True)
        data = Source(demonstrations=(str(flight(expert, actuators)),)).load()
        options = {"epochs": EPOCHS, "learning_rate": RATE, "seed": seed}
        result = fit(list(HIDDEN), data, rule, out=folder, **options)
        nmse, passes = result.scores["test"].error, result.forward_passes
        backward = result.backward_passes
        policy = Expert(folder, "").load()
    found = evaluate(policy, actuators=actuators, episodes=EPISODES)
    return {
        "test_nmse": round(nmse, 6),
        "forward_passes": passes,
        "backward_passes": backward,
        "return": round(found.mean, 3),
        "sd": round(found.sd, 3),
    }


def clone_folder(expert: str, actuators: str, rule: str, seed: int) -> str:
    """Where a clone is kept."""
    return str(FLIGHTS / f"{expert}-{actuators}-{rule}-{seed}")


def improve(only: Only = ()) -> None:
    """Let PPO start from the clones by NP + feedback."""
    names = ("expert", "way", "seed")
    jobs = ((e, w, s) for s, e, w in itertools.product(SEEDS[:3], EXPERTS, WAYS))
    keep(IMPROVED, [dict(zip(names, job, strict=True)) for job in jobs], continued, only=only)


def continued(expert: str, way: str, seed: int) -> Row:
    """A run of PPO from a clone, evaluated at its start and its end."""
    folder = clone_folder(expert, EXPERTS[expert].actuators[0], "np+feedback", seed)
    policy = Expert(folder, "").load()
    start = Start(policy, folder)
    config = start.configure(RunConfig(steps=STEPS, seed=seed, checkpoint_every=STEPS))
    if way == "at once":
        config = config.with_options({"critic_warmup": 0, "target_kl": 1e9})
    out = FLIGHTS / f"improved-{expert}-{way.replace(' ', '-')}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    result = train(config, out, start=start)
    assert result.evaluation is not None
    log = read(out / "progress.csv")
    exploring = [float(row["rollout/ep_rew_mean"]) for row in log if row["rollout/ep_rew_mean"]]
    return {
        "clone_return": round(evaluate(policy).mean, 3),
        "first_return": round(float(log[0]["eval/mean_reward"]), 3),
        "first_exploring": round(exploring[0], 3),
        "last_return": round(result.evaluation.mean, 3),
        "last_exploring": round(exploring[-1], 3),
        "backward_passes": result.backward_passes,
    }


def report() -> None:
    """Write the tables."""
    rows, lines = read(CLONES), []
    for name, actuators in FLOWN:
        own = select(rows, expert=name, actuators=actuators)
        for rule in RULES:
            clones = select(own, rule=rule)
            if not clones:
                continue
            (expert,) = select(own, rule="expert")
            lines.append(
                (
                    EXPERTS[name].title if rule == RULES[0] else "",
                    actuators if rule == RULES[0] else "",
                    f"{float(expert['return']):.0f} ± {float(expert['sd']):.0f}"
                    if rule == RULES[0]
                    else "",
                    learner_title(rule, 1),
                    spread(column(clones, "test_nmse"), 4),
                    each(column(clones, "return"), 0),
                )
            )
    heading = ("expert", "actuators", "its return", "clone by", "test nMSE", "return of the clones")
    put_section("clones", markdown(heading, lines), DOCS / "demonstrations.md")

    rows, lines = read(IMPROVED), []
    for name, way in itertools.product(EXPERTS, WAYS):
        if own := select(rows, expert=name, way=way):
            columns = ("clone_return", "first_return", "last_return")
            lines.append((name, way, *(each(column(own, c), 0) for c in columns)))
    heading_2 = ("", "PPO begins", "the clone", "before the first update", "at the end")
    put_section("improved", markdown(heading_2, lines), DOCS / "demonstrations.md")


if __name__ == "__main__":
    command(__doc__, record, clone, improve, report)
