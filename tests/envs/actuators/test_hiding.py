"""Attempts to get at the noise from where a learner stands; all of them must fail."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import types
import weakref

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Space
from numpy.random import BitGenerator, Generator, SeedSequence

from nprobot.envs import ENVIRONMENTS
from nprobot.envs.actuators import (
    ActuatorOracle,
    NoisyActuators,
    NoisyActuatorsVector,
    WhiteNoise,
)
from nprobot.errors import ActuatorError, NoiseInaccessibleError

SECRET = 918_273_645
MODELS = ["torque-motor", WhiteNoise(0.1)]
#: Attributes that lead to the environment's own business: its simulator and its random stream.
PLANT = {"unwrapped", "np_random", "_np_random"}


def made(vector=False, **arguments):
    oracle = ActuatorOracle()
    if vector:
        env = gymnasium.make_vec("Reacher-v5", num_envs=2)
        wrapped = NoisyActuatorsVector(env, MODELS, seed=SECRET, oracle=oracle, **arguments)
    else:
        env = gymnasium.make("Reacher-v5")
        wrapped = NoisyActuators(env, MODELS, seed=SECRET, oracle=oracle, **arguments)
    wrapped.reset(seed=0)
    wrapped.action_space.seed(0)
    for _ in range(5):
        wrapped.step(wrapped.action_space.sample())
    return wrapped, oracle


def of_package(thing, *names):
    return (getattr(thing, "__module__", None) or "").split(".")[0] in names


def children(thing):
    """Everything one step away: attributes, items, closures, and the globals of our functions."""
    if isinstance(thing, dict):
        return list(thing.items())
    if isinstance(thing, (list, tuple, set, frozenset)):
        return list(enumerate(thing))
    if isinstance(thing, types.ModuleType):
        return list(vars(thing).items()) if thing.__name__.startswith("nprobot") else []
    if isinstance(thing, types.FunctionType):
        found = [("cell", cell.cell_contents) for cell in thing.__closure__ or ()]
        found += [("default", thing.__defaults__), ("keyword default", thing.__kwdefaults__)]
        return found + list(thing.__globals__.items()) * of_package(thing, "nprobot")
    if isinstance(thing, type):
        return list(vars(thing).items()) if of_package(thing, "nprobot", "tests") else []
    if isinstance(thing, (str, bytes, int, float, np.ndarray, np.generic, type(None))):
        return []
    everything = of_package(type(thing), "nprobot", "gymnasium", "functools", "weakref", "tests")
    names = dir(thing) if everything else [*getattr(thing, "__dict__", ()), "__self__", "__func__"]
    found = []
    for name in names:
        if name not in PLANT:
            try:
                found.append((name, getattr(thing, name)))
            except Exception:
                continue
    return found


def walk(*roots):
    """Everything that a chain of attributes leads to, with the chain."""
    seen, todo = set(), [((type(root).__name__,), root) for root in roots]
    kept = []
    while todo:
        path, thing = todo.pop()
        if id(thing) in seen or isinstance(thing, (gymnasium.envs.mujoco.MujocoEnv, Space)):
            continue
        seen.add(id(thing))
        kept.append(thing)
        yield path, thing
        if len(path) < 12:
            todo += [((*path, str(name)), child) for name, child in children(thing)]


def leaks(roots, oracle):
    """The chains that lead to the noise, its generator, its seed, or the realised action."""
    secrets = [np.ravel(v) for v in (*oracle.realised, *oracle.perturbations)]
    found = []
    for path, thing in walk(*roots):
        if isinstance(thing, np.ndarray) and thing.dtype.kind == "f" and thing.size:
            flat = thing.ravel()
            bad = any(np.isin(np.float32(secret), np.float32(flat)).all() for secret in secrets)
        elif isinstance(thing, (Generator, BitGenerator, SeedSequence, ActuatorOracle)):
            bad = True
        elif isinstance(thing, int):
            bad = thing == SECRET
        elif isinstance(thing, (str, bytes)):
            bad = str(SECRET) in str(thing)
        else:
            bad = type(thing).__name__ in ("Actuation", "_Chain", "NoiseStream")
        if bad:
            found.append(".".join(path))
    return found


def numbers(thing):
    if isinstance(thing, dict):
        thing = list(thing.values())
    if isinstance(thing, (list, tuple)):
        return functools.reduce(set.union, map(numbers, thing), set())
    if isinstance(thing, (np.ndarray, np.number, float)):
        return set(np.ravel(thing).astype(float).tolist())
    return set()


def shown_in(env, steps=20):
    """Every number that comes out of an environment in some steps, as float32."""
    outputs = [env.reset(seed=0)]
    env.action_space.seed(0)
    outputs += [env.step(0.8 * env.action_space.sample()) for _ in range(steps)]
    return np.float32(sorted(numbers(outputs)))


class Leaky(gymnasium.Wrapper):
    """Hides its noise as one would without thinking: in a closure."""

    def __init__(self, env, oracle):
        super().__init__(env)
        last = {}

        def step(action):
            last["realised"] = np.float32(action + 0.1)
            oracle.record(action, last["realised"], np.ones(1, bool))
            return env.step(last["realised"])

        self.step = step


def test_the_search_finds_noise_that_is_not_hidden():
    oracle = ActuatorOracle()
    env = Leaky(gymnasium.make("Reacher-v5"), oracle)
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    assert any("realised" in path for path in leaks([env], oracle))


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("sensor", [None, "current-sense"])
def test_no_chain_of_attributes_leads_to_the_noise(vector, sensor):
    env, oracle = made(vector, sensor=sensor)
    # The registry of finalisers is where a forgotten reference to the state would be.
    roots = [env, list(vars(weakref.finalize)["_registry"].values())]
    assert leaks(roots, oracle) == []
    # The search did come to the door, and found it shut.
    assert any(path[-1] == "_cell" for path, _ in walk(*roots))


def test_the_wrapper_refers_to_no_noise_even_below_attributes():
    """The garbage collector's view of the wrapper, short of modules, classes and functions."""
    env, _ = made()
    seen, todo = set(), [env]
    while todo:
        thing = todo.pop()
        skip = (type, types.ModuleType, types.FunctionType, gymnasium.envs.mujoco.MujocoEnv, Space)
        if id(thing) in seen or isinstance(thing, skip):
            continue
        seen.add(id(thing))
        assert not isinstance(thing, (Generator, SeedSequence, ActuatorOracle))
        assert type(thing).__name__ not in ("Actuation", "_Chain", "NoiseStream", "lru_cache")
        todo += gc.get_referents(thing)


