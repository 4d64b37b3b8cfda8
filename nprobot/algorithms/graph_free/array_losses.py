"""PPO's losses of arrays, with their slopes at the outputs in closed form; see `losses`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nprobot.learning.perceptrons import NoShortForm
from nprobot.policies.distributions import (
    ActionDistribution,
    Bernoulli,
    Categorical,
    DiagonalGaussian,
)

Array = NDArray[Any]


class ArrayDistribution(ABC):
    """An `ActionDistribution` of arrays: outputs (1 + P, B, n), row 0 that of the clean pass."""

    entropy_slopes: list[Array]
    """dH/dy of the last call, of every output, (B, n)."""
    slopes: list[Array]
    """d log π(a|s)/dy of the last call, of every output, (B, n)."""

    @abstractmethod
    def evaluate(self, outputs: list[Array], actions: Array) -> tuple[Array, Array]:
        """Log-probability of actions (B, m), and entropy, each (1 + P, B)."""


class GaussianArrays(ArrayDistribution):
    """See `DiagonalGaussian`."""

    def evaluate(self, outputs: list[Array], actions: Array) -> tuple[Array, Array]:
        """See the base class."""
        mean, log_std = outputs
        constant = 0.5 * math.log(2 * math.pi) * mean.shape[-1]
        inverse = np.exp(-log_std)
        z = (actions - mean) * inverse
        spread = np.add.reduce(log_std, axis=-1)
        log_prob = -0.5 * np.vecdot(z, z) - spread - constant
        self.slopes = [z[0] * inverse[0], z[0] * z[0] - 1]
        self.entropy_slopes = [np.zeros_like(z[0]), np.ones_like(z[0])]
        return log_prob, spread + constant + 0.5 * mean.shape[-1]


class CategoricalArrays(ArrayDistribution):
    """See `Categorical`."""

    def __init__(self, choices: list[int]) -> None:
        self.ends = np.cumsum(choices)[:-1]

    def evaluate(self, outputs: list[Array], actions: Array) -> tuple[Array, Array]:
        """See the base class."""
        log_prob, entropy, slopes, entropy_slopes = 0.0, 0.0, [], []
        samples = np.arange(len(actions))
        for i, logits in enumerate(np.split(outputs[0], self.ends, axis=-1)):
            chosen = actions[:, i].astype(np.int64)
            shifted = logits - logits.max(-1, keepdims=True)
            log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
            p = np.exp(log_p)
            own = -np.vecdot(p, log_p)
            log_prob, entropy = log_prob + log_p[:, samples, chosen], entropy + own
            slope = -p[0]
            slope[samples, chosen] += 1
            slopes.append(slope)
            entropy_slopes.append(-p[0] * (log_p[0] + own[0][:, None]))
        self.slopes = [np.concatenate(slopes, axis=-1)]
        self.entropy_slopes = [np.concatenate(entropy_slopes, axis=-1)]
        return np.asarray(log_prob), np.asarray(entropy)


class BernoulliArrays(ArrayDistribution):
    """See `Bernoulli`."""

    def evaluate(self, outputs: list[Array], actions: Array) -> tuple[Array, Array]:
        """See the base class."""
        (logits,) = outputs
        no, yes = np.logaddexp(0, logits), np.logaddexp(0, -logits)  # -log p of each
        p = np.exp(-yes)
        self.slopes = [actions - p[0]]
        self.entropy_slopes = [-logits[0] * p[0] * (1 - p[0])]
        log_prob = -np.where(actions > 0.5, yes, no).sum(-1)
        return log_prob, (p * yes + (1 - p) * no).sum(-1)


def array_distribution(distribution: ActionDistribution) -> ArrayDistribution:
    """The same distribution, of arrays.

    Raises:
        NoShortForm: there is none.
    """
    if type(distribution) is DiagonalGaussian:
        return GaussianArrays()
    if type(distribution) is Categorical:
        return CategoricalArrays(distribution.choices)
    if type(distribution) is Bernoulli:
        return BernoulliArrays()
    raise NoShortForm(f"{type(distribution).__name__} is not known in numpy")


class ArraySurrogate:
    """Loss of the actor: ``−min(ρ A, clip(ρ, 1 ± c) A) − β H``; see `ClippedSurrogate`.

    Args:
        distribution: the distribution of the actions.
        clip_range: c.
        entropy_coefficient: β.

    Attributes:
        actions, old_log_prob, advantages: of the batch, (B, m), (B,), (B,); set before a call.
        log_ratio, surrogate, entropy: of the clean pass of the last call, (B,).
    """

    actions: Array
    old_log_prob: Array
    advantages: Array

    def __init__(
        self, distribution: ArrayDistribution, clip_range: float, entropy_coefficient: float
    ) -> None:
        self.distribution = distribution
        self.clip_range = clip_range
        self.entropy_coefficient = entropy_coefficient

    def __call__(self, outputs: list[Array], *, slopes: bool) -> tuple[Array, list[Array]]:
        """See `ArrayLoss`."""
        beta, c = self.entropy_coefficient, self.clip_range
        log_prob, entropy = self.distribution.evaluate(outputs, self.actions)
        log_ratio = log_prob - self.old_log_prob
        ratio = np.exp(log_ratio)
        gain = ratio * self.advantages
        clipped = np.minimum(np.maximum(ratio, 1 - c), 1 + c) * self.advantages
        loss = -np.minimum(gain, clipped)
        self.log_ratio, self.surrogate, self.entropy = log_ratio[0], loss[0].copy(), entropy[0]
        if beta:
            loss -= beta * entropy
        if not slopes:
            return loss, []
        # Where the clipped term is the smaller one the loss is flat.
        along = (-gain[0] * (gain[0] <= clipped[0]))[:, None]
        found = [along * slope for slope in self.distribution.slopes]
        if beta:
            for slope, own in zip(found, self.distribution.entropy_slopes, strict=True):
                slope -= beta * own
        return loss, found


class ArrayValueError:
    """Loss of the critic: ``coefficient · (V(s) − R)²``; see `SquaredValueError`.

    Args:
        clip_range: how far V may move from `old_values`; None for as far as it likes.
        coefficient: weight of the loss.

    Attributes:
        returns, old_values: of the batch, (B,); set before a call.
        error: ``(V(s) − R)²`` of the clean pass of the last call, (B,).
    """

    returns: Array
    old_values: Array

    def __init__(self, clip_range: float | None, coefficient: float) -> None:
        self.clip_range = clip_range
        self.coefficient = coefficient

    def __call__(self, outputs: list[Array], *, slopes: bool) -> tuple[Array, list[Array]]:
        """See `ArrayLoss`."""
        values = outputs[0][..., 0]
        inside: Array | float = 1.0
        if (c := self.clip_range) is not None:
            change = values - self.old_values
            inside = abs(change[0]) <= c
            values = self.old_values + np.minimum(np.maximum(change, -c), c)
        off = values - self.returns
        square = off * off
        self.error = square[0]
        slope = (2 * self.coefficient * inside * off[0])[:, None]
        return self.coefficient * square, [slope.astype(off.dtype, copy=False)]
