"""What reward is to be expected; the error of that prediction is what a robot learns from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from nprobot.learning.activity import Tree
from nprobot.learning.rule import LearningRule
from nprobot.policies.direct_policy import DirectPolicy


@dataclass
class Transition:
    """One control step of B robots.

    Attributes:
        observations: preprocessed, each tensor (B, ...).
        rewards: shape (B,).
        successors: observations that came next; of an episode that ended, its last one.
        terminated: whether nothing comes after, shape (B,), 0 or 1.
        ended: whether the episode ended, in whatever way, shape (B,), 0 or 1.
    """

    observations: Tree
    rewards: Tensor
    successors: Tree
    terminated: Tensor
    ended: Tensor


class Prediction(ABC):
    """A prediction of reward."""

    @abstractmethod
    def error(self, transition: Transition) -> Tensor:
        """How much better than predicted a step was, δ, shape (B,)."""

    @abstractmethod
    def learn(self) -> dict[str, float]:
        """Improve the prediction from the steps since the last call; returns what to log."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What is remembered from step to step."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Continue from saved memories."""


class ValuePrediction(Prediction):
    """A critic: ``δ = r + γ V(s') − V(s)``, trained by the rule that it is given.

    As long as the critic knows little, δ is off by about the same in all steps. That would
    reinforce whatever was done; so the running mean of δ is taken off.

    Args:
        policy: with the critic and its optimiser.
        rule: that estimates the critic's gradient.
        gamma: discount factor γ.
        decay: γλ of the returns that the critic is trained on.
        epochs: steps of the optimiser on the same transitions.
    """

    BIAS_RATE = 0.02

    def __init__(
        self, policy: DirectPolicy, rule: LearningRule, gamma: float, decay: float, epochs: int
    ) -> None:
        self.policy = policy
        self.rule = rule
        self.gamma = gamma
        self.decay = decay
        self.epochs = epochs
        self.bias = 0.0
        self._seen: list[tuple[Transition, Tensor, Tensor]] = []

    @override
    def error(self, transition: Transition) -> Tensor:
        values = self.policy.values(transition.observations)
        next_values = self.policy.values(transition.successors) * (1 - transition.terminated)
        error = transition.rewards + self.gamma * next_values - values
        self._seen.append((transition, values, error))
        self.rule.forward_passes += 2 * len(values)
        self.bias += self.BIAS_RATE * (float(error.mean()) - self.bias)
        return error - self.bias

    @override
    def learn(self) -> dict[str, float]:
        transitions, values, errors = zip(*self._seen, strict=True)
        self._seen.clear()
        ended = torch.stack([transition.ended for transition in transitions])
        advantages = generalised_advantages(torch.stack(errors), ended, self.decay)
        returns = (torch.stack(values) + advantages).flatten()
        observations = concatenate([transition.observations for transition in transitions])

        def squared_error(outputs: Tensor) -> Tensor:
            return (outputs.squeeze(-1) - returns).square()

        critic, optimizer = self.policy.critic, self.policy.critic_optimizer
        losses = []
        for _ in range(self.epochs):
            optimizer.zero_grad()
            losses.append(float(self.rule.backward(critic, observations, squared_error).mean()))
            optimizer.step()
            self.rule.decorrelate(critic)
        variance = float(returns.var())
        explained = 1 - losses[0] / variance if variance else float("nan")
        return {"value_loss": losses[0], "explained_variance": explained}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"bias": self.bias}

    @override
    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        self.bias = float(state["bias"])


class RunningMeanPrediction(Prediction):
    """The running mean of the reward: ``δ = r − r̄``, without critic.

    The form of Fernández, Ahmad & van Gerven (arXiv 2503.23972). It fits rewards that tell good
    from bad when they come; a reward that is the same in every step until the robot falls teaches
    nothing.

    Args:
        rate: weight of the newest step in the mean.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.mean: float | None = None

    @override
    def error(self, transition: Transition) -> Tensor:
        now = float(transition.rewards.mean())
        before = now if self.mean is None else self.mean
        self.mean = before + self.rate * (now - before)
        return transition.rewards - before

    @override
    def learn(self) -> dict[str, float]:
        return {"reward_mean": float("nan") if self.mean is None else self.mean}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    @override
    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        self.mean = state["mean"]


def generalised_advantages(errors: Tensor, ended: Tensor, decay: float) -> Tensor:
    """``A_t = δ_t + γλ A_{t+1}``, cut where an episode ends.

    Args:
        errors: δ, shape (T, B).
        ended: whether the episode ended with the step, shape (T, B), 0 or 1.
        decay: γλ.

    Returns:
        Advantages, shape (T, B).
    """
    advantages = torch.empty_like(errors)
    later = torch.zeros_like(errors[0])
    for t in reversed(range(len(errors))):
        later = errors[t] + decay * (1 - ended[t]) * later
        advantages[t] = later
    return advantages


def concatenate(trees: list[Tree]) -> Tree:
    """Batches, one after the other."""
    if isinstance(trees[0], dict):
        return {key: concatenate([tree[key] for tree in trees]) for key in trees[0]}
    return torch.cat(trees)
