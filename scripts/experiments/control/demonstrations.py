"""Clones of experts by every rule, what they are worth on the robot, and PPO that starts from them.

Experts fly with ideal actuators and are recorded by `nprobot deploy --flight`. For each rule and
seed a clone is fitted to the record (other first weights, other batches; the record and its split
stay), and flies 10 episodes with ideal actuators and 10 behind `servo`. PPO then starts from the
clone, with the critic alone learning for ten rollouts and without that. The quadruped is trained
first, for it is not in the zoo:

    nprobot train --robot quadruped --task velocity --randomise --actuators servo --steps 2000000 \
        --seed 0 --out runs/quadruped

    python -m scripts.experiments.control.demonstrations record   # flights in runs/demonstrations
    python -m scripts.experiments.control.demonstrations clone    # …/demonstrations/clones.csv
    python -m scripts.experiments.control.demonstrations improve  # …/demonstrations/improved.csv
    python -m scripts.experiments.control.demonstrations report   # tables in docs/experiments
"""

from __future__ import annotations

import itertools
import shutil
import statistics
from dataclasses import dataclass

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
        episodes: of the record.
    """

    policy: str
    title: str
    episodes: int = 20

    def load(self) -> Policy:
        """The policy."""
        path = self.policy if self.policy.startswith("zoo:") else ROOT / self.policy
        policy = load_policy(path)
        assert isinstance(policy, Policy)
        return policy


EXPERTS = {
    "cheetah": Expert("zoo:HalfCheetah", "zoo:HalfCheetah, 20 episodes of 1,000 steps"),
    "arm": Expert("zoo:ArmReach", "zoo:ArmReach, 100 episodes", 100),
    "quadruped": Expert("runs/quadruped", "the quadruped with velocity commands, 20 episodes"),
}
RULES = ("bp", "np+feedback")
SEEDS = range(5)
EPISODES = 10
EPOCHS, RATE, HIDDEN = 40, 3e-3, (64, 64)
"""The same for every rule."""
STEPS = 40_960
"""Of PPO."""


def record(only: Only = ()) -> None:
    """Fly the experts, and measure them."""
    FLIGHTS.mkdir(parents=True, exist_ok=True)
    for name, expert in EXPERTS.items():
        file = FLIGHTS / f"{name}.npz"
        if file.exists() or not all(word in name for word in only):
            continue
        reference = expert.policy if ":" in expert.policy else str(ROOT / expert.policy)
        # Other starts than those that clones are measured on.
        deploy([reference, "--episodes", str(expert.episodes), "--seed", "1000",
                "--flight", str(file)])  # fmt: skip


def clone(only: Only = ()) -> None:
    """Fit and measure what has no row; the expert itself has one, too."""
    experts = [{"expert": name, "rule": "expert", "seed": 0} for name in EXPERTS]
    names = ("expert", "rule", "seed")
    jobs = [dict(zip(names, job, strict=True)) for job in itertools.product(EXPERTS, RULES, SEEDS)]
    keep(CLONES, [*experts, *jobs], fly, only=only)


def fly(expert: str, rule: str, seed: int) -> Row:
    """One clone, or the expert, on its robot."""
    nmse, passes, backward = 0.0, 0, 0
    if rule == "expert":
        policy = EXPERTS[expert].load()
    else:
        folder = clone_folder(expert, rule, seed)
        shutil.rmtree(folder, ignore_errors=True)
        data = Source(demonstrations=(str(FLIGHTS / f"{expert}.npz"),)).load()
        result = fit(
            list(HIDDEN), data, rule, epochs=EPOCHS, learning_rate=RATE, seed=seed, out=folder,
        )  # fmt: skip
        nmse, passes = result.scores["test"].error, result.forward_passes
        backward = result.backward_passes
        loaded = load_policy(folder)
        assert isinstance(loaded, Policy)
        policy = loaded
    row: Row = {"test_nmse": round(nmse, 6), "forward_passes": passes, "backward_passes": backward}
    for actuators in ("ideal", "servo"):
        found = evaluate(policy, actuators=actuators, episodes=EPISODES)
        row[f"{actuators}_return"] = round(found.mean, 3)
        row[f"{actuators}_sd"] = round(found.sd, 3)
    return row


def clone_folder(expert: str, rule: str, seed: int) -> str:
    """Where a clone is kept."""
    return str(FLIGHTS / f"{expert}-{rule}-{seed}")


def improve(only: Only = ()) -> None:
    """Let PPO start from the clones by NP + feedback."""
    names = ("expert", "warmup", "seed")
    jobs = itertools.product(EXPERTS, ("ten rollouts", "none"), SEEDS)
    keep(IMPROVED, [dict(zip(names, job, strict=True)) for job in jobs], continued, only=only)


def continued(expert: str, warmup: str, seed: int) -> Row:
    """A run of PPO from a clone; evaluated at its start, in the middle and at its end."""
    folder = clone_folder(expert, "np+feedback", seed)
    policy = load_policy(folder)
    assert isinstance(policy, Policy)
    start = Start(policy, folder)
    config = start.configure(RunConfig(steps=STEPS, seed=seed, evaluate_every=STEPS // 5))
    if warmup == "none":
        config = config.with_options({"critic_warmup": 0})
    out = FLIGHTS / f"improved-{expert}-{warmup.replace(' ', '-')}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    found: list[float] = []
    result = train(config, out, start=start, on_evaluation=lambda _, e: found.append(e.mean))
    assert result.evaluation is not None
    first = read(out / "progress.csv")[0]
    return {
        "clone_return": round(evaluate(policy, episodes=EPISODES).mean, 3),
        "first_return": round(float(first["eval/mean_reward"]), 3),
        "lowest_return": round(min(found), 3),
        "last_return": round(result.evaluation.mean, 3),
        "backward_passes": result.backward_passes,
    }


def report() -> None:
    """Write the tables."""
    rows = read(CLONES)
    lines = []
    for name, expert in EXPERTS.items():
        for rule in ("expert", *RULES):
            own = select(rows, expert=name, rule=rule)
            if not own:
                continue
            is_expert = rule == "expert"
            title = f"**{expert.title}**" if is_expert else learner_title(rule, 1)
            lines.append(
                (
                    title,
                    "" if is_expert else spread(column(own, "test_nmse"), 4),
                    returns(own, "ideal", is_expert),
                    returns(own, "servo", is_expert),
                )
            )
    heading = ("clone by", "test nMSE", "return", "return behind `servo`")
    put_section("clones", markdown(heading, lines), DOCS / "demonstrations.md")

    rows, lines = read(IMPROVED), []
    for name, warmup in itertools.product(EXPERTS, ("ten rollouts", "none")):
        if own := select(rows, expert=name, warmup=warmup):
            columns = ("clone_return", "first_return", "lowest_return", "last_return")
            lines.append((name, warmup, *(each(column(own, c), 0) for c in columns)))
    heading_2 = ("", "critic first", "the clone", "before the first update", "lowest", "at the end")
    put_section("improved", markdown(heading_2, lines), DOCS / "demonstrations.md")


def returns(own: list[Row], actuators: str, is_expert: bool) -> str:
    """Of an expert with the spread over its episodes; of clones over their seeds."""
    mean = column(own, f"{actuators}_return")
    if is_expert:
        return f"{mean[0]:.0f} ± {statistics.fmean(column(own, f'{actuators}_sd')):.0f}"
    return each(mean, 0)


if __name__ == "__main__":
    command(__doc__, record, clone, improve, report)
