"""Activations of chips: exact values, no derivative, and the surrogate that gives them one."""

from __future__ import annotations

import pytest
import torch

from nprobot.errors import ArchitectureError
from nprobot.policies import mlp
from nprobot.policies.activations import Heaviside, Quantised, Sign, StraightThrough
from nprobot.policies.networks import CHIP_ACTIVATIONS

X = torch.tensor([-3.0, -1.0, -0.3, -1e-30, 0.0, 1e-30, 0.3, 1.0, 3.0])


def test_two_valued_units_have_no_third_value():
    assert Sign()(X).tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1]
    assert Heaviside()(X).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_quantised_units_give_the_nearest_of_their_levels(bits):
    unit = Quantised(bits)
    levels = torch.linspace(-1, 1, 2**bits, dtype=torch.float64)
    x = torch.linspace(-2, 2, 997, dtype=torch.float64)
    y = unit(x)
    assert torch.equal(y.unique().round(decimals=9), levels.round(decimals=9))
    nearest = (x.clamp(-1, 1)[:, None] - levels).abs().min(1).values
    torch.testing.assert_close((y - x.clamp(-1, 1)).abs(), nearest)
    assert f"bits={bits}" in repr(unit)


def test_one_bit_is_a_sign():
    x = X[X.abs() != 1e-30]  # lost beside the 1 that Quantised adds
    assert torch.equal(Quantised(1)(x), Sign()(x))


@pytest.mark.parametrize("bits", [0, 17, 2.5])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(ArchitectureError, match="bits must be"):
        Quantised(bits)


@pytest.mark.parametrize("name", ["sign", "step", "quantised"])
def test_backpropagation_gets_nothing_through_them(name):
    torch.manual_seed(0)
    net = mlp([3, 8, 2], name)
    net(torch.randn(16, 3)).square().mean().backward()
    assert not net[0].weight.grad.any()
    assert net[2].weight.grad.any()


@pytest.mark.parametrize("name", CHIP_ACTIVATIONS)
def test_straight_through_has_the_same_values_and_the_derivative_of_a_cut_off_line(name):
    unit = CHIP_ACTIVATIONS[name]()
    surrogate = StraightThrough(unit)
    x = torch.linspace(-2, 2, 81).requires_grad_()
    torch.testing.assert_close(surrogate(x), unit(x))
    surrogate(x).sum().backward()
    inside = x.detach().abs() < 1 - 1e-6
    outside = x.detach().abs() > 1 + 1e-6
    assert (x.grad[inside] == 1).all()
    assert (x.grad[outside] == 0).all()
    with torch.no_grad():
        assert torch.equal(surrogate(x), unit(x))
