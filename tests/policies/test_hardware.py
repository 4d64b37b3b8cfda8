"""The emulated chip: each model against its formula, layers that stay themselves, hidden noise."""

from __future__ import annotations

import copy
import gc
import pickle
import types
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nprobot.policies import BiasHead, decorrelate, mlp
from nprobot.policies.errors import HardwareError, NoiseInaccessibleError
from nprobot.policies.hardware import Crossbar, digital, on_chip, put_on_chip
from nprobot.policies.hardware_effects import Effect, Mismatch, Site
from nprobot.policies.hardware_models import (
    MODELS,
    PRESETS,
    ConductanceDrift,
    Converter,
    GaussianNoise,
    HardwareModel,
    MultiplicativeNoise,
    Offset,
    OrnsteinUhlenbeckNoise,
    ReadNoise,
    TelegraphNoise,
    WeightMismatch,
    resolve,
)
from nprobot.policies.hardware_state import restore_chip, save_chip
from nprobot.policies.hardware_tables import filled

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ROWS = 20_000
SECRET = 987_654_321


@pytest.fixture(autouse=True)
def _one_seed_without_autograd():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def layer_with(models, seed=0, *, weight=2.0, inputs=3, outputs=4, **kwargs):
    """A linear layer with equal weights and bias 0.5, on a chip."""
    layer = nn.Linear(inputs, outputs)
    layer.weight.fill_(weight)
    layer.bias.fill_(0.5)
    put_on_chip(layer, models, seed=seed, **kwargs)
    return layer


def noise_of(models, rows=ROWS, seed=0, x=1.0, **kwargs):
    """What the models add to the pre-activations of such a layer, (rows, 4)."""
    layer = layer_with(models, seed, **kwargs)
    fed = torch.full((rows, 3), x)
    return layer(fed) - digital(layer)(fed)


def correlation(noise, lag):
    """Mean over nodes of the correlation between rows that are `lag` apart."""
    return float((noise[:-lag] * noise[lag:]).mean() / noise.square().mean())


def test_gaussian_noise():
    noise = noise_of(GaussianNoise(0.2))
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    assert abs(noise.mean()) < 0.005
    assert abs(correlation(noise, 1)) < 0.02
    covariance = noise.mT @ noise / ROWS
    assert (covariance - covariance.diagonal().diag()).abs().max() < 0.002


@pytest.mark.parametrize("x", [1.0, -2.0])
def test_multiplicative_noise_grows_with_the_pre_activation(x):
    noise = noise_of(MultiplicativeNoise(0.1), x=x)
    assert noise.std() == pytest.approx(0.1 * abs(2.0 * 3 * x + 0.5), rel=0.02)


def test_read_noise_is_that_of_every_weight():
    noise = noise_of(ReadNoise(0.1), x=1.5)
    assert noise.std() == pytest.approx(0.1 * 2.0 * 1.5 * 3**0.5, rel=0.02)


def test_telegraph_noise_has_two_levels_and_its_rate_of_jumps():
    noise = noise_of(TelegraphNoise(0.25, 0.08))
    assert sorted({round(float(v), 5) for v in noise.unique()}) == [-0.25, 0.25]
    assert (noise[1:] != noise[:-1]).float().mean() == pytest.approx(0.08, rel=0.1)


@pytest.mark.parametrize("steps", ["rows", "batches"])
@pytest.mark.parametrize(
    ("model", "decay"),
    [(OrnsteinUhlenbeckNoise(0.3, 5.0), np.exp(-1 / 5)), (TelegraphNoise(0.3, 0.1), 0.8)],
)
def test_slow_noise_goes_on_from_row_to_row_and_from_batch_to_batch(model, decay, steps):
    if steps == "rows":
        noise = noise_of(model)
    else:
        layer = layer_with(model)
        ideal = digital(layer)(torch.ones(1, 3))
        noise = torch.cat([layer(torch.ones(1, 3)) - ideal for _ in range(3000)])
    assert noise.std() == pytest.approx(0.3, rel=0.1)
    for lag in (1, 3):
        assert correlation(noise, lag) == pytest.approx(decay**lag, abs=0.07)


def test_uncorrelated_ornstein_uhlenbeck_noise_is_white():
    assert abs(correlation(noise_of(OrnsteinUhlenbeckNoise(0.3, 0.0)), 1)) < 0.02


def test_offsets_are_fixed_for_the_device():
    noise = noise_of(Offset(0.7, 0.2), rows=5, device_seed=3)
    assert (noise - noise[0]).abs().max() < 1e-6
    assert noise[0].unique().numel() == 4
    again = noise_of(Offset(0.7, 0.2), rows=5, seed=99, device_seed=3)
    torch.testing.assert_close(noise, again)
    assert not torch.equal(noise, noise_of(Offset(0.7, 0.2), rows=5, device_seed=4))
    torch.testing.assert_close(noise_of(Offset(0.7), rows=5), torch.full((5, 4), 0.7))


