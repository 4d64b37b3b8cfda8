"""Descriptions of hardware: what they mean, what is refused, and the tables in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from nprobot.errors import ConfigError
from nprobot.policies import mlp
from nprobot.policies.chip.crossbar import put_on_chip
from nprobot.policies.chip.models import (
    PRESETS,
    Converter,
    GaussianNoise,
    HardwareModel,
    OrnsteinUhlenbeckNoise,
    WeightMismatch,
    resolve,
)
from nprobot.policies.chip.tables import filled


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), "0.1", None, True])
@pytest.mark.parametrize("model", [GaussianNoise, WeightMismatch, OrnsteinUhlenbeckNoise])
def test_impossible_parameters_are_refused(model, bad):
    with pytest.raises(ConfigError, match=f"{model.__name__}: std="):
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
    with pytest.raises(ConfigError, match=message):
        put_on_chip(nn.Linear(2, 2), models)


def test_descriptions_of_hardware():
    assert resolve(0.1) == (GaussianNoise(0.1),)
    assert resolve(["analog", 0.1]) == (*PRESETS["analog"], GaussianNoise(0.1))
    assert resolve(0) == (GaussianNoise(0.0),)
    with pytest.raises(AttributeError):
        GaussianNoise().std = 1.0
    assert issubclass(GaussianNoise, HardwareModel)
    with pytest.raises(ConfigError, match=r"levels=2\.5 must be an integer"):
        Converter(levels=2.5)


def test_networks_that_cannot_be_on_a_chip_are_refused():
    net = mlp([3, 4, 2])
    put_on_chip(net[0], 0.1)
    with pytest.raises(ConfigError, match="already"):
        put_on_chip(net, 0.1)
    with pytest.raises(ConfigError, match="needs layers"):
        put_on_chip(nn.Tanh(), 0.1)
    with pytest.raises(ConfigError, match="groups"):
        put_on_chip(nn.Conv2d(2, 2, 1, groups=2), 0.1)


def test_the_tables_of_the_page_are_those_of_the_models():
    page = (Path(__file__).parents[3] / "docs" / "hardware.md").read_text()
    assert "| **GaussianNoise**" in page
    assert filled(page) == page, "put in what python -m nprobot.policies.chip.tables prints"
