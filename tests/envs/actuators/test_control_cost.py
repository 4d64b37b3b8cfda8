"""Which action the environment charges: the one that was executed or the one that was commanded."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from nprobot.envs.actuators import ActuatorOracle, GainLoss, NoisyActuators, WhiteNoise
from nprobot.errors import ActuatorError


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
