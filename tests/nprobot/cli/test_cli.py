"""The program as a person meets it: answers, exit codes, errors without tracebacks."""

import json
import signal
import subprocess
import sys

import pytest

from nprobot import cli as app
from nprobot.cli import main
from nprobot.cli.envs import control_environments, describe
from nprobot.cli.terminal import duration, figures
from nprobot.policies.files import policy_file
from nprobot.runs.folder import find_policy
from nprobot.runs.reporting import Progress
from nprobot.training.evaluation import evaluate
from nprobot.training.run_folder import RunFolder

SMALL = [
    *("--steps", "256", "--envs", "2", "--n-steps", "64", "--batch-size", "32"),
    *("--samples", "1", "--hidden", "8"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", *SMALL, "--seed", "5", "--out", str(path)]) == 0
    return path


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_help_names_every_command(arguments, capsys):
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(f"  {command} " in out for command in app.COMMANDS)
    assert "nprobot train --env Reacher-v5" in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nprobot ")


@pytest.mark.parametrize("command", app.COMMANDS)
def test_help_of_a_command_has_examples_and_loads_nothing_heavy(command):
    code = (
        "import sys; from nprobot.cli import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print({'torch', 'stable_baselines3', 'mujoco', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, heavy = done.stdout.splitlines()
    assert heavy == "set()"
    assert f"  nprobot {command}" in "\n".join(text)


def test_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "nprobot", "tran"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "nprobot: error: unknown command 'tran'; did you mean train? "
        f"Commands: {', '.join(app.COMMANDS)}.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["train", "--env", "Reecher-v5"], "Reacher-v5"),
        (["train", "--rule", "dapn"], "danp"),
        (["train", "--algo", "ppoo"], "ppo"),
        (["train", "--smaples", "4"], "--samples"),
        (["train", "--normalize", "off"], "--normalise"),
        (["train", "--noise", "gausian"], "gaussian"),
        (["train", "--activation", "rellu"], "relu"),
        (["evaluate", "x", "--episode", "4"], "--episodes"),
        (["envs", "reecher"], "Reacher-v5"),
    ],
)
def test_a_wrong_name_gets_near_matches_and_code_2(arguments, near, capsys):
    try:
        code = main(arguments)
    except SystemExit as end:  # from the parser of options
        code = end.code
    captured = capsys.readouterr()
    assert code == 2
    assert near in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--steps", "0"], "steps must be 1 or more"),
        (["train", "--sigma", "-1"], "sigma must be above 0"),
        (["train", "--env", "FrozenLake-v1"], "Discrete"),
        (["train", "--env-kwargs", "friction", "3"], "friction"),
        (["train", "--resume", "nowhere"], "there is no run at nowhere"),
        (["train", "--resume", "nowhere", "--out", "there"], "leave --out away"),
        (["evaluate", "nowhere"], "no policy at nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"nprobot {arguments[0]}: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not list(tmp_path.iterdir())


def test_train_ends_with_a_table_and_the_next_command(run, capsys, tmp_path):
    out = tmp_path / "run"
    assert main(["train", *SMALL, "--seed", "5", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "InvertedPendulum-v5: PPO with NP + feedback, K = 1, seed 5" in text
    for expected in ("20 deterministic episodes", "256", "forward passes", "backward passes"):
        assert expected in text
    assert f"Run: {out}\n" in text
    assert f"nprobot evaluate {out}" in text
    assert (out / "curve.png").exists()
    command = json.loads((out / "config.json").read_text())["command"]
    assert command == f"nprobot train {' '.join(SMALL)} --seed 5 --out {out}"


def test_an_existing_run_is_left_alone(run, capsys):
    before = sorted(run.rglob("*"))
    assert main(["train", *SMALL, "--out", str(run)]) == 2
    assert f"--resume {run}" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_options_end_up_in_the_configuration(run):
    config = RunFolder.open(run).config
    assert (config.seed, config.samples, config.network.hidden) == (5, 1, (8,))
    assert config.algorithm.n_steps == 64


def test_resume_keeps_what_is_not_given(tmp_path, capsys):
    path = str(tmp_path / "run")
    assert main(["train", *SMALL, "--rule", "np", "--out", path]) == 0
    assert main(["train", "--resume", path, "--rule", "np+feedback"]) == 2  # the default, but given
    assert "keeps its rule, np" in capsys.readouterr().err
    assert main(["train", "--resume", path, "--steps", "512"]) == 0
    config = RunFolder.open(tmp_path / "run").config
    assert (config.rule, config.steps, config.algorithm.n_steps) == ("np", 512, 64)


def test_evaluate_prints_json(run, capsys):
    assert main(["evaluate", str(run), "--episodes", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["env"] == "InvertedPendulum-v5"
    assert len(result["returns"]) == result["episodes"] == 3
    assert result["return_mean"] == pytest.approx(sum(result["returns"]) / 3)
    assert main(["evaluate", str(run), "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["return_sd"] is None


def test_evaluate_takes_a_policy_folder(run, capsys):
    assert main(["evaluate", str(run / "checkpoints" / "last"), "--episodes", "3"]) == 0
    out = capsys.readouterr().out
    assert "InvertedPendulum-v5" in out
    assert "PPO with NP + feedback, 256 steps, seed 5" in out


def test_evaluate_refuses_another_robot(run, capsys):
    assert main(["evaluate", str(run), "--env", "Reacher-v5"]) == 2
    assert "does not fit Reacher-v5" in capsys.readouterr().err


def test_ctrl_c_ends_with_a_checkpoint_and_the_way_on(tmp_path):
    path = tmp_path / "run"
    endless = ["train", *SMALL, "--steps", "10000000", "--out", str(path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "nprobot", *endless],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("run folder"):  # the run has begun
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == ""
    assert "Stopping after this update" in out
    assert f"nprobot train --resume {path}" in out
    assert (path / "checkpoints" / "last" / "policy.json").exists()
    assert (path / "curve.png").exists()


@pytest.mark.slow
def test_without_options_a_pendulum_learns_to_balance(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train"]) == 0
    (path,) = (tmp_path / "runs").iterdir()
    assert path.name.startswith("InvertedPendulum-v5-ppo-np+feedback-0-")
    assert evaluate(policy_file.load(find_policy(path)), seed=1).mean >= 950


def test_envs_lists_ours_and_gymnasiums(capsys):
    assert main(["envs", "--json"]) == 0
    listed = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert any(name.startswith("nprobot/") for name in listed)
    assert "Reacher-v4" not in listed
    assert "FrozenLake-v1" not in listed
    assert listed["CartPole-v1"]["tuned"] == []
    assert {entry["rule"] for entry in listed["Reacher-v5"].pop("tuned")} >= {"danp"}
    assert listed["Reacher-v5"] == {
        "id": "Reacher-v5",
        "control": "continuous",
        "inputs": 10,
        "actions": 2,
        "control_rate": 50.0,
        "episode": 50,
        "solved_at": -3.75,
        "missing": None,
    }
    assert listed["CartPole-v1"]["control"] == "discrete"
    assert main(["envs", "pendulum"]) == 0
    table = capsys.readouterr().out
    assert "InvertedDoublePendulum-v5" in table
    assert "Reacher" not in table


def test_envs_says_what_to_install(monkeypatch):
    (spec,) = [spec for spec in control_environments() if spec.id == "LunarLander-v3"]
    monkeypatch.setitem(sys.modules, "Box2D", None)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d.lunar_lander", raising=False)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d", raising=False)
    assert describe(spec).missing == "gymnasium[box2d]"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_figures_leave_out_what_is_not_known():
    assert figures(Progress(0, 100)) == ""
    assert figures(Progress(50, 100, "steps", "return 3.2", 10.0)) == (
        "return 3.2, 10 steps/s, 5 s left"
    )
