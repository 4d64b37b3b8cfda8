"""Learning on a robot that breaks: faults, the network there and back, commands."""

import csv
import dataclasses
import json
import re
import signal

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import nprobot.policies
from nprobot.adaptation import ActuatorFault, AdaptationConfig, adapt, check_trainable, usual_faults
from nprobot.adaptation.adaptation_run import LearningEpisode, recovery
from nprobot.adaptation.faults import SECONDS
from nprobot.adaptation.robot_learner import make_learner, read_network
from nprobot.cli import main
from nprobot.envs import NoisyActuators
from nprobot.envs.actuators import ActuatorOracle
from nprobot.errors import ConfigError, RuleError, UnknownNameError
from nprobot.policies import zoo
from nprobot.policies.files.policy import (
    BoxAction,
    ControlTask,
    DiscreteAction,
    Normaliser,
    Operation,
    Policy,
)
from nprobot.runs.reporting import Silent
from nprobot.training import environments


class Dial(gymnasium.Env):
    """Turn two dials to where the observation says; the reward is less the squared error."""

    dt = 0.1
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-2.0, 2.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action):
        reward = -float(np.square(action - self.goal).mean())
        self.steps += 1
        return self._look(), reward, False, self.steps == 10, {}

    def _look(self):
        self.goal = self.np_random.uniform(-0.5, 0.5, 2)
        return 3.0 + 2.0 * self.goal


def dial_policy():
    """Knows what to do with healthy dials."""
    layers = (
        Operation("flatten"),
        Operation("linear", {"weight": np.eye(2), "bias": np.zeros(2)}),
        Operation("identity"),
        Operation("linear", {"weight": np.eye(2) * 0.5, "bias": np.zeros(2)}),
    )
    return Policy(
        (2,),
        layers,
        BoxAction(np.full(2, -2.0, np.float32), np.full(2, 2.0, np.float32)),
        Normaliser(np.full(2, 3.0), np.ones(2), 1e-8, 10.0),
    )


SHORT = AdaptationConfig(steps=1_024, calibration=512, robots=4, batch=64)


# faults


@pytest.mark.parametrize("text", ["gain:0=0.4", "drift:3=-0.2", "offset:1=0.1", "stuck:0=-0.5"])
def test_a_fault_reads_back_as_it_is_written(text):
    assert str(ActuatorFault.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gian:0=0.4", "did you mean gain"),
        ("gain", "write KIND:ACTUATOR=SIZE"),
        ("gain:one=0.4", "write KIND:ACTUATOR=SIZE"),
        ("gain:0", "write KIND:ACTUATOR=SIZE"),
        ("gain:-1=0.4", "numbered from 0"),
        ("gain:0=-0.4", "0 or more"),
        ("drift:0=nan", "finite"),
    ],
)
def test_impossible_faults_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        ActuatorFault.parse(text)


def realised(model, steps, command):
    """What a dial does, step by step, when told the same again and again."""
    oracle = ActuatorOracle()
    env = NoisyActuators(Dial(), [model], seed=0, oracle=oracle)
    env.reset(seed=0)
    for step in range(steps):
        if step % 10 == 0:
            env.reset()
        env.step(np.full(2, command, np.float32))
    return np.array(oracle.realised)


@pytest.mark.parametrize(
    ("text", "after"),
    [("gain:0=0.4", 0.4), ("offset:0=0.2", 1.4), ("offset:0=-0.2", 0.6), ("stuck:0=-0.2", -0.4)],
)
def test_a_sudden_fault_strikes_its_actuator_at_its_time(text, after):
    did = realised(ActuatorFault.parse(text).model(at=1.5), 30, 1.0)
    np.testing.assert_allclose(did[:15], 1.0)
    np.testing.assert_allclose(did[15:, 0], after, atol=1e-6)
    np.testing.assert_allclose(did[15:, 1], 1.0)


