"""Models as checked, frozen, documented parameters that survive JSON; streams of noise."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from nprobot.envs.actuators import (
    MODELS,
    PRESETS,
    DeviceMismatch,
    DroppedCommands,
    GainLoss,
    Lag,
    OffsetDrift,
    RandomDelay,
    WhiteNoise,
    model_from_dict,
    scale_noise,
)
from nprobot.envs.actuators.actuator_model import NoiseStream
from nprobot.errors import ConfigError, UnknownNameError


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_frozen_documented_and_survives_json(name):
    model = MODELS[name](actuators=(2, 0))
    again = model_from_dict(json.loads(json.dumps(model.to_dict())))
    assert again == model
    assert hash(again) == hash(model)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.actuators = None
    assert model.formula
    assert model.__doc__.splitlines()[0].endswith(".")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"model": "WhiteNoise", "sdt": 0.1}, "'sdt'; did you mean std"),
        ({"model": "WhiteNoise", "zzz": 0.1}, "known: .*std"),
        ({"model": "WhiteNose"}, "did you mean WhiteNoise"),
        ({"model": 3}, "known: WhiteNoise"),
        ({"model": "WhiteNoise", "units": "natve"}, "did you mean native"),
        ({"model": "GainLoss", "clock": "wall"}, "device"),
    ],
)
def test_unknown_names_are_refused_with_those_that_exist(values, text):
    with pytest.raises(UnknownNameError, match=text):
        model_from_dict(values)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"std": 0.1}, "add a key 'model'"),
        ({"model": "WhiteNoise", "std": "0.1"}, "WhiteNoise: std must be a number"),
        ({"model": "WhiteNoise", "std": True}, "must be a number"),
        ({"model": "WhiteNoise", "std": None}, "must be a number"),
        ({"model": "WhiteNoise", "std": -0.1}, "0 or more"),
        ({"model": "WhiteNoise", "std": math.inf}, "finite"),
        ({"model": "OffsetDrift", "rate": math.nan}, "finite"),
        ({"model": "WhiteNoise", "actuators": []}, "different indices"),
        ({"model": "WhiteNoise", "actuators": [1, 1]}, "different indices"),
        ({"model": "WhiteNoise", "actuators": [-1]}, "0 or more"),
        ({"model": "WhiteNoise", "actuators": 1}, "must be a list"),
        ({"model": "WhiteNoise", "actuators": "01"}, "must be a list"),
        ({"model": "Delay", "steps": 1.5}, "whole number"),
        ({"model": "DroppedCommands", "probability": 1.1}, "1 or less"),
        ({"model": "RandomDelay", "minimum": 3}, "larger than maximum"),
        ({"model": "RandomDelay", "actuators": []}, "different indices"),
    ],
)
def test_wrong_values_are_refused_with_advice(values, text):
    with pytest.raises(ConfigError, match=text):
        model_from_dict(values)


def test_scaling_changes_noise_and_nothing_else():
    unscaled = [Lag(0.1), GainLoss(0.5, at=1.0), RandomDelay(1, 2)]
    models = [
        WhiteNoise(0.1),
        DeviceMismatch(0.2, 0.1),
        OffsetDrift(rate=-0.1, diffusion=0.2, limit=0.3),
        DroppedCommands(0.4, 3),
        *unscaled,
    ]
    white, mismatch, drift, dropped, *others = scale_noise(models, 3)
    assert white.std == pytest.approx(0.3)
    assert (mismatch.gain_std, mismatch.offset_std) == pytest.approx((0.6, 0.3))
    assert (drift.rate, drift.diffusion, drift.limit) == pytest.approx((-0.3, 0.6, 0.3))
    assert (dropped.probability, dropped.steps) == (1.0, 3)
    assert others == unscaled
    assert scale_noise("torque-motor", 1) == PRESETS["torque-motor"].models
    with pytest.raises(ConfigError, match="factor"):
        scale_noise("servo", -1)


def test_noise_blocks_join_without_a_seam():
    """Noise is drawn in blocks; together they must be what one long draw would be."""
    stream = NoiseStream(1, 2, np.random.Generator.standard_normal)
    stream.seed(0, np.random.SeedSequence(4))
    blocks = np.array([stream.take(None)[0].copy() for _ in range(1000)])
    assert (blocks == np.random.default_rng(4).standard_normal((1000, 2))).all()
