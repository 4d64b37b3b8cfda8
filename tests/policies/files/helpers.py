"""What the tests of policy files share: policies with every kind of action, observations."""

import numpy as np

from nprobot.policies import (
    BoxAction,
    ControlTask,
    DiscreteAction,
    Normaliser,
    Operation,
    Policy,
)
from nprobot.policies.files.policy import KINDS

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
BETWEEN = [name for name in KINDS if name not in ("linear", "flatten")]
"""Kinds of operations that may stand between linear ones."""


def made(action=ACTIONS["clip"], between=("tanh",), shape=(5,), normalise=True):
    """A policy with random weights and some operations, a linear one after each."""
    rng = np.random.default_rng(0)
    normaliser = Normaliser(rng.normal(size=shape), rng.uniform(0.1, 4, shape), 1e-8, 10.0)
    sizes = [int(np.prod(shape)), *[16] * len(between), action.outputs]
    operations = [Operation("flatten")]
    for i, name in enumerate((None, *between)):
        if name:
            operations.append(Operation(name, settings=dict.fromkeys(KINDS[name].settings, 0.3)))
        weight = 1.5 * rng.normal(size=(sizes[i + 1], sizes[i])) / sizes[i] ** 0.5
        bias = 0.3 * rng.normal(size=sizes[i + 1])
        arrays = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
        operations.append(Operation("linear", arrays))
    return Policy(
        observation_shape=shape,
        operations=tuple(operations),
        action=action,
        normaliser=normaliser if normalise else None,
        task=ControlTask("InvertedPendulum-v5", {"reset_noise_scale": 0.1}, 25.0),
        provenance={"rule": "danp", "licence": "MIT"},
    )


def observations(shape=(5,), batch=64):
    return np.random.default_rng(1).normal(0, 3, (batch, *shape))
