"""`nprobot deploy` and `nprobot policies` as a person meets them."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from nprobot.cli import main
from nprobot.cli.arguments import understand_old_flags
from nprobot.cli.deploy import SafetyOptions, safety_of
from nprobot.deploy import Damping, FlightRecord, Hold
from nprobot.errors import ConfigError
from nprobot.policies import zoo
from nprobot.training.evaluation import evaluate

ZOO = "zoo:InvertedPendulum"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_deploys_a_policy_of_the_zoo(capsys):
    assert main(["deploy", ZOO, "--episodes", "2"]) == 0
    out = capsys.readouterr().out
    assert "episode 2 of 2: return 1000.0, 1000 steps" in out
    assert "InvertedPendulum-v5 at 25 Hz" in out
    assert re.search(r"latency .*p50 .*p99 .*max", out)
    assert re.search(r"faults +│ none", out)


def test_json_has_the_returns_of_the_evaluation(capsys):
    arguments = [*("--actuators", "worn-gearbox"), *("--seed", "3"), "--json"]
    assert main(["deploy", ZOO, *arguments]) == 0
    result = json.loads(capsys.readouterr().out)
    assert main(["deploy", ZOO, "--seed", "3", "--json"]) == 0
    ideal = json.loads(capsys.readouterr().out)
    assert ideal["returns"] == list(evaluate(zoo.load_policy(ZOO[4:]), episodes=1, seed=3).returns)
    assert result["env"] == "InvertedPendulum-v5"
    assert result["rate"] == 25
    assert result["latency"]["p50"] > 0
    assert result["faults"] == []


def test_a_fault_fails_and_leaves_a_flight_record_that_replays(tmp_path, capsys):
    arguments = ["deploy", ZOO, "--observation-high", "0.001"]
    assert main(arguments) == 1
    assert "observation-out-of-range at step" in capsys.readouterr().out
    (file,) = tmp_path.glob("flight-*.npz")
    assert FlightRecord.load(file).about["safety"]["observation_high"] == [0.001]
    assert main(["deploy", ZOO, "--replay", str(file)]) == 0
    assert "every action the same to the last bit" in capsys.readouterr().out


def test_a_flight_can_always_be_kept(tmp_path):
    assert main(["deploy", ZOO, "--slew", "20", "--flight", "kept.npz"]) == 0
    assert len(FlightRecord.load(tmp_path / "kept.npz")) == 1000


def test_faults_can_be_cleared(capsys):
    options = ["--observation-high", "0.001", "--clear-faults", "--episodes", "2"]
    assert main(["deploy", ZOO, *options]) == 1
    out = capsys.readouterr().out
    assert "episode 2 of 2" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zoo:InvertedPendulm"], "did you mean InvertedPendulum"),
        (["nowhere"], "no policy at nowhere"),
        (["model.zip"], "load_trusted_sb3_zip"),
        ([ZOO, "--backend", "onnx"], "no ONNX policy"),
        ([ZOO, "--rate", "100"], "trained at 25 Hz"),
        ([ZOO, "--env", "Reacher-v5"], "does not fit Reacher-v5"),
        ([ZOO, "--env", "InvertedPendulm-v5"], "InvertedPendulum-v5"),
        ([ZOO, "--actuators", "srevo"], "did you mean servo"),
        ([ZOO, "--record", "film.avi"], "is an .mp4"),
        ([ZOO, "--viewer", "--record", "film.mp4"], "cannot go together"),
        ([ZOO, "--episodes", "0"], "1 or more"),
        ([ZOO, "--slew", "-1"], "above 0"),
        ([ZOO, "--safe-action", "damping"], "velocity of each"),
        ([ZOO, "--velocities", "3"], "belongs to"),
        ([ZOO, "--replay", "nothing.npz"], "no flight record"),
        ([ZOO, "--serve", "--port", "99999"], "0 to 65535"),
        ([ZOO, "--serve", "--rate", "5"], "trained at 25 Hz"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    assert main(["deploy", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("nprobot deploy: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("old", [["--hardware", "srevo"], ["--hardware=srevo"]])
def test_old_flags_are_understood(old, capsys):
    assert main(["deploy", ZOO, *old]) == 2
    note, error = capsys.readouterr().err.splitlines()
    assert note == "Note: --hardware is called --actuators now."
    assert "did you mean servo" in error
    assert understand_old_flags(["--hardware=a", "b", "--actuators"]) == [
        *("--actuators=a", "b", "--actuators")
    ]


def test_insisting_on_another_rate_warns(capsys):
    assert main(["deploy", ZOO, "--rate", "50", "--any-rate"]) == 0
    assert capsys.readouterr().err.startswith("Warning: the policy was trained at 25 Hz")


def test_safety_from_options():
    safety = safety_of(SafetyOptions("damping", velocities=(3,), damping=(0.5,), slew=(2.0,)))
    assert safety.safe_action == Damping((3,), 0.5)
    assert safety.slew == (2.0,)
    assert safety_of(SafetyOptions("hold")).safe_action == Hold()
    with pytest.raises(ConfigError):
        safety_of(SafetyOptions("zero", velocities=(1,)))


def test_records_a_film_on_a_machine_without_a_screen(tmp_path):
    """As anybody would: a fresh process, nothing set."""
    env = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    size = ["--env-kwargs", "width", "64", "height", "64"]
    done = subprocess.run(
        [sys.executable, "-m", "nprobot", "deploy", ZOO, *size, "--record", "film.mp4"],
        env=env,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Film: film.mp4" in done.stdout
    assert (tmp_path / "film.mp4").stat().st_size > 5000
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_serves_until_told_to_stop():
    zmq = pytest.importorskip("zmq")
    process = subprocess.Popen(
        [sys.executable, "-m", "nprobot", "deploy", ZOO, "--serve", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    endpoint = re.search(r"tcp://127\.0\.0\.1:\d+", process.stdout.readline()).group()
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, 30_000)
        socket.connect(endpoint)
        socket.send_json({"type": "step", "observation": [0.0] * 4})
        assert socket.recv_json()["type"] == "action"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "1 messages" in out


class TestPolicies:
    def test_lists_the_zoo(self, capsys):
        assert main(["policies"]) == 0
        out = capsys.readouterr().out
        assert all(f"zoo:{name} " in out for name in zoo.names())
        assert "1000.0" in out
        assert "6 epochs" in out
        assert re.search(r"481\.\d ± \d\.\d \(3\.8 mrad RMS\)", out)

    def test_json(self, capsys):
        assert main(["policies", "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)
        assert [row["name"] for row in listed] == zoo.names()
        pendulum = next(row for row in listed if row["name"] == "InvertedPendulum")
        assert pendulum["return_mean"] == 1000
        assert pendulum["control_rate"] == 25
        assert pendulum["network"] == "4-64-64-1, tanh"
        arm = next(row for row in listed if row["name"] == "ArmTrack")
        assert arm["epochs"] == 6
        assert 0 < arm["tracking_error"] < 0.01

    def test_pattern(self, capsys):
        assert main(["policies", "pendulum"]) == 0
        assert "zoo:InvertedPendulum " in capsys.readouterr().out
        assert main(["policies", "walrus"]) == 2
        assert "no policy 'walrus'" in capsys.readouterr().err
