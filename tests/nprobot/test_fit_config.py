"""Settings of `nprobot.fit`: checked, and completed by the rule."""

from __future__ import annotations

import pytest

from nprobot import catalogue
from nprobot.errors import ConfigError, UnknownNameError
from nprobot.regression import FitConfig


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"rule": "dann"}, UnknownNameError, "did you mean danp"),
        ({"epoch": 3}, UnknownNameError, "did you mean epochs"),
        ({"epochs": 0}, ConfigError, "epochs must be a whole number from 1, got 0"),
        ({"epochs": 2.5}, ConfigError, "epochs"),
        ({"learning_rate": -1.0}, ConfigError, "learning_rate must be above 0"),
        ({"sigma": float("nan")}, ConfigError, "sigma"),
        ({"whitening": 2.0}, ConfigError, "whitening"),
        ({"weight_decay": -0.1}, ConfigError, "weight_decay"),
        ({"max_row_norm": 0.0}, ConfigError, "max_row_norm"),
        ({"patience": 0}, ConfigError, "patience"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"optimizer": "adma"}, UnknownNameError, "did you mean adam"),
        ({"lr_schedule": "step"}, UnknownNameError, "cosine"),
        ({"epochs": "many"}, ConfigError, "epochs"),
        ({"feedback": True}, ConfigError, "np, inp, dnp, dinp, not for 'danp'"),
        ({"rule": "dnp", "feedback": "yes"}, ConfigError, "feedback must be True or False"),
    ],
)
def test_settings_are_checked(settings, error, match):
    with pytest.raises(error, match=match):
        FitConfig.from_dict(settings)


def test_defaults_depend_on_the_rule():
    rates = {rule: FitConfig(rule).complete().learning_rate for rule in catalogue.rules()}
    assert rates["danp"] > rates["np"]
    assert FitConfig(epochs=100).complete().checkpoint_every == 10
