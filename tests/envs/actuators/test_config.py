"""Models as configuration: checked, named, written to JSON and read back; presets; docs."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from nprobot.envs.actuators import (
    MODELS,
    PRESETS,
    SENSORS,
    DeviceMismatch,
    DroppedCommands,
    GainLoss,
    Lag,
    OffsetDrift,
    RandomDelay,
    WhiteNoise,
    model_from_dict,
    resolve,
    scale_noise,
)
from nprobot.envs.actuators.presets import documentation_tables as tables, with_tables as filled
from nprobot.errors import ActuatorError

PAGE = Path(__file__).parents[3] / "docs" / "actuators.md"


@pytest.mark.parametrize("name", MODELS)
def test_every_model_survives_json(name):
    model = dataclasses.replace(MODELS[name](), actuators=(2, 0))
    text = json.dumps(model.to_dict())
    assert model_from_dict(json.loads(text)) == model
    assert hash(model) == hash(model_from_dict(json.loads(text)))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_frozen_and_documented(name):
    model = MODELS[name]()
    field = dataclasses.fields(model)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(model, field, 1)
    assert model.formula
    assert model.__doc__.splitlines()[0].endswith(".")


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"model": "WhiteNoise", "sdt": 0.1}, ActuatorError, "'sdt': did you mean 'std'"),
        ({"model": "WhiteNoise", "zzz": 0.1}, ActuatorError, "It takes std"),
        ({"model": "WhiteNose"}, ActuatorError, "did you mean 'WhiteNoise'"),
        ({"model": None}, ActuatorError, "The models are"),
        ({"std": 0.1}, ActuatorError, "add a key 'model'"),
        ({"model": "WhiteNoise", "std": "0.1"}, ActuatorError, "must be a number"),
        ({"model": "WhiteNoise", "std": True}, ActuatorError, "must be a number"),
        ({"model": "WhiteNoise", "std": None}, ActuatorError, "must be a number"),
        ({"model": "WhiteNoise", "std": -0.1}, ActuatorError, "at least 0 and finite"),
        ({"model": "WhiteNoise", "std": math.nan}, ActuatorError, "at least 0"),
        ({"model": "WhiteNoise", "std": math.inf}, ActuatorError, "finite"),
        ({"model": "WhiteNoise", "units": "natve"}, ActuatorError, "did you mean 'native'"),
        ({"model": "WhiteNoise", "actuators": []}, ActuatorError, "different indices"),
        ({"model": "WhiteNoise", "actuators": [1, 1]}, ActuatorError, "different indices"),
        ({"model": "WhiteNoise", "actuators": [-1]}, ActuatorError, "at least 0"),
        ({"model": "WhiteNoise", "actuators": 1}, ActuatorError, "not a sequence"),
        ({"model": "Delay", "steps": 1.5}, ActuatorError, "must be an integer"),
        ({"model": "DroppedCommands", "probability": 1.1}, ActuatorError, "at most 1"),
        ({"model": "RandomDelay", "minimum": 3}, ActuatorError, "larger than maximum"),
        ({"model": "GainLoss", "clock": "wall"}, ActuatorError, "device"),
    ],
)
def test_wrong_values_are_refused_with_advice(values, error, text):
    with pytest.raises(error, match=text):
        model_from_dict(values)


def test_models_can_be_named_in_every_way():
    white = WhiteNoise(0.1)
    assert resolve(white) == (white,)
    assert resolve(white.to_dict()) == (white,)
    assert resolve("ideal") == ()
    servo = PRESETS["servo"].models
    assert resolve(["servo", white, white.to_dict()]) == (*servo, white, white)
    assert resolve([model.to_dict() for model in servo]) == servo


def test_scaling_changes_noise_and_nothing_else():
    models = [
        WhiteNoise(0.1),
        DeviceMismatch(0.2, 0.1),
        OffsetDrift(rate=-0.1, diffusion=0.2, limit=0.3),
        DroppedCommands(0.4, 3),
        Lag(0.1),
        GainLoss(0.5, at=1.0),
        RandomDelay(1, 2),
    ]
    doubled = scale_noise(models, 3)
    assert doubled[0].std == pytest.approx(0.3)
    assert (doubled[1].gain_std, doubled[1].offset_std) == pytest.approx((0.6, 0.3))
    assert (doubled[2].rate, doubled[2].diffusion) == pytest.approx((-0.3, 0.6))
    assert doubled[2].limit == 0.3
    assert (doubled[3].probability, doubled[3].steps) == (1.0, 3)
    assert list(doubled[4:]) == models[4:]
    assert scale_noise("torque-motor", 1) == PRESETS["torque-motor"].models
    with pytest.raises(ActuatorError, match="factor"):
        scale_noise("servo", -1)


def test_the_presets_are_those_promised():
    promised = {"ideal", "servo", "torque-motor", "worn-gearbox", "easy", "medium", "hard"}
    assert set(PRESETS) == promised
    assert all(preset.source and preset.about for preset in (*PRESETS.values(), *SENSORS.values()))


@pytest.mark.parametrize(
    ("name", "delay", "noise", "repeats"),
    [("easy", 3, 0.1, 1), ("medium", 6, 0.3, 2), ("hard", 9, 1.0, 3)],
)
def test_the_real_world_rl_presets_do_what_the_suite_does(drive, name, delay, noise, repeats):
    command = [0.5 * math.sin(step / 50) for step in range(9000)]
    realised = drive(name, command)[:, 0]
    held = realised.reshape(-1, repeats)
    assert (held == held[:, :1]).all()
    late = [0.0] * delay + command[:-delay]
    error = (realised - late)[::repeats]
    assert error.std() == pytest.approx(noise, rel=0.05)


def test_the_examples_on_the_page_run():
    scope = {}
    blocks = PAGE.read_text(encoding="utf-8").split("```python\n")[1:]
    assert len(blocks) >= 2
    for block in blocks:
        exec(block.split("```")[0], scope)
    assert scope["env"].models[-1] == GainLoss(0.4, at=300.0, actuators=(0,))


def test_the_page_shows_what_the_code_says():
    page = PAGE.read_text(encoding="utf-8")
    for name in tables():
        assert f"<!-- {name} -->" in page
        assert f"<!-- end {name} -->" in page
    assert filled(page) == page, "run python -m nprobot.envs.actuators.tables docs/actuators.md"
