"""The learner of an adaptation: NRL that waits for its critic, and averages what it learned."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from torch import Tensor
from typing_extensions import override

from nprobot.algorithms.nrl import NRL


class RobotLearner(NRL):
    """NRL whose actor waits while the critic learns, and that averages what the actor learned.

    Steps in a noisy direction circle around what is best; their mean is nearer to it than the last
    of them (Polyak & Juditsky 1992). The robot is driven by the last, the mean is what is kept.

    Args:
        arguments: of `NRL`.
        calibration: steps in which the actor waits.
        hold: whether it waits for ever.
        keywords: of `NRL`.
    """

    CRITIC_RATE = 3e-3
    MEAN_RATE = 0.02
    """Weight of the newest actor in the mean."""

    def __init__(
        self, *arguments: Any, calibration: int = 0, hold: bool = False, **keywords: Any
    ) -> None:
        self.calibration = calibration
        self.hold = hold
        super().__init__(*arguments, **keywords)
        self.mean = [parameter.detach().clone() for parameter in self._actor_state()]

    @override
    def train(self) -> None:
        super().train()
        if not self.waits:
            for mean, now in zip(self.mean, self._actor_state(), strict=True):
                mean.lerp_(now, self.MEAN_RATE)

    @property
    def waits(self) -> bool:
        """Whether the actor stays as it is."""
        return self.hold or self.num_timesteps <= self.calibration

    def settle(self) -> None:
        """Make the actor the mean of what it has been."""
        with torch.no_grad():
            for mean, now in zip(self.mean, self._actor_state(), strict=True):
                now.copy_(mean)

    def remember(self) -> None:
        """Begin the mean with the actor as it is."""
        self.mean = [parameter.detach().clone() for parameter in self._actor_state()]

    def _actor_state(self) -> list[Tensor]:
        return list(self.policy.actor.parameters())

    @override
    def _update_learning_rate(self, optimizers: Any) -> None:
        super()._update_learning_rate(optimizers)
        # At a rate of 0 the optimiser still finds out how large its steps will have to be.
        rates = {self.policy.critic_optimizer: self.CRITIC_RATE}
        if self.waits:
            rates[self.policy.optimizer] = 0.0
        for optimizer, rate in rates.items():
            for group in optimizer.param_groups:
                group["lr"] = rate


class FixedStatistics(RunningMeanStd):
    """Statistics of observations that stay what they were at the end of training."""

    @override
    def update(self, arr: Any) -> None:
        pass