@pytest.mark.parametrize(("text", "after"), [("drift:1=0.2", 1.4), ("fade:1=0.25", 0.25)])
def test_a_drift_takes_its_time_over_episodes_and_ends(text, after):
    fault = ActuatorFault.parse(text)
    steps = round(SECONDS / Dial.dt)
    did = realised(fault.model(at=1.0), steps + 40, 1.0)
    np.testing.assert_allclose(did[:10], 1.0)
    np.testing.assert_allclose(did[10 + steps // 2, 1], (1 + after) / 2, atol=0.01)
    np.testing.assert_allclose(did[12 + steps :, 1], after, atol=1e-6)
    np.testing.assert_allclose(did[:, 0], 1.0)
    at_once = realised(fault.model(at=0.0, settled=True), 3, 1.0)
    np.testing.assert_allclose(at_once[:, 1], after, atol=1e-6)


def test_the_usual_faults_fit_robots_with_one_motor():
    assert [str(fault) for fault in usual_faults(1)] == ["gain:0=0.4", "drift:0=0.2"]
    assert [str(fault) for fault in usual_faults(7)] == ["gain:0=0.4", "drift:1=0.2"]


# the network, there and back


@pytest.mark.parametrize("name", ["InvertedPendulum", "Reacher", "ArmReach", "Hopper"])
def test_the_learner_acts_as_the_policy_and_gives_it_back(name):
    policy = zoo.load_policy(name)

    def make():
        return environments.make(policy.task.id, policy.task.kwargs)

    config = dataclasses.replace(SHORT, robots=1, noise_source="injected")
    learner = make_learner(policy, make, (), config)
    rng = np.random.default_rng(0)
    observations = policy.normaliser.mean + np.sqrt(policy.normaliser.var) * rng.normal(
        size=(50, *policy.observation_shape)
    )
    env = learner.get_vec_normalize_env()
    acted, _ = learner.predict(env.normalize_obs(observations))
    expected = policy.predict(observations)
    np.testing.assert_allclose(acted, expected, atol=1e-5)
    back = read_network(learner.policy, policy)
    np.testing.assert_allclose(back.predict(observations), expected, atol=1e-5)
    assert back.task == policy.task


def test_settings_of_activations_and_lopsided_bounds_survive():
    layers = (
        Operation("linear", {"weight": np.ones((3, 2)), "bias": np.zeros(3)}),
        Operation("leaky_relu", settings={"negative_slope": 0.3}),
        Operation("linear", {"weight": np.ones((1, 3)), "bias": np.full(1, 2.0)}),
    )
    low, high = np.array([-1.0], np.float32), np.array([5.0], np.float32)
    policy = Policy((2,), layers, BoxAction(low, high))

    class Lopsided(Dial):
        action_space = spaces.Box(low, high)

    learner = make_learner(
        policy, Lopsided, (), dataclasses.replace(SHORT, noise_source="injected")
    )
    observations = np.random.default_rng(0).normal(size=(50, 2))
    back = read_network(learner.policy, policy)
    np.testing.assert_allclose(back.predict(observations), policy.predict(observations), atol=1e-5)


def test_what_nrl_cannot_train_is_refused_with_the_reason():
    policy = dial_policy()
    ends = policy.action
    unbounded = BoxAction(np.full(2, -np.inf, np.float32), ends.high)
    mixed = (
        *policy.operations,
        Operation("tanh"),
        Operation("linear", {"weight": np.eye(2), "bias": np.zeros(2)}),
    )
    cases = {
        "discrete": dataclasses.replace(policy, action=DiscreteAction((2,))),
        "bounds": dataclasses.replace(policy, action=unbounded),
        "one kind of activation": dataclasses.replace(policy, operations=mixed),
    }
    cases["linear layers"] = dataclasses.replace(
        policy, operations=(*policy.operations, Operation("tanh"))
    )
    for reason, untrainable in cases.items():
        with pytest.raises(RuleError, match=reason):
            check_trainable(untrainable)
    with pytest.raises(RuleError, match="ONNX"):
        check_trainable(object())


# learning


def test_it_recovers_from_a_fault_that_costs_the_frozen_policy_much():
    config = AdaptationConfig(
        steps=6_000, calibration=1_000, robots=10, batch=100, node_noise=0.1, learning_rate=1e-2
    )
    faults = [ActuatorFault.parse("gain:0=0.4"), ActuatorFault.parse("offset:1=0.2")]
    result = adapt(dial_policy(), Dial, faults, config, evaluation_episodes=10)
    assert result.healthy.mean > -0.01
    assert result.before.mean < -0.8
    assert result.after.mean > 0.5 * result.before.mean
    assert 0 < result.recovered < 4_000
    config = dataclasses.replace(SHORT, frozen=True)
    frozen = adapt(dial_policy(), Dial, faults, config, evaluation_episodes=10)
    assert frozen.after.mean == pytest.approx(frozen.before.mean)
    assert frozen.recovered is None


def test_nothing_runs_backward(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("a backward pass")

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    result = adapt(
        dial_policy(), Dial, [ActuatorFault.parse("gain:0=0.4")], SHORT, evaluation_episodes=2
    )
    assert result.forward_passes > 2 * SHORT.steps


def test_in_the_calibration_only_the_critic_learns():
    learner = make_learner(dial_policy(), Dial, (), SHORT)
    statistics = learner.get_vec_normalize_env().obs_rms

    def changed(network, before):
        now = network.parameters()
        return [not torch.equal(a, b) for a, b in zip(before, now, strict=True)]

    policy = learner.policy
    actor, critic = ([p.clone() for p in n.parameters()] for n in (policy.actor, policy.critic))
    learner.learn(SHORT.calibration)
    assert not any(changed(policy.actor, actor))
    assert all(changed(policy.critic, critic))
    learner.learn(SHORT.steps - SHORT.calibration, reset_num_timesteps=False)
    assert all(changed(policy.actor, actor))
    np.testing.assert_array_equal(statistics.mean, 3.0)  # what it was trained with


def test_ctrl_c_keeps_what_was_learned():
    class Impatient(Silent):
        def progress(self, progress):
            if progress.done == 800:
                signal.raise_signal(signal.SIGINT)

    result = adapt(dial_policy(), Dial, (), SHORT, reporter=Impatient(), evaluation_episodes=2)
    assert result.interrupted
    assert result.steps == 800
    assert len(result.after.returns) == 2


def test_the_same_seed_learns_the_same():
    results = [
        adapt(dial_policy(), Dial, usual_faults(2), SHORT, evaluation_episodes=2) for _ in range(2)
    ]
    assert results[0].episodes == results[1].episodes
    assert results[0].after == results[1].after


@pytest.mark.parametrize("source", ["injected", "actuators"])
def test_other_sources_of_noise_teach_too(source):
    config = dataclasses.replace(SHORT, noise_source=source, actuators="torque-motor")
    result = adapt(dial_policy(), Dial, usual_faults(2), config, evaluation_episodes=2)
    before, after = (p.operations[-1].arrays["bias"] for p in (dial_policy(), result.policy))
    assert not np.array_equal(2 * after, before)
    assert np.isfinite(result.after.returns).all()


@pytest.mark.parametrize(
    "settings",
    [
        *({"robots": 0}, {"calibration": 5_000, "steps": 5_000}, {"node_noise": 0.0}, {"seed": -1}),
        *({"rule": "danp"}, {"dead_nodes": 0.1, "noise_source": "injected"}, {"dead_nodes": 2.0}),
    ],
)
def test_impossible_options_are_refused(settings):
    with pytest.raises(ConfigError):
        AdaptationConfig(**settings)


def test_nodes_die_when_faults_strike_and_evaluations_are_on_the_same_chip():
    policy = zoo.load_policy("Reacher")
    config = dataclasses.replace(SHORT, dead_nodes=0.5, rule="np+feedback")

    def reacher():
        return environments.make("Reacher-v5")

    result = adapt(policy, reacher, (), config, evaluation_episodes=2)
    assert result.healthy.chip == "0.05"
    assert result.before.chip == result.after.chip == "0.05,DeadNodes:share=0.5:onset=0"
    assert result.before.mean < result.healthy.mean - 2
    learner = make_learner(policy, reacher, (), config)
    first = next(m for m in learner.policy.actor if isinstance(m, torch.nn.Linear))

    def dead():
        with torch.no_grad():
            return int((first(torch.ones(2, first.in_features)) == 0).all(0).sum())

    assert dead() == 0
    learner.learn(config.calibration)
    assert dead() == first.out_features // 2


def test_noise_of_actuators_needs_noisy_actuators():
    with pytest.raises(ConfigError, match="torque-motor"):
        AdaptationConfig(noise_source="actuators")
    with pytest.raises(UnknownNameError, match="did you mean network"):
        AdaptationConfig(noise_source="netwrok")


def test_names_of_earlier_versions_are_understood():
    old = {"noise": "injected", "hardware": "servo", "learn": False, "seed": 3}
    config = AdaptationConfig(noise_source="injected", actuators="servo", frozen=True, seed=3)
    assert AdaptationConfig.from_dict(old) == config


def test_faults_must_be_of_actuators_that_are_there():
    with pytest.raises(ConfigError, match="numbered from 0 to 1"):
        adapt(dial_policy(), Dial, [ActuatorFault("gain", 2, 0.4)], SHORT)


def test_recovery_counts_from_the_worst_moment():
    def episodes(*spans):
        step, found = 0, []
        for total, count in spans:
            for _ in range(count):
                step += 10
                found.append(LearningEpisode(step, total, 10))
        return found

    # Healthy at -1, struck at 500; well for 50 episodes, then bad for 60, then well again.
    story = episodes((-1.0, 50), (-1.0, 50), (-11.0, 60), (-1.0, 60))
    # 80 % of the loss of 10 is back when the mean is -3. With 4 bad ones among the last 40 it is
    # -2 and its lower bound -2 - 1.685 * 3.04 / sqrt(40) = -2.8; with 5 the bound is -3.1.
    assert recovery(story, 500, -1.0, -11.0) == 10 * (50 + 60 + 36)
    # One lucky episode lifts the mean to 1.5, and is not enough.
    assert recovery(episodes((-1.0, 50), (-11.0, 60), (490.0, 1)), 500, -1.0, -11.0) is None
    assert recovery(story[:-60], 500, -1.0, -11.0) is None
    assert recovery(story, 500, -1.0, -1.0) is None


def test_takes_no_more_steps_than_it_was_given():
    config = AdaptationConfig(steps=1_003, calibration=400, robots=4, batch=100)
    assert adapt(dial_policy(), Dial, (), config, evaluation_episodes=2).steps == 1_000
    with pytest.raises(ConfigError, match="less than one for each of 8"):
        AdaptationConfig(steps=5, calibration=0)


# the commands


def test_adapt_makes_a_policy_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--steps", "1200", "--calibration", "400", "--robots", "2", "--out", "adapted"]
    assert main(["adapt", "zoo:Reacher", *options, "--fault", "gain:1=0.5"]) == 0
    out = capsys.readouterr().out
    assert "gain:1=0.5 after 400" in out
    assert re.search(r"passes +│ .* forward, none backward", out)
    folder = tmp_path / "adapted"
    files = {file.name for file in folder.iterdir()}
    assert files == {
        *("policy.json", "policy.safetensors", "README.md", "curve.png", "adaptation.csv")
    }
    policy = nprobot.policies.load(folder)
    assert policy.provenance["adaptation"]["faults"] == ["gain:1=0.5"]
    assert policy.provenance["adaptation"]["backward_passes"] == 0
    with (folder / "adaptation.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 24
    assert "gain:1=0.5" in (folder / "README.md").read_text(encoding="utf-8")
    assert main(["deploy", "adapted"]) == 0
    assert main(["adapt", "zoo:Reacher", "--out", "adapted"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_deploy_adapts_on_its_robot_and_says_what_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--adapt", "--adapt-steps", "600", "--adapt-out", "adapted", "--json"]
    assert main(["deploy", "zoo:Reacher", "--actuators", "worn-gearbox", *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["env"] == "Reacher-v5"
    assert facts["steps"] == 600
    assert len(facts["returns_before"]) == len(facts["returns_after"]) > 0
    assert nprobot.policies.load(tmp_path / "adapted").task == ControlTask("Reacher-v5", {}, 50.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapt", "zoo:Reacher", "--fault", "gain:2=0.4"], "numbered from 0 to 1"),
        (["adapt", "zoo:Reacher", "--fault", "gian:0=0.4"], "did you mean gain"),
        (["adapt", "zoo:Reacher", "--noise", "actuators"], "name actuators"),
        (["adapt", "zoo:Reacher", "--actuators", "srevo"], "servo"),
        (["adapt", "nowhere"], "no policy at nowhere"),
        (["deploy", "zoo:Reacher", "--adapt", "--serve"], "does not go with --serve"),
        (["deploy", "zoo:Reacher", "--adapt", "--slew", "1"], "limits of the safety"),
        (["deploy", "zoo:Reacher", "--adapt", "--adapt-steps", "1"], "5 or more"),
        (["deploy", "zoo:Reacher", "--adapt", "--actuators", "srevo"], "servo"),
    ],
)
def test_misuse_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())
