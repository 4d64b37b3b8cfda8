"""Does one run and describes it in one row: result, curve, ledger, versions, machine."""

from __future__ import annotations

import copy
import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import mujoco
import torch

from nprobot.runs.seeds import Seeds
from nprobot.training.environments import Env
from nprobot.training.evaluation import Predict, episode_seeds, run_episodes
from nprobot.training.groups import EnvRecipe

from .ledger import Clock, Ledger, peak_memory
from .methods import RunSpec
from .peers import METHODS
from .rows import DONE, blank, failure, now

FINAL_STARTS, CURVE_STARTS = 0, 1
"""Where the starts of evaluation episodes come from: the same ones for every learner and seed."""

Tell = Callable[[int], None]
"""Hears how many steps a run has taken."""


def execute(spec: RunSpec, tell: Tell = lambda steps: None) -> dict[str, Any]:
    """Do one run.

    Args:
        spec: the run.
        tell: hears how many steps it has taken.

    Returns:
        Its row, JSON values. Whatever goes wrong in the run is in the row, not raised.
    """
    torch.set_num_threads(1)  # networks this small are slower on two threads than on one
    # MuJoCo's own handler writes a log file into the working directory.
    mujoco.set_mju_user_warning(lambda text: None)
    row = blank(spec)
    try:
        row |= {"status": DONE, **_measured(spec, tell)}
    except Exception as error:  # whatever it is, the other runs continue
        row |= failure(error)
    return row | {"peak_memory_mib": round(peak_memory(), 1), "ended": now()}


def _measured(spec: RunSpec, tell: Tell) -> dict[str, Any]:
    recorder = Recorder(spec, tell)
    try:
        spent = METHODS[spec.algo].run(spec, recorder)
    finally:
        recorder.close()
    returns = recorder.returns
    return {
        "return_mean": statistics.fmean(returns),
        "return_sd": statistics.stdev(returns) if len(returns) > 1 else None,
        "returns": [round(value, 6) for value in returns],
        **recorder.best(),
        **dataclasses.asdict(spent),
        "curve": {name: list(map(_short, values)) for name, values in recorder.curve.items()},
    }


def _short(value: float) -> float:
    return value if isinstance(value, int) else round(value, 4)


class Recorder:
    """Evaluates a policy at the points of the curve, on time that the run is not charged for.

    It does so in separate environments, whose episodes have the same starts for every learner.

    Args:
        spec: the run.
        tell: hears about the progress.

    Attributes:
        tell: who hears about the progress.
        curve: the points so far: the fields of `Ledger`, and the mean return.
        returns: the returns of the finished policy, an episode each; empty before.

    The policy of the best point of the curve is kept, too, and measured at the end as the finished
    one is: what a user would have who evaluates now and then.
    """

    def __init__(self, spec: RunSpec, tell: Tell) -> None:
        self.spec = spec
        self.tell = tell
        self.curve: dict[str, list[float]] = {}
        self.returns: list[float] = []
        self._best: tuple[float, int, Predict] | None = None
        self._best_row: dict[str, Any] = {}
        self._envs: list[Env] = []
        self._clock = Clock()
        self._next = 0

    def start(self, ledger: Ledger, predict: Predict) -> None:
        """The policy as it is before it has learned anything; from here on time counts."""
        self._point(ledger, predict)
        self._clock = Clock()

    def pass_by(self, ledger: Callable[[], Ledger], env_steps: int, predict: Predict) -> None:
        """Add a point if one is due; to be called between two updates.

        Args:
            ledger: what the run has spent, without the time.
            env_steps: steps so far.
            predict: the policy as it is.
        """
        self.tell(env_steps)
        # The last point is the final evaluation.
        if self._next >= self.spec.points or env_steps < self._due(self._next):
            return
        spent = self._timed(ledger())
        with self._clock.paused():
            self._point(spent, predict)
        while self._next < self.spec.points and env_steps >= self._due(self._next):
            self._next += 1

    def finish(self, ledger: Ledger, predict: Predict) -> Ledger:
        """Measure the finished policy.

        Returns:
            What the run has spent, time included.
        """
        spent = self._timed(ledger)
        with self._clock.paused():
            self.returns = self._evaluate(predict, self.spec.episodes, FINAL_STARTS)
            returns, step = self.returns, ledger.env_steps
            if self._best is not None and self._best[0] > statistics.fmean(returns):
                _, step, best = self._best
                returns = self._evaluate(best, self.spec.episodes, FINAL_STARTS)
        self._best_row = {"best_return_mean": statistics.fmean(returns), "best_step": step}
        self.add(spent, self.returns)
        return spent

    def best(self) -> dict[str, Any]:
        """Of the best policy its mean return, over as many episodes, and when it was there.

        The finished policy is that one unless a point of the curve was above its mean return.
        """
        return self._best_row

    def add(self, ledger: Ledger, returns: list[float]) -> None:
        """Add a point that was measured elsewhere, time included in its ledger."""
        values: dict[str, Any] = dataclasses.asdict(ledger)
        values["return_mean"] = statistics.fmean(returns)
        for name, value in values.items():
            self.curve.setdefault(name, []).append(value)
        self._next = max(self._next, 1)

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _point(self, ledger: Ledger, predict: Predict) -> None:
        """Measure a policy for the curve, and keep it if it is the best so far."""
        returns = self._evaluate(predict, self.spec.point_episodes, CURVE_STARTS)
        self.add(ledger, returns)
        mean = statistics.fmean(returns)
        if self._best is None or mean > self._best[0]:
            self._best = mean, ledger.env_steps, copy.deepcopy(predict)

    def _due(self, point: int) -> float:
        return point * self.spec.steps / self.spec.points

    def _timed(self, ledger: Ledger) -> Ledger:
        wall, cpu = self._clock.seconds
        return dataclasses.replace(ledger, wall_seconds=wall, cpu_seconds=cpu)

    def _evaluate(self, predict: Predict, episodes: int, starts: int) -> list[float]:
        spec = self.spec
        recipe = EnvRecipe(
            spec.env, spec.env_kwargs, spec.preset, Seeds.spawn(spec.seed).evaluation
        )
        while len(self._envs) < episodes:
            self._envs.append(recipe.make(len(self._envs)))
        seeds = episode_seeds(starts, episodes)
        return [total for total, _ in run_episodes(predict, self._envs[:episodes], seeds)]