def effective_weight(layer):
    zero = layer(torch.zeros(1, layer.in_features))
    return (layer(torch.eye(layer.in_features)) - zero).mT


def test_mismatch_is_a_property_of_the_device():
    layer = layer_with(WeightMismatch(0.3), inputs=200, outputs=100, device_seed=1)
    ratio = effective_weight(layer) / layer.weight
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)
    assert ratio.std() == pytest.approx(0.3, rel=0.02)
    layer.weight.mul_(-3.0)  # writing other weights to it does not make it another device
    torch.testing.assert_close(effective_weight(layer) / layer.weight, ratio, rtol=1e-4, atol=1e-4)
    twin = layer_with(WeightMismatch(0.3), seed=5, inputs=200, outputs=100, device_seed=1)
    torch.testing.assert_close(effective_weight(twin) / twin.weight, ratio, rtol=1e-4, atol=1e-4)
    assert (effective_weight(layer_with(WeightMismatch(5.0), inputs=50)) > -1e-4).all()


def test_conductance_drifts_by_a_power_law():
    layer = layer_with(ConductanceDrift(0.1, 0.0, onset=100.0))
    assert float(layer(torch.ones(1, 3))[0, 0]) == pytest.approx(6.5)
    layer(torch.ones(899, 3))
    assert float(layer(torch.ones(1, 3))[0, 0]) == pytest.approx(0.5 + 6 * 10**-0.1)
    spread = layer_with(ConductanceDrift(0.1, 0.05, onset=1.0), inputs=50)
    spread(torch.ones(1000, 50))
    ratio = effective_weight(spread) / spread.weight
    assert ratio.std() > 0.1
    assert (ratio < 1 + 1e-4).all()


def test_converters_saturate_and_round():
    layer = layer_with(Converter(bound=6.0, levels=5))
    x = torch.linspace(-2, 2, 101)[:, None].expand(-1, 3)
    assert layer(x).unique().tolist() == [-6, -3, 0, 3, 6]
    assert (layer(x) - digital(layer)(x).clamp(-6, 6)).abs().max() <= 1.5 + 1e-5
    unrounded = layer_with(Converter(bound=6.0, levels=0))
    torch.testing.assert_close(unrounded(x), digital(layer)(x).clamp(-6, 6))


def test_models_apply_in_order_and_with_noise_of_their_own():
    first = noise_of([GaussianNoise(1.0), Converter(bound=6.0, levels=0)], rows=1000)
    assert (first + 6.5 <= 6.0 + 1e-6).all()
    second = noise_of([Converter(bound=6.0, levels=0), GaussianNoise(1.0)], rows=1000)
    assert (second + 6.5 > 6.0).any()
    assert noise_of([GaussianNoise(0.3), GaussianNoise(0.4)]).std() == pytest.approx(0.5, rel=0.02)


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
    put_on_chip(noisy, ["spintronic", "analog", 0.1, OrnsteinUhlenbeckNoise()], seed=0)
    assert noisy(x).shape == expected.shape
    assert (noisy(x) != noisy(x)).all()
    torch.testing.assert_close(digital(noisy)(x), expected)
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
    twin = digital(net)
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
    *(GaussianNoise(0.1), OrnsteinUhlenbeckNoise(0.1, 4.0), TelegraphNoise(0.2, 0.1)),
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
    with pytest.raises(HardwareError, match="another chip"):
        restore_chip(chip(SECRET + 1), capsule)
    for broken in (b"", capsule[:-1], capsule[:60] + b"x" + capsule[61:], b"x" + capsule[1:]):
        with pytest.raises(HardwareError, match="damaged"):
            restore_chip(second, broken)


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


