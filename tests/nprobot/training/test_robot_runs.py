"""Runs on robots from files: options, what is kept, critics that see more, fits that drive."""

import json
import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeAwareObservation

from nprobot.cli import main
from nprobot.deploy.simulation import make_robot
from nprobot.envs import ROBOT
from nprobot.envs.robots import RobotEnv, load_task
from nprobot.errors import ConfigError, EnvironmentUnavailableError
from nprobot.policies.files import policy_file
from nprobot.runs.folder import find_policy
from nprobot.runs.log import read_table
from nprobot.training import environments
from nprobot.training.build import build_model
from nprobot.training.callback import policy_of
from nprobot.training.run_config import AlgorithmOptions, NetworkOptions, RunConfig
from nprobot.training.vector import make_vector

SHORT = [
    *("--steps", "256", "--envs", "2", "--n-steps", "64", "--batch-size", "32"),
    *("--hidden", "8", "--defaults", "general"),
]
TERMS = """
def lean(state):
    return state.gravity[..., 0]
"""


class Parts(gymnasium.Env):
    """Observations of several parts, and a motor without a range if asked for."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, mute=False):
        self.observation_space = spaces.Dict(
            {"b": spaces.Box(-1, 1, (2,), np.float64), "a": spaces.Box(-1, 1, (), np.float64)}
        )
        top = np.array([1.0, 0.0 if mute else 1.0], np.float32)
        self.action_space = spaces.Box(-top, top)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"b": np.array([0.1, 0.2]), "a": np.array(0.3)}, {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


gymnasium.register("Tests/Parts-v0", Parts)


def run_main(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_a_robot_is_trained_and_deployed_by_one_command_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_terms.py").write_text(TERMS)
    (tmp_path / "mine.toml").write_text('task = "velocity"\nduration = 0.5\n[reward]\nalive = 1\n')
    run, policy = tmp_path / "run", tmp_path / "policy"
    options = ["--robot", "hopper", "--task", "mine.toml", "--term", "my_terms:lean=-0.5"]
    out = run_main(capsys, "train", *options, "--randomise", *SHORT, "--out", run)
    assert "nprobot/Robot-v0 (hopper, a custom task)" in out
    task = load_task(run / "task.toml")
    assert (task.duration, task.randomise.on) == (0.5, True)
    assert task.reward == {"alive": 1.0, "my_terms:lean": -0.5}
    rows = [row for row in read_table(run / "progress.csv") if row.get("reward/alive")]
    assert [float(row["reward/alive"]) for row in rows] == pytest.approx([1.0] * len(rows))
    assert rows[0]["reward/my_terms:lean"]
    run_main(capsys, "export", run, "--episodes", 1, "--out", policy)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(tmp_path)
    out = run_main(capsys, "deploy", policy, "--actuators", "servo", "--json")
    assert json.loads(out.splitlines()[-1])["lengths"] == [25]
    # The same policy on the robot of another file, of the same make.
    assert json.loads(
        run_main(capsys, "evaluate", policy, "--robot", "hopper", "--episodes", 1, "--json")
    )["lengths"] == [25]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "velocity"], "name one by --robot"),
        (["--robot", "quadruped", "--env", "Reacher-v5"], "not both"),
        (["--robot", "quadruped", "--term", "lean"], "module:function"),
        (["--robot", "quadruped", "--term", "a:b=much"], "is no weight"),
        (["--robot", "quadruped", "--task", "velocty"], "velocity"),
        (["--robot", "no.xml"], "There is no model file"),
        (["--robot", "arm", "--task", "hover"], "fixed base"),
        (["--env", "Pendulum-v1", "--max-episode-steps", "0"], "1 or more"),
        (["--env", "Pendulum-v1", "--wrapper", "gymnasium.wrappers:Nothing"], "has no 'Nothing'"),
        (["--env", "dm_control/no-v0"], "needs|unknown environment"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, capsys, options, message):
    assert main(["train", *options, *SHORT, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_robots_are_listed_checked_and_tasks_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "quadruped" in run_main(capsys, "robots")
    told = json.loads(run_main(capsys, "robots", "check", "quadrotor", "--json"))
    assert (told["base"], told["suits"], told["trial"]["task"]) == ("free", ["hover"], "hover")
    assert told["trial"]["still"]["reward"] > 0
    assert (tmp_path / told["picture"]).stat().st_size > 10_000
    (tmp_path / "task.toml").write_text(run_main(capsys, "robots", "task", "hover"))
    assert load_task(tmp_path / "task.toml") == load_task("hover")


def test_wrappers_and_limits_go_around_any_environment():
    kwargs = {"max_episode_steps": 3, "wrapper": "gymnasium.wrappers:TimeAwareObservation"}
    env = environments.make("Pendulum-v1", kwargs)
    assert isinstance(env, TimeAwareObservation)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[3] for _ in range(3)]
    assert ends == [False, False, True]
    with pytest.raises(EnvironmentUnavailableError, match="cannot be made"):
        environments.make("Pendulum-v1", {"wrapper": "gymnasium.wrappers:RescaleObservation"})


def test_observations_of_several_parts_become_one_vector():
    env = environments.make("Tests/Parts-v0", {"max_episode_steps": 5})
    environments.check_spaces(env)
    assert env.reset(seed=0)[0].tolist() == [0.3, 0.1, 0.2]


def test_actions_without_width_are_refused():
    env = environments.make("Tests/Parts-v0", {"mute": True, "max_episode_steps": 5})
    with pytest.raises(EnvironmentUnavailableError, match=r"actions 1 of .* no width"):
        environments.check_spaces(env)


def test_randomised_robots_have_noisy_actuators_unless_others_are_asked_for():
    kwargs = {"model": "quadruped", "task": "velocity", "randomise": True}
    models = [
        [type(model).__name__ for model in getattr(env, "models", ())]
        for env in (
            environments.make(ROBOT, kwargs, actuators_seed=(1, 0)),
            environments.make(ROBOT, kwargs, "torque-motor"),
            environments.make(ROBOT, kwargs | {"randomise.actuators": False}),
        )
    ]
    assert models[0][0] == "RandomDelay"
    assert models[1][0] == "Lag"
    assert models[2] == []


@pytest.mark.parametrize("rule", ["bp", "np+feedback", "danp"])
def test_a_critic_may_see_what_the_actor_does_not(rule):
    kwargs = {"model": "hopper", "task": "velocity", "privileged": '["height", "contacts"]'}
    config = RunConfig(
        env=ROBOT,
        env_kwargs=kwargs,
        rule=rule,
        samples=1,
        envs=2,
        steps=128,
        network=NetworkOptions(hidden=(8,)),
        algorithm=AlgorithmOptions(n_steps=64, batch_size=32, n_epochs=2),
    ).resolved()
    vector = make_vector(config)
    model = build_model(config, vector)
    size = vector.observation_space.shape[0]
    actor, critic = (
        getattr(model.policy.mlp_extractor, f"{name}_net")[0].weight for name in ("policy", "value")
    )
    before = actor.detach().clone(), critic.detach().clone()
    model.learn(128)
    hidden = slice(size - 2, None)
    assert torch.equal(actor[:, hidden], before[0][:, hidden])
    assert not torch.equal(actor[:, : size - 2], before[0][:, : size - 2])
    assert not torch.equal(critic[:, hidden], before[1][:, hidden])
    policy = policy_of(model, config)
    assert policy.observation_shape == (size - 2,)
    robot = make_robot(policy)
    seen = robot.env.reset(seed=0)[0]
    assert seen.shape == (size - 2,)
    # What the exported policy does is what the actor does, whatever the rest says.
    full = np.concatenate([seen, [7.0, -3.0]])
    expected, _ = model.predict(vector.normalize_obs(full), deterministic=True)
    assert policy.predict(seen) == pytest.approx(expected, abs=1e-5)
    vector.close()
    with pytest.raises(ConfigError, match="privileged parts are for ppo"):
        sac = RunConfig(env=ROBOT, env_kwargs=kwargs, algo="sac", steps=10).resolved()
        build_model(sac, make_vector(sac))


def test_a_fitted_inverse_dynamics_drives_the_arm_it_is_of(tmp_path, capsys):
    """Two joints, a servo and a motor with a gear that turns round, in another order."""
    arm = tmp_path / "two.xml"
    arm.write_text(
        """<mujoco><compiler angle="radian"/><default><joint damping="1" armature=".05"/></default>
        <worldbody><body><joint name="one" axis="0 1 0" range="-1 1" limited="true"/>
        <geom type="capsule" fromto="0 0 0 .3 0 0" size=".03" mass="1"/><body pos=".3 0 0">
        <joint name="two" axis="0 1 0" range="-1 1" limited="true"/>
        <geom type="capsule" fromto="0 0 0 .3 0 0" size=".03" mass="1"/></body></body></worldbody>
        <actuator><motor joint="two" ctrlrange="-10 10" gear="-2"/>
        <position joint="one" kp="100" kv="5" forcerange="-40 40"/></actuator></mujoco>"""
    )
    run = tmp_path / "fit"
    options = ["--task", "inverse-dynamics", "--robot", arm, "--rule", "bp", "--epochs", 6]
    options += ["--task-kwargs", "train", "20"]
    out = run_main(capsys, "fit", *options, "--out", run)
    assert f"--env {ROBOT}" in out
    policy = policy_file.load(find_policy(run))
    assert policy.task.kwargs == {"model": str(arm), "task": "track"}
    errors = {}
    env = gymnasium.make(policy.task.id, **policy.task.kwargs)
    base = env.unwrapped
    assert isinstance(base, RobotEnv)
    ways = {
        "pd": lambda seen: np.zeros(2),
        "fit": policy.predict,
        "exact": lambda seen: base.exact_action(),
    }
    for name, act in ways.items():
        seen, _ = env.reset(seed=0)
        squares, ended = [], False
        while not ended:
            seen, *_, ended, info = env.step(act(seen))
            squares.append(info["tracking_error"] ** 2)
        errors[name] = np.sqrt(np.mean(squares))
    assert errors["fit"] < 0.3 * errors["pd"]
    assert errors["exact"] < 0.1 * errors["pd"]
    told = json.loads(run_main(capsys, "evaluate", run, "--episodes", 1, "--json"))["tracking"]
    rows = {row["controller"]: row["position_error"] for row in told}
    assert rows["exact model"] <= rows["this policy"] < 0.3 * rows["PD alone"]
