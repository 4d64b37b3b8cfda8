"""Environments that raise, hang or die, in this process and in workers: named, and survived."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nprobot.errors import EnvironmentFailedError, EnvironmentUnavailableError, NonFiniteError
from nprobot.training.groups import EnvironmentGroup, EnvRecipe
from nprobot.training.run_config import RunConfig
from nprobot.training.run_folder import RunFolder
from nprobot.training.training_run import resume, train
from nprobot.training.vector import FiniteCheck, SideBySide, make_vector, side_by_side
from nprobot.training.workers import LocalNumber, Worker

MODULE = '''
import os, signal, threading
import gymnasium, numpy as np
from gymnasium import spaces

class Troubled(gymnasium.Env):
    """Comes to grief while there is a file that says how."""
    observation_space = spaces.Box(-10, 10, (1,))
    action_space = spaces.Box(-1, 1, (1,))
    made = 0

    def __init__(self, file):
        self.file, self.steps, self.number = file, 0, None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.number is None:  # a checkpoint gives other seeds
            self.number = seed or 0
        self.steps = 0
        return self.np_random.normal(size=1).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        # One of the environments, in the middle of its second episode.
        if self.number % 2 and self.steps == 7 and os.path.exists(self.file):
            how = open(self.file).read()
            if how == "raise":
                raise RuntimeError("the gripper is jammed")
            elif how == "exit":
                raise SystemExit("the gripper is gone")
            elif how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif how == "hang":
                threading.Event().wait()
        return self.np_random.normal(size=1).astype(np.float32), 1.0, False, False, {}

if "Tests/Troubled-v0" not in gymnasium.registry:
    gymnasium.register("Tests/Troubled-v0", Troubled, max_episode_steps=20)
'''


@pytest.fixture(scope="module")
def config(tmp_path_factory, tools):
    """A run on an environment that other processes can import, and that can be troubled."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / "troubled_environment.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield dataclasses.replace(
            tools.SMALL,
            env="troubled_environment:Tests/Troubled-v0",
            env_kwargs={"file": str(folder / "trouble")},
            steps=384,
            env_timeout=2.0,
            evaluate_every=None,
        )
    sys.modules.pop("troubled_environment", None)


