"""The pages about deployment do what they say: their code runs, and their options exist."""

import re
import shlex
import sys
from pathlib import Path

import gymnasium
import pytest

from nprobot.cli import main
from nprobot.policies import policy_file

DOCS = Path(__file__).parents[2] / "docs"
SHORT = [
    *("--steps", "256", "--envs", "2", "--n-steps", "64", "--batch-size", "32"),
    *("--samples", "1", "--hidden", "8"),
]


def blocks(page, language):
    """The code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


class TestOwnRobot:
    def test_takes_less_than_forty_lines(self):
        code = [*blocks("own-robot.md", "xml"), *blocks("own-robot.md", "python")]
        code += blocks("own-robot.md", "sh")
        lines = [line for line in "".join(code).splitlines() if line.strip()]
        assert len(lines) < 40
        assert f"{len(lines)} lines" in (DOCS / "own-robot.md").read_text("utf-8")

    def test_registers_trains_and_deploys(self, tmp_path, monkeypatch, capsys):
        (model,), (python,) = blocks("own-robot.md", "xml"), blocks("own-robot.md", "python")
        (tmp_path / "pendulum.xml").write_text(model)
        (tmp_path / "my_robot.py").write_text(python)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        try:
            for line in blocks("own-robot.md", "sh")[0].splitlines():
                program, command, *arguments = shlex.split(line)
                if program == "export":  # of the path, which the test has its own way to set
                    continue
                assert program == "nprobot"
                if command == "train":
                    at = arguments.index("--steps")
                    arguments = arguments[:at] + arguments[at + 2 :] + SHORT
                if command == "export":
                    arguments += ["--episodes", "2"]
                if command == "deploy":  # a film takes long, and others show that films work
                    arguments = arguments[: arguments.index("--record")]
                assert main([command, *arguments]) == 0, capsys.readouterr().err
        finally:
            gymnasium.registry.pop("Pendulum-MJ-v0", None)
            sys.modules.pop("my_robot", None)
        policy = policy_file.load(tmp_path / "pendulum-policy")
        assert policy.task.id == "my_robot:Pendulum-MJ-v0"
        assert policy.task.control_rate == pytest.approx(50)
        assert "servo actuators" in capsys.readouterr().out
