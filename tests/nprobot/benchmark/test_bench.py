"""Benchmarks done for real: every kind of run, resuming after a kill, failures on the way."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest

import nprobot
from nprobot.benchmark import Processes, RunSpec, bench, execute, load, plan, read, running
from nprobot.benchmark.execution import Recorder
from nprobot.benchmark.ledger import Acting, Ledger
from nprobot.benchmark.peers import check_installed
from nprobot.benchmark.rows import ROWS, open_rows, parse_rows
from nprobot.benchmark.running import Event, estimate
from nprobot.cli import main
from nprobot.errors import ConfigError, MissingPackageError, UnknownNameError
from nprobot.policies.files.policy_file import load as load_policy
from nprobot.training import evaluate
from nprobot.training.run_config import RunConfig
from nprobot.training.vector import make_vector


class Recorded:
    """An engine that does nothing and says how each run ended."""

    def __init__(self, made_up, failing=(), stop_after=None):
        self.made_up, self.failing, self.stop_after = made_up, failing, stop_after
        self.done = []

    def run(self, specs):
        for spec in specs:
            if self.stop_after is not None and len(self.done) >= self.stop_after:
                raise KeyboardInterrupt
            self.done.append(spec)
            yield Event(spec)
            status = "failed" if spec.learner in self.failing else "done"
            row = self.made_up(spec.learner, spec.seed, 1.0, status=status)
            yield Event(spec, row=row | spec.to_dict() | {"key": spec.key})


def test_smoke_and_its_report_by_the_command_line(tmp_path, capfd):
    out = tmp_path / "smoke"
    filters = ["--seeds", "0", "--env", "InvertedPendulum", "--steps", "1024"]
    assert main(["bench", "smoke", "--out", str(out), *filters]) == 0
    rows = read(out)
    assert {row["learner"] for row in rows} == {run.learner for run in load("smoke").runs}
    for row in rows:
        assert row["status"] == "done", row.get("error")
        assert row["versions"]["torch"] and row["versions"]["mujoco"] and row["machine"]
        assert row["peak_memory_mib"] > 50
        assert len(row["returns"]) == 3
        if row["algo"] == "random":
            assert row["env_steps"] == 0
            continue
        assert 1024 <= row["env_steps"] <= 1024 + 256 * 4
        assert row["cpu_seconds"] > 0 and row["multiply_adds"] > 0
        assert row["backward_passes"] == (2 * 10 * row["env_steps"] if row["rule"] == "bp" else 0)
        curve = row["curve"]
        assert curve["env_steps"][0] == 0 and curve["env_steps"][-1] == row["env_steps"]
        for name in ("env_steps", "multiply_adds", "cpu_seconds", "forward_passes"):
            assert curve[name] == sorted(curve[name])
            assert len(curve[name]) == len(curve["return_mean"])
    capfd.readouterr()
    assert main(["bench", "smoke", "--out", str(out), *filters]) == 0
    assert "0 runs to do" in capfd.readouterr().out
    assert main(["report", str(out)]) == 0
    assert (out / "report" / "index.html").is_file()


def test_the_same_run_gives_the_same_result(tiny):
    (spec,) = load(str(tiny(steps=128))).select(rule=["danp"], seeds=[3]).runs
    rows = [execute(spec), execute(spec)]
    for name in ("returns", "multiply_adds", "forward_passes", "env_steps"):
        assert rows[0][name] == rows[1][name]
    assert rows[0]["curve"]["return_mean"] == rows[1]["curve"]["return_mean"]


@pytest.mark.parametrize(
    ("algo", "settings"),
    [
        ("sac", {"learning_starts": 20, "batch_size": 16, "ent_coef_start": 0.01}),
        ("td3", {"learning_starts": 20, "batch_size": 16, "exploration_noise": 0.1}),
        ("nrl", {}),
        ("sb3-ppo", {"n_steps": 32, "batch_size": 32, "log_std_init": -2, "ortho_init": False}),
        ("sb3-sac", {"learning_starts": 20, "batch_size": 16}),
        ("sb3-td3", {"learning_starts": 20, "batch_size": 16}),
    ],
)
def test_every_other_algorithm_runs_and_is_billed(algo, settings):
    ruled = not algo.startswith("sb3")
    spec = RunSpec(
        env="InvertedPendulum-v5", actuators="servo" if algo == "nrl" else "ideal", steps=64,
        learner=algo, algo=algo, rule="danp" if ruled else None, samples=2 if ruled else None,
        settings=settings, envs=1, hidden=(8, 8), episodes=1, points=1, point_episodes=1,
    )  # fmt: skip
    row = execute(spec)
    assert row["status"] == "done", row.get("traceback")
    assert row["env_steps"] >= 64
    assert row["multiply_adds"] > 44 * (4 * 8 + 8 * 8 + 8)  # more than acting alone
    assert row["forward_passes"] > 64
    assert (row["backward_passes"] == 0) == ruled


@pytest.mark.slow  # needs the extra [es], which brings JAX
def test_openais_evolution_strategy_learns():
    spec = RunSpec(
        env="InvertedPendulum-v5", steps=4000, learner="OpenAI-ES", algo="openai-es",
        envs=1, episodes=5, points=2, point_episodes=2,
    )  # fmt: skip
    rows = [execute(spec), execute(spec)]
    assert rows[0]["status"] == "done", rows[0].get("traceback")
    assert rows[0]["return_mean"] > 3 * rows[0]["curve"]["return_mean"][0]
    assert rows[0]["returns"] == rows[1]["returns"]


def test_a_peer_whose_package_is_missing_names_the_extra():
    with (
        mock.patch("importlib.util.find_spec", return_value=None),
        pytest.raises(MissingPackageError, match=r"nprobot\[es\]"),
    ):
        check_installed("openai-es")


class Fading:
    """A policy that holds the pole for the first few calls of `Recorder`, and never again."""

    def __init__(self):
        self.good = True

    def __call__(self, observations):
        gains = np.array([0.5, 5.0, 0.8, 1.0]) if self.good else np.zeros(4)
        return observations @ gains[:, None]


def test_the_best_policy_is_kept_and_measured_as_the_last_is():
    spec = RunSpec(
        env="InvertedPendulum-v5", steps=200, learner="x", algo="random",
        episodes=3, points=2, point_episodes=2,
    )  # fmt: skip
    recorder, policy = Recorder(spec, lambda steps: None), Fading()
    recorder.start(Ledger(0, 0, 0, 0), policy)
    recorder.pass_by(lambda: Ledger(100, 0, 0, 0), 100, policy)
    policy.good = False
    recorder.finish(Ledger(200, 0, 0, 0), policy)
    recorder.close()
    assert recorder.best() == {"best_return_mean": 1000.0, "best_step": 0}
    assert np.mean(recorder.returns) < 100


def test_a_frozen_policy_acts_on_as_it_was():
    env = make_vector(RunConfig(env="InvertedPendulum-v5", seed=1))
    model = nprobot.PPO("MlpPolicy", env, n_steps=32, batch_size=64, seed=0)
    acting = Acting(model.policy, env)
    frozen = copy.deepcopy(acting)
    x = np.random.default_rng(0).normal(size=(5, 4))
    before = acting(x)
    model.learn(512)
    assert np.array_equal(frozen(x), before)
    assert not np.array_equal(acting(x), before)


def test_a_run_on_a_chip_is_told_in_the_settings():
    spec = RunSpec(
        env="InvertedPendulum-v5", steps=128, learner="x", algo="ppo", rule="np+feedback",
        settings={"chip": "0.06", "n_steps": 32, "batch_size": 32}, envs=2, hidden=(8,),
        episodes=1, points=1, point_episodes=1,
    )  # fmt: skip
    row = execute(spec)
    assert row["status"] == "done", row.get("traceback")
    assert row["best_step"] in (0, 128)


def test_a_run_is_what_nprobot_train_makes_of_the_same_options(tmp_path):
    settings = {"n_steps": 32, "batch_size": 32, "n_epochs": 2}
    spec = RunSpec(
        env="Reacher-v5", steps=128, learner="x", algo="ppo", rule="np+feedback", seed=5,
        settings=settings, envs=2, hidden=(8,), episodes=4, points=1, point_episodes=1,
    )  # fmt: skip
    row = execute(spec)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = ["train", "--env", "Reacher-v5", "--rule", "np+feedback", "--steps", "128"]
    command += ["--seed", "5", "--envs", "2", "--hidden", "8", "--defaults", "general"]
    # A benchmark writes no checkpoints, which end episodes.
    command += ["--checkpoint-every", "10000", "--out", str(tmp_path / "run")]
    assert main([*command, *options]) == 0
    policy = load_policy(tmp_path / "run" / "checkpoints" / "last")
    expected = evaluate(policy, episodes=4, seed=0)
    # The last checkpoint begins episodes, whose first observations the normaliser sees.
    assert row["returns"] == pytest.approx(expected.returns, abs=0.05)


def test_stable_baselines3s_own_is_ours_under_backprop():
    """To the last digit, and so is what it spends."""
    settings = {"n_steps": 32, "batch_size": 32, "normalise": "on"}
    own = {"env": "Reacher-v5", "steps": 128, "learner": "x", "settings": settings, "envs": 2}
    own |= {"hidden": (8,), "episodes": 2, "points": 1, "point_episodes": 1}
    ours = execute(RunSpec(**own, algo="ppo", rule="bp"))
    theirs = execute(RunSpec(**own, algo="sb3-ppo"))
    for name in ("returns", "env_steps", "forward_passes", "backward_passes", "multiply_adds"):
        assert ours[name] == theirs[name]


@pytest.mark.parametrize("rule", ["anp", "np+feedback"])
def test_a_regression_task_is_a_run_too(rule):
    spec = RunSpec(
        env="fit:arm-forward-kinematics", actuators="ideal", steps=2, learner=rule, algo="fit",
        rule=rule, samples=2, hidden=(16,),
        env_kwargs={"train": 4, "validation": 2, "test": 2},
    )  # fmt: skip
    row = execute(spec)
    assert row["status"] == "done", row.get("traceback")
    assert -2 < row["return_mean"] < 0
    assert row["curve"]["forward_passes"][-1] == row["forward_passes"] > 0
    assert row["multiply_adds"] > 0


def test_a_benchmark_that_is_killed_continues_without_losing_or_doubling(tiny, tmp_path):
    suite, out = tiny(steps=512, seeds=2), tmp_path / "out"
    command = [sys.executable, "-m", "nprobot", "bench", str(suite), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not (out / ROWS).exists() or (out / ROWS).read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    before, whole = parse_rows(out / ROWS)
    everything = load(str(suite)).runs
    assert 3 <= len(before) < len(everything)
    assert main(command[3:]) == 0
    after, _ = parse_rows(out / ROWS)
    assert (out / ROWS).read_bytes()[:whole] == b"".join(
        json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in before
    )
    assert sorted(row["key"] for row in after) == sorted(run.key for run in everything)
    assert all(row["status"] == "done" for row in after)


def test_a_worker_that_dies_is_a_failed_run_and_the_others_continue(tiny):
    runs = load(str(tiny(steps=100_000, seeds=1))).runs
    long, short = runs[0], runs[-1]
    ends = {}
    for event in Processes(1).run([long, short]):
        if event.spec == long and event.steps and event.row is None:
            os.kill(_worker(), signal.SIGKILL)
        if event.row is not None:
            ends[event.spec.learner] = event.row
    assert ends["BP"]["status"] == "failed"
    assert "RunFailedError" in ends["BP"]["error"] and "-9" in ends["BP"]["error"]
    assert ends["BP"]["key"] == long.key
    assert ends["random"]["status"] == "done"


def _worker():
    """The one process that does a run now: forked by the fork server of this process."""
    import psutil

    mine = psutil.Process().children(recursive=True)
    return max(child.pid for child in mine if "forkserver" in " ".join(child.cmdline()))


def test_an_error_in_a_run_is_its_row(tiny):
    (spec,) = load(str(tiny())).select(learner=["BP"], seeds=[0]).runs
    bad = spec.replace(settings={"n_steps": -1})
    row = execute(bad)
    assert row["status"] == "failed"
    assert "Error" in row["error"] and row["traceback"]
    json.dumps(row, allow_nan=False)


def test_a_policy_that_loses_its_numbers_has_diverged(tiny):
    (spec,) = load(str(tiny())).select(learner=["BP"], seeds=[0]).runs
    wild = spec.replace(settings={**spec.settings, "learning_rate": 1e30})
    row = execute(wild)
    assert row["status"] == "diverged", row


def test_failed_runs_are_done_again_only_if_asked(tiny, tmp_path, made_up):
    suite, out = load(str(tiny())), tmp_path / "out"
    engine = Recorded(made_up, failing=("BP",))
    assert bench(suite, out, engine) == {"failed": 2, "done": 5}
    assert bench(suite, out, Recorded(made_up)) == {}
    assert bench(suite, out, Recorded(made_up), retry_failed=True) == {"done": 2}
    assert {row["status"] for row in read(out)} == {"done"}


def test_an_interrupted_benchmark_keeps_its_rows(tiny, tmp_path, made_up):
    suite, out = load(str(tiny())), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        bench(suite, out, Recorded(made_up, stop_after=3))
    assert len(read(out)) == 3
    rest = Recorded(made_up)
    bench(suite, out, rest)
    assert len(rest.done) == len(suite.runs) - 3


def test_learners_of_one_name_and_two_settings_do_not_mix(tiny, tmp_path, made_up):
    path, out = tiny(), tmp_path / "out"
    bench(load(str(path)), out, Recorded(made_up))
    path.write_text(path.read_text().replace("1e-3", "2e-3"))
    with open_rows(out) as store, pytest.raises(ConfigError, match=r"learning_rate.*another --out"):
        plan(load(str(path)), store.rows)


def test_what_cannot_run_is_refused_before_anything_runs(tiny, tmp_path, made_up):
    path = tiny()
    path.write_text(path.read_text().replace("InvertedPendulum-v5", "InvertedPendulums-v5"))
    engine = Recorded(made_up)
    with pytest.raises(UnknownNameError, match="did you mean InvertedPendulum-v5"):
        bench(load(str(path)), tmp_path / "out", engine)
    assert not engine.done and not (tmp_path / "out").exists()


def test_a_dry_run_and_the_list_of_suites(tmp_path, capfd):
    assert main(["bench"]) == 0
    listed = capfd.readouterr().out
    assert all(name in listed for name in ("smoke", "core", "full", "robots", "regression"))
    out = tmp_path / "never"
    assert main(["bench", "core", "--dry-run", "--out", str(out), "--env", "Hopper"]) == 0
    hopper = len(load("core").select(env=["Hopper"]).runs)
    assert f"{hopper} runs to do" in capfd.readouterr().out
    assert not out.exists()
    assert main(["bench", "corre"]) == 2
    assert "did you mean core" in capfd.readouterr().err
    assert main(["report", str(out)]) == 2


def test_estimates_grow_with_the_work():
    suite = load("core")
    by = {(run.env, run.learner): estimate(run) for run in suite.runs}
    assert by["Hopper-v5", "NP, K = 8"] > by["Hopper-v5", "NP, K = 1"]
    assert by["Hopper-v5", "BP"] > by["InvertedPendulum-v5", "BP"]
    assert set(running.ENV_MICROSECONDS) >= {"Hopper", "Reacher"}


def test_public_names_can_be_imported():
    from nprobot import benchmark

    for name in benchmark.__all__:
        assert getattr(benchmark, name) is not None
        assert name in dir(benchmark)
    with pytest.raises(AttributeError, match="nonsense"):
        benchmark.nonsense  # noqa: B018
