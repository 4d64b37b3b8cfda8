"""An adaptation: a trained policy meets a robot that it was not trained on, and learns from it.

NRL (`nprobot.NRL`) starts from a policy file, acts on the robot and learns from what it is rewarded
for, by forward passes only. A policy file has no critic; so for the first steps, the *calibration*,
the policy stays as it is, and only the critic learns what this policy can expect on this robot.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.ticker import EngFormatter
from stable_baselines3.common.callbacks import BaseCallback
from typing_extensions import override

from nprobot.envs import NoisyActuators, time_step
from nprobot.envs.actuators import ActuatorModel
from nprobot.errors import ConfigError, ExistsError
from nprobot.policies.files import policy_file
from nprobot.policies.files.card import CARD_FILE, CURVE_FILE, card
from nprobot.policies.files.policy import Policy
from nprobot.runs.atomic_files import free_name, new_folder, quoted
from nprobot.runs.curve import new_figure, png
from nprobot.runs.interruption import interruptible
from nprobot.runs.reporting import Progress, Reporter, Silent
from nprobot.runs.versions import versions
from nprobot.training.environments import Env
from nprobot.training.evaluation import Evaluation, evaluate

from .adaptation_config import AdaptationConfig
from .faults import ActuatorFault
from .robot_learner import MakeRobot, RobotLearner, check_trainable, make_learner, read_network

RECOVERED = 0.8
"""Share of the loss that has to be made good before a robot counts as recovered."""
WINDOW = 40
"""Episodes that a running return is the mean of."""
CONFIDENCE = 1.685
"""Student's t for 95 % confidence (one-sided) in the mean of `WINDOW` episodes."""
EPISODES_FILE = "adaptation.csv"


@dataclass(frozen=True)
class LearningEpisode:
    """An episode that ended while the policy was learning.

    Attributes:
        step: control steps of all robots so far.
        total: undiscounted return.
        length: steps.
    """

    step: int
    total: float
    length: int


@dataclass(frozen=True)
class Adapted:
    """What came out of an adaptation.

    Attributes:
        policy: the adapted policy, off the chip.
        episodes: those that ended meanwhile, in order.
        struck: the step at which the faults struck (the end of the calibration).
        healthy: the policy as it was, on the robot before the faults.
        before: the policy as it was, on the robot with the faults.
        after: the adapted policy on the same.
        recovered: steps after the faults until the running return had made good `RECOVERED` of
            what they cost; None if it never did, or nothing was lost.
        steps: control steps of all robots together.
        forward_passes: the forward passes of actor and critic.
        interrupted: whether Ctrl-C ended it.
    """

    policy: Policy
    episodes: tuple[LearningEpisode, ...]
    struck: int
    healthy: Evaluation
    before: Evaluation
    after: Evaluation
    recovered: int | None
    steps: int
    forward_passes: int
    interrupted: bool


class Attendant(Protocol):
    """Looks at an adaptation while it learns, and may change its robots."""

    @property
    def models(self) -> Sequence[ActuatorModel] | None:
        """The actuators in the end, for the evaluation; None if they are as they were planned."""

    def attend(self, learner: RobotLearner, episodes: Sequence[LearningEpisode]) -> None:
        """Called after every control step, with the episodes that have ended so far."""


