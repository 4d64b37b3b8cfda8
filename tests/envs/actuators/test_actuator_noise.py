"""Statistics of each kind of noise against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nprobot.envs.actuators import (
    DeviceMismatch,
    EpisodeBias,
    GainDrift,
    OffsetDrift,
    OrnsteinUhlenbeckNoise,
    SignalDependentNoise,
    TelegraphNoise,
    WhiteNoise,
)

STEPS = 20_000
DT = 0.02


def correlation(x, y):
    return float(np.mean((x - x.mean()) * (y - y.mean())) / (x.std() * y.std()))


def test_white_noise_is_normal_and_white(drive):
    noise = drive(WhiteNoise(0.1), np.full(STEPS, 0.3))[:, 0] - 0.3
    assert abs(noise.mean()) < 4 * 0.1 / math.sqrt(STEPS)
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert np.mean(np.abs(noise) < 0.1) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.015)
    assert abs(correlation(noise[1:], noise[:-1])) < 4 / math.sqrt(STEPS)


@pytest.mark.parametrize(
    "model",
    [
        WhiteNoise(0.1),
        SignalDependentNoise(0.1),
        OrnsteinUhlenbeckNoise(0.1, 0.001),
        TelegraphNoise(0.1, 0.01),
    ],
    ids=lambda model: type(model).__name__,
)
def test_actuators_are_independent(drive, model):
    noise = drive(model, np.full((STEPS, 3), 0.5)) - 0.5
    correlations = np.corrcoef(noise.T)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 0.04


def test_noise_is_a_fraction_of_each_actuators_half_range(drive):
    low, high = np.array([-3.0, -0.4, 0.0]), np.array([3.0, 0.4, 1.0])
    commands = np.tile((low + high) / 2, (STEPS, 1))
    noise = drive(WhiteNoise(0.1), commands, low=low, high=high) - commands
    assert noise.std(0) == pytest.approx([0.3, 0.04, 0.05], rel=0.03)


def test_native_units_are_the_actions_own(drive):
    noise = drive(WhiteNoise(0.1, units="native"), np.zeros(STEPS), low=-3.0, high=3.0)
    assert noise.std() == pytest.approx(0.1, rel=0.02)


def test_signal_dependent_noise_grows_with_the_command(drive):
    levels = np.array([0.0, 0.1, -0.5, 1.0])
    realised = drive(SignalDependentNoise(0.08), np.tile(levels, (STEPS, 1)))
    assert realised.std(0) == pytest.approx(0.08 * np.abs(levels), rel=0.03)
    assert realised.mean(0) == pytest.approx(levels, abs=4 * 0.08 / math.sqrt(STEPS))


def test_coloured_noise_has_its_correlation_time(drive):
    tau = 0.1
    noise = drive(OrnsteinUhlenbeckNoise(0.2, tau), np.zeros((STEPS, 4)), dt=DT)
    assert noise.std() == pytest.approx(0.2, rel=0.05)
    for lag in (1, 3, 10):
        measured = np.mean([correlation(x[lag:], x[:-lag]) for x in noise.T])
        assert measured == pytest.approx(math.exp(-lag * DT / tau), abs=0.05)


def test_coloured_noise_is_as_strong_at_the_first_step_as_later(episodes):
    first = episodes(OrnsteinUhlenbeckNoise(0.2, 1.0), [0] + [None] * 1499, size=4)
    assert first.std() == pytest.approx(0.2, rel=0.05)


def test_coloured_noise_without_correlation_time_is_white(drive):
    noise = drive(OrnsteinUhlenbeckNoise(0.2, 0.0), np.zeros(STEPS))[:, 0]
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    assert abs(correlation(noise[1:], noise[:-1])) < 4 / math.sqrt(STEPS)


def test_bias_is_constant_in_an_episode_and_new_in_the_next(episodes):
    bias = episodes(EpisodeBias(0.1), [0] + [None] * 1999, size=4, steps=3)
    assert np.ptp(bias, axis=1).max() == 0
    assert bias[:, 0].std() == pytest.approx(0.1, rel=0.05)
    assert abs(correlation(bias[1:, 0, 0], bias[:-1, 0, 0])) < 4 / math.sqrt(2000)


def test_a_device_keeps_its_mismatch_for_life(episodes):
    model = DeviceMismatch(0.3, 0.1, device_seed=7)
    at_half = episodes(model, [0, None], size=4, steps=2, command=0.5)
    again = episodes(model, [99], size=4, command=0.5)
    assert np.ptp(at_half, axis=(0, 1)).max() == 0
    assert (again[0, 0] == at_half[0, 0]).all()
    other = episodes(DeviceMismatch(0.3, 0.1, device_seed=8), size=4, command=0.5)
    assert not np.isclose(other[0, 0], at_half[0, 0]).any()


def test_mismatch_has_the_spread_of_gain_and_offset(episodes):
    model = DeviceMismatch(0.2, 0.1)
    offset = episodes(model, size=3000, command=0.0)[0, 0]
    gain = episodes(model, size=3000, command=1.0)[0, 0] - offset
    assert offset.std() == pytest.approx(0.1, rel=0.05)
    assert gain.std() == pytest.approx(0.2, rel=0.05)
    assert gain.mean() == pytest.approx(1.0, abs=0.02)


def test_mismatch_never_reverses_an_actuator(episodes):
    gain = episodes(DeviceMismatch(1.0), size=3000, command=1.0)[0, 0]
    assert gain.min() == 0


def test_a_device_without_number_follows_from_the_secret_seed(episodes):
    def realised(secret, reset_seed=0):
        model = DeviceMismatch(0.3, device_seed=None)
        return episodes(model, [reset_seed], size=4, command=0.5, secret=secret)

    assert (realised(1) == realised(1, reset_seed=5)).all()
    assert not np.isclose(realised(1), realised(2)).any()


@pytest.mark.parametrize("model", [OffsetDrift, GainDrift])
def test_drift_spreads_with_the_root_of_time(drive, model):
    steps, diffusion = 400, 0.05
    walk = drive(model(diffusion=diffusion, limit=10.0), np.ones((steps, 1000)), dt=DT) - 1.0
    for step in (25, 100, 400):
        expected = diffusion * math.sqrt(step * DT)
        assert walk[step - 1].std() == pytest.approx(expected, rel=0.1)


def test_drift_has_a_rate_a_start_and_a_limit(drive):
    model = OffsetDrift(rate=0.5, diffusion=0.0, limit=0.3, start=0.2)
    offset = drive(model, np.zeros(100), dt=DT)[:, 0]
    step = np.arange(100)
    assert offset == pytest.approx(np.clip((step - 9) * 0.5 * DT, 0, 0.3))


def test_drift_lasts_through_episodes_until_the_actuators_are_new(episodes):
    model = OffsetDrift(rate=1.0, diffusion=0.0, limit=9.0)
    offset = episodes(model, [0, None, 0], steps=3).ravel()
    assert offset == pytest.approx(np.array([1, 2, 3, 4, 5, 6, 1, 2, 3]) * DT)


def test_telegraph_noise_jumps_between_two_levels(drive):
    dwell, amplitude, offset = 0.1, 0.3, 0.05
    noise = drive(TelegraphNoise(amplitude, dwell, offset), np.zeros((STEPS, 4)), dt=DT)
    assert np.unique(noise.round(12)).tolist() == [-0.25, 0.35]
    assert np.mean(noise > 0) == pytest.approx(0.5, abs=0.03)
    for lag in (1, 5):
        measured = np.mean([correlation(x[lag:], x[:-lag]) for x in noise.T])
        assert measured == pytest.approx(math.exp(-2 * lag * DT / dwell), abs=0.03)


def test_telegraph_noise_begins_on_either_level(episodes):
    first = episodes(TelegraphNoise(0.3, 1e6), [0] + [None] * 499, size=4)
    assert np.mean(first > 0) == pytest.approx(0.5, abs=0.05)
