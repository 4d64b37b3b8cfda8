"""A policy file's policy as a torch module: an evaluation independent of the numpy one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .operations import Operation
from .policy import BoxAction, Policy

LAYERS: Mapping[str, Callable[..., nn.Module]] = {
    "flatten": nn.Flatten,
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}
"""Operations without arrays; settings have torch's names."""


class TorchPolicy(nn.Module):
    """A deterministic policy, raw observations in, actions inside their bounds out.

    Args:
        policy: what it computes; its numbers are copied.
    """

    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        normaliser, action = policy.normaliser, policy.action
        self.clip = None if normaliser is None else normaliser.clip
        if normaliser is not None:
            deviation = np.sqrt(normaliser.var + normaliser.epsilon)
            self.register_buffer("mean", torch.as_tensor(normaliser.mean).clone())
            self.register_buffer("deviation", torch.as_tensor(deviation))
        self.network = nn.Sequential(*map(_layer, policy.operations))
        self.action = action
        if isinstance(action, BoxAction):
            self.register_buffer("low", torch.as_tensor(action.low).clone())
            self.register_buffer("high", torch.as_tensor(action.high).clone())

    def forward(self, observation: Tensor) -> Tensor:
        """Actions (B, *action) for raw observations (B, *observation), best in float64."""
        x = observation
        if self.clip is not None:
            x = ((x - self.mean) / self.deviation).clamp(-self.clip, self.clip)
        outputs: Tensor = self.network(x.float())
        if isinstance(self.action, BoxAction):
            actions = outputs.reshape(-1, *self.low.shape)
            if self.action.mapping == "rescale":
                actions = self.low + 0.5 * (actions + 1) * (self.high - self.low)
            return actions.clamp(self.low, self.high)
        parts = torch.split(outputs, list(self.action.choices), dim=-1)
        chosen = torch.stack([part.argmax(-1) for part in parts], dim=-1)
        return chosen if self.action.several else chosen[:, 0]


class _Linear(nn.Module):
    """A linear layer with fixed numbers; `nn.Linear` would first draw some from the generator."""

    weight: Tensor
    bias: Tensor

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        for name, array in operation.arrays.items():
            self.register_buffer(name, torch.as_tensor(array).float().clone())

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


def _layer(operation: Operation) -> nn.Module:
    if operation.name == "linear":
        return _Linear(operation)
    return LAYERS[operation.name](**operation.settings)
