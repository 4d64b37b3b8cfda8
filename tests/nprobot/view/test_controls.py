"""Controls made from dataclasses: kinds, bounds, words, and what visitors may send."""

import math
from dataclasses import fields

import pytest

from nprobot.adaptation.faults import KINDS, ActuatorFault
from nprobot.deploy import Damping, Hold, Safety, Zero
from nprobot.deploy.conditions import Conditions
from nprobot.errors import ConfigError
from nprobot.view import controls_of, with_value


def named(controls):
    return {control.name: control for control in controls}


def test_every_limit_of_the_safety_layer_has_a_control_with_its_explanation():
    controls = named(controls_of(Safety()))
    assert set(controls) == {field.name for field in fields(Safety)}
    assert controls["safe_action"].kind == "choice"
    assert controls["safe_action"].words == ("zero", "hold")  # damping needs to know velocities
    assert controls["slew"].optional
    assert controls["slew"].value is None
    assert controls["max_missed_deadlines"].whole
    assert "stale" in controls["max_age"].help


def test_conditions_become_sliders_between_their_bounds():
    controls = named(
        controls_of(
            Conditions(noise=3.0),
            words={"actuators": ["servo"], "chip": ["analog"], "load_body": []},
            ranges={"latency": (0.0, 0.2)},
        )
    )
    assert (controls["dead_nodes"].low, controls["dead_nodes"].high) == (0.0, 1.0)
    assert (controls["latency"].low, controls["latency"].high) == (0.0, 0.2)
    assert controls["noise"].high == 12.0
    assert controls["actuators"].words == ("none", "servo")
    assert controls["actuators"].value == "none"
    assert "fault" not in controls  # texts have no control
    fault = named(
        controls_of(ActuatorFault("gain", 1, 0.4), words={"kind": list(KINDS), "actuator": ["0"]})
    )
    assert fault["kind"].words == tuple(KINDS)


@pytest.mark.parametrize(
    ("name", "sent", "means"),
    [
        ("dead_nodes", 7, 1.0),
        ("dead_nodes", -7, 0.0),
        ("load", "0.5", 0.5),
        ("actuators", "servo", "servo"),
        ("actuators", "none", None),
    ],
)
def test_what_a_visitor_sends_is_kept_inside_what_the_control_allows(name, sent, means):
    controls = named(controls_of(Conditions(), words={"actuators": ["servo"]}))
    assert controls[name].checked(sent) == means


@pytest.mark.parametrize(
    ("name", "sent"),
    [("load", math.nan), ("load", "much"), ("actuators", "../x"), ("load", [1]), ("load", {})],
)
def test_nonsense_from_a_visitor_is_refused(name, sent):
    controls = named(controls_of(Conditions(), words={"actuators": ["servo"]}))
    with pytest.raises(ConfigError):
        controls[name].checked(sent)


def test_values_go_back_into_the_settings():
    safety = with_value(with_value(Safety(), "slew", 2.0), "safe_action", "hold")
    assert safety == Safety(safe_action=Hold(), slew=2.0)
    assert with_value(safety, "slew", None).slew is None
    damping = Damping((0, 1), 0.3)
    assert "damping" in named(controls_of(Safety(safe_action=damping)))["safe_action"].words
    kept = with_value(Safety(safe_action=damping), "safe_action", "damping")
    assert kept.safe_action == damping
    assert with_value(kept, "safe_action", "zero").safe_action == Zero()
    with pytest.raises(ConfigError, match="slew"):
        with_value(Safety(), "slew", -1.0)
