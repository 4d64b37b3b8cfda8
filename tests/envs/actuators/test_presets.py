"""Presets and other ways to name actuators; the page that documents them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from nprobot.envs.actuators import PRESETS, SENSORS, GainLoss, WhiteNoise, resolve
from nprobot.envs.actuators.presets import documentation_tables, with_tables

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "actuators.md"


def test_models_can_be_named_in_every_way():
    white = WhiteNoise(0.1)
    assert resolve(white) == (white,)
    assert resolve(white.to_dict()) == (white,)
    assert resolve("ideal") == ()
    servo = PRESETS["servo"].models
    assert resolve(["servo", white, white.to_dict()]) == (*servo, white, white)


def test_the_presets_are_those_promised():
    promised = {"ideal", "servo", "torque-motor", "worn-gearbox", "easy", "medium", "hard"}
    assert set(PRESETS) == promised
    for preset in (*PRESETS.values(), *SENSORS.values()):
        assert preset.source and preset.about
        written = json.loads(json.dumps([model.to_dict() for model in preset.models]))
        assert resolve(written) == preset.models


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
    for name in documentation_tables():
        assert f"<!-- {name} -->" in page
        assert f"<!-- end {name} -->" in page
    assert with_tables(page) == page, "run python -m nprobot.envs.actuators.presets " + PAGE.name