def children(thing):
    """What attributes, items, closures, defaults and module globals of nprobot lead to."""
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)
    if isinstance(thing, types.ModuleType):
        return list(vars(thing).values()) if thing.__name__.startswith("nprobot") else []
    if isinstance(thing, types.FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        ours = (thing.__module__ or "").startswith("nprobot")
        return [*cells, thing.__defaults__, thing.__kwdefaults__, *([thing.__globals__] * ours)]
    if isinstance(thing, torch.Tensor | np.ndarray | str | bytes | int | float | type(None)):
        return []
    found = []
    home = thing if isinstance(thing, type) else type(thing)
    ours = str(home.__module__).startswith(("nprobot", "functools", "weakref"))
    if isinstance(thing, type) and not ours:
        return []
    names = dir(thing) if ours else getattr(thing, "__dict__", {})
    for name in [*names, "__self__", "__func__", "__wrapped__", "__class__"]:
        try:
            found.append(getattr(thing, name))
        except Exception:
            continue
    return found


def reachable(*roots):
    seen, todo = {}, list(roots)
    while todo:
        thing = todo.pop()
        if id(thing) not in seen:
            seen[id(thing)] = thing
            todo += children(thing)
    return list(seen.values())


def is_secret(thing, gain):
    if isinstance(thing, Crossbar | Effect | Site | torch.Generator | np.random.SeedSequence):
        return True
    if isinstance(thing, int):
        return thing == SECRET
    return (
        isinstance(thing, torch.Tensor) and thing.shape == gain.shape and torch.equal(thing, gain)
    )


def test_no_chain_of_attributes_leads_to_noise_seed_or_true_weights():
    layer = layer_with([WeightMismatch(0.3), *resolve("spintronic")], SECRET)
    layer(torch.ones(2, 3))
    gain = next(thing for thing in gc.get_objects() if type(thing) is Mismatch)._gain
    found = reachable(layer, list(vars(weakref.finalize)["_registry"].values()))
    assert any(thing is layer.weight for thing in found)
    assert any(type(thing).__name__ == "Vault" for thing in found)  # the door, shut
    assert not [thing for thing in found if is_secret(thing, gain)]
    # The search does find what is not hidden.
    layer.careless = Site(SECRET, 0)
    assert [thing for thing in reachable(layer) if is_secret(thing, gain)]


def test_neither_text_nor_saved_parameters_tell():
    net = mlp([3, 4, 2])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    put_on_chip(net, "analog", seed=SECRET)
    net(torch.zeros(1, 3))
    assert str(SECRET) not in repr(net)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("copier", [pickle.dumps, copy.copy, copy.deepcopy])
def test_no_copy_can_be_made(copier):
    net = mlp([3, 4, 2])
    put_on_chip(net, 0.1)
    with pytest.raises(NoiseInaccessibleError, match="cannot be copied or pickled"):
        copier(net[0])
    if copier is not copy.copy:
        with pytest.raises(NoiseInaccessibleError, match="digital"):
            copier(net)


def test_the_noise_dies_with_the_network():
    def crossbars():
        gc.collect()
        return sum(type(thing) is Crossbar for thing in gc.get_objects())

    before = crossbars()
    layer = layer_with(0.1)
    assert crossbars() == before + 1
    del layer
    assert crossbars() == before


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), "0.1", None, True])
@pytest.mark.parametrize("model", [GaussianNoise, WeightMismatch, OrnsteinUhlenbeckNoise])
def test_impossible_parameters_are_refused(model, bad):
    with pytest.raises(HardwareError, match=f"{model.__name__}: std="):
        model(bad)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("analogue", "did you mean 'analog'.*spintronic"),
        ({"model": "GaussNoise"}, "did you mean 'GaussianNoise'"),
        ({"model": "GaussianNoise", "sd": 1}, "no parameter 'sd'.*did you mean 'std'"),
        (None, "does not describe noisy hardware"),
        (b"analog", "does not describe"),
        ([GaussianNoise(), None], "does not describe"),
        (-1.0, "at least 0"),
    ],
)
def test_what_describes_no_hardware_is_refused(models, message):
    with pytest.raises(HardwareError, match=message):
        put_on_chip(nn.Linear(2, 2), models)


def test_descriptions_of_hardware():
    assert resolve(0.1) == (GaussianNoise(0.1),)
    assert resolve(["analog", 0.1]) == (*PRESETS["analog"], GaussianNoise(0.1))
    assert resolve(0) == (GaussianNoise(0.0),)
    with pytest.raises(AttributeError):
        GaussianNoise().std = 1.0
    assert issubclass(GaussianNoise, HardwareModel)
    with pytest.raises(HardwareError, match=r"levels=2\.5 must be an integer"):
        Converter(levels=2.5)


def test_networks_that_cannot_be_on_a_chip_are_refused():
    net = mlp([3, 4, 2])
    put_on_chip(net[0], 0.1)
    with pytest.raises(HardwareError, match="already"):
        put_on_chip(net, 0.1)
    with pytest.raises(HardwareError, match="needs layers"):
        put_on_chip(nn.Tanh(), 0.1)
    with pytest.raises(HardwareError, match="groups"):
        put_on_chip(nn.Conv2d(2, 2, 1, groups=2), 0.1)


def test_the_tables_of_the_page_are_those_of_the_models():
    page = (Path(__file__).parents[2] / "docs" / "hardware.md").read_text()
    assert "| **GaussianNoise**" in page
    assert filled(page) == page, "put in what python -m nprobot.policies.hardware_tables prints"
