"""The examples run: each with few steps, and with the result that its text promises."""

import importlib.util
import json
from pathlib import Path

import gymnasium
import pytest

EXAMPLES = Path(__file__).parents[1] / "scripts" / "examples"
SCRIPTS = (
    *("sb3_in_one_word", "own_loop", "own_mjcf", "noisy_robot", "keep_learning"),
    *("cleanrl_style", "torchrl_loop"),
)


@pytest.fixture
def example(request, tmp_path, monkeypatch):
    """An example as a module, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location(request.param, EXAMPLES / f"{request.param}.py")
    module = importlib.util.module_from_spec(spec)
    before = dict(gymnasium.registry)
    spec.loader.exec_module(module)
    yield module
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


@pytest.mark.parametrize("name", SCRIPTS)
def test_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text("utf-8").splitlines()) <= 60


@pytest.mark.parametrize("example", ["sb3_in_one_word"], indirect=True)
@pytest.mark.parametrize("rule", ["np+feedback", "bp"])
def test_a_loaded_model_acts_as_the_saved_one(example, rule):
    before, after = example.main(rule, steps=64)
    assert before == after > 0


@pytest.mark.parametrize("example", ["own_loop"], indirect=True)
@pytest.mark.parametrize("rule", ["np+feedback", "dnp+feedback"])
def test_a_network_learns_in_a_loop_of_its_author(example, rule):
    before, after = example.main(rule, steps=150)
    assert after < before / 5


@pytest.mark.parametrize("example", ["cleanrl_style"], indirect=True)
def test_a_rule_learns_in_a_loop_of_cleanrl(example):
    first, last = example.main(updates=6)
    assert last > 2 * first


@pytest.mark.parametrize("example", ["own_mjcf"], indirect=True)
def test_a_robot_from_mjcf_gets_a_policy_folder(example):
    assert -600 < example.main(steps=64, out="swing-up") < 200
    assert json.loads(Path("swing-up/policy.json").read_text())["environment"]["id"] == "SwingUp-v0"


@pytest.mark.parametrize("example", ["noisy_robot"], indirect=True)
def test_hardware_is_noisy_in_rollouts_and_evaluation(example):
    assert example.main(steps=64) > 0


@pytest.mark.parametrize("example", ["keep_learning"], indirect=True)
def test_a_policy_continues_on_the_robot(example):
    after = example.main(steps=2048, episodes=4)
    assert -30 < after < -3
    assert Path("adapted-reacher/policy.safetensors").exists()


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in json.loads((EXAMPLES / "first_policy.ipynb").read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace("25_000", "64"), names)
    assert (tmp_path / "my_policy" / "policy.json").exists()
    assert "0 backward passes" in capsys.readouterr().out