def adapt(
    policy: Policy,
    make_robot: MakeRobot,
    faults: Iterable[ActuatorFault] = (),
    config: AdaptationConfig | None = None,
    *,
    reporter: Reporter | None = None,
    evaluation_episodes: int = 40,
    attendant: Attendant | None = None,
) -> Adapted:
    """Let a policy continue to learn on a robot whose actuators become faulty.

    Args:
        policy: what it starts from; from `nprobot.policies.load`.
        make_robot: makes one robot, ideal, as it was in training.
        faults: what happens to its actuators at the end of the calibration.
        config: how it learns; by default as `AdaptationConfig` has it.
        reporter: receives the news.
        evaluation_episodes: deterministic episodes for each of the three evaluations.
        attendant: looks after every control step, such as a page with visitors.

    Raises:
        RuleError: NRL cannot train the policy.
        ConfigError: a fault is of an actuator that the robot does not have.
    """
    policy, faults = check_trainable(policy), tuple(faults)
    config, reporter = config or AdaptationConfig(), reporter or Silent()
    robot = make_robot()
    period = control_period(robot)
    motors = int(np.prod(robot.action_space.shape or (1,)))
    robot.close()
    for fault in faults:
        if fault.actuator >= motors:
            raise ConfigError(
                f"the fault {fault} is of actuator {fault.actuator}; this robot has {motors}, "
                f"numbered from 0 to {motors - 1}"
            )
    actuators = () if config.actuators is None else (config.actuators,)
    struck = math.ceil(config.calibration / config.robots) * period
    models = [*actuators, *(fault.model(struck) for fault in faults)]
    settled = [*actuators, *(fault.model(0.0, settled=True) for fault in faults)]

    chip = config.dying_chip(settled=True)

    def measure(measured: Policy, models: Sequence[Any], chip: str | None) -> Evaluation:
        return evaluate_on(measured, make_robot, models, evaluation_episodes, config.seed, chip)

    healthy = measure(policy, actuators, chip and str(config.node_noise))
    before = measure(policy, settled, chip) if faults or chip else healthy
    learner = make_learner(policy, make_robot, models, config)
    watch = _Watch(reporter, config.steps, attendant)
    try:
        with interruptible(watch, reporter.message, "step"):
            learner.learn(config.steps, watch)
    finally:
        assert learner.env is not None
        learner.env.close()
    learner.settle()
    if attendant is not None and attendant.models is not None:
        settled = list(attendant.models)
        before = measure(policy, settled, chip)
    adapted = read_network(learner.policy, policy)
    return Adapted(
        policy=adapted,
        episodes=tuple(watch.episodes),
        struck=config.calibration,
        healthy=healthy,
        before=before,
        after=measure(adapted, settled, chip),
        recovered=recovery(watch.episodes, config.calibration, healthy.mean, before.mean),
        steps=learner.num_timesteps,
        forward_passes=learner.rule.forward_passes,
        interrupted=watch.stop_requested,
    )


class _Watch(BaseCallback):
    """Keeps the episodes, tells of progress, and ends learning on time or when asked to."""

    def __init__(self, reporter: Reporter, steps: int, attendant: Attendant | None) -> None:
        super().__init__()
        self.reporter, self.steps, self.attendant = reporter, steps, attendant
        self.stop_requested = False
        self.episodes: list[LearningEpisode] = []
        self._started = time.perf_counter()

    @override
    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                total, length = float(info["episode"]["r"]), int(info["episode"]["l"])
                self.episodes.append(LearningEpisode(self.num_timesteps, total, length))
        if self.attendant is not None:
            self.attendant.attend(self.model, self.episodes)  # type: ignore[arg-type]
        last = [episode.total for episode in self.episodes[-WINDOW:]]
        self.reporter.progress(
            Progress(
                done=self.num_timesteps,
                total=self.steps,
                figures=f"return {statistics.fmean(last):.1f}" if last else "",
                per_second=self.num_timesteps / (time.perf_counter() - self._started),
            )
        )
        return self.num_timesteps + self.model.n_envs <= self.steps and not self.stop_requested


def control_period(robot: Env) -> float:
    """Seconds that an action lasts, as `NoisyActuators` counts them."""
    step = time_step(robot.unwrapped)
    if step is None:
        raise ConfigError(
            f"{robot.unwrapped} does not say how long a step is (dt), so no fault can be timed"
        )
    return step.seconds


def evaluate_on(
    policy: Policy,
    make_robot: MakeRobot,
    actuators: Sequence[Any],
    episodes: int,
    seed: int,
    chip: str | None = None,
) -> Evaluation:
    """Deterministic episodes of a policy on robots with these actuators, and on a chip or none."""

    def make(number: int) -> Env:
        return NoisyActuators(make_robot(), actuators, seed=np.random.SeedSequence((seed, number)))

    name = policy.task.id if policy.task else "robot"
    return evaluate(policy, name, make=make, chip=chip, episodes=episodes, seed=seed)


def running_return(episodes: Sequence[LearningEpisode]) -> tuple[list[int], list[float]]:
    """Steps, and the mean return of the episodes up to there, `WINDOW` at most."""
    totals = [episode.total for episode in episodes]
    means = [statistics.fmean(totals[max(0, i + 1 - WINDOW) : i + 1]) for i in range(len(totals))]
    return [episode.step for episode in episodes], means


def recovery(
    episodes: Sequence[LearningEpisode], struck: int, healthy: float, faulty: float
) -> int | None:
    """Steps from the faults until the return had surely made good `RECOVERED` of what they cost.

    Surely: the lower 95 % confidence bound of the mean of `WINDOW` episodes has, so that some lucky
    episodes are not enough.
    What they cost is known from evaluations; it is counted from the return during the calibration,
    as the perturbations of learning cost something, too. A drift takes its time: recovery counts
    from the worst moment on.

    Args:
        episodes: in order.
        struck: step at which the faults struck.
        healthy: return of the policy as it was, without faults.
        faulty: the same with faults.

    Returns:
        Steps of all robots; None if it never happened, or the faults cost nothing.
    """
    usual = [episode.total for episode in episodes if episode.step <= struck]
    steps, means = running_return([episode for episode in episodes if episode.step > struck])
    if faulty >= healthy or not usual or len(means) < WINDOW:
        return None
    goal = statistics.fmean(usual) - (1 - RECOVERED) * (healthy - faulty)
    steps, means = steps[WINDOW - 1 :], means[WINDOW - 1 :]
    totals = [episode.total for episode in episodes if episode.step > struck]
    spreads = [statistics.stdev(totals[i : i + WINDOW]) for i in range(len(means))]
    bounds = [m - CONFIDENCE * s / WINDOW**0.5 for m, s in zip(means, spreads, strict=True)]
    worst = means.index(min(means))
    if means[worst] >= goal:
        return None
    later = zip(steps[worst:], bounds[worst:], strict=True)
    return next((step - struck for step, bound in later if bound >= goal), None)


