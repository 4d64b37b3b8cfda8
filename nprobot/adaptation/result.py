"""What came out of going on learning on a robot, and when the robot had recovered."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from nprobot.policies.files.policy import Policy
from nprobot.training.evaluation import Evaluation

RECOVERED = 0.8
"""Share of the loss that has to be made good before a robot counts as recovered."""


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
        forward_passes: of actor and critic.
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


WINDOW = 40
"""Episodes that a running return is the mean of."""


def running_return(episodes: Sequence[LearningEpisode]) -> tuple[list[int], list[float]]:
    """Steps, and the mean return of the episodes up to there, `WINDOW` at most."""
    totals = [episode.total for episode in episodes]
    means = [statistics.fmean(totals[max(0, i + 1 - WINDOW) : i + 1]) for i in range(len(totals))]
    return [episode.step for episode in episodes], means


def recovery(
    episodes: Sequence[LearningEpisode], struck: int, healthy: float, faulty: float
) -> int | None:
    """Steps from the faults until the running return had made good `RECOVERED` of what they cost.

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
    worst = means.index(min(means))
    if means[worst] >= goal:
        return None
    later = zip(steps[worst:], means[worst:], strict=True)
    return next((step - struck for step, mean in later if mean >= goal), None)
