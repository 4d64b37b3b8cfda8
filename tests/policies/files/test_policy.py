"""A policy in numpy: shapes, bounds, and parts that do not fit each other."""

import numpy as np
import pytest

from nprobot.errors import ArchitectureError, ObservationError
from nprobot.policies import BoxAction, DiscreteAction, Normaliser, Operation, Policy
from nprobot.policies.files.policy import recorded_rule

from .helpers import ACTIONS, HIGH, LOW, made, observations

LINEAR = Operation("linear", {"weight": np.ones((2, 3)), "bias": np.ones(2)})


def test_one_observation_a_batch_and_more_axes():
    policy, x = made(), observations(batch=6)
    one_by_one = np.stack([policy.predict(row) for row in x])
    assert np.allclose(policy.predict(x), one_by_one, atol=1e-5)
    assert policy.predict(x.reshape(2, 3, 5)).shape == (2, 3, 2)
    assert made(ACTIONS["discrete"]).predict(x[0]).shape == ()


@pytest.mark.parametrize("shape", [(4,), (5, 6), ()])
def test_wrong_observation_is_refused(shape):
    with pytest.raises(ObservationError, match=r"takes \(…, 5\)"):
        made().predict(np.zeros(shape))


def test_actions_stay_inside_their_bounds():
    actions = made().predict(observations() * 100)
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()
    assert (actions == HIGH).any()


def test_rescaled_actions_reach_from_bound_to_bound():
    operation = Operation("linear", {"weight": np.eye(1), "bias": np.zeros(1)})
    action = BoxAction(np.array([2.0]), np.array([6.0]), "rescale")
    policy = Policy((1,), (operation,), action)
    assert policy.predict([[-1.0], [0.0], [1.0]]).ravel().tolist() == [2.0, 4.0, 6.0]


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ArchitectureError, match="takes 3 inputs"):
        Policy((4,), (LINEAR,), DiscreteAction((2,)))
    with pytest.raises(ArchitectureError, match="the actions need"):
        Policy((3,), (LINEAR,), DiscreteAction((3,)))
    normaliser = Normaliser(np.zeros(4), np.ones(4), 1e-8, 10.0)
    with pytest.raises(ArchitectureError, match="mean of the observations"):
        Policy((3,), (LINEAR,), DiscreteAction((2,)), normaliser)
    bent = Operation("linear", {"weight": np.ones((2, 3)), "bias": np.ones(3)})
    with pytest.raises(ArchitectureError, match="do not fit"):
        Policy((3,), (bent,), DiscreteAction((2,)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("softmax",), "known: linear"),
        (("linear", {"weight": np.ones((2, 3))}), "takes the arrays"),
        (("tanh", {}, {"alpha": 1.0}), "takes the settings"),
        (("elu", {}, {"alpha": np.nan}), "not finite"),
    ],
)
def test_impossible_operations_are_refused(arguments, message):
    with pytest.raises(ArchitectureError, match=message):
        Operation(*arguments)


def test_rules_of_earlier_versions_are_read():
    assert recorded_rule({"rule": "np", "feedback": True}) == "np+feedback"
    assert recorded_rule({"rule": "np+feedback", "feedback": True}) == "np+feedback"
    assert recorded_rule({"rule": "danp", "feedback": False}) == "danp"
    assert recorded_rule({"rule": None, "feedback": True}) == ""
