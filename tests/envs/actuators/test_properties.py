"""Properties that hold for any composition of models, tried on random ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nprobot.envs.actuators import (
    MODELS,
    ActuatorOracle,
    NoisyActuators,
    NoisyActuatorsVector,
    RandomDelay,
    scale_noise,
)

SIZE = 3
few = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


LOW, HIGH = np.array([-1.0, 0.0, -3.0]), np.array([1.0, 0.5, 2.0])


def magnitudes():
    return st.floats(0, 0.5, allow_subnormal=False)


FIELDS = {
    "std": magnitudes(),
    "k": magnitudes(),
    "tau": magnitudes(),
    "gain_std": magnitudes(),
    "offset_std": magnitudes(),
    "device_seed": st.integers(0, 2**40),
    "rate": st.floats(-0.5, 0.5, allow_subnormal=False),
    "diffusion": magnitudes(),
    "start": st.floats(0, 0.3),
    "amplitude": magnitudes(),
    "dwell": st.floats(0.01, 1.0),
    "offset": st.floats(-0.5, 0.5, allow_subnormal=False),
    "step": magnitudes(),
    "width": magnitudes(),
    "limit": magnitudes(),
    "gain": st.floats(0, 2, allow_subnormal=False),
    "at": st.floats(0, 0.3),
    "clock": st.sampled_from(["device", "episode"]),
    "steps": st.integers(1, 5),
    "seconds": st.floats(0, 0.1),
    "minimum": st.integers(0, 2),
    "maximum": st.integers(2, 5),
    "probability": st.floats(0, 1),
    "units": st.sampled_from(["range", "native"]),
    "actuators": st.none() | st.lists(st.integers(0, SIZE - 1), min_size=1, unique=True).map(tuple),
}


@st.composite
def models(draw):
    kind = MODELS[draw(st.sampled_from(sorted(MODELS)))]
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: draw(FIELDS[name]) for name in names})


chains = st.lists(models(), min_size=1, max_size=5)
seeds = st.integers(0, 2**32)


def commands(steps):
    return np.random.default_rng(0).uniform(LOW - 0.2, HIGH + 0.2, (steps, SIZE))


@pytest.fixture
def robot(still):
    """Three actuators with ranges of their own, and episodes of a given length."""
    return lambda steps=7: still(SIZE, LOW, HIGH, steps=steps)


@pytest.fixture
def realised(robot):
    def realise(chain, *, seed=0, **arguments):
        oracle = ActuatorOracle()
        env = NoisyActuators(robot(), chain, oracle=oracle, **arguments)
        env.reset(seed=seed)
        for command in commands(25):
            if env.step(command)[3]:
                env.reset()
        return np.array(oracle.realised)

    return realise


@few
@given(chains, seeds)
def test_equal_seeds_make_equal_actions_inside_the_range(realised, chain, seed):
    first = realised(chain, seed=seed)
    assert (first == realised(chain, seed=seed)).all()
    assert np.isfinite(first).all()
    assert (first >= LOW).all()
    assert (first <= HIGH).all()


@few
@given(chains, seeds)
def test_without_noise_nothing_depends_on_the_seed(realised, chain, seed):
    quiet = [m for m in scale_noise(chain, 0) if not isinstance(m, RandomDelay)]
    assert (realised(quiet, seed=seed, clip="none") == realised(quiet, clip="none")).all()


@few
@given(chains, st.lists(st.integers(1, 9), min_size=1, max_size=4), seeds)
def test_a_vector_is_as_many_single_wrappers(robot, chain, lengths, seed):
    oracle = ActuatorOracle()
    vector = NoisyActuatorsVector(
        SyncVectorEnv([lambda n=n: robot(n) for n in lengths]), chain, oracle=oracle, seed=seed
    )
    alone = [ActuatorOracle() for _ in lengths]
    singles = SyncVectorEnv(
        [
            lambda i=i, n=n: NoisyActuators(robot(n), chain, seed=seed + i, oracle=alone[i])
            for i, n in enumerate(lengths)
        ]
    )
    vector.reset(seed=5)
    singles.reset(seed=5)
    for command in commands(20):
        together = np.tile(command, (len(lengths), 1))
        vector.step(together)
        singles.step(together)
    for row, one in enumerate(alone):
        stepped = [
            v[row] for v, active in zip(oracle.realised, oracle.active, strict=True) if active[row]
        ]
        assert (np.array(stepped) == np.array(one.realised)).all()
