"""What a file names is not imported, and what it gives an environment is looked at first."""

import json
import os
import sys

import pytest

from nprobot.cli import main
from nprobot.deploy import make_robot
from nprobot.errors import ConfigError, NprobotError, UnknownNameError
from nprobot.policies import ControlTask, save
from nprobot.training import environments
from nprobot.training.evaluation import evaluate
from nprobot.training.run_config import RunConfig
from nprobot.training.run_folder import RunFolder
from nprobot.training.training_run import resume

from ..deploy.helpers import box, linear_policy

MODULE = """
import pathlib
import gymnasium
pathlib.Path(__file__).with_name("imported").touch()
REACHER = "gymnasium.envs.mujoco.reacher_v5:ReacherEnv"
gymnasium.register("Tests/Trusted-v0", REACHER, max_episode_steps=5)
"""
NAME = "module_of_a_stranger"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A policy beside a module that it names, where Python finds both."""
    (tmp_path / f"{NAME}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    save(reacher(ControlTask(f"{NAME}:Tests/Trusted-v0")), tmp_path / "policy")
    yield tmp_path
    sys.modules.pop(NAME, None)
    environments.gymnasium.registry.pop("Tests/Trusted-v0", None)


def reacher(task):
    """A policy that does nothing."""
    return linear_policy([[0.0] * 10] * 2, box(1, 2), task)


COMMANDS = [["evaluate", "policy"], ["deploy", "policy"], ["export", "policy", "--out", "new"]]


@pytest.mark.parametrize(
    "command", [*COMMANDS, ["adapt", "policy"], ["export", "policy", "--out=new", "--episodes=0"]]
)
def test_a_module_that_only_a_file_names_is_not_imported(folder, command, capsys):
    assert main(command) == 2
    said = capsys.readouterr().err
    assert NAME in said and "--trust" in said and "Traceback" not in said
    assert not (folder / "imported").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_imported_when_the_user_says_so(folder, command, capsys):
    command = [*command, "--episodes", "1"]
    assert main([*command, "--trust"]) == 0
    assert (folder / "imported").exists()
    if command[0] == "export":
        assert "Next: nprobot deploy new --trust" in capsys.readouterr().out


def test_it_is_imported_when_the_user_names_it(folder):
    assert main(["deploy", "policy", "--env", f"{NAME}:Tests/Trusted-v0"]) == 0


@pytest.mark.parametrize(
    ("option", "value"), [("env", f"{NAME}:Tests/Trusted-v0"), ("rule", f"{NAME}:np")]
)
def test_a_run_that_is_resumed_or_exported(folder, option, value):
    """Its environment may be in a module, and its rule, too."""
    RunFolder.create(folder / "run", RunConfig(steps=10).resolved(None))
    described = json.loads((folder / "run" / "config.json").read_text())
    described["config"][option] = value
    (folder / "run" / "config.json").write_text(json.dumps(described))
    save(reacher(None), folder / "run" / "checkpoints" / "step_000000000")
    with pytest.raises(ConfigError, match="--trust"):
        resume(folder / "run")
    assert main(["export", "run", "--episodes", "0"]) == 2
    assert main(["train", "--resume", "run"]) == 2
    assert not (folder / "imported").exists()
    RunFolder.open(folder / "run", trust=True)
    assert (folder / "imported").exists()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"xml_file": "/no/such/robot.xml"}, "robot.xml"),
        ({"xml_file": "pipe.xml"}, "no file"),
        ({"frame_skip": 0}, "1 to 1,000 is allowed"),
        ({"frame_skip": 10**9}, "1 to 1,000 is allowed"),
        ({"frame_skip": True}, "1 to 1,000 is allowed"),
        ({"render_mode": "human"}, "render_mode"),
        ({"max_episode_steps": 10**15}, "1 to 100,000 is allowed"),
        ({"max_geom": 10**12}, "max_geom 1000000000000; 1 to"),
        ({"no_such_argument": 1}, "no_such_argument"),
        ({"reward_dist_weight": "heavy", "frame_skip": 2.5}, "frame_skip"),
    ],
)
def test_arguments_from_a_file(kwargs, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.xml")
    save(reacher(ControlTask("Reacher-v5", kwargs)), tmp_path / "policy")
    for command in ("evaluate", "deploy"):
        assert main([command, "policy", "--episodes", "1"]) == 2
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said and len(said.splitlines()) == 1


def test_a_robot_may_share_its_name_with_a_folder_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("quadrotor")
    environments.check_kwargs("nprobot/Robot-v0", {"model": "quadrotor"})
    with pytest.raises(ConfigError, match="no file"):
        environments.check_kwargs("nprobot/Robot-v0", {"model": f"{tmp_path}/quadrotor"})


def test_arguments_that_the_environment_has_not(tmp_path):
    with pytest.raises(UnknownNameError, match=r"'gg'; did you mean g\?"):
        environments.check_kwargs("Pendulum-v1", {"gg": 1})
    environments.check_kwargs("Hopper-v5", {"reset_noise_scale": 0.1, "max_episode_steps": 10})
    assert evaluate(
        reacher(ControlTask("Reacher-v5", {"max_episode_steps": 3})), episodes=2
    ).lengths == (3, 3)


def test_a_constructor_may_raise_anything(monkeypatch):
    def make(**arguments):
        raise OSError("no camera on the bench")

    monkeypatch.setitem(
        environments.gymnasium.registry,
        "Tests/Broken-v0",
        environments.EnvSpec("Tests/Broken-v0", make),
    )
    with pytest.raises(NprobotError, match="no camera on the bench"):
        make_robot(reacher(ControlTask("Tests/Broken-v0")))
