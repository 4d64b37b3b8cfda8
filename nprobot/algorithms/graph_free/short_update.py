"""PPO's update of plain perceptrons, in numpy: what `PPO` does by the engine, number for number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nprobot.learning.perceptrons import ArrayLoss, Chain, NoShortForm, Perceptrons, find_chain
from nprobot.learning.rule import PerturbationRule

from .array_losses import ArraySurrogate, ArrayValueError, array_distribution
from .fused_step import FusedStep

if TYPE_CHECKING:
    from nprobot.algorithms.ppo import PPO

Array = NDArray[Any]


class Stacks:
    """Networks that learn from the same inputs by one rule, those of one shape side by side.

    Args:
        rule: the rule.
        networks: by name.

    Attributes:
        stacks: in the order of the networks.
        shares: the gradient of each network, flat.

    Raises:
        NoShortForm: the rule or a network has none.
    """

    def __init__(self, rule: PerturbationRule, networks: Mapping[str, nn.Module]) -> None:
        chains = [find_chain(network) for network in networks.values()]
        groups: list[list[tuple[nn.Module, Chain]]] = []
        for network, chain in zip(networks.values(), chains, strict=True):
            if groups and groups[-1][0][1].shape == chain.shape:
                groups[-1].append((network, chain))
            else:
                groups.append([(network, chain)])
        self.stacks = [Perceptrons(rule, *map(list, zip(*g, strict=True))) for g in groups]
        shares = [share for stack in self.stacks for share in stack.shares]
        self.shares = dict(zip(networks, shares, strict=True))
        self.parameters = [p for stack in self.stacks for p in stack.parameters]
        self.gradients = [g for stack in self.stacks for g in stack.gradients]

    def estimate(self, x: Array, losses: Sequence[ArrayLoss]) -> None:
        """See `Perceptrons.estimate`; a loss for each network."""
        start = 0
        for stack in self.stacks:
            count = len(stack.layers)
            stack.estimate(x, losses[start : start + count])
            start += count

    def clip(self, most: float) -> dict[str, float]:
        """Clip the gradient of each network; norms before that, ``grad_norm_`` and its name."""
        norms = {}
        for name, share in self.shares.items():
            norm = math.sqrt(float(np.dot(share, share)))
            if norm > most:
                share *= most / (norm + 1e-6)
            norms[f"grad_norm_{name}"] = norm
        return norms

    def show(self) -> None:
        """Leave the gradients where users look for them."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient.clone()

    def unchanged(self) -> bool:
        """Whether the networks consist of what they consisted of."""
        return all(stack.unchanged() for stack in self.stacks)


class ShortUpdate:
    """PPO's updates in numpy.

    Args:
        model: whose networks learn.

    Raises:
        NoShortForm: why they take the general path.
    """

    def __init__(self, model: PPO) -> None:
        assert isinstance(model.rule, PerturbationRule), "backpropagation is SB3's"
        if not model.rule.use_short_form:
            raise NoShortForm("it is switched off")
        self.networks = dict(model.networks)
        self.stacks = Stacks(model.rule, model.networks)
        self.distribution = array_distribution(model.distribution)

    def fits(self, model: PPO) -> bool:
        """Whether it is of these networks, as they are."""
        return self.networks == model.networks and self.stacks.unchanged()

    def __call__(
        self, model: PPO, clip_range: float, clip_range_vf: float | None, share_of_rate: float
    ) -> tuple[dict[str, Array], Array]:
        """`n_epochs` passes over the rollout; see `PPO._learn`."""
        surrogate = ArraySurrogate(self.distribution, clip_range, model.ent_coef)
        value_error = ArrayValueError(clip_range_vf, model.vf_coef)
        step = FusedStep(model.policy.optimizer, self.stacks.parameters, self.stacks.gradients)
        decorrelates = model.rule.decorrelated
        seen: dict[str, list[Any]] = {name: [] for name in ("gain", "entropy", "error", "ratio")}
        norms: list[dict[str, float]] = []
        kl: list[Array] = []
        for epoch in range(model.n_epochs):
            kl.clear()
            for x in self._minibatches(model, surrogate, value_error):
                self.stacks.estimate(x, [surrogate, value_error])
                kl.append(surrogate.log_ratio)
                if model.target_kl is not None and model.stops(epoch, _mean(_kl(kl[-1:]))):
                    break
                norms.append(self.stacks.clip(model.max_grad_norm))
                step()
                if decorrelates:
                    for network in self.networks.values():
                        model.rule.decorrelate(network, scale=share_of_rate)
                seen["gain"].append(surrogate.surrogate)
                seen["entropy"].append(surrogate.entropy)
                seen["error"].append(value_error.error)
                seen["ratio"].append(surrogate.log_ratio)
            else:
                model._n_updates += 1
                continue
            model._n_updates += 1
            break
        for stack in self.stacks.stacks:
            stack.remember()
        if norms:
            self.stacks.show()
        terms: dict[str, Array] = {}
        if norms:
            clipped = [abs(np.expm1(ratio)) > clip_range for ratio in seen["ratio"]]
            terms = {
                "policy_gradient_loss": _means(seen["gain"]),
                "entropy_loss": -_means(seen["entropy"]),
                "value_loss": _means(seen["error"]),
                "clip_fraction": _means(clipped),
                **{name: np.array([own[name] for own in norms]) for name in norms[0]},
            }
        return terms, _kl(kl)

    def _minibatches(
        self, model: PPO, surrogate: ArraySurrogate, value_error: ArrayValueError
    ) -> Iterator[Array]:
        """The rollout, shuffled: observations, while both losses have what belongs to them."""
        (rollout,) = model.rollout_buffer.get(None)
        observations: Any = model.preprocess(rollout.observations)
        x = observations.flatten(1).numpy()
        actions, returns, advantages, old_log_prob, old_values = (
            field.numpy()
            for field in (
                *(rollout.actions, rollout.returns, rollout.advantages),
                *(rollout.old_log_prob, rollout.old_values),
            )
        )
        actions = actions.reshape(len(x), -1)
        for start in range(0, len(x), model.batch_size):
            own = slice(start, start + model.batch_size)
            chosen = advantages[own]
            if model.normalize_advantage and len(chosen) > 1:
                chosen = chosen - np.add.reduce(chosen) / len(chosen)
                spread = math.sqrt(float(np.dot(chosen, chosen)) / (len(chosen) - 1))
                chosen *= 1 / (spread + 1e-8)
            surrogate.actions, surrogate.advantages = actions[own], chosen
            surrogate.old_log_prob = old_log_prob[own]
            value_error.returns, value_error.old_values = returns[own], old_values[own]
            yield x[own]


def _kl(log_ratios: Sequence[Array]) -> Array:
    """Schulman's k3 estimate of KL(π_old ‖ π) of every minibatch, in nats."""
    return _means([np.expm1(ratio) - ratio for ratio in log_ratios])


def _means(values: Sequence[Array]) -> Array:
    """The mean of every array."""
    lengths = np.array([len(own) for own in values])
    starts = np.cumsum(lengths) - lengths
    total: Array = np.add.reduceat(np.concatenate(values).astype(np.float64), starts)
    means: Array = total / lengths
    return means


def _mean(values: Array) -> float:
    return float(values.mean())
