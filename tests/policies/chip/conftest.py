"""One seed and no autograd for the tests of the emulated chip, and a layer whose sums are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nprobot.policies.chip import put_on_chip

SECRET = 987_654_321


@pytest.fixture(autouse=True)
def _one_seed_without_autograd():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def layer_with(chip, seed=0, *, weight=2.0, inputs=3, outputs=4, **kwargs):
    """A linear layer with equal weights and bias 0.5, on a chip."""
    layer = nn.Linear(inputs, outputs)
    layer.weight.fill_(weight)
    layer.bias.fill_(0.5)
    put_on_chip(layer, chip, seed=seed, **kwargs)
    return layer
