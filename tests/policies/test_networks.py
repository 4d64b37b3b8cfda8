"""`mlp` builds what it says and refuses what cannot be built."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nprobot.catalogue import Activation
from nprobot.errors import ArchitectureError, UnknownNameError
from nprobot.options import choices
from nprobot.policies import ACTIVATIONS, DecorrelatedLinear, mlp


def test_layers_are_linear_with_activations_between():
    net = mlp([4, 8, 6, 2], "relu")
    assert [type(m) for m in net] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert net(torch.zeros(5, 4)).shape == (5, 2)


def test_decorrelated_and_output_activation():
    net = mlp([4, 8, 2], nn.ELU, decorrelated=True, output_activation="tanh")
    assert [type(m) for m in net] == [DecorrelatedLinear, nn.ELU, DecorrelatedLinear, nn.Tanh]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_by_name(name):
    assert name in choices(Activation)
    assert len(ACTIVATIONS) == len(choices(Activation))
    assert mlp([3, 4, 2], name)(torch.randn(2, 3)).shape == (2, 2)


@pytest.mark.parametrize("sizes", [[], [3], [3, 0], [3, -1, 2], [3, 2.5]])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(ArchitectureError, match="sizes must hold"):
        mlp(sizes)


def test_unknown_activation_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'tahn'; did you mean tanh\? Known: tanh"):
        mlp([3, 4, 2], "tahn")
