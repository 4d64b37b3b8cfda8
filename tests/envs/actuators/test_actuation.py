"""Random streams of actuators: what they follow from, that no reset replays them, saved states."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from nprobot.envs.actuators import (
    MODELS,
    ActuatorOracle,
    EpisodeBias,
    NoisyActuators,
    NoisyActuatorsVector,
    WhiteNoise,
)
from nprobot.errors import ActuatorError, DamagedFileError

EVERYTHING = [model() for model in MODELS.values()]


def single(still, models=EVERYTHING, *, seed=3, **arguments):
    return NoisyActuators(still(2, steps=9), models, seed=seed, sensor=WhiteNoise(0.1), **arguments)


def vector(still, models=EVERYTHING, *, seed=3, **arguments):
    env = SyncVectorEnv([lambda n=n: still(2, steps=n) for n in (5, 7, 11)])
    return NoisyActuatorsVector(env, models, seed=seed, sensor=WhiteNoise(0.1), **arguments)


both = pytest.mark.parametrize("make", [single, vector])


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


# -- what the noise follows from ---------------------------------------------------------------


def test_other_seeds_make_other_noise(episodes):
    def noise(secret, reset_seed):
        return tuple(episodes(WhiteNoise(0.1), [reset_seed], size=3, secret=secret).ravel())

    seeds = [(None, 0), (None, 1), (0, None), (1, None), (0, 0), (0, 1), (1, 0)]
    draws = [noise(*pair) for pair in seeds]
    assert draws == [noise(*pair) for pair in seeds]
    draws += [noise(None, None), noise(None, None)]
    assert len(set(draws)) == len(draws)


def test_noise_is_not_the_environments_own_stream(episodes):
    noise = episodes(WhiteNoise(1.0), [7], size=3).ravel()
    assert not np.isclose(noise, np.random.default_rng(7).standard_normal(3)).any()


def test_a_model_more_does_not_change_what_the_others_draw(episodes):
    def realised(*models):
        return episodes(models, size=2, steps=3)

    white, bias = realised(WhiteNoise(0.1)), realised(WhiteNoise(0), EpisodeBias(0.1))
    assert realised(WhiteNoise(0.1), EpisodeBias(0.1)) == pytest.approx(white + bias)
    assert realised(WhiteNoise(0.3)) == pytest.approx(3 * white)


# -- resets ------------------------------------------------------------------------------------


def resets(make, still, seeds, *, secret=3, oracle=None, models=EVERYTHING):
    """Realised actions and readings after each of some resets: arrays of shape (resets, …)."""
    watched = oracle or ActuatorOracle()
    env = make(still, models, seed=secret, oracle=watched, clip="none")
    readings, realised = [], []
    for seed in seeds:
        env.reset(seed=seed)
        watched.clear()
        readings.append(run(env, 4))
        realised.append(np.array(watched.realised))
    return np.array(realised), np.array(readings)


NOISE = [WhiteNoise(0.1), EpisodeBias(0.1)]


@both
@pytest.mark.parametrize("secret", [3, None])
def test_no_reset_replays_noise_and_all_resets_together_are_repeatable(still, make, secret):
    first = resets(make, still, [5, 5, None, 5, 6, 5], secret=secret, models=NOISE)
    again = resets(make, still, [5, 5, None, 5, 6, 5], secret=secret, models=NOISE)
    for numbers, others in zip(first, again, strict=True):
        assert (numbers == others).all()
        flat = numbers.reshape(len(numbers), -1)
        assert len(np.unique(flat)) == flat.size, "a number came back"


@both
def test_an_oracle_that_asks_for_it_sees_the_same_noise_again(still, make):
    replay = resets(make, still, [5, None, 5], oracle=ActuatorOracle(replay=True))
    once = resets(make, still, [5, None, 5])
    for repeated, drawn in zip(replay, once, strict=True):
        assert (repeated[0] == repeated[2]).all()
        assert (repeated[:2] == drawn[:2]).all()
        assert (repeated[2] != drawn[2]).any()


def test_watching_changes_nothing(still):
    def received(oracle):
        env = NoisyActuators(still(2), EVERYTHING, seed=3, oracle=oracle)
        for _ in range(3):
            env.reset(seed=5)
            env.step(np.zeros(2))
        return np.array(env.unwrapped.received)

    assert (received(None) == received(ActuatorOracle())).all()


def test_a_seed_repeats_the_task_and_the_spec_says_that_it_repeats_no_noise():
    env = NoisyActuators(gymnasium.make("Reacher-v5"), "servo", seed=3)
    starts = [env.reset(seed=5)[0] for _ in range(2)]
    assert (starts[0] == starts[1]).all()
    assert env.spec.nondeterministic
    assert not NoisyActuators(gymnasium.make("Reacher-v5"), "ideal").spec.nondeterministic


# -- saved states ------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("before", [0, 1, 40, 256, 300])
def test_a_restored_run_continues_with_the_same_numbers(still, make, before):
    first, second = ActuatorOracle(), ActuatorOracle()
    env, again = make(still, oracle=first), make(still, oracle=second)
    for _ in range(2):
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
    assert (run(env, 30, before) == run(again, 30, before)).all()
    for each in (env, again):
        each.reset(seed=5)
    assert (run(env, 4) == run(again, 4)).all(), "the number of resets must be part of the state"
    assert (np.array(first.realised) == np.array(second.realised)).all()


@both
def test_saving_disturbs_nothing_and_says_the_same_twice(still, make):
    env, other = make(still), make(still)
    for each in (env, other):
        each.reset(seed=5)
        run(each, 10)
    assert env.save_actuators() == env.save_actuators() == other.save_actuators()
    assert (run(env, 10, 10) == run(other, 10, 10)).all()


def test_the_same_wrapper_can_go_back(still):
    env = single(still)
    env.reset(seed=5)
    capsule = env.save_actuators()
    first = run(env, 5)
    env.restore_actuators(capsule)
    env.unwrapped.elapsed = 0
    assert (run(env, 5) == first).all()


def test_without_a_seed_nothing_is_saved(still):
    with pytest.raises(ActuatorError, match="without a seed"):
        single(still, seed=None).save_actuators()
    with pytest.raises(ActuatorError, match="without a seed"):
        single(still, seed=None).restore_actuators(single(still).save_actuators())


def flipped(place):
    def flip(capsule):
        damaged = bytearray(capsule)
        damaged[place] ^= 1
        return bytes(damaged)

    return flip


@pytest.mark.parametrize(
    ("alter", "arguments", "error", "text"),
    [
        (bytes, {"seed": 4}, DamagedFileError, "another seed"),
        (flipped(30), {}, DamagedFileError, "damaged"),
        (flipped(-1), {}, DamagedFileError, "damaged"),
        (flipped(0), {}, DamagedFileError, "no saved state"),
        (lambda _: b"", {}, DamagedFileError, "no saved state"),
        (lambda _: "text", {}, DamagedFileError, "no saved state"),
        (lambda _: None, {}, DamagedFileError, "no saved state"),
        (bytes, {"models": EVERYTHING[1:]}, ActuatorError, "other models, sensor"),
        (bytes, {"clip": "none"}, ActuatorError, "other models, sensor"),
        (bytes, {"dt": 0.5}, ActuatorError, "other models, sensor"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    still, alter, arguments, error, text
):
    capsule = alter(single(still).save_actuators())
    env, other = single(still, **arguments), single(still, **arguments)
    with pytest.raises(error, match=text):
        env.restore_actuators(capsule)
    assert env.save_actuators() == other.save_actuators()
