"""Decorrelated layers and the conversions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nprobot.policies import (
    BiasHead,
    DecorrelatedConv2d,
    DecorrelatedLinear,
    decorrelate,
    fold,
    is_decorrelated,
    mlp,
)


def disturb(network):
    """Give every R a value of its own."""
    for module in network.modules():
        if hasattr(module, "R"):
            module.R += 0.3 * torch.randn_like(module.R)
    return network


def images():
    return nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2)),
        nn.Tanh(),
        nn.Conv2d(3, 2, 3, padding="same", padding_mode="circular", bias=False),
        nn.Flatten(),
        nn.LazyLinear(4),
    )


def test_forward_is_weight_times_r_times_x_plus_bias():
    layer = disturb(DecorrelatedLinear(3, 2))
    x = torch.randn(5, 3)
    expected = torch.stack([layer.weight @ (layer.R @ row) + layer.bias for row in x])
    torch.testing.assert_close(layer(x), expected)
    assert set(dict(layer.named_parameters())) == {"weight", "bias"}
    assert set(dict(layer.named_buffers())) == {"R"}
    assert "R" in layer.state_dict()


def test_new_layers_start_with_r_as_the_identity():
    assert torch.equal(DecorrelatedLinear(3, 2).R, torch.eye(3))
    assert torch.equal(DecorrelatedConv2d(2, 3, 3).R, torch.eye(18))


def test_decorrelate_swaps_in_place_and_keeps_parameters_and_outputs():
    net = nn.ModuleDict({"a": mlp([4, 6, 3]), "b": nn.Sequential(nn.Linear(4, 3, bias=False))})
    x = torch.randn(7, 4)
    before = [net["a"](x), net["b"](x)]
    parameters = dict(net.named_parameters())
    assert not is_decorrelated(net)
    assert decorrelate(net) is net
    assert is_decorrelated(net)
    assert all(value is parameters[name] for name, value in net.named_parameters())
    torch.testing.assert_close([net["a"](x), net["b"](x)], before)
    once = net["a"][0]
    assert decorrelate(net)["a"][0] is once


def test_a_single_layer_is_replaced():
    layer = nn.Linear(3, 2)
    new = decorrelate(layer)
    assert isinstance(new, DecorrelatedLinear)
    assert new.weight is layer.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fold_gives_the_plain_network_with_the_same_outputs(dtype):
    net = disturb(mlp([4, 6, 5, 3], "relu", decorrelated=True).to(dtype))
    x = torch.randn(50, 4, dtype=dtype)
    plain = fold(net)
    assert not is_decorrelated(plain)
    assert is_decorrelated(net)
    torch.testing.assert_close(plain(x), net(x))
    with torch.no_grad():
        plain[0].bias += 1
    assert not torch.equal(plain[0].bias, net[0].bias)


def test_convolutions_decorrelate_and_fold():
    x = torch.randn(3, 2, 6, 7)
    net = images()
    net(x)
    reference = copy.deepcopy(net)(x)
    decorrelate(net)
    torch.testing.assert_close(net(x), reference, rtol=1e-4, atol=1e-5)
    disturb(net)
    assert not torch.allclose(net(x), reference, atol=1e-2)
    torch.testing.assert_close(fold(net)(x), net(x), rtol=1e-4, atol=1e-5)
    # A convolution is its weight times the decorrelated patches.
    first = net[0]
    patches = first.decorrelated_input(x)
    expected = patches @ first.weight.flatten(1).mT + first.bias
    torch.testing.assert_close(first(x).flatten(2).mT, expected, rtol=1e-4, atol=1e-5)


def test_conversions_draw_no_random_numbers():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(27, 4))
    before = torch.random.get_rng_state()
    fold(decorrelate(net))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_groups_of_a_convolution_have_an_r_each():
    layer = nn.Conv2d(4, 6, 2, groups=2)
    x = torch.randn(3, 4, 5, 5)
    parts = [nn.Conv2d(2, 3, 2) for _ in range(2)]
    for i, part in enumerate(parts):
        part.weight.data, part.bias.data = layer.weight[3 * i :][:3], layer.bias[3 * i :][:3]
    both = [decorrelate(nn.Sequential(part))[0] for part in parts]
    whole = decorrelate(nn.Sequential(layer))[0]
    assert whole.R.shape == (2, 8, 8)
    whole.R += 0.2 * torch.randn(2, 8, 8)
    for part, R in zip(both, whole.R, strict=True):
        part.R.copy_(R)
    expected = torch.cat([part(half) for part, half in zip(both, x.chunk(2, 1), strict=True)], 1)
    torch.testing.assert_close(whole(x), expected)
    rows = [part.decorrelated_input(half) for part, half in zip(both, x.chunk(2, 1), strict=True)]
    torch.testing.assert_close(whole.decorrelated_input(x), torch.cat(rows, 2))


def test_bias_head_gives_its_bias_for_every_sample():
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    head = BiasHead(parameter)
    assert head.bias is parameter
    assert torch.equal(head(torch.zeros(3, 9)), parameter.expand(3, 2))
    assert torch.equal(BiasHead(2).bias, torch.zeros(2))
