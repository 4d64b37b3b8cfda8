"""What training and adaptation are handed so that a page shows them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from typing_extensions import override

from nprobot.adaptation.adaptation_run import WINDOW, LearningEpisode
from nprobot.adaptation.robot_learner import RobotLearner, read_network
from nprobot.deploy.conditions import Conditions
from nprobot.envs import NoisyActuators
from nprobot.envs.actuators import ActuatorModel
from nprobot.policies.files.policy import Policy
from nprobot.training.callback import policy_of
from nprobot.training.run_config import RunConfig

from .learning_page import LearningNews, LearningPage, LearningSetup

SHARE = 0.01
"""Share of a run's CPU time that the page may take; a page that wants more waits."""
SHOWN = 4
"""Robots that show the policy of a run."""


class TrainingPage(BaseCallback):
    """Shows a training run on a page; draws no random number, so the run stays what it is.

    Args:
        config: the configuration of the run.
        host: address to listen on.
        port: port to listen on.
        found: told the address as soon as the page is there, or why there is none.
        share: the share of the run's CPU time that the page may take.

    Attributes:
        page: None before the run has begun.
    """

    def __init__(
        self,
        config: RunConfig,
        host: str,
        port: int,
        found: Callable[[str, str], None],
        *,
        share: float = SHARE,
    ) -> None:
        super().__init__()
        self._share, self._allowed = share, 0.0
        self._config, self._host, self._port, self._found = config, host, port, found
        self.page: LearningPage | None = None

    @override
    def _on_training_start(self) -> None:
        folder = self.logger.dir
        setup = LearningSetup(
            title=f"nprobot: {self._config.env}",
            policy=policy_of(self.model, self._config),  # type: ignore[arg-type]
            conditions=Conditions(actuators=self._config.actuators),
            robots=SHOWN,
            folder=None if folder is None else Path(folder).absolute(),
            seed=self._config.seed,
        )
        self.page = LearningPage(setup, self._host, self._port, found=self._found)

    @override
    def _on_step(self) -> bool:
        assert self.page is not None
        self.page.orders()
        return True

    @override
    def _on_rollout_start(self) -> None:
        started = time.process_time()
        if self.page is not None and self.page.wanted and started >= self._allowed:
            policy = policy_of(self.model, self._config)  # type: ignore[arg-type]
            self.page.send(LearningNews(policy, facts={"trained": f"{self.num_timesteps:,} steps"}))
            now = time.process_time()
            self._allowed = now + (now - started) / self._share

    @override
    def _on_training_end(self) -> None:
        self.close()

    def close(self) -> None:
        """End the page."""
        if self.page is not None:
            self.page.close()
            self.page = None


class AdaptationPage:
    """Shows an adaptation on a page and does what its visitors want; an `Attendant` of `adapt`.

    Args:
        policy: as it was.
        page: the page of the adaptation.
        conditions: the robots' conditions at the beginning.
    """

    def __init__(self, policy: Policy, page: LearningPage, conditions: Conditions) -> None:
        self._policy, self._page, self._conditions = policy, page, conditions
        self._changed = False
        self._told = 0

    @property
    def models(self) -> tuple[ActuatorModel, ...] | None:
        """The robots' actuators as visitors have left them; None if nobody has touched them."""
        return self._conditions.models() if self._changed else None

    def attend(self, learner: RobotLearner, episodes: Sequence[LearningEpisode]) -> None:
        """Do what visitors want, and tell the page what it has asked for."""
        for order in self._page.orders():
            if order.name == "conditions":
                self._conditions, self._changed = order.value, True
                for robot in _robots(learner):
                    robot.refit(order.value.models())
            elif order.name == "learn":
                learner.hold = not order.value
            elif order.name == "undo":
                learner.forget(self._policy)
        if self._page.wanted:
            self._page.send(self._news(learner, episodes))

    def _news(self, learner: RobotLearner, episodes: Sequence[LearningEpisode]) -> LearningNews:
        points = [
            (episodes[i].step, statistics.fmean(e.total for e in episodes[max(0, i - WINDOW) : i]))
            for i in range(max(self._told, 1), len(episodes))
        ]
        self._told = len(episodes)
        calibrates = learner.num_timesteps <= learner.calibration
        doing = "finds out what to expect" if calibrates else "learns"
        return LearningNews(
            read_network(learner.policy, self._policy),
            np.array(points, np.float64).reshape(-1, 2),
            {
                "learner": f"step {learner.num_timesteps:,}, {'waits' if learner.hold else doing}",
                "its return": f"{points[-1][1]:.1f}, mean of {WINDOW}" if points else "",
            },
        )


def _robots(learner: RobotLearner) -> list[NoisyActuators]:
    """The actuators of the learner's robots."""
    assert learner.env is not None
    found = []
    for env in learner.env.unwrapped.envs:  # type: ignore[attr-defined]  # a DummyVecEnv
        while not isinstance(env, NoisyActuators):
            env = env.env
        found.append(env)
    return found