def refuse_existing(path: Path) -> None:
    """Raise `ExistsError` if there is something at `path`."""
    if path.exists():
        raise ExistsError(
            f"{path} is there already; choose another --out, such as {quoted(free_name(path))}"
        )


def save_adapted(
    result: Adapted, path: Path, faults: Sequence[ActuatorFault], config: AdaptationConfig
) -> Policy:
    """Write a policy folder with its card, its curve and its episodes, whole or not at all.

    Args:
        result: the result of `adapt`.
        path: the folder to make.
        faults: that it was adapted to.
        config: how.

    Returns:
        The policy, with its origin in its provenance.

    Raises:
        ExistsError: there is something at `path`.
        StorageError: the folder cannot be written.
    """
    refuse_existing(path)
    policy = replace(result.policy, provenance=_provenance(result, faults, config))
    with new_folder(path) as writing:
        policy_file.save(policy, writing)
        (writing / CURVE_FILE).write_bytes(picture(result, faults))
        (writing / EPISODES_FILE).write_text(_table(result.episodes), encoding="utf-8")
        (writing / CARD_FILE).write_text(card(policy), encoding="utf-8")
    return policy


def _provenance(
    result: Adapted, faults: Sequence[ActuatorFault], config: AdaptationConfig
) -> dict[str, Any]:
    """Where the policy was trained, where it was adapted, and what that was good for."""
    before, after = result.before, result.after
    ills = [str(fault) for fault in faults]
    robot = config.actuators or "ideal"
    told = f" with the faults {', '.join(ills)}" if ills else ""
    return {
        **{key: value for key, value in result.policy.provenance.items() if key != "command"},
        "description": (
            f"It was trained further by NRL, {result.steps:,} steps, on a robot with {robot} "
            f"actuators{told}. There the return was {before.mean:.1f} before and is "
            f"{after.mean:.1f} after; the score below is that one."
        ),
        "evaluation": {
            "env": after.env,
            "seed": after.seed,
            "returns": list(after.returns),
            "lengths": list(after.lengths),
            "versions": versions(),
        },
        "adaptation": {
            "faults": ills,
            "steps": result.steps,
            "forward_passes": result.forward_passes,
            "backward_passes": 0,
            "return_healthy": result.healthy.mean,
            "return_before": before.mean,
            "return_after": after.mean,
            "recovered_after": result.recovered,
            "config": config.to_dict(),
        },
    }


def _table(episodes: Sequence[LearningEpisode]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "return", "length"])
    writer.writerows((e.step, e.total, e.length) for e in episodes)
    return text.getvalue()


def picture(result: Adapted, faults: Sequence[ActuatorFault]) -> bytes:
    """Return over steps with the moment of the faults, as PNG."""
    title = f"{result.after.env}: NRL continues to learn on the robot"
    figure, axes = new_figure(title, "control steps, all robots together", "return of an episode")
    steps, means = running_return(result.episodes)
    totals = [episode.total for episode in result.episodes]
    axes.plot(steps, totals, ".", color="#9ecae1", ms=3, label="episode")
    axes.plot(steps, means, color="#08519c", lw=2, label=f"mean of {WINDOW}, while learning")
    levels = {"healthy robot": (result.healthy.mean, "#31a354")}
    if faults:
        levels["faulty robot, policy as it was"] = (result.before.mean, "#d94801")
    levels["adapted"] = (result.after.mean, "#08519c")
    for name, (level, colour) in levels.items():
        axes.axhline(level, color=colour, lw=1, ls="--", label=f"{name}: {level:.1f}")
    axes.axvline(result.struck, color="0.3", lw=1)
    axes.annotate(
        ", ".join(map(str, faults)) or "learning begins",
        (result.struck, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(4, -4),
        textcoords="offset points",
        va="top",
        size=9,
    )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(fontsize=8, framealpha=0.9, edgecolor="none", markerscale=3)
    return png(figure)
