"""Networks, losses and data that the tests of the learning rules and of fits share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from .fit_helpers import dataset


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def toy():
    """Data for a fit; not to be changed."""
    return dataset()


@pytest.fixture(scope="session")
def digits():
    """Pictures of digits and what they show; not to be changed."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x, y.astype(np.int64)


class Branches(nn.Module):
    """Nested modules, a skip connection and several outputs, as tuple or dict."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
        self.left = nn.Linear(8, 3)
        self.right = nn.Sequential(nn.Linear(13, 4), nn.ELU(), nn.Linear(4, 2))

    def forward(self, x):
        h = self.trunk(x)
        left, right = self.left(h), self.right(torch.cat([h, x], dim=-1))
        return {"left": left, "right": right} if self.kind == "dict" else (left, right)


def squared_error(target):
    return lambda y: ((y - target) ** 2).mean(-1)


def gradients(network):
    return torch.cat([p.grad.detach().flatten() for p in network.parameters()])


def backprop_gradients(network, inputs, loss):
    network.zero_grad()
    loss(network(inputs)).mean().backward()
    result = gradients(network).clone()
    network.zero_grad()
    return result
