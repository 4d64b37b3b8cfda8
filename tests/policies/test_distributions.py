"""Log-probabilities and entropies against SB3's own, and with an axis of draws."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import make_proba_distribution

from nprobot.errors import ArchitectureError
from nprobot.policies.distributions import action_distribution

SPACES = {
    "box": (spaces.Box(-1, 1, (3,)), 3),
    "discrete": (spaces.Discrete(4), 4),
    "multidiscrete": (spaces.MultiDiscrete([2, 3]), 5),
    "multibinary": (spaces.MultiBinary(3), 3),
}


@pytest.mark.parametrize("kind", SPACES)
def test_agrees_with_sb3_and_broadcasts_over_draws(kind):
    space, size = SPACES[kind]
    parameters = torch.randn(5, 8, size)
    log_std = torch.randn(5, 8, size)
    actions = torch.stack([torch.as_tensor(space.sample(), dtype=torch.float32) for _ in range(8)])
    ours = action_distribution(space)
    outputs = (parameters, log_std) if kind == "box" else (parameters,)
    log_prob, entropy = ours.log_prob(outputs, actions.reshape(8, -1)), ours.entropy(outputs)
    assert log_prob.shape == entropy.shape == (5, 8)
    for k in range(5):
        theirs = make_proba_distribution(space)
        arguments = [parameters[k]] + ([log_std[k]] if kind == "box" else [])
        theirs = theirs.proba_distribution(*arguments)
        torch.testing.assert_close(log_prob[k], theirs.log_prob(actions), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(entropy[k], theirs.entropy(), rtol=1e-4, atol=1e-5)


def test_other_action_spaces_are_refused():
    with pytest.raises(ArchitectureError, match="no policy for action space"):
        action_distribution(spaces.Tuple([spaces.Discrete(2)]))
