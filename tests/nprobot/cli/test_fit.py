"""`nprobot fit` from the command line: tasks, files, resume, and what goes wrong."""

from __future__ import annotations

import json
import signal
import warnings

import numpy as np
import pytest

from nprobot.cli import evaluate
from nprobot.cli import fit as command
from nprobot.cli.terminal import Display
from nprobot.errors import (
    ConfigError,
    DataError,
    ExistsError,
    NotFoundError,
    RobotError,
    RuleError,
    UnknownNameError,
)
from nprobot.regression import load
from nprobot.regression.data import Source

TASK = ["--task-kwargs", "train", "6", "validation", "2", "test", "2", "duration", "1.0"]
QUICK = ["--samples", "2", "--hidden", "16", "--batch-size", "128"]


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("NPROBOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return command.main([str(argument) for argument in arguments])


@pytest.fixture
def table(tmp_path):
    """A CSV file with named columns and recordings."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(400, 2))
    rows = np.column_stack([q, q[:, 0] + q[:, 1], np.arange(400) // 40])
    file = tmp_path / "arm.csv"
    np.savetxt(file, rows, delimiter=",", header="q1,q2,tau,run", comments="")
    return file


def test_a_task_from_start_to_end(tmp_path, capsys):
    out = tmp_path / "run"
    code = run("--task", "arm-inverse-dynamics", "--rule", "danp", *QUICK, *TASK,
               "--epochs", 2, "--out", out)  # fmt: skip
    assert code == 0
    printed = capsys.readouterr().out
    assert "600 rows, 6 trajectories" in printed
    assert "joint7.torque" in printed and "shifted" in printed
    assert f"nprobot evaluate {out} --env nprobot/ArmTrack-v0" in printed
    description = json.loads((out / "config.json").read_text())
    assert description["command"].startswith("nprobot fit --task arm-inverse-dynamics")
    assert description["config"]["samples"] == 2
    assert description["about"]["network"]["sizes"] == [21, 16, 7]
    assert load(out).predict(np.zeros(21)).shape == (7,)

    with pytest.raises(ExistsError):
        run("--task", "arm-inverse-dynamics", "--out", out)
    assert run("--resume", out, "--epochs", 3) == 0
    assert (out / "progress.csv").read_text().count("\n") == 1 + 1 + 3
    with pytest.raises(ConfigError, match="keeps its rule"):
        run("--resume", out, "--rule", "np", "--epochs", 9)
    with pytest.raises(ConfigError, match="keeps its data"):
        run("--resume", out, "--epochs", 9, "--task", "arm-forward-kinematics")
    with pytest.raises(ConfigError, match="own folder"):
        run("--resume", out, "--out", tmp_path / "other")
    with pytest.raises(ConfigError, match="--epochs 6"):
        run("--resume", out)


def test_evaluate_says_what_a_fit_is_worth_on_the_arm(tmp_path, capsys):
    assert run("--rule", "bp", *QUICK, *TASK, "--epochs", 5, "--out", "run") == 0
    capsys.readouterr()
    assert evaluate.main(["run", "--episodes", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tracking"]
    error = {(row["robot"], row["controller"]): row["position_error"] for row in rows}
    assert len(error) == 6
    for robot in {row["robot"] for row in rows}:
        alone, model, exact = (
            error[robot, name] for name in ("PD alone", "this policy", "exact model")
        )
        assert exact < model < 0.5 * alone
    assert evaluate.main(["run", "--episodes", "1", "--env", "nprobot/ArmTrack-v0"]) == 0
    assert "exact model" in capsys.readouterr().out


def test_a_table_of_your_own(table, capsys, monkeypatch):
    columns = ["--inputs", "q1", "q2", "--targets", "tau", "--trajectory", "run"]
    assert run("--data", table, *columns, "--rule", "bp", "--epochs", 80, *QUICK, "--out", "r") == 0
    assert "tau" in capsys.readouterr().out
    model = load("r")
    assert model.predict([0.5, 1.0])[0] == pytest.approx(1.5, abs=0.2)
    assert model.description["input_names"] == ["q1", "q2"]
    monkeypatch.chdir("r")  # the file was kept with an absolute path
    assert run("--resume", table.parent / "r", "--epochs", 81) == 0


def test_labels_make_a_classification(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    np.savez(tmp_path / "blobs.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    assert run("--data", "blobs.npz", "--rule", "dnp", "--epochs", 20, *QUICK, "--out", "r") == 0
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "evaluate" not in printed
    rows = (tmp_path / "r" / "scores.csv").read_text().splitlines()
    assert rows[0] == "split,accuracy,cross_entropy"
    assert float(rows[-1].split(",")[1]) > 0.8


def test_warnings_of_the_data_are_lines(tmp_path, capsys):
    x = np.cumsum(np.random.default_rng(0).normal(size=(300, 3)), axis=0)
    np.savez(tmp_path / "rows.npz", x=x, y=x[:, :1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run("--data", "rows.npz", "--rule", "bp", "--epochs", 1, *QUICK) == 0
    captured = capsys.readouterr()
    assert "nprobot fit: warning: There are no trajectory labels" in captured.err
    assert len(list((tmp_path / "runs").glob("rows-bp-0-*"))) == 1


def test_what_cannot_be_fitted(table, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean arm-inverse-dynamics"):
        run("--task", "arm-inverse-dynamic")
    with pytest.raises(UnknownNameError, match="danp"):
        run("--rule", "dann")
    with pytest.raises(DataError, match="'q9'"):
        run("--data", table, "--inputs", "q9", "--targets", "tau")
    with pytest.raises(ConfigError, match="belongs to a file"):
        run("--inputs", "q1")
    with pytest.raises(ConfigError, match="not both"):
        run("--data", table, "--task", "arm-inverse-dynamics")
    with pytest.raises(NotFoundError):
        run("--resume", tmp_path / "nothing")
    broken = tmp_path / "broken.xml"
    broken.write_text("<mujoco><worldbody><body></worldbody></mujoco>")
    with pytest.raises(RobotError):
        run("--task", "inverse-dynamics", "--robot", broken)
    assert not list(tmp_path.glob("runs/*"))  # nothing is left behind by a fit that never began


def test_a_source_survives_json(table):
    for source in (
        Source(),
        Source(task="inverse-dynamics", robot="arm7", task_kwargs={"train": 5}),
        Source(data=table, inputs=("q1", "q2"), targets=("tau",), trajectory="run"),
    ):
        assert Source.from_dict(json.loads(json.dumps(source.to_dict()))) == source
    assert Source().name == "arm-inverse-dynamics"
    assert Source(data=table).name == "arm"


def test_ctrl_c_ends_a_fit_after_its_epoch_and_says_how_to_continue(tmp_path, capsys, monkeypatch):
    def press(self, progress):
        if progress.done == 1:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Display, "progress", press)
        assert run(*QUICK, *TASK, "--epochs", 9, "--out", out) == 130
    assert signal.getsignal(signal.SIGINT) is before
    printed = capsys.readouterr().out
    assert "Stopping after this epoch" in printed
    assert f"continue: nprobot fit --resume {out}" in printed
    assert len((out / "progress.csv").read_text().splitlines()) == 1 + 1 + 1
    assert run("--resume", out) == 0
    assert len((out / "progress.csv").read_text().splitlines()) == 1 + 1 + 9


def test_flags_of_earlier_versions_are_understood(tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ["--rule", "dnp", "--feedback", *QUICK, *TASK, "--epochs", 1, "--out", out]
    assert run(*arguments) == 0
    assert "DNP + feedback" in (captured := capsys.readouterr()).out
    assert (
        captured.err
        == "Note: --feedback is part of the rule's name now, as in --rule np+feedback.\n"
    )
    assert json.loads((out / "config.json").read_text())["config"]["rule"] == "dnp+feedback"
    with pytest.raises(RuleError, match="not for 'danp'"):
        run("--rule=danp", "--feedback")