@pytest.mark.parametrize("sensor", [None, "current-sense"])
@pytest.mark.parametrize("control_cost", ["realised", "commanded"])
def test_observation_and_info_do_not_contain_it(sensor, control_cost):
    oracle = ActuatorOracle()
    env = NoisyActuators(
        gymnasium.make("Reacher-v5"),
        MODELS,
        sensor=sensor,
        control_cost=control_cost,
        oracle=oracle,
    )
    shown = shown_in(env)
    hidden = np.float32([*oracle.realised, *oracle.perturbations]).ravel()
    assert len(hidden) == 2 * 2 * 20
    assert not np.isin(hidden, shown).any()


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize(
    "copier",
    [pickle.dumps, cloudpickle.dumps, copy.copy, copy.deepcopy],
    ids=["pickle", "cloudpickle", "copy", "deepcopy"],
)
def test_no_copy_can_be_made(vector, copier):
    env, _ = made(vector)
    with pytest.raises(NoiseInaccessibleError, match="cannot be copied or pickled"):
        copier(env)


def test_an_oracle_cannot_go_to_another_process():
    with pytest.raises(NoiseInaccessibleError, match="Keep the environment in this process"):
        pickle.dumps(ActuatorOracle())


def test_text_and_spec_show_the_configuration_at_most():
    env, oracle = made()
    text = f"{env!r} {env!s} {env.spec} {env.spec.to_json()}"
    assert str(SECRET) not in text
    assert "seed" not in env.spec.additional_wrappers[-1].kwargs
    assert not any(str(float(part)) in text for v in oracle.realised for part in v)


def test_the_noise_dies_with_the_wrapper():
    """Nothing keeps the state of a wrapper that is gone, and a new one cannot inherit it."""

    def streams():
        gc.collect()
        return sum(type(thing).__name__ == "Actuation" for thing in gc.get_objects())

    before = streams()
    env, _ = made()
    assert streams() == before + 1
    del env
    assert streams() == before


def test_a_saved_state_tells_nothing_without_the_seed():
    env, oracle = made()
    capsule = env.save_actuators()
    readable = capsule.decode("latin-1")
    assert "PCG64" not in readable
    assert "state" not in readable
    assert not any(np.float64(v).tobytes() in capsule for v in oracle.perturbations)
    body = np.frombuffer(capsule[60:], np.uint8)
    counts = np.bincount(body, minlength=256)
    chi_square = float(((counts - body.size / 256) ** 2 / (body.size / 256)).sum())
    assert chi_square < 255 + 5 * np.sqrt(2 * 255)


@pytest.mark.parametrize(
    "sensor", [(), "ideal", WhiteNoise(0.0), {"model": "EpisodeBias"}, {"model": "Quantisation"}]
)
def test_a_sensor_must_be_noisy_itself(sensor):
    with pytest.raises(ActuatorError, match="would give the hidden perturbation away"):
        NoisyActuators(
            gymnasium.make("Reacher-v5"), "servo", sensor=[] if sensor == "ideal" else sensor
        )


def test_the_reading_differs_from_what_the_actuator_did():
    oracle = ActuatorOracle()
    env = NoisyActuators(
        gymnasium.make("Reacher-v5", max_episode_steps=1000),
        WhiteNoise(0.1),
        sensor=WhiteNoise(0.02),
        oracle=oracle,
    )
    env.reset(seed=0)
    readings = []
    for _ in range(1000):
        info = env.step(np.zeros(2, np.float32))[-1]
        readings.append(info["actuator_reading"])
    error = (np.array(readings) - np.array(oracle.realised)).ravel()
    assert (error != 0).all()
    assert error.std() == pytest.approx(0.02, rel=0.1)
    # Were the sensor to draw the same numbers as the actuator, they could be told apart again.
    assert abs(np.corrcoef(error, np.ravel(oracle.perturbations))[0, 1]) < 0.1


@pytest.mark.parametrize("name", ["HalfCheetah-v5", *ENVIRONMENTS])
def test_nothing_that_comes_out_follows_the_realised_action(name):
    """No number in observation or info may be a linear function of it, whatever the scale."""
    oracle = ActuatorOracle()
    env = NoisyActuators(gymnasium.make(name), [WhiteNoise(0.3)], oracle=oracle)
    env.reset(seed=0)
    env.action_space.seed(0)
    rows = []
    for _ in range(60):
        observation, _, _, _, info = env.step(0.5 * env.action_space.sample())
        rows.append(np.concatenate([np.ravel(observation), *map(np.ravel, info.values())]))
    shown = np.array(rows, float)
    shown = shown[:, shown.std(0) > 0]
    known = np.column_stack([np.array(oracle.realised), np.ones(60)])
    residual = shown - known @ np.linalg.lstsq(known, shown, rcond=None)[0]
    explained = 1 - residual.var(0) / shown.var(0)
    assert explained.max() < 0.97
