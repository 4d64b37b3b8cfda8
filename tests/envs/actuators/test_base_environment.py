"""Which action the environment charges, and what of its information is withheld."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from nprobot.envs.actuators import (
    ActuatorOracle,
    GainLoss,
    Lag,
    NoisyActuators,
    NoisyActuatorsVector,
    WhiteNoise,
)
from nprobot.errors import ActuatorError, ActuatorWarning, ConfigError


@pytest.mark.parametrize("env_id", ["Reacher-v5", "HalfCheetah-v5", "Humanoid-v5"])
def test_the_control_cost_sees_the_action_that_was_chosen(env_id):
    arguments = {"include_qfrc_actuator_in_observation": False} if "Human" in env_id else {}

    def run(control_cost):
        oracle = ActuatorOracle()
        env = NoisyActuators(
            gymnasium.make(env_id, **arguments),
            WhiteNoise(0.3),
            control_cost=control_cost,
            oracle=oracle,
        )
        env.reset(seed=0)
        env.action_space.seed(0)
        rows = [env.step(0.5 * env.action_space.sample()) for _ in range(5)]
        return rows, oracle

    (charged, oracle), (plain, _) = run("commanded"), run("realised")
    weight = {"Reacher-v5": 1.0, "HalfCheetah-v5": 0.1, "Humanoid-v5": 0.1}[env_id]
    for commanded, realised, u, v in zip(
        charged, plain, oracle.commands, oracle.realised, strict=True
    ):
        assert (commanded[0] == realised[0]).all(), "the robot must move the same way"
        assert commanded[4]["reward_ctrl"] == pytest.approx(-weight * np.square(u).sum(), rel=1e-5)
        assert realised[4]["reward_ctrl"] == pytest.approx(-weight * np.square(v).sum(), rel=1e-5)
        difference = commanded[4]["reward_ctrl"] - realised[4]["reward_ctrl"]
        assert commanded[1] - realised[1] == pytest.approx(difference, abs=1e-6)


def test_charging_the_command_leaves_nothing_behind():
    env = NoisyActuators(gymnasium.make("Reacher-v5"), "torque-motor", control_cost="commanded")
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    assert "do_simulation" not in vars(env.unwrapped)
    with pytest.raises(ValueError, match="mismatch"):
        env.unwrapped.step(np.zeros(3))
    assert "do_simulation" not in vars(env.unwrapped)


def test_an_environment_can_take_the_realised_action_by_itself(still):
    class Knowing(still):
        executed_action = None

        def step(self, action):
            self.executed = np.array(self.executed_action)
            return super().step(action)

    env = Knowing()
    wrapped = NoisyActuators(env, GainLoss(0.5), control_cost="commanded")
    wrapped.reset(seed=0)
    wrapped.step(np.ones(1))
    assert (env.received[0].item(), env.executed.item()) == (1.0, 0.5)
    assert env.executed_action is None


def test_charging_the_command_is_refused_where_it_cannot_work(still):
    with pytest.raises(ActuatorError, match="Still is neither"):
        NoisyActuators(still(), "servo", control_cost="commanded")
    scaled = gymnasium.wrappers.RescaleAction(gymnasium.make("Pusher-v5"), -1.0, 1.0)
    env = NoisyActuators(scaled, "torque-motor", control_cost="commanded")
    env.reset(seed=0)
    with pytest.raises(ActuatorError, match="changes the action before it is simulated"):
        env.step(np.ones(7, np.float32))
    assert "do_simulation" not in vars(env.unwrapped)
    env = still()
    env.do_simulation = lambda ctrl, n_frames: None
    wrapped = NoisyActuators(env, "servo", control_cost="commanded")
    wrapped.reset(seed=0)
    with pytest.raises(ActuatorError, match="did not call do_simulation"):
        wrapped.step(np.ones(1))


class Telling(gymnasium.Wrapper):
    """Tells the action that it was given under some usual and one unusual name."""

    def __init__(self, declared=("drive",), **arguments):
        super().__init__(gymnasium.make("Reacher-v5", **arguments))
        self.metadata = {**self.env.metadata, "actuator_info": declared}

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = {**info, "torque": action, "last_action": action, "drive": action, "speed": 1.0}
        return observation, reward, terminated, truncated, info


ALLOWED = {"reward_dist", "reward_ctrl", "speed"}


@pytest.mark.parametrize(
    ("models", "declared", "shown"),
    [
        ("servo", [], {"drive"}),
        ("servo", ["drive"], set()),
        ("ideal", ["drive"], {"torque", "last_action", "drive"}),
    ],
)
def test_information_that_tells_the_action_is_withheld(models, declared, shown):
    env = NoisyActuators(Telling(declared), models)
    env.reset(seed=0)
    assert set(env.step(np.zeros(2, np.float32))[-1]) == ALLOWED | shown


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vectors_withhold_it_too(mode):
    robots = SyncVectorEnv([lambda: Telling(max_episode_steps=2)] * 2, autoreset_mode=mode)
    env = NoisyActuatorsVector(robots, "servo")
    env.reset(seed=0)
    keys = set()
    for _ in range(2):
        info = env.step(np.zeros((2, 2), np.float32))[-1]
        keys |= info.keys() | info.get("final_info", {}).keys()
    ends = {"final_obs", "_final_obs", "final_info", "_final_info"}
    assert keys - ends == ALLOWED | {f"_{key}" for key in ALLOWED}


def test_an_environment_that_observes_its_actuator_forces_is_pointed_out():
    with pytest.warns(ActuatorWarning, match="include_qfrc_actuator") as caught:
        NoisyActuators(gymnasium.make("Humanoid-v5"), "torque-motor")
    assert caught[0].filename == __file__


def test_the_control_period_is_the_environments_or_the_one_given(still, received):
    def share(own, metadata, **arguments):
        env = still(dt=own)
        env.metadata = metadata
        return received(Lag(0.1), [np.ones(1)], env, **arguments)[0].item()

    assert share(0.02, {"render_fps": 10}) == pytest.approx(1 - np.exp(-0.2))
    assert share(0.02, {}, dt=0.05) == pytest.approx(1 - np.exp(-0.5))
    assert share(None, {"render_fps": 10}) == pytest.approx(1 - np.exp(-1))
    with pytest.raises(ActuatorError, match="dt=<seconds>"):
        share(None, {})
    with pytest.raises(ConfigError, match="positive number"):
        share(0.02, {}, dt=0)
