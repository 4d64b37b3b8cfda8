"""Networks on the chip: layers that stay themselves, noise that goes on, devices."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nprobot.errors import ConfigError, DamagedFileError, NoiseInaccessibleError
from nprobot.policies import BiasHead, decorrelate, mlp
from nprobot.policies.chip import (
    MODELS,
    ConductanceDrift,
    GaussianNoise,
    Offset,
    OrnsteinUhlenbeckNodeNoise,
    TelegraphNodeNoise,
    WeightMismatch,
    off_chip_copy,
    on_chip,
    put_on_chip,
    resolve,
    restore_chip,
    save_chip,
)

from .conftest import SECRET, layer_with

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def convolution(padding_mode="zeros"):
    return nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2), padding_mode=padding_mode),
        nn.ReLU(),
        nn.Conv2d(3, 2, 2, dilation=2, bias=False),
        nn.Flatten(),
    )


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.log_std = nn.Linear(3, 2), BiasHead(nn.Parameter(torch.tensor([1.0, 2.0])))

    def forward(self, x):
        return torch.cat([self.mean(x), self.log_std(x)], -1)


NETWORKS = {
    "mlp": (lambda: mlp([5, 6, 2]), torch.randn(4, 5)),
    "no bias": (lambda: nn.Linear(5, 2, bias=False), torch.randn(4, 5)),
    "sequence": (lambda: mlp([3, 4, 2]), torch.randn(4, 6, 3)),
    "convolution": (convolution, torch.randn(4, 2, 7, 6)),
    "circular convolution": (lambda: convolution("circular"), torch.randn(4, 2, 7, 6)),
    "bias head": (Heads, torch.randn(4, 3)),
}


@pytest.mark.parametrize("decorrelated", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_an_ideal_chip_computes_what_the_network_does_and_a_noisy_one_does_not(kind, decorrelated):
    make, x = NETWORKS[kind]
    net = make()
    if decorrelated:
        net = decorrelate(net)
        for module in net.modules():
            if hasattr(module, "R"):
                module.R += 0.1 * torch.randn_like(module.R)
    expected = net(x)
    noisy = copy.deepcopy(net)
    put_on_chip(net, "ideal")
    torch.testing.assert_close(net(x), expected)
    put_on_chip(noisy, ["spintronic", "analog", 0.1, OrnsteinUhlenbeckNodeNoise()], seed=0)
    assert noisy(x).shape == expected.shape
    assert (noisy(x) != noisy(x)).all()
    torch.testing.assert_close(off_chip_copy(noisy)(x), expected)
    with torch.enable_grad():
        assert (noisy(x) != noisy(x)).all()


def test_layers_and_parameters_stay_the_same_objects():
    net = mlp([3, 4, 2], decorrelated=True)
    before = [*net.modules(), *net.parameters(), *net.buffers()]
    keys = list(net.state_dict())
    put_on_chip(net, 0.1)
    after = [*net.modules(), *net.parameters(), *net.buffers()]
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert list(net.state_dict()) == keys
    assert on_chip(net)
    twin = off_chip_copy(net)
    assert not on_chip(twin)
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in net.parameters()}
    assert list(twin.state_dict()) == keys
    assert on_chip(net)


def test_the_derivative_is_that_of_the_layer_as_written():
    net = mlp([3, 2], decorrelated=True)
    net[0].R += 0.1
    x = torch.randn(8, 3)
    twin = copy.deepcopy(net)
    put_on_chip(net, ["analog", Offset(1.0)], seed=0)
    gradients = []
    for network in (twin, net):
        fed = x.clone().requires_grad_()
        with torch.enable_grad():
            (network(fed) * torch.tensor([1.0, -2.0])).sum().backward()
        gradients.append([fed.grad, network[0].weight.grad, network[0].bias.grad])
    torch.testing.assert_close(*gradients)


def test_same_seed_same_noise_and_without_seed_never_the_same():
    x = torch.zeros(6, 3)
    assert torch.equal(layer_with("analog", 7)(x), layer_with("analog", 7)(x))
    assert not torch.equal(layer_with("analog", 7)(x), layer_with("analog", 8)(x))
    assert not torch.equal(layer_with("analog", None)(x), layer_with("analog", None)(x))
    net = nn.Sequential(layer := nn.Linear(3, 4), nn.Linear(3, 4))
    net[1].load_state_dict(layer.state_dict())
    put_on_chip(net, 0.1, seed=0)
    assert not torch.equal(net[0](x), net[1](x))


EVERYTHING = [
    *(GaussianNoise(0.1), OrnsteinUhlenbeckNodeNoise(0.1, 4.0), TelegraphNodeNoise(0.2, 0.1)),
    *(ConductanceDrift(0.1, 0.05, onset=3.0), WeightMismatch(0.1), Offset(0.1, 0.1)),
]


def test_a_restored_chip_goes_on_bit_for_bit():
    def chip(seed):
        torch.manual_seed(1)
        network = mlp([3, 4, 2], decorrelated=True)
        put_on_chip(network, EVERYTHING, seed=seed, device_seed=5)
        return network

    x = torch.randn(6, 3)
    first = chip(SECRET)
    for _ in range(3):
        first(x)
    capsule = save_chip(first)
    assert capsule == save_chip(first)
    expected = [first(x) for _ in range(3)]
    second = chip(SECRET)
    restore_chip(second, capsule)
    assert all(torch.equal(second(x), y) for y in expected)
    assert str(SECRET).encode() not in capsule
    assert b"generators" not in capsule
    with pytest.raises(DamagedFileError, match="another seed"):
        restore_chip(chip(SECRET + 1), capsule)


def test_a_chip_is_never_set_back():
    """Its noise could be had again with weights of 0, and subtracted from what it was added to."""
    layer = layer_with(0.1, SECRET)
    capsule = save_chip(layer)
    layer(torch.ones(6, 3))
    with pytest.raises(NoiseInaccessibleError, match="run further"):
        restore_chip(layer, capsule)


def test_the_global_generator_is_left_alone():
    layer = nn.Linear(3, 4)
    before = torch.get_rng_state()
    put_on_chip(layer, ["analog", "spintronic", Offset(0.1, 0.1)])
    layer(torch.zeros(6, 3))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_model_keeps_type_and_comes_back_from_its_dictionary(model, dtype):
    layer = nn.Linear(3, 4).to(dtype)
    put_on_chip(layer, model(), seed=0)
    assert layer(torch.zeros(2, 3, dtype=dtype)).dtype == dtype
    assert resolve(model().to_dict()) == (model(),)
    assert model.formula
    assert model.__doc__


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_chip_can_be_emulated_on_any_device_and_moved(model, device):
    net = mlp([3, 4, 2], decorrelated=True)
    put_on_chip(net, model(), seed=0)
    net(torch.zeros(2, 3))
    net.to(device)
    assert net(torch.zeros(2, 3, device=device)).device.type == device


def test_networks_that_cannot_be_on_a_chip_are_refused():
    net = mlp([3, 4, 2])
    put_on_chip(net[0], 0.1)
    with pytest.raises(ConfigError, match="already"):
        put_on_chip(net, 0.1)
    with pytest.raises(ConfigError, match="needs layers"):
        put_on_chip(nn.Tanh(), 0.1)
    with pytest.raises(ConfigError, match="groups"):
        put_on_chip(nn.Conv2d(2, 2, 1, groups=2), 0.1)
