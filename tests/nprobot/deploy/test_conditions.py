"""What a robot works under: options, refusals, and that it really is so."""

import numpy as np
import pytest

from nprobot.cli import main
from nprobot.deploy import Controller, FlightRecord, Safety, deploy_episodes, make_robot, replay
from nprobot.deploy.conditions import Conditions, EquippedRobot, policy_under
from nprobot.envs.actuators import GainLoss, Latency, WhiteNoise
from nprobot.errors import ConfigError, DeployError, NprobotError, UnknownNameError
from nprobot.policies import zoo

from .helpers import gain_policy


def test_conditions_are_models_in_order():
    conditions = Conditions(
        actuators="servo",
        noise=2.0,
        noise_strength=("WhiteNoise.std=0.3",),
        latency=0.1,
        fault=("stuck:1=0.5",),
    )
    models = conditions.models()
    assert models[:5] != Conditions(actuators="servo").models()
    assert models[4] == WhiteNoise(0.3)
    assert models[-2:] == (Latency(0.1), GainLoss(0.0, 0.0, 0.5, actuators=(1,)))
    assert Conditions().models() == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"actuators": "serveau"}, "did you mean servo"),
        ({"noise": -1.0}, "noise"),
        ({"noise_strength": ("WhiteNoise.std=0.1",)}, "unknown noise"),
        ({"actuators": "servo", "noise_strength": ("WhiteNoise.std",)}, "MODEL.PARAMETER"),
        ({"fault": ("gian:0=1",)}, "did you mean gain"),
        ({"chip": "-1"}, "0 or more"),
        ({"dead_nodes": 1.5}, "dead_nodes"),
    ],
)
def test_impossible_conditions_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Conditions(**settings)


def test_a_robot_that_cannot_be_under_conditions_stays_as_it_was():
    robot = EquippedRobot(make_robot(zoo.load_policy("Reacher")), Conditions(load=0.1))
    mass = robot.robot.env.unwrapped.model.body_mass
    assert mass.sum() == pytest.approx(robot._masses.sum() + 0.1)
    for conditions, error in (
        (Conditions(fault=("gain:7=0.4",)), DeployError),
        (Conditions(load=1.0, load_body="body7"), UnknownNameError),
    ):
        with pytest.raises(error):
            robot.change(conditions)
        assert robot.conditions == Conditions(load=0.1)
        assert robot.robot.env.models == ()
    robot.change(Conditions(load=0.2, load_body="body1"))
    assert mass[robot.robot.env.unwrapped.model.body("body1").id] == pytest.approx(
        robot._masses[robot.robot.env.unwrapped.model.body("body1").id] + 0.2
    )
    robot.change(Conditions())
    np.testing.assert_array_equal(mass, robot._masses)


def test_presets_mean_what_they_meant_before():
    policy = zoo.load_policy("Reacher")

    def returns(robot):
        controller = Controller(policy, rate=robot.rate)
        return [e.total for e in deploy_episodes(robot, controller, episodes=2, seed=5)]

    before = returns(make_robot(policy, actuators="torque-motor"))
    conditions = Conditions(actuators="torque-motor")
    assert returns(EquippedRobot(make_robot(policy), conditions).robot) == before


def test_a_chip_with_nothing_wrong_computes_the_same():
    policy = zoo.load_policy("Reacher")
    observations = np.random.default_rng(0).normal(size=(5, *policy.observation_shape))
    ideal = policy_under(policy, Conditions(chip="0"))
    np.testing.assert_allclose(ideal.predict(observations), policy.predict(observations), atol=1e-5)
    dead = policy_under(policy, Conditions(dead_nodes=1.0)).predict(observations)
    middle = (policy.action.low + policy.action.high) / 2
    np.testing.assert_allclose(dead, np.tile(middle, (5, 1)), atol=1e-6)
    with pytest.raises(NprobotError, match="did you mean analog"):
        policy_under(policy, Conditions(chip="analgo"))


def test_limits_that_change_in_flight_begin_a_record_that_replays(tmp_path):
    policy = gain_policy(rate=100.0)
    controller = Controller(policy)
    for value in (0.5, 0.8):
        controller.step(np.array([value, 0.0]))
    with pytest.raises(ConfigError):
        controller.change_safety(Safety(action_low=9.0))
    assert controller.step(np.array([1.5, 0.0])) == pytest.approx(1.5)
    controller.change_safety(Safety(action_high=0.9, slew=10.0))
    acted = [float(controller.step(np.array([value, 0.0]))[0]) for value in (1.6, -1.0)]
    np.testing.assert_allclose(acted, [0.9, 0.8], atol=1e-6)  # 10 units/s is 0.1 a step
    record = FlightRecord.load(controller.recorder.record().save(tmp_path / "flight.npz"))
    assert (record.first, len(record)) == (3, 2)
    assert replay(record, policy).identical
    assert controller.last.action == pytest.approx(0.8)


def test_the_command_line_knows_all_conditions(capsys):
    code = main(
        [
            *("deploy", "zoo:Reacher", "--actuators", "torque-motor", "--noise", "0.5"),
            *("--noise-strength", "OrnsteinUhlenbeckNoise.std=0.2", "--latency", "0.02"),
            *("--fault", "gain:0=0.5", "--chip", "0.1", "--dead-nodes", "0.1", "--load", "0.01"),
            *("--load-body", "body1", "--json"),
        ]
    )
    assert code == 0
    assert '"episodes": 1' in capsys.readouterr().out
