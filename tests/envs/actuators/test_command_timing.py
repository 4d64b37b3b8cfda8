"""Delays, drop-outs, slow updates, step by step against their formulas; models in a row."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nprobot.envs.actuators import (
    Backlash,
    DeadZone,
    Delay,
    DroppedCommands,
    Lag,
    Latency,
    NoisyActuators,
    Quantisation,
    RandomDelay,
    SampleAndHold,
    StuckCommands,
)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_delay_is_exact_to_the_step(drive, steps):
    u = np.arange(1.0, 11.0) / 10
    v = drive(Delay(steps), u)[:, 0]
    assert v.tolist() == [0.0] * steps + u[: 10 - steps].tolist()


@pytest.mark.parametrize(
    ("seconds", "dt", "steps"),
    [(0.038, 0.02, 2), (0.05, 0.02, 2), (0.004, 0.02, 0), (0.02, 0.02, 1)],
)
def test_latency_and_a_random_delay_without_choice_are_delays(drive, seconds, dt, steps):
    u = np.arange(1.0, 11.0) / 10
    v = drive(Delay(steps), u)
    assert (drive(Latency(seconds), u, dt=dt) == v).all()
    assert (drive(RandomDelay(steps, steps), u) == v).all()


def test_before_the_first_command_an_actuator_rests_inside_its_range(drive):
    v = drive(Delay(1), [3.0, 3.0], low=2.0, high=4.0)[:, 0]
    assert v.tolist() == [2.0, 3.0]


def test_a_random_delay_holds_the_newest_command_that_has_arrived(drive):
    minimum, maximum, steps = 1, 4, 20_000
    u = np.arange(1.0, steps + 1)
    v = drive(RandomDelay(minimum, maximum), u)[:, 0]
    age = np.arange(1.0, steps + 1) - v
    assert (np.diff(v) >= 0).all()
    late = age[maximum:]
    assert late.min() == minimum
    assert late.max() <= maximum
    # The newest is n steps old if it took no longer than n, and all younger ones took longer.
    arrived = np.array([1, 2, 3, 4]) / 4
    expected = arrived * np.cumprod([1.0, *(1 - arrived[:-1])])
    measured = [np.mean(late == n) for n in (1, 2, 3, 4)]
    assert measured == pytest.approx(expected, abs=0.015)


def test_a_random_delay_keeps_a_robots_actuators_together(drive):
    u = np.tile(np.arange(1.0, 201.0)[:, None], (1, 3))
    v = drive(RandomDelay(0, 5), u)
    assert np.ptp(v, axis=1).max() == 0


@pytest.mark.parametrize("steps", [1, 4])
def test_dropped_commands_are_as_frequent_and_as_long_as_they_should_be(drive, steps):
    p, count = 0.05, 20_000
    out = drive(DroppedCommands(p, steps), np.ones((count, 3))) == 0
    assert out.mean() == pytest.approx(p * steps / (p * steps + 1 - p), rel=0.07)
    changes = np.flatnonzero(np.diff(out[:, 0].astype(int)))
    lengths = np.diff(changes)[0 if out[changes[0] + 1, 0] else 1 :: 2]
    assert lengths.min() == steps
    assert (lengths % steps == 0).all()


def test_drop_outs_of_the_actuators_are_independent(drive):
    out = (drive(DroppedCommands(0.3), np.ones((20_000, 3))) == 0).astype(float)
    assert np.abs(np.corrcoef(out.T)[np.triu_indices(3, 1)]).max() < 0.04


def test_stuck_commands_repeat_what_came_before(drive):
    u = np.arange(1.0, 20_001.0)
    v = drive(StuckCommands(0.1, 3), u)[:, 0]
    stuck = v != u
    assert stuck.mean() == pytest.approx(0.3 / (0.3 + 0.9), rel=0.07)
    # While stuck the value is that of the step before the outage; otherwise it is the command.
    held = np.maximum.accumulate(np.where(stuck, 0.0, u))
    assert (v == held).all()


def test_probability_one_drops_everything(drive):
    assert (drive(DroppedCommands(1.0), np.ones(50)) == 0).all()
    assert (drive(StuckCommands(1.0), np.ones(50)) == 0).all()


def test_sample_and_hold_updates_every_few_steps(drive):
    u = np.arange(1.0, 9.0)
    assert drive(SampleAndHold(3), u)[:, 0].tolist() == [1, 1, 1, 4, 4, 4, 7, 7]


@pytest.mark.parametrize(
    "model",
    [Backlash(0.4), Lag(0.1), Delay(2), RandomDelay(1, 3), SampleAndHold(4), StuckCommands(0.5, 3)],
    ids=lambda model: type(model).__name__,
)
def test_an_episode_begins_at_rest(still, model):
    """What a model remembers must not leak from one episode into the next."""

    def first_steps(before):
        env = still()
        wrapped = NoisyActuators(env, model)
        wrapped.reset(seed=1)
        for command in before:
            wrapped.step(np.array([command]))
        wrapped.reset(seed=2)
        env.received.clear()
        for command in (0.1, 0.2, 0.3):
            wrapped.step(np.array([command]))
        return np.ravel(env.received).tolist()

    assert first_steps([]) == first_steps([0.9] * 7)


def test_models_act_in_the_order_given(drive):
    u = [0.3, 0.3]
    assert drive([DeadZone(0.1), Quantisation(0.25)], u)[0, 0] == pytest.approx(0.25)
    assert drive([Quantisation(0.25), DeadZone(0.1)], u)[0, 0] == pytest.approx(0.15)
    lagged = drive([Delay(2), Lag(0.1)], np.ones(10), dt=0.02)[:3, 0]
    assert lagged == pytest.approx([0, 0, 1 - math.exp(-0.2)])
