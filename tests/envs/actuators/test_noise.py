"""Statistics of each kind of noise against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nprobot.envs.actuators import (
    DeviceMismatch,
    EpisodeBias,
    GainDrift,
    NoisyActuators,
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


def episodes(still, models, count, *, size=4, steps=1, seed=0, command=0.0):
    """Realised actions of several episodes, shape (count, steps, size)."""
    env = still(size)
    wrapped = NoisyActuators(env, models, clip="none")
    for number in range(count):
        wrapped.reset(seed=seed if number == 0 else None)
        for _ in range(steps):
            wrapped.step(np.full(size, command))
    return np.array(env.received).reshape(count, steps, size)


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


def test_coloured_noise_is_as_strong_at_the_first_step_as_later(still):
    first = episodes(still, OrnsteinUhlenbeckNoise(0.2, 1.0), 1500)
    assert first.std() == pytest.approx(0.2, rel=0.05)


def test_coloured_noise_without_correlation_time_is_white(drive):
    noise = drive(OrnsteinUhlenbeckNoise(0.2, 0.0), np.zeros(STEPS))[:, 0]
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    assert abs(correlation(noise[1:], noise[:-1])) < 4 / math.sqrt(STEPS)


def test_bias_is_constant_in_an_episode_and_new_in_the_next(still):
    bias = episodes(still, EpisodeBias(0.1), 2000, steps=3)
    assert np.ptp(bias, axis=1).max() == 0
    assert bias[:, 0].std() == pytest.approx(0.1, rel=0.05)
    assert abs(correlation(bias[1:, 0, 0], bias[:-1, 0, 0])) < 4 / math.sqrt(2000)


def test_a_device_keeps_its_mismatch_for_life(still):
    model = DeviceMismatch(0.3, 0.1, device_seed=7)
    at_half = episodes(still, model, 2, steps=2, command=0.5)
    again = episodes(still, model, 1, seed=99, command=0.5)
    assert np.ptp(at_half, axis=(0, 1)).max() == 0
    assert (again[0, 0] == at_half[0, 0]).all()
    other = episodes(still, DeviceMismatch(0.3, 0.1, device_seed=8), 1, command=0.5)
    assert not np.isclose(other[0, 0], at_half[0, 0]).any()


def test_mismatch_has_the_spread_of_gain_and_offset(still):
    model = DeviceMismatch(0.2, 0.1)
    offset = episodes(still, model, 1, size=3000, command=0.0)[0, 0]
    gain = episodes(still, model, 1, size=3000, command=1.0)[0, 0] - offset
    assert offset.std() == pytest.approx(0.1, rel=0.05)
    assert gain.std() == pytest.approx(0.2, rel=0.05)
    assert gain.mean() == pytest.approx(1.0, abs=0.02)


def test_mismatch_never_reverses_an_actuator(still):
    gain = episodes(still, DeviceMismatch(1.0), 1, size=3000, command=1.0)[0, 0]
    assert gain.min() == 0


def test_a_device_without_number_follows_from_the_secret_seed(still):
    def realised(seed, reset_seed=0):
        env = still(4)
        wrapped = NoisyActuators(env, DeviceMismatch(0.3, device_seed=None), seed=seed)
        wrapped.reset(seed=reset_seed)
        wrapped.step(np.full(4, 0.5))
        return env.received[0]

    assert (realised(1) == realised(1)).all()
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


def test_drift_goes_on_through_episodes_until_the_hardware_is_new(still):
    env = still()
    wrapped = NoisyActuators(env, OffsetDrift(rate=1.0, diffusion=0.0, limit=9.0), clip="none")
    for seed in (0, None, 0):
        wrapped.reset(seed=seed)
        for _ in range(3):
            wrapped.step(np.zeros(1))
    assert np.ravel(env.received) == pytest.approx(np.array([1, 2, 3, 4, 5, 6, 1, 2, 3]) * DT)


def test_telegraph_noise_jumps_between_two_levels(drive):
    dwell, amplitude, offset = 0.1, 0.3, 0.05
    noise = drive(TelegraphNoise(amplitude, dwell, offset), np.zeros((STEPS, 4)), dt=DT)
    assert np.unique(noise.round(12)).tolist() == [-0.25, 0.35]
    assert np.mean(noise > 0) == pytest.approx(0.5, abs=0.03)
    for lag in (1, 5):
        measured = np.mean([correlation(x[lag:], x[:-lag]) for x in noise.T])
        assert measured == pytest.approx(math.exp(-2 * lag * DT / dwell), abs=0.03)


def test_telegraph_noise_begins_on_either_level(still):
    first = episodes(still, TelegraphNoise(0.3, 1e6), 500)
    assert np.mean(first > 0) == pytest.approx(0.5, abs=0.05)
