"""A policy whose actions are known, its controller, and a clock that stands still."""

import numpy as np

from nprobot.deploy import Controller
from nprobot.policies.files.policy import BoxAction, ControlTask, Normaliser, Operation, Policy


def gain_policy(gain=1.0, bound=2.0, rate=100.0, action=None):
    """Two observations, one action: gain times the first of them."""
    outputs = action.outputs if action is not None else 1
    weight = np.zeros((outputs, 2), np.float32)
    weight[0, 0] = gain
    layer = Operation("linear", {"weight": weight, "bias": np.zeros(outputs, np.float32)})
    box = BoxAction(np.full(1, -bound, np.float32), np.full(1, bound, np.float32))
    normaliser = Normaliser(np.zeros(2), np.ones(2), 1e-8, 100.0)
    return Policy((2,), (layer,), action or box, normaliser, ControlTask("Some-v0", {}, rate))


def controller(safety=None, policy=None, **options):
    return Controller(policy or gain_policy(), safety=safety, **options)


class FakeClock:
    """Seconds that pass only when told to, and `lag` between two looks."""

    def __init__(self, lag=0.0):
        self.now = 0.0
        self.lag = lag

    def __call__(self):
        self.now += self.lag
        return self.now
