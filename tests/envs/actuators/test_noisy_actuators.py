"""`NoisyActuators` as a gymnasium wrapper: contract, identity, clipping, errors."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from nprobot.envs.actuators import (
    ActuatorOracle,
    DroppedCommands,
    EpisodeBias,
    GainLoss,
    Lag,
    NoisyActuators,
    OffsetDrift,
    OrnsteinUhlenbeckNoise,
    WhiteNoise,
    scale_noise,
)
from nprobot.errors import ActuatorError, ConfigError, UnknownNameError

ALL_KINDS = [
    WhiteNoise(0.1),
    OrnsteinUhlenbeckNoise(0.1, 0.1),
    EpisodeBias(0.1),
    OffsetDrift(diffusion=0.1),
    DroppedCommands(0.1),
    Lag(0.05),
]


def trajectory(env, steps=150, seed=0):
    """All that comes out in some steps of random actions, episodes restarting as they end."""
    out = [env.reset(seed=seed)]
    env.action_space.seed(seed)
    for _ in range(steps):
        out.append(env.step(env.action_space.sample()))
        if out[-1][2] or out[-1][3]:
            out.append(env.reset())
    return out


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert (one[0] == other[0]).all()
        assert one[1:] == other[1:]


@pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "Reacher-v5", "HalfCheetah-v5"])
@pytest.mark.parametrize(
    "models",
    ["ideal", scale_noise(ALL_KINDS[:5], 0), [Lag(0.0), GainLoss(1.0)]],
    ids=["ideal", "no noise", "no effect"],
)
@pytest.mark.parametrize("control_cost", ["realised", "commanded"])
def test_without_noise_it_is_the_identity(env_id, models, control_cost):
    bare = trajectory(gymnasium.make(env_id))
    wrapped = NoisyActuators(gymnasium.make(env_id), models, control_cost=control_cost)
    assert_same(trajectory(wrapped), bare)


@pytest.mark.parametrize("action", [np.array([0.1, 0.7]), np.float32([0.1, -0.0]), [0, 1]])
def test_without_noise_actions_keep_value_and_type(still, received, action):
    (got,) = received("ideal", [action], still(2, dtype=np.float32))
    assert (got == action).all()
    if isinstance(action, np.ndarray):
        assert got.dtype == action.dtype
        assert (np.signbit(got) == np.signbit(action)).all()


def test_wrapping_does_not_change_the_environments_random_stream():
    bare, wrapped = gymnasium.make("Reacher-v5"), gymnasium.make("Reacher-v5")
    noisy = NoisyActuators(wrapped, ALL_KINDS)
    for seed in (4, None, None, 9, None):
        goals = [env.reset(seed=seed)[0] for env in (bare, noisy)]
        assert (goals[0] == goals[1]).all()
        for _ in range(3):
            noisy.step(np.zeros(2, np.float32))
    assert bare.np_random.bit_generator.state == noisy.np_random.bit_generator.state


@pytest.mark.parametrize(
    ("clip", "expected"),
    [("none", 3.0), ("realised", 1.0), ("command", 2.0), ("both", 1.0)],
)
def test_clipping_is_what_was_asked_for(still, received, clip, expected):
    drift = OffsetDrift(rate=50.0, diffusion=0, limit=1.0)
    assert received(drift, [np.array([2.0])], still(), clip=clip) == [expected]


@pytest.mark.parametrize("models", ["servo", "torque-motor", "worn-gearbox", "hard", ALL_KINDS])
def test_the_environment_checkers_are_content(models):
    env = NoisyActuators(gymnasium.make("Reacher-v5"), models, sensor="current-sense")
    check_env(env, skip_render_check=True)
    check_env_for_sb3(env)


def test_the_spec_rebuilds_the_wrapped_environment():
    env = NoisyActuators(
        gymnasium.make("Reacher-v5", max_episode_steps=20),
        ["servo", GainLoss(0.5, at=0.1, actuators=(1,)), WhiteNoise(0.02, units="native")],
        sensor=WhiteNoise(0.02),
        control_cost="commanded",
        clip="both",
        dt=0.05,
    )
    text, first = env.spec.to_json(), trajectory(env)
    for again in (gymnasium.make(env.spec), gymnasium.make(EnvSpec.from_json(text))):
        layer = again
        while not isinstance(layer, NoisyActuators):
            layer = layer.env
        assert layer.models == env.models
        assert layer.sensor == env.sensor
        second = trajectory(again)
        assert all((a[0] == b[0]).all() for a, b in zip(first, second, strict=True))
        assert [row[1] for row in first] == [row[1] for row in second]


@pytest.mark.parametrize("vec_env_cls", [None, SubprocVecEnv])
def test_it_works_in_sb3s_vectorised_environments(vec_env_cls):
    def run():
        venv = make_vec_env(
            "InvertedPendulum-v5",
            n_envs=2,
            seed=0,
            wrapper_class=NoisyActuators,
            wrapper_kwargs={"models": ALL_KINDS, "sensor": WhiteNoise(0.1), "seed": 1},
            vec_env_cls=vec_env_cls,
            vec_env_kwargs={"start_method": "fork"} if vec_env_cls else None,
        )
        rows = [venv.reset()]
        for _ in range(40):
            observations, _, _, infos = venv.step(np.zeros((2, 1), np.float32))
            readings = [info["actuator_reading"] for info in infos]
            rows.append(np.column_stack([observations, readings]))
        capsules = venv.env_method("save_actuators")
        models = venv.get_attr("models")
        venv.close()
        return rows, capsules, models

    first, second = run(), run()
    assert all((a == b).all() for a, b in zip(first[0], second[0], strict=True))
    assert first[1] == second[1]
    assert first[2] == [tuple(ALL_KINDS)] * 2
    last = first[0][-1]
    assert not np.isclose(last[0], last[1]).any(), "environments must have noise of their own"


def test_actions_of_any_shape_are_perturbed_element_by_element(still):
    robot = still(dtype=np.float32)
    robot.action_space = Box(-1, 1, (2, 3), np.float32)
    env = NoisyActuators(robot, [GainLoss(0.5, actuators=(1, 5))], sensor=WhiteNoise(0.1))
    env.reset(seed=0)
    info = env.step(np.ones((2, 3), np.float32))[-1]
    assert robot.received[0].tolist() == [[1, 0.5, 1], [1, 1, 0.5]]
    assert robot.received[0].dtype == np.float32
    assert info["actuator_reading"].shape == (2, 3)


def test_the_environment_gets_an_array_of_its_own(still):
    class Keeping(still):
        def step(self, action):
            self.received.append(action)
            return np.zeros(1), 0.0, False, False, {}

    env = NoisyActuators(Keeping(), [Lag(0.1), WhiteNoise(0.1)])
    env.reset(seed=0)
    command = np.ones(1)
    env.step(command)
    first = env.unwrapped.received[0].copy()
    env.step(command)
    assert command.tolist() == [1.0]
    assert env.unwrapped.received[0] == first


@pytest.mark.parametrize(
    ("error", "text", "arguments"),
    [
        (UnknownNameError, "did you mean servo", {"models": "servos"}),
        (UnknownNameError, "write WhiteNoise\\(\\)", {"models": "WhiteNoise"}),
        (UnknownNameError, "known: .*both", {"models": "servo", "clip": "all"}),
        (UnknownNameError, "mean realised", {"models": "servo", "control_cost": "realized"}),
        (ConfigError, "neither a preset", {"models": 3}),
        (ConfigError, "SeedSequence", {"models": "servo", "seed": -1}),
        (ConfigError, "SeedSequence", {"models": "servo", "seed": "a"}),
        (ActuatorError, "0 to 1", {"models": WhiteNoise(0.1, actuators=(0, 2))}),
    ],
)
def test_wrong_arguments_are_explained(error, text, arguments):
    with pytest.raises(error, match=text):
        NoisyActuators(gymnasium.make("Reacher-v5"), **arguments)


@pytest.mark.parametrize("space", [Discrete(3), Box(0, 255, (2,), np.uint8)])
def test_actions_that_are_not_floats_are_refused(still, space):
    env = still()
    env.action_space = space
    with pytest.raises(ActuatorError, match="Box of floats"):
        NoisyActuators(env, "ideal")


def test_an_infinite_range_needs_native_units(still, received):
    def env():
        return still(2, low=np.array([-1.0, -np.inf]), high=np.array([1.0, np.inf]))

    with pytest.raises(ActuatorError, match=r"actuator 1 is infinite.*units='native'"):
        NoisyActuators(env(), WhiteNoise(0.1))
    NoisyActuators(env(), WhiteNoise(0.1, actuators=(0,)))
    (got,) = received(WhiteNoise(0.1, units="native"), [np.array([0.0, 100.0])], env())
    assert got[1] == pytest.approx(100, abs=1)


def test_actions_of_the_wrong_shape_and_actuators_on_actuators_are_refused():
    env = NoisyActuators(gymnasium.make("Reacher-v5"), "servo")
    env.reset(seed=0)
    with pytest.raises(ActuatorError, match=r"shape \(1,\).* \(2,\)"):
        env.step(np.zeros(1, np.float32))
    with pytest.raises(ActuatorError, match="to one wrapper"):
        NoisyActuators(gymnasium.wrappers.ClipAction(env), "servo")


def test_other_actuators_are_put_in_while_the_robot_works(still):
    robot, oracle = still(2), ActuatorOracle()
    env = NoisyActuators(robot, WhiteNoise(0.1), clip="none", seed=3, oracle=oracle)
    env.reset(seed=0)

    def realised(steps=20):
        oracle.clear()
        for _ in range(steps):
            env.step(np.full(2, 0.5))
        return np.array(oracle.realised)

    noise = realised()
    stuck = GainLoss(0.0, offset=-0.25, actuators=(1,))
    env.refit([stuck])
    np.testing.assert_array_equal(realised(), np.tile([0.5, -0.25], (20, 1)))
    assert env.models == (stuck,)
    assert env.spec is None or env.spec.additional_wrappers[-1].kwargs["models"][0]["gain"] == 0.0
    env.refit(WhiteNoise(0.1))
    again = realised()
    assert again.std() == pytest.approx(0.1, rel=0.4)
    assert (again != noise).all()  # new actuators repeat no noise
    env.reset(seed=0)
    assert (realised() != noise).all()
    with pytest.raises(UnknownNameError):
        env.refit("serveau")
    assert env.models == (WhiteNoise(0.1),)
