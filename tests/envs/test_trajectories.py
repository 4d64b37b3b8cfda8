"""Trajectories keep their limits, and velocities and accelerations are what positions say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nprobot.envs.arm import WORKING_LIMITS
from nprobot.envs.trajectories import (
    JointLimits,
    minimum_jerk,
    point_to_point,
    rhythmic,
    synergies,
)
from nprobot.errors import ConfigError

MOTIONS = [rhythmic, point_to_point]
MIXING = synergies(7, 0.8)


def draw(motion, seed=0, limits=WORKING_LIMITS, **arguments):
    arguments = {"duration": 5.0, "mixing": MIXING, **arguments}
    return motion(np.random.default_rng(seed), limits, **arguments)


@pytest.mark.parametrize("motion", MOTIONS)
def test_velocity_and_acceleration_are_the_derivatives_of_position(motion):
    fine = draw(motion, seed=3, rate=2000.0)
    h = fine.time[1]
    velocity = (fine.position[2:] - fine.position[:-2]) / (2 * h)
    acceleration = (fine.velocity[2:] - fine.velocity[:-2]) / (2 * h)
    assert np.abs(velocity - fine.velocity[1:-1]).max() < 1e-4
    # Minimum-jerk moves start with a jump of the jerk, not of the acceleration.
    assert np.abs(acceleration - fine.acceleration[1:-1]).max() < 0.1
    assert np.median(np.abs(acceleration - fine.acceleration[1:-1])) < 1e-3


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    joints=st.integers(1, 9),
    speed=st.floats(0.01, 20.0),
    strength=st.floats(0.0, 1.0),
    motion=st.sampled_from(MOTIONS),
)
def test_no_trajectory_leaves_its_limits(seed, joints, speed, strength, motion):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-3, 0, joints)
    limits = JointLimits(
        low, low + rng.uniform(0.1, 4, joints), np.full(joints, 2.0), np.full(joints, 9.0)
    ).scaled(speed)
    done = motion(rng, limits, duration=2.0, mixing=synergies(joints, strength))
    slack = 1 + 1e-9
    assert (done.position >= limits.low - 1e-9).all()
    assert (done.position <= limits.high + 1e-9).all()
    assert (np.abs(done.velocity) <= limits.speed * slack).all()
    assert (np.abs(done.acceleration) <= limits.acceleration * slack).all()


@pytest.mark.parametrize("motion", MOTIONS)
def test_same_seed_same_movement_at_any_rate(motion):
    coarse, fine = draw(motion, rate=100.0), draw(motion, rate=500.0)
    assert len(coarse) == 500 and len(fine) == 2500
    assert np.allclose(coarse.position, fine.position[::5], atol=1e-12)
    assert not np.allclose(coarse.position, draw(motion, seed=1).position)


def test_minimum_jerk_is_at_rest_at_both_ends_and_peaks_in_the_middle():
    position, velocity, acceleration = minimum_jerk(np.array([-1.0, 0.0, 0.5, 1.0, 2.0]))
    assert np.allclose(position, [0, 0, 0.5, 1, 1])
    assert np.allclose(velocity, [0, 0, 15 / 8, 0, 0])
    assert np.allclose(acceleration, 0)


def test_synergies_correlate_joints():
    def correlation(strength):
        mixing = synergies(7, strength)
        position = np.concatenate(
            [draw(point_to_point, seed, mixing=mixing).position for seed in range(60)]
        )
        return np.abs(np.corrcoef(position.T) - np.eye(7)).max()

    assert correlation(0.0) < 0.35
    assert correlation(0.8) > 0.7


@pytest.mark.parametrize("motion", MOTIONS)
def test_impossible_arguments_are_refused(motion):
    for bad in (
        {"duration": 0.0},
        {"rate": -1.0},
        {"duration": 0.001},
        {"mixing": np.ones((3, 3))},
    ):
        with pytest.raises(ConfigError):
            draw(motion, **bad)
    with pytest.raises(ConfigError, match="harmonics"):
        draw(rhythmic, harmonics=0)
    with pytest.raises(ConfigError, match="pace"):
        draw(point_to_point, pace=(0.0, 1.0))
    with pytest.raises(ConfigError, match="strength"):
        synergies(7, 1.5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("low", [9.0, 0.0], "low < high"),
        ("speed", [0.0, 1.0], "positive"),
        ("high", [1.0], "shape"),
        ("acceleration", [np.nan, 1.0], "finite"),
    ],
)
def test_impossible_limits_are_refused(field, value, message):
    good = {
        "low": [-1.0, -1.0],
        "high": [1.0, 1.0],
        "speed": [1.0, 1.0],
        "acceleration": [1.0, 1.0],
    }
    with pytest.raises(ConfigError, match=message):
        JointLimits(**{**good, field: np.array(value)})
