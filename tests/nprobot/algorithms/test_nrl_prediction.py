"""Predictions of reward, their errors, and the advantages that sum these up."""

from __future__ import annotations

import pytest
import torch

from nprobot.algorithms.nrl_prediction import (
    RunningMeanPrediction,
    Transition,
    generalised_advantages,
)

from .nrl_helpers import made


def test_advantages_by_hand():
    errors = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    ended = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    expected = torch.tensor([[1 + 0.5 * 4, 1 + 0.5 * 2], [2 + 0.5 * 4, 2.0], [4.0, 4.0]])
    torch.testing.assert_close(generalised_advantages(errors, ended, 0.5), expected)


def transition(rewards):
    robots = len(rewards)
    nothing = torch.zeros(robots, 1)
    return Transition(
        nothing, torch.tensor(rewards), nothing, torch.zeros(robots), torch.zeros(robots)
    )


def test_running_mean_by_hand():
    prediction = RunningMeanPrediction(0.5)
    assert prediction.error(transition([1.0, 3.0])).tolist() == [-1.0, 1.0]
    assert prediction.error(transition([4.0, 4.0])).tolist() == [2.0, 2.0]
    assert prediction.error(transition([3.0, 3.0])).tolist() == [0.0, 0.0]
    twin = RunningMeanPrediction(0.5)
    twin.load_state_dict(prediction.state_dict())
    assert twin.mean == prediction.mean == 3.0


def test_prediction_errors_are_temporal_differences():
    model = made(gamma=0.9)
    x, successor = torch.randn(4, 3), torch.randn(4, 3)
    rewards, terminated = torch.randn(4), torch.tensor([0.0, 1.0, 0.0, 0.0])
    with torch.no_grad():
        error = model.prediction.error(
            Transition(x, rewards, successor, terminated, ended=terminated)
        )
        values, later = model.policy.values(x), model.policy.values(successor)
    plain = rewards + 0.9 * (1 - terminated) * later - values
    torch.testing.assert_close(error - error.mean(), plain - plain.mean())


def test_the_critic_learns_the_values():
    model = made(gamma=0.5, gae_lambda=0.9, rule_kwargs={"samples": 8}, learning_rate=1e-2)
    x = torch.ones(4, 3)
    no, yes = torch.zeros(4), torch.ones(4)
    for _ in range(150):
        for ended in (no, yes):
            with torch.no_grad():
                model.prediction.error(Transition(x, yes, x, terminated=no, ended=ended))
        logged = model.prediction.learn()
    # Reward 1 for ever, discounted by half: an episode's end that is no terminal one is no end.
    assert model.policy.values(x)[0].item() == pytest.approx(2.0, abs=0.1)
    assert logged["value_loss"] < 0.05
