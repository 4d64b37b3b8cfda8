"""What the tests of SAC and TD3 share."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from unittest import mock

import gymnasium
import numpy as np
import torch

import nprobot
from nprobot.learning.rules import Backpropagation

PLAIN_RULES = [
    name
    for name, rule in nprobot.catalogue.rules().items()
    if not rule.feedback and not rule.traits.peer
]

ALL_RULES = [name for name in PLAIN_RULES if "bp" not in name]


def small(**settings):
    """Arguments of a model that learns from its 21st step on, in little time."""
    return {
        "batch_size": 16,
        "buffer_size": 500,
        "learning_starts": 20,
        "policy_kwargs": {"net_arch": [16, 16]},
        "device": "cpu",
        **settings,
    }


class Toy(gymnasium.Env):
    """Reward for matching a function of the observation; any space, one step an episode."""

    def __init__(self, observation_space, action_space):
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        reward = -float(np.mean(np.abs(np.asarray(action, dtype=np.float64) - 0.5)))
        return self.observation_space.sample(), reward, True, False, {}


class ExactGradients(Backpropagation):
    """Backpropagation by another name, so that a model takes the rules' loop and not SB3's."""

    name = "exact"


def ours_by_bp(make, env, arguments, steps):
    """A model that has learned in the rules' loop by exact gradients."""
    return make("MlpPolicy", env, rule=ExactGradients(), **arguments).learn(steps)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


def passes_of(model):
    return model.rule.forward_passes, model.rule.backward_passes


@contextmanager
def no_backward():
    """Any backward pass raises."""
    with ExitStack() as stack:
        for where, what in (
            (torch.Tensor, "backward"),
            (torch.autograd, "backward"),
            (torch.autograd, "grad"),
        ):
            stack.enter_context(mock.patch.object(where, what, side_effect=AssertionError))
        yield
