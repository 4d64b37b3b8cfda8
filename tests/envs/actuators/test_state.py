"""Saving the state of actuators and going on from it, without giving it away."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from nprobot.envs.actuators import (
    MODELS,
    ActuatorOracle,
    NoisyActuators,
    NoisyActuatorsVector,
    WhiteNoise,
)
from nprobot.errors import ActuatorError

EVERYTHING = [model() for model in MODELS.values()]


def single(still, models=EVERYTHING, *, seed=3, oracle=None, **arguments):
    return NoisyActuators(
        still(2, steps=9), models, seed=seed, sensor=WhiteNoise(0.1), oracle=oracle, **arguments
    )


def vector(still, models=EVERYTHING, *, seed=3, oracle=None):
    lengths = (5, 7, 11)
    env = SyncVectorEnv([lambda n=n: still(2, steps=n) for n in lengths])
    return NoisyActuatorsVector(env, models, seed=seed, sensor=WhiteNoise(0.1), oracle=oracle)


def run(env, steps, number=0):
    """Readings of some steps; episodes of single environments restart as they end."""
    readings = []
    for step in range(number, number + steps):
        action = np.full(env.action_space.shape, np.sin(step / 3))
        _, _, terminated, truncated, info = env.step(action)
        readings.append(info.get("actuator_reading", np.zeros(env.action_space.shape)))
        if np.ndim(terminated) == 0 and (terminated or truncated):
            env.reset()
    return np.array(readings)


@pytest.mark.parametrize("make", [single, vector])
@pytest.mark.parametrize("before", [0, 1, 40, 256, 300])
def test_a_restored_run_goes_on_with_the_same_numbers(still, make, before):
    first, second = ActuatorOracle(), ActuatorOracle()
    env, again = make(still, oracle=first), make(still, oracle=second)
    env.reset(seed=5)
    run(env, before)
    capsule = env.save_actuators()
    again.reset(seed=99)
    run(again, 17)
    # The environments' own state is the trainer's business; here it is set by hand.
    if make is vector:
        for one, other in zip(env.unwrapped.envs, again.unwrapped.envs, strict=True):
            other.elapsed = one.elapsed
        again.unwrapped._autoreset_envs = env.unwrapped._autoreset_envs.copy()
    else:
        again.unwrapped.elapsed = env.unwrapped.elapsed
    again.restore_actuators(capsule)
    first.clear()
    second.clear()
    readings = run(env, 30, before), run(again, 30, before)
    assert (readings[0] == readings[1]).all()
    assert (np.array(first.realised) == np.array(second.realised)).all()


@pytest.mark.parametrize("make", [single, vector])
def test_saving_disturbs_nothing_and_says_the_same_twice(still, make):
    env, other = make(still), make(still)
    env.reset(seed=5)
    other.reset(seed=5)
    run(env, 10)
    run(other, 10)
    assert env.save_actuators() == env.save_actuators()
    assert env.save_actuators() == other.save_actuators()
    assert (run(env, 10, 10) == run(other, 10, 10)).all()


def test_the_same_wrapper_can_go_back(still):
    env = single(still)
    env.reset(seed=5)
    capsule = env.save_actuators()
    first = run(env, 5)
    env.restore_actuators(capsule)
    env.unwrapped.elapsed = 0
    assert (run(env, 5) == first).all()


def test_another_seed_does_not_open_it(still):
    capsule = single(still, seed=3).save_actuators()
    with pytest.raises(ActuatorError, match="another seed"):
        single(still, seed=4).restore_actuators(capsule)


def test_without_a_seed_nothing_is_saved(still):
    with pytest.raises(ActuatorError, match="without a seed"):
        single(still, seed=None).save_actuators()
    with pytest.raises(ActuatorError, match="without a seed"):
        single(still, seed=None).restore_actuators(single(still).save_actuators())


@pytest.mark.parametrize("place", [0, 30, -1])
def test_a_damaged_state_is_refused(still, place):
    env = single(still)
    capsule = bytearray(env.save_actuators())
    capsule[place] ^= 1
    with pytest.raises(ActuatorError):
        env.restore_actuators(bytes(capsule))


@pytest.mark.parametrize("junk", [b"", b"junk", "text", None])
def test_what_is_no_state_is_refused(still, junk):
    with pytest.raises(ActuatorError, match="no saved state"):
        single(still).restore_actuators(junk)


@pytest.mark.parametrize(
    "change", [{"models": EVERYTHING[1:]}, {"clip": "none"}, {"dt": 0.5}], ids=str
)
def test_a_state_of_other_actuators_is_refused(still, change):
    capsule = single(still).save_actuators()
    with pytest.raises(ActuatorError, match="other models, sensor"):
        single(still, **change).restore_actuators(capsule)


def test_a_refused_state_changes_nothing(still):
    env, other = single(still), single(still)
    env.reset(seed=5)
    other.reset(seed=5)
    with pytest.raises(ActuatorError):
        env.restore_actuators(single(still, clip="none").save_actuators())
    assert env.save_actuators() == other.save_actuators()


def test_a_restored_real_robot_repeats_itself():
    """The whole way: simulator, random stream and actuators put back, and the run repeats."""

    def make():
        return NoisyActuators(gymnasium.make("Reacher-v5"), "worn-gearbox", seed=1)

    env = make()
    env.reset(seed=0)
    for _ in range(20):
        env.step(np.zeros(2, np.float32))
    base = env.unwrapped
    state = base.data.qpos.copy(), base.data.qvel.copy(), env.save_actuators()
    first = [env.step(np.full(2, 0.3, np.float32))[0] for _ in range(10)]
    again = make()
    again.reset(seed=0)
    again.unwrapped.set_state(*state[:2])
    again.restore_actuators(state[2])
    second = [again.step(np.full(2, 0.3, np.float32))[0] for _ in range(10)]
    assert np.array(first) == pytest.approx(np.array(second), abs=1e-12)
