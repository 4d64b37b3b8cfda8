"""What the tests of policy files share: policies with every kind of action, observations."""

import numpy as np

from nprobot.policies.files.operations import SETTINGS, Operation
from nprobot.policies.files.policy import BoxAction, DiscreteAction, Normaliser, Policy, Task

LOW, HIGH = np.array([-0.2, -3.0], np.float32), np.array([0.4, 3.0], np.float32)
ACTIONS = {
    "clip": BoxAction(LOW, HIGH),
    "rescale": BoxAction(LOW, HIGH, "rescale"),
    "two axes": BoxAction(LOW[None], HIGH[None]),
    "float64": BoxAction(LOW.astype(float), HIGH.astype(float)),
    "no bounds": BoxAction(np.full(2, -np.inf, np.float32), np.full(2, np.inf, np.float32)),
    "discrete": DiscreteAction((2,)),
    "switches": DiscreteAction((2, 3), several=True),
}


def made(action=ACTIONS["clip"], activation="tanh", shape=(5,), normalise=True):
    """A policy with random weights."""
    rng = np.random.default_rng(0)
    d = int(np.prod(shape))

    def linear(inputs, outputs):
        weight = rng.normal(size=(outputs, inputs)).astype(np.float32) / inputs**0.5
        return Operation(
            "linear", {"weight": weight, "bias": rng.normal(size=outputs).astype(np.float32)}
        )

    between = [] if activation == "linear" else [_plain(activation)]
    normaliser = Normaliser(rng.normal(size=shape), rng.uniform(0.1, 4, shape), 1e-8, 10.0)
    return Policy(
        shape,
        (Operation("flatten"), linear(d, 16), *between, linear(16, action.outputs)),
        action,
        normaliser if normalise else None,
        Task("InvertedPendulum-v5", {"reset_noise_scale": 0.1}, 25.0),
        {"rule": "danp", "licence": "MIT"},
    )


def _plain(name):
    return Operation(name, settings=dict.fromkeys(SETTINGS.get(name, ()), 0.3))


def observations(shape=(5,), batch=64):
    return np.random.default_rng(1).normal(0, 3, (batch, *shape))
