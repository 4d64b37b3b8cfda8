"""Settings of `nprobot.fit`: checked, and completed by the rule."""

from __future__ import annotations

import pytest

from nprobot import catalogue
from nprobot.errors import ConfigError, RuleError, UnknownNameError
from nprobot.regression import FitConfig


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"rule": "dann"}, UnknownNameError, "did you mean danp"),
        ({"epoch": 3}, UnknownNameError, "did you mean epochs"),
        ({"epochs": 0}, ConfigError, "epochs must be 1 or more, got 0"),
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
        ({"rule": "danp", "feedback": True}, RuleError, "np, inp, dnp, dinp, not for 'danp'"),
        ({"rule": "dnp", "feedback": "yes"}, ConfigError, "feedback must be true or false"),
    ],
)
def test_settings_are_checked(settings, error, match):
    with pytest.raises(error, match=match):
        FitConfig.from_dict(settings)


def test_defaults_are_those_of_the_rule():
    rates = {rule: FitConfig(rule).resolved().learning_rate for rule in catalogue.rules()}
    assert rates["danp"] == rates["bp"] == 1e-2
    assert rates["np"] == rates["np+feedback"] == 3e-3
    assert FitConfig("np", optimizer="sgd").resolved().learning_rate == 1e-2
    assert FitConfig(epochs=100).resolved().checkpoint_every == 10
    config = FitConfig().resolved()
    assert config.rule == catalogue.DEFAULT_RULE
    for name, value in catalogue.rule_named(config.rule).settings.items():
        assert getattr(config, name) == value
    assert FitConfig(samples=3, sigma=0.5).resolved().samples == 3


def test_a_rule_with_feedback_named_as_in_earlier_versions():
    config = FitConfig.from_dict({"rule": "dnp", "feedback": True})
    assert config == FitConfig("dnp+feedback")
    assert config.resolved().learner == "DNP + feedback, K = 1"
    assert FitConfig.from_dict({"rule": "dnp", "feedback": False}) == FitConfig("dnp")
