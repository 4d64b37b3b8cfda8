"""Policies whose actions are known, their controller, and a clock that stands still."""

import numpy as np
import pytest

from nprobot.deploy import Controller
from nprobot.policies.files.policy import BoxAction, ControlTask, Normaliser, Operation, Policy

FEW_AND_MANY = [100, pytest.param(10_000, marks=pytest.mark.slow)]
"""Examples that a test draws; with `-m slow` as many as it takes to be sure."""


def linear_policy(weight, action, task=None, normaliser=None):
    """A policy of one layer without biases."""
    weight = np.asarray(weight, np.float32)
    layer = Operation("linear", {"weight": weight, "bias": np.zeros(len(weight), np.float32)})
    return Policy((weight.shape[1],), (layer,), action, normaliser, task)


def box(bound, size=1):
    return BoxAction(np.full(size, -bound, np.float32), np.full(size, bound, np.float32))


def standard(size):
    """A normaliser that changes next to nothing."""
    return Normaliser(np.zeros(size), np.ones(size), 1e-8, 100.0)


def gain_policy(gain=1.0, bound=2.0, rate=100.0, action=None):
    """Two observations, one action: gain times the first of them."""
    action = action or box(bound)
    weight = np.zeros((action.outputs, 2))
    weight[0, 0] = gain
    return linear_policy(weight, action, ControlTask("Some-v0", {}, rate), standard(2))


def zero_policy(env_id, inputs, action, rate=None):
    """A policy whose outputs are all zero."""
    return linear_policy(np.zeros((action.outputs, inputs)), action, ControlTask(env_id, {}, rate))


def controller(safety=None, policy=None, **options):
    return Controller(policy or gain_policy(), safety=safety, **options)


class FakeClock:
    """Seconds that pass only when told to, or in `sleep`, and `lag` between two looks."""

    def __init__(self, lag=0.0):
        self.now = 0.0
        self.lag = lag

    def __call__(self):
        self.now += self.lag
        return self.now

    def sleep(self, seconds):
        self.now += seconds
