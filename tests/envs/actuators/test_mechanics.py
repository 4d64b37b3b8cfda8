"""Quantisation, dead zone, backlash, limits, lag and faults against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from nprobot.envs.actuators import Backlash, DeadZone, GainLoss, Lag, Quantisation, Saturation


@pytest.mark.parametrize(
    ("model", "robot", "commands", "expected"),
    [
        # Halves to the even multiple.
        (
            Quantisation(0.25),
            {},
            [0.0, 0.1, 0.125, 0.2, -0.3, 0.375],
            [0.0, 0.0, 0.0, 0.25, -0.25, 0.5],
        ),
        (
            DeadZone(0.1),
            {},
            [-0.5, -0.1, -0.05, 0.0, 0.05, 0.1, 0.5],
            [-0.4, 0, 0, 0, 0, 0, 0.4],
        ),
        (
            Backlash(0.2),
            {},
            [0.0, 0.3, 0.5, 0.45, 0.35, 0.31, 0.29, 0.0, 0.05],
            [0, 0.2, 0.4, 0.4, 0.4, 0.4, 0.39, 0.1, 0.1],
        ),
        # About the middle of the range, or about 0.
        (Saturation(0.5), {"low": 0.0, "high": 4.0}, [-9, 1, 2, 3, 9], [1, 1, 2, 3, 3]),
        (
            Saturation(0.5, units="native"),
            {"low": 0.0, "high": 4.0},
            [-9, 0.1, 9],
            [-0.5, 0.1, 0.5],
        ),
        (Lag(0.1), {"dt": 0.02}, [1.0] * 30, 1 - np.exp(-np.arange(1, 31) * 0.02 / 0.1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_models_follow_their_formulas(drive, model, robot, commands, expected):
    assert drive(model, commands, **robot)[:, 0] == pytest.approx(np.array(expected, float))


def test_gain_loss_happens_at_its_time_on_its_actuators(drive):
    v = drive(GainLoss(0.4, at=0.1, actuators=(1,)), np.ones((8, 3)), dt=0.02)
    assert (v[:, [0, 2]] == 1).all()
    assert v[:, 1].tolist() == [1] * 5 + [0.4] * 3


@pytest.mark.parametrize(
    ("clock", "seeds", "expected"),
    [
        ("device", [0, None], [1, 1, 1, 1, 0.4, 0.4]),
        ("episode", [0, None], [1] * 6),
        ("device", [0, None, 0], [1, 1, 1, 1, 0.4, 0.4, 1, 1, 1]),
    ],
)
def test_the_clock_of_a_fault_is_the_devices_or_the_episodes(episodes, clock, seeds, expected):
    realised = episodes(GainLoss(0.4, at=0.08, clock=clock), seeds, steps=3, command=1.0)
    assert realised.ravel().tolist() == expected
