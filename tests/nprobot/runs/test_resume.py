"""A resumed run ends as one that was never stopped, bit for bit, wherever it was stopped."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import nprobot
from nprobot.errors import BusyError, ConfigError, ExistsError, RunFailedError
from nprobot.runs.atomic_files import lock_run, new_folder
from nprobot.runs.state import load_state
from nprobot.training.run_config import AlgorithmOptions, LearningOptions
from nprobot.training.run_folder import RunFolder
from nprobot.training.training_run import resume, train

ROBOT = {
    **{"model": "quadruped", "task": "velocity", "duration": 0.2, "command.every": 0.1},
    **{"command.grow": True, "terrain.kind": "mixed", "randomise": True, "history": 2},
    "privileged": '["height", "friction"]',
}
COSINE = LearningOptions(lr_schedule="cosine")


class Opaque(gymnasium.Env):
    """Keeps its state where nobody can see it, as an extension in C may."""

    observation_space = spaces.Box(-10, 10, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, lucky=False):
        position = 0.0
        self.lucky = lucky

        def move(value=None, by=0.0):
            nonlocal position
            position = position + by if value is None else value
            return position

        self._move = move

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        luck = np.random.default_rng() if self.lucky else self.np_random
        return np.array([self._move(luck.uniform(-1, 1)), 0.0]), {}

    def step(self, action):
        x = self._move(by=0.1 * float(np.clip(action[0], -1, 1)) + self.np_random.normal(0, 0.01))
        return np.array([x, np.sin(x)]), -abs(x), abs(x) > 2, False, {}


gymnasium.register("Tests/Opaque-v0", Opaque, max_episode_steps=30)


@pytest.mark.parametrize("steps", [0, 128, 256, 512])
def test_from_every_checkpoint(run, tmp_path, tools, steps):
    path = tools.cut(run, tmp_path / "run", steps)
    resume(path)
    tools.assert_same(path, run)
    session = json.loads((path / "config.json").read_text())["sessions"][-1]
    assert (session["from_step"], session["to_step"], session["ended"]) == (steps, 640, "complete")


@pytest.mark.parametrize(
    "options",
    [
        {"env": "Pendulum-v1", "rule": "bp", "normalise": "off"},
        {"env": "CartPole-v1", "rule": "inp"},
        {"env": "Reacher-v5", "actuators": "worn-gearbox", "learning": COSINE},
        {"env": "nprobot/ArmTrack-v0", "rule": "dbp"},
        {"env": "Tests/Opaque-v0"},
        {"env": "Pendulum-v1", "rule": "dnp+feedback"},
        {"env": "nprobot/Robot-v0", "rule": "np+feedback", "env_kwargs": ROBOT},
        {"env": "Pendulum-v1", "rule": "np+feedback", "chip": "analog,TelegraphNodeNoise"},
    ],
    ids=lambda options: options["env"] + options.get("rule", ""),
)
def test_other_environments(tmp_path, tools, options):
    short = {"steps": 192, "checkpoint_every": 64, "evaluate_every": None}
    updates = dataclasses.replace(tools.SMALL.algorithm, n_steps=32)
    config = dataclasses.replace(tools.SMALL, algorithm=updates, **short | options)
    train(config, tmp_path / "whole")
    path = tools.cut(tmp_path / "whole", tmp_path / "run", 64)
    resume(path)
    tools.assert_same(path, tmp_path / "whole")


def test_workers_change_nothing(run, tmp_path, tools):
    path = tools.cut(run, tmp_path / "run", 256)
    resume(path, dataclasses.replace(RunFolder.open(path).config, workers=2))
    here, there = tools.contents(path), tools.contents(run)
    assert here["rows"] == there["rows"]
    assert (
        here["step_000000640", "policy.safetensors"]
        == there["step_000000640", "policy.safetensors"]
    )


def test_stopped_by_ctrl_c_anywhere(run, tmp_path, tools):
    class Impatient(tools.Listener):
        def message(self, text):
            super().message(text)
            if text.startswith("step 256: evaluated"):
                os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "run"
    result = train(tools.SMALL, path, reporter=Impatient())
    assert (result.interrupted, result.steps) == (True, 256)
    assert not resume(path).interrupted
    tools.assert_same(path, run)


def test_ctrl_c_twice(run, tmp_path, tools):
    """The second one ends it at once, in the middle of an update; nothing before it is lost."""

    class Hurried(tools.Listener):
        def message(self, text):
            super().message(text)
            if text.startswith(("step 256: evaluated", "Stopping after")):
                os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tools.SMALL, path, reporter=Hurried())
    assert signal.getsignal(signal.SIGINT) is before
    resume(path)
    tools.assert_same(path, run)


def test_an_environment_without_a_seed(tmp_path, tools):
    config = dataclasses.replace(
        tools.SMALL, env="Tests/Opaque-v0", env_kwargs={"lucky": True}, steps=384
    )
    train(config, tmp_path / "whole")
    path = tools.cut(tmp_path / "whole", tmp_path / "run", 256)
    listener = tools.Listener()
    assert resume(path, reporter=listener).steps == 384
    assert any("does not follow from its seed" in message for message in listener.messages)


def test_a_checkpoint_ends_the_running_episodes(tmp_path, tools, monkeypatch):
    """As a time limit does: no episode is counted, and what would have come is valued."""
    config = dataclasses.replace(tools.SMALL, steps=256, evaluate_every=None)
    starts = []
    collect = nprobot.PPO.collect_rollouts

    def watch(model, *arguments, **keywords):
        before = collect(model, *arguments, **keywords)
        starts.append(model.rollout_buffer.episode_starts[0].copy())
        return before

    monkeypatch.setattr(nprobot.PPO, "collect_rollouts", watch)
    train(config, tmp_path / "run")
    assert [start.all() for start in starts] == [True, True]  # a checkpoint at 128


class TestEnd:
    def test_killed_after_the_last_update(self, run, copy, tools):
        """Evaluation, last rows and figure are made up for."""
        (copy / "curve.png").unlink()
        file = copy / "config.json"
        description = json.loads(file.read_text())
        del description["sessions"][-1]["ended"]
        file.write_text(json.dumps(description))
        table = copy / "progress.csv"
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
        resume(copy)
        tools.assert_same(copy, run)

    def test_a_complete_run_is_left_alone(self, copy):
        before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
        with pytest.raises(ConfigError, match="--steps 1280"):
            resume(copy)
        assert {p: p.read_bytes() for p in before} == before

    def test_a_solved_run(self, tmp_path, tools):
        config = dataclasses.replace(tools.SMALL, stop_at=1.0)
        train(config, tmp_path / "whole")
        shutil.copytree(tmp_path / "whole", tmp_path / "run", symlinks=True)
        with pytest.raises(ConfigError, match="reached its return of 1 at step 256"):
            resume(tmp_path / "run")
        path = tools.cut(tmp_path / "whole", tmp_path / "again", 128)
        resume(path)
        tools.assert_same(path, tmp_path / "whole")
        solved = RunFolder.open(path).config
        assert resume(path, dataclasses.replace(solved, stop_at=1e9)).steps == 640


def test_two_processes_do_not_train_one_run(copy):
    with lock_run(copy), pytest.raises(BusyError, match="another process"):
        resume(copy)


def test_two_processes_do_not_make_one_folder(tmp_path):
    path = tmp_path / "run"
    with new_folder(path) as first:
        (first / "a").touch()
        with pytest.raises(BusyError, match="another process"), new_folder(path):
            pass
    with pytest.raises(ExistsError, match="has just been made"), new_folder(path) as second:
        (second / "b").touch()
    assert [file.name for file in path.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_clock_that_goes_back(run, tmp_path, tools, monkeypatch):
    """The time of day says when; nothing follows from it."""
    now = itertools.count(2_000_000_000, -86_400)
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setattr(time, "strftime", lambda *_: f"day {next(now)}")
    path = tools.cut(run, tmp_path / "run", 256)
    resume(path)
    tools.assert_same(path, run)


def test_another_hash_seed(run, tmp_path, tools):
    """No number depends on the order of a set, which Python shuffles in each process."""
    code = (
        "import sys, json, torch; from pathlib import Path; from functools import partial\n"
        "from nprobot.training import callback, training_run as run\n"
        "from nprobot.training.run_config import RunConfig\n"
        "callback.evaluate = run.evaluate = partial(run.evaluate, episodes=2)\n"
        "torch.set_num_threads(1)\n"
        "run.train(RunConfig.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    config = json.dumps(tools.SMALL.to_dict())
    subprocess.run(
        [sys.executable, "-c", code, config, str(tmp_path / "run")],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        check=True,
    )
    tools.assert_same(tmp_path / "run", run)


@pytest.mark.parametrize(
    "error",
    [MemoryError("no room"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")],
)
def test_too_little_memory(run, tmp_path, tools, monkeypatch, error):
    path = tools.cut(run, tmp_path / "run", 256)
    train_once = nprobot.PPO.train

    def fails(self):
        if self.num_timesteps > 400:
            raise error
        train_once(self)

    with monkeypatch.context() as patch:
        patch.setattr(nprobot.PPO, "train", fails)
        with pytest.raises(RunFailedError, match=r"step 512: there is too little memory.*384"):
            resume(path)
    resume(path)
    tools.assert_same(path, run)
    with pytest.raises(RunFailedError, match="--buffer-size"):
        huge = AlgorithmOptions(n_steps=10**12)
        train(dataclasses.replace(tools.SMALL, algorithm=huge), tmp_path / "huge")
    assert not (tmp_path / "huge").exists()


def test_other_versions_are_said(run, tmp_path, tools):
    path = tools.cut(run, tmp_path / "run", 512)
    text = (path / "config.json").read_text()
    (path / "config.json").write_text(text.replace('"mujoco": "3', '"mujoco": "2'))
    listener = tools.Listener()
    resume(path, reporter=listener)
    assert any("not bit for bit: mujoco 2" in message for message in listener.messages)


def test_a_checkpoint_repeats_itself(run, tmp_path, tools):
    """Nothing that is saved depends on the clock or the process, but for what tells the time."""
    path = tools.cut(run, tmp_path / "run", 128)
    resume(path)
    checkpoint = "checkpoints/step_000000256/training"
    here, there = load_state(path / checkpoint), load_state(run / checkpoint)
    assert here["run"]["elapsed_seconds"] > 0
    assert here["run"]["log"]["pending"] == there["run"]["log"]["pending"]
