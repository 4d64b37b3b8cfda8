"""The pages about deployment do what they say: their code runs, and their options exist."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from nprobot.cli import main
from nprobot.cli.arguments import parse
from nprobot.cli.deploy import HELP, Deploy
from nprobot.deploy import Controller, server
from nprobot.envs.robots import load_task
from nprobot.policies.files import policy_file
from nprobot.policies.files.policy import ControlTask

from .helpers import box, linear_policy, standard

DOCS = Path(__file__).parents[3] / "docs"
SHORT = [
    *("--steps", "256", "--envs", "2", "--n-steps", "64", "--batch-size", "32"),
    *("--samples", "1", "--hidden", "8"),
]


def page_named(name):
    """A page, in whichever part of the site it is."""
    (found,) = [*DOCS.glob(name), *DOCS.glob(f"*/{name}")]
    return found


def blocks(page, language):
    """The code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", page_named(page).read_text("utf-8"), re.DOTALL)


class TestOwnRobot:
    def test_a_model_file_becomes_a_deployed_policy(self, tmp_path, monkeypatch, capsys):
        (model,) = blocks("own-robot.md", "xml")
        (tmp_path / "arm.xml").write_text(model)
        monkeypatch.chdir(tmp_path)
        commands = blocks("own-robot.md", "sh")[0].splitlines()
        assert [shlex.split(line)[1] for line in commands] == [
            *("robots", "train", "evaluate", "export", "deploy")
        ]
        for line in commands:
            program, command, *arguments = shlex.split(line)
            assert program == "nprobot"
            if command == "train":
                at = arguments.index("--steps")
                arguments = arguments[:at] + arguments[at + 2 :] + SHORT
            if command == "export":
                arguments += ["--episodes", "2"]
            if command == "evaluate":  # a film takes long, and others show that films work
                arguments = [*arguments[: arguments.index("--record")], "--episodes", "2"]
            assert main([command, *arguments]) == 0, capsys.readouterr().err
        assert (tmp_path / "arm-check.png").stat().st_size > 10_000
        assert load_task(tmp_path / "runs" / "arm" / "task.toml").task == "reach"
        policy = policy_file.load(tmp_path / "arm-policy")
        assert policy.task.kwargs == {"model": str(tmp_path / "arm.xml"), "task": "reach"}
        assert policy.task.control_rate == pytest.approx(50)
        assert "servo actuators" in capsys.readouterr().out


class TestDeploy:
    PAGE = page_named("deploy.md").read_text("utf-8")

    def test_messages_are_those_of_the_server(self):
        rows = [line for line in server.__doc__.splitlines() if line.startswith("| ")]
        assert len(rows) == 1 + 6
        assert "\n".join(rows[1:]) in self.PAGE
        for kind in server._TAKES:
            assert any(row.startswith(f'| `"{kind}"` ') for row in rows)

    def test_commands_have_these_options(self):
        commands = re.findall(r"^ *nprobot deploy (.*)$", self.PAGE + HELP, re.MULTILINE)
        assert len(commands) > 8
        for command in commands:
            arguments = shlex.split(command.replace("[", "").replace("]", ""))
            known = {"ID": "Reacher-v5", "N": "3"}
            assert parse(Deploy, [known.get(word, word) for word in arguments], "deploy", "").policy

    def test_controller_runs_as_shown(self, monkeypatch):
        """The Python of the page, on a robot that ends after some steps."""
        weight = np.random.default_rng(0).normal(size=(2, 10))
        task = ControlTask("Reacher-v5", {}, 50.0)
        reacher = linear_policy(weight, box(1, size=2), task, standard(10))

        def load(reference, **options):
            assert reference == "zoo:Reacher"
            return Controller(reacher, **options)

        class Robot:
            actions: list = []  # noqa: RUF012

            def observe(self):
                if len(self.actions) == 30:
                    raise StopIteration
                return np.random.default_rng(len(self.actions)).normal(size=10)

            def act(self, action):
                self.actions.append(action)

        monkeypatch.setattr(Controller, "load", load)
        code = next(b for b in blocks("deploy.md", "python") if "Controller.load" in b)
        with pytest.raises(StopIteration):
            exec(code, {"robot": Robot()})
        assert np.abs(Robot.actions).max() <= 0.5
        assert np.abs(np.diff(Robot.actions, axis=0)).max() <= 0.2 + 1e-6

    def test_episodes_run_as_shown(self, capsys):
        (code,) = (b for b in blocks("deploy.md", "python") if "deploy_episodes" in b)
        exec(code, {})
        assert capsys.readouterr().out == "1000.0 None\n" * 3
