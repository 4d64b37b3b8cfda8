"""`NoisyActuatorsVector` against one `NoisyActuators` in each sub-environment."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from numpy.random import SeedSequence

from nprobot.envs.actuators import (
    MODELS,
    ActuatorOracle,
    GainLoss,
    Lag,
    NoisyActuators,
    NoisyActuatorsVector,
    Saturation,
    WhiteNoise,
)
from nprobot.errors import ActuatorError, ConfigError

COUNT = 3
#: Every model there is, at its defaults where those do something.
EVERYTHING = [model(0.9) if model is Saturation else model() for model in MODELS.values()] + [
    GainLoss(0.5, at=0.2, clock="episode")
]
MODES = list(AutoresetMode)


def pendulum():
    return gymnasium.make("InvertedPendulum-v5", max_episode_steps=15)


def both(mode, models, *, seed=None, seeds=(None,) * COUNT, oracle=None, **arguments):
    """The same thing made in the two ways."""
    inside = SyncVectorEnv(
        [
            lambda i=i: NoisyActuators(pendulum(), models, seed=seeds[i], **arguments)
            for i in range(COUNT)
        ],
        autoreset_mode=mode,
    )
    outside = NoisyActuatorsVector(
        SyncVectorEnv([pendulum] * COUNT, autoreset_mode=mode),
        models,
        seed=seed,
        oracle=oracle,
        **arguments,
    )
    return inside, outside


def assert_same_info(first, second):
    assert first.keys() == second.keys()
    for key in first:
        if isinstance(first[key], dict):
            assert_same_info(first[key], second[key])
        elif first[key].dtype == object:
            for one, other in zip(first[key], second[key], strict=True):
                assert (one is None) == (other is None)
                assert one is None or (one == other).all()
        else:
            assert (first[key] == second[key]).all(), key
            assert first[key].dtype == second[key].dtype


def assert_same_course(mode, inside, outside, steps=120, seed=0):
    generator = np.random.default_rng(0)
    first, second = inside.reset(seed=seed), outside.reset(seed=seed)
    ends = 0
    for _ in range(steps):
        assert (first[0] == second[0]).all()
        assert_same_info(first[-1], second[-1])
        actions = generator.uniform(-3, 3, (COUNT, 1)).astype(np.float32)
        first, second = inside.step(actions), outside.step(actions)
        assert all((a == b).all() for a, b in zip(first[:-1], second[:-1], strict=True))
        done = first[2] | first[3]
        ends += int(done.sum())
        if mode is AutoresetMode.DISABLED and done.any():
            assert_same_info(first[-1], second[-1])
            first = inside.reset(options={"reset_mask": done})
            second = outside.reset(options={"reset_mask": done})
    assert ends > 20, "episodes must end for this test to say anything"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sensor", [None, WhiteNoise(0.1)])
def test_it_gives_the_numbers_of_single_wrappers(mode, sensor):
    inside, outside = both(mode, EVERYTHING, sensor=sensor)
    assert_same_course(mode, inside, outside)


@pytest.mark.parametrize("mode", MODES)
def test_so_it_does_charging_the_command(mode):
    inside, outside = both(mode, "torque-motor", control_cost="commanded")
    assert_same_course(mode, inside, outside, steps=60 if mode is MODES[0] else 80)


@pytest.mark.parametrize(
    ("seed", "seeds"),
    [
        (7, (7, 8, 9)),
        ([5, None, 6], (5, None, 6)),
        (SeedSequence(3), tuple(SeedSequence(3).spawn(COUNT))),
    ],
)
def test_secret_seeds_go_to_the_sub_environments(seed, seeds):
    inside, outside = both(AutoresetMode.NEXT_STEP, EVERYTHING, seed=seed, seeds=seeds)
    assert_same_course(AutoresetMode.NEXT_STEP, inside, outside)


def test_sub_environments_seeded_one_by_one_and_again():
    inside, outside = both(AutoresetMode.NEXT_STEP, EVERYTHING)
    for seed in ([4, 9, 4], [4, None, 4], [4, 9, 4]):
        assert_same_course(AutoresetMode.NEXT_STEP, inside, outside, seed=seed)


def test_a_seed_sequence_is_not_used_up():
    sequence = SeedSequence(3)
    both(AutoresetMode.NEXT_STEP, "servo", seed=sequence)
    assert sequence.n_children_spawned == 0


def test_noise_streams_of_sub_environments_are_independent():
    oracle = ActuatorOracle()
    count, steps = 4, 5000
    env = NoisyActuatorsVector(
        gymnasium.make_vec("Reacher-v5", count), WhiteNoise(0.1), oracle=oracle
    )
    env.reset(seed=0)
    for _ in range(steps):
        env.step(np.zeros((count, 2), np.float32))
    noise = np.array(oracle.perturbations).reshape(steps, -1)
    noise = noise[np.array(oracle.active).all(1)]
    correlations = np.corrcoef(noise.T)[np.triu_indices(2 * count, 1)]
    assert np.abs(correlations).max() < 0.06


def test_an_action_that_is_ignored_draws_nothing_and_is_reported_so():
    oracle = ActuatorOracle()
    env = NoisyActuatorsVector(
        SyncVectorEnv([pendulum] * COUNT), WhiteNoise(0.1), sensor=WhiteNoise(0.1), oracle=oracle
    )
    env.reset(seed=0)
    seen = 0
    previous = np.zeros(COUNT, bool)
    for _ in range(40):
        actions = np.full((COUNT, 1), 2.0, np.float32)
        _, _, terminated, truncated, info = env.step(actions)
        active = ~previous
        assert (oracle.active[-1] == active).all()
        assert (oracle.realised[-1][previous] == actions[previous]).all()
        assert (oracle.realised[-1][active] != actions[active]).all()
        if active.any():
            assert (info["_actuator_reading"] == active).all()
            assert (info["actuator_reading"][previous] == 0).all()
        seen += int(previous.sum())
        previous = terminated | truncated
    assert seen > 3


def test_it_works_with_sub_environments_in_other_processes():
    def course(maker):
        env = NoisyActuatorsVector(maker([pendulum] * COUNT), [Lag(0.05), WhiteNoise(0.1)])
        env.reset(seed=0)
        rows = [env.step(np.ones((COUNT, 1), np.float32))[0] for _ in range(20)]
        env.close()
        return np.array(rows)

    def forked(functions):
        return AsyncVectorEnv(functions, context="fork")

    assert (course(forked) == course(SyncVectorEnv)).all()


def test_without_noise_it_is_the_identity():
    bare = SyncVectorEnv([pendulum] * COUNT)
    wrapped = NoisyActuatorsVector(SyncVectorEnv([pendulum] * COUNT), "ideal")
    assert_same_course(AutoresetMode.NEXT_STEP, bare, wrapped)


def test_charging_the_command_needs_the_environments_here():
    env = AsyncVectorEnv([pendulum], context="fork")
    try:
        with pytest.raises(ActuatorError, match="in this process"):
            NoisyActuatorsVector(env, "servo", control_cost="commanded")
    finally:
        env.close()


def test_wrong_arguments_are_explained():
    def env():
        return SyncVectorEnv([pendulum] * COUNT)

    with pytest.raises(ConfigError, match="2 seeds were given for 3"):
        NoisyActuatorsVector(env(), "servo", seed=[1, 2])
    with pytest.raises(ConfigError, match="SeedSequence"):
        NoisyActuatorsVector(env(), "servo", seed=-1)
    wrapped = NoisyActuatorsVector(env(), "servo")
    single = SyncVectorEnv([lambda: NoisyActuators(pendulum(), "servo")])
    for noisy in (wrapped, single):
        with pytest.raises(ActuatorError, match="already has noisy actuators"):
            NoisyActuatorsVector(noisy, "servo")
    wrapped.reset(seed=0)
    with pytest.raises(ActuatorError, match=r"\(1, 1\).*\(3, 1\)"):
        wrapped.step(np.zeros((1, 1), np.float32))