@pytest.fixture(scope="module")
def untroubled(config, tmp_path_factory):
    """That run, where nothing happens."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    train(config, path)
    return path


@pytest.fixture
def trouble(config):
    """The file that says how the environment comes to grief."""
    file = Path(config.env_kwargs["file"])
    yield file
    file.unlink(missing_ok=True)


def troubled(path, how):
    """Let trouble begin after the first checkpoint."""

    class Listener:
        def message(self, text):
            pass

        def progress(self, progress):
            if progress.done == 256:
                path.write_text(how)

    return Listener()


@pytest.mark.parametrize(
    ("how", "workers", "message"),
    [
        (
            "raise",
            0,
            r"environment 1 raised RuntimeError \(troubled_environment.py, line \d+\): the",
        ),
        ("hang", 0, r"environment 1 has not returned for 2 s \(--env-timeout\)"),
        ("exit", 0, r"environment 1 raised SystemExit \(.*\): the gripper is gone"),
        ("exit", 1, r"worker 0, environment 1 raised SystemExit \(.*\): the gripper is gone"),
        ("raise", 1, r"worker 0, environment 1 raised RuntimeError .*: the gripper is jammed"),
        ("hang", 2, r"worker 1, environment 1, has not returned for 2 s"),
        ("die", 1, r"worker 0, environment 1, has died of signal 9 \(Killed\)"),
    ],
    ids=lambda value: str(value)[:5],
)
def test_is_named_and_the_run_goes_on(
    config, untroubled, trouble, tmp_path, tools, how, workers, message
):
    path = tmp_path / "run"
    config = dataclasses.replace(config, workers=workers)
    with pytest.raises(EnvironmentFailedError, match=rf"at step \d+: {message}") as caught:
        train(config, path, reporter=troubled(trouble, how))
    assert f"The last good checkpoint is {path / 'checkpoints' / 'step_000000256'}" in str(
        caught.value
    )
    assert f"continue: nprobot train --resume {path}" in str(caught.value)
    trouble.unlink()
    resume(path, dataclasses.replace(RunFolder.open(path).config, workers=0))
    here, there = tools.contents(path), tools.contents(untroubled)
    assert here["rows"] == there["rows"]


class TestGroups:
    """The same numbers however the environments are spread."""

    def test_as_stable_baselines3(self):
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv

        make = EnvRecipe("InvertedPendulum-v5")
        ours = SideBySide(make, 3, 0, 10.0)
        theirs = DummyVecEnv([lambda i=i: Monitor(make.make(i)) for i in range(3)])
        for vector in (ours, theirs):
            vector.seed(5)
        assert (ours.reset() == theirs.reset()).all()
        rng = np.random.default_rng(0)
        ended = 0
        for _ in range(60):
            actions = rng.uniform(-3, 3, (3, 1)).astype(np.float32)
            a, b = ours.step(actions), theirs.step(actions)
            for i in range(3):
                assert (a[i] == b[i]).all()
                assert a[i].dtype == b[i].dtype
            for mine, other in zip(a[3], b[3], strict=True):
                assert mine["TimeLimit.truncated"] == other["TimeLimit.truncated"]
                if "episode" in other:
                    ended += 1
                    assert mine["episode"]["r"] == pytest.approx(other["episode"]["r"])
                    assert mine["episode"]["l"] == other["episode"]["l"]
                    assert (mine["terminal_observation"] == other["terminal_observation"]).all()
        assert ended > 3
        ours.close()

    def test_workers_give_the_same_and_can_be_saved(self):
        make = EnvRecipe("Pendulum-v1", actuators="servo", seed=4)
        near, far = SideBySide(make, 3, 0, 60.0), SideBySide(make, 3, 2, 60.0)
        for vector in (near, far):
            vector.seed(1)
        assert (near.reset() == far.reset()).all()
        action = np.ones((3, 1), np.float32)
        for _ in range(5):
            assert (near.step(action)[0] == far.step(action)[0]).all()
        third = SideBySide(make, 3, 0, 60.0)
        for vector in (far, third):
            vector.seed(2)
        assert (far.reset() == third.reset()).all()
        third.restore_actuators(far.save_actuators())
        for _ in range(5):
            assert (far.step(action)[0] == third.step(action)[0]).all()
        assert far.get_attr("render_mode", [1]) == [None]
        for vector in (near, far, third):
            vector.close()
        assert not any(runner._process.is_alive() for runner in far._runners)

    def test_an_environment_that_cannot_be_made_in_a_worker(self):
        with pytest.raises(EnvironmentUnavailableError, match="no_such_argument"):
            SideBySide(EnvRecipe("Pendulum-v1", {"no_such_argument": 1}), 1, 1, 60.0)

    def test_a_worker_whose_run_has_gone_says_nothing(self, capfd):
        """After a second Ctrl-C it is at work still, and has nobody to answer."""
        worker = Worker(0, EnvRecipe("Pendulum-v1"), [0], 60.0)
        worker.send("describe")
        worker.receive()
        worker.send("reset", [1])
        worker.close()
        assert worker._process.exitcode == 0
        assert "Traceback" not in capfd.readouterr().err

    def test_an_alarm_of_somebody_else_comes_back(self):
        before = signal.getsignal(signal.SIGALRM)
        vector = make_vector(RunConfig(env="Pendulum-v1", envs=1))
        with side_by_side(vector).watched():
            assert signal.getsignal(signal.SIGALRM) != before
        assert signal.getsignal(signal.SIGALRM) == before

    def test_busy_says_who_is_at_work(self):
        busy = LocalNumber()
        group = EnvironmentGroup(EnvRecipe("Pendulum-v1"), [4, 5], busy)
        seen = []
        for env in group._envs:
            step = env.step
            env.step = lambda action, step=step: (seen.append(busy.value), step(action))[1]
        group.reset([1, 2])
        group.step(np.zeros((2, 1), np.float32))
        assert seen == [4, 5]
        assert busy.value == -1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_action_that_is_not_finite_reaches_no_environment(bad):
    vector = make_vector(RunConfig(env="Pendulum-v1", envs=2))
    vector.reset()
    actions = np.zeros((2, 1), np.float32)
    actions[1] = bad
    with pytest.raises(NonFiniteError, match=f"action for environment 1 is {bad}.*diverged"):
        vector.step(actions)
    assert isinstance(vector.venv, FiniteCheck)


def test_a_killed_run_leaves_no_worker(launcher, tmp_path):
    path = tmp_path / "run"
    script = "\n".join(
        [
            "import nprobot.training.workers as workers, os",
            "start = workers.Worker.__init__",
            "def remember(self, *arguments):",
            "    start(self, *arguments)",
            f"    open({str(tmp_path / 'pids')!r}, 'a').write(str(self._process.pid) + '\\n')",
            "workers.Worker.__init__ = remember",
        ]
    )
    arguments = ["--env", "Pendulum-v1", "--workers", "1", "--envs", "2", "--out", path]
    process = launcher.start("train", *arguments, before=script)
    while not (path / "config.json").exists():
        process.join(0.05)
        assert process.is_alive(), launcher.said()
    process.kill()
    process.join()
    (pid,) = map(int, (tmp_path / "pids").read_text().split())
    end = time.monotonic() + 60
    while _alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def test_a_worker_is_light():
    """It starts in a second instead of ten, and every one takes its memory."""
    code = "import nprobot.training.workers, sys; print({'torch', 'tensorboard'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
