"""Each thing that is wrong with a chip against its formula; descriptions of chips; the docs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nprobot.errors import ConfigError
from nprobot.policies.chip import (
    PRESETS,
    ConductanceDrift,
    Converter,
    DeadNodes,
    GaussianNoise,
    MultiplicativeNoise,
    Offset,
    OrnsteinUhlenbeckNodeNoise,
    ReadNoise,
    TelegraphNodeNoise,
    WeightMismatch,
    off_chip_copy,
    put_on_chip,
    resolve,
)
from nprobot.policies.chip.nonidealities import model_table, preset_table

from .conftest import layer_with

ROWS = 20_000


def noise_of(models, rows=ROWS, seed=0, x=1.0, **kwargs):
    """What the models add to the pre-activations of such a layer, (rows, 4)."""
    layer = layer_with(models, seed, **kwargs)
    fed = torch.full((rows, 3), x)
    return layer(fed) - off_chip_copy(layer)(fed)


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
    noise = noise_of(TelegraphNodeNoise(0.25, 0.08))
    assert sorted({round(float(v), 5) for v in noise.unique()}) == [-0.25, 0.25]
    assert (noise[1:] != noise[:-1]).float().mean() == pytest.approx(0.08, rel=0.1)


@pytest.mark.parametrize("steps", ["rows", "batches"])
@pytest.mark.parametrize(
    ("model", "decay"),
    [(OrnsteinUhlenbeckNodeNoise(0.3, 5.0), np.exp(-1 / 5)), (TelegraphNodeNoise(0.3, 0.1), 0.8)],
)
def test_slow_noise_goes_on_from_row_to_row_and_from_batch_to_batch(model, decay, steps):
    if steps == "rows":
        noise = noise_of(model)
    else:
        layer = layer_with(model)
        ideal = off_chip_copy(layer)(torch.ones(1, 3))
        noise = torch.cat([layer(torch.ones(1, 3)) - ideal for _ in range(3000)])
    assert noise.std() == pytest.approx(0.3, rel=0.1)
    for lag in (1, 3):
        assert correlation(noise, lag) == pytest.approx(decay**lag, abs=0.07)


def test_uncorrelated_ornstein_uhlenbeck_noise_is_white():
    assert abs(correlation(noise_of(OrnsteinUhlenbeckNodeNoise(0.3, 0.0)), 1)) < 0.02


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
    assert (layer(x) - off_chip_copy(layer)(x).clamp(-6, 6)).abs().max() <= 1.5 + 1e-5
    unrounded = layer_with(Converter(bound=6.0, levels=0))
    torch.testing.assert_close(unrounded(x), off_chip_copy(layer)(x).clamp(-6, 6))


def test_models_apply_in_order_and_with_noise_of_their_own():
    first = noise_of([GaussianNoise(1.0), Converter(bound=6.0, levels=0)], rows=1000)
    assert (first + 6.5 <= 6.0 + 1e-6).all()
    second = noise_of([Converter(bound=6.0, levels=0), GaussianNoise(1.0)], rows=1000)
    assert (second + 6.5 > 6.0).any()
    assert noise_of([GaussianNoise(0.3), GaussianNoise(0.4)]).std() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), "0.1", None, True])
@pytest.mark.parametrize("model", [GaussianNoise, WeightMismatch, OrnsteinUhlenbeckNodeNoise])
def test_impossible_parameters_are_refused(model, bad):
    with pytest.raises(ConfigError, match=f"{model.__name__}: std must be"):
        model(bad)


@pytest.mark.parametrize(
    ("chip", "message"),
    [
        ("analogue", "did you mean analog.*spintronic"),
        ({"model": "GaussNoise"}, "did you mean GaussianNoise"),
        ({"model": "GaussianNoise", "sd": 1}, "'GaussianNoise.sd'; did you mean GaussianNoise.std"),
        ({"model": "Offset", "value": float("nan")}, "Offset: value must be finite"),
        ({"model": "Converter", "levels": 2.5}, "levels must be a whole number, got 2.5"),
        (None, "does not describe a chip"),
        (b"analog", "does not describe"),
        ([GaussianNoise(), None], "does not describe"),
        (-1.0, "0 or more"),
    ],
)
def test_what_describes_no_chip_is_refused(chip, message):
    with pytest.raises(ConfigError, match=message):
        layer_with(chip)


def test_descriptions_of_chips():
    assert resolve(0.1) == (GaussianNoise(0.1),)
    assert resolve(["analog", 0.1]) == (*PRESETS["analog"], GaussianNoise(0.1))
    assert resolve(0) == (GaussianNoise(0.0),)
    earlier = {"model": "TelegraphNoise", "amplitude": 0.2}
    assert resolve(earlier) == (TelegraphNodeNoise(0.2),)
    with pytest.raises(AttributeError):
        GaussianNoise().std = 1.0


def test_the_tables_of_the_page_are_those_of_the_models():
    page = (Path(__file__).parents[3] / "docs" / "reference" / "chips.md").read_text("utf-8")
    assert model_table() in page, "put in what model_table() returns"
    assert preset_table() in page, "put in what preset_table() returns"


def test_dead_nodes_stay_dead_and_are_as_many_as_was_said():
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2_000)
    put_on_chip(network, DeadNodes(0.2), seed=1)
    first, second = (network(torch.randn(5, 3)) for _ in range(2))
    dead = (first == 0).all(0)
    assert dead.float().mean() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(dead, (second == 0).all(0))
    assert (first[:, ~dead] != 0).all()
