"""What the tests of interrupted and damaged runs share: a small run, and a way to compare runs."""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import sys
from contextlib import contextmanager

import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from nprobot.runs.log import read_table
from nprobot.runs.state import load_state, to_bytes
from nprobot.training import callback, training_run
from nprobot.training.evaluation import evaluate
from nprobot.training.run_config import AlgorithmOptions, NetworkOptions, RunConfig
from nprobot.training.training_run import train

CLOCK = {"time/fps", "time/time_elapsed"}

SMALL = RunConfig(
    steps=640,
    rule="danp",
    samples=2,
    seed=3,
    envs=2,
    checkpoint_every=128,
    evaluate_every=256,
    network=NetworkOptions(hidden=(8, 8)),
    algorithm=AlgorithmOptions(n_steps=64, batch_size=32, n_epochs=2),
)


class Listener:
    """Keeps what a run reports."""

    def __init__(self):
        self.messages = []

    def progress(self, progress):
        pass

    def message(self, text):
        self.messages.append(text)


def contents(path):
    """All that a run has left behind, but for what the clock says."""
    rows = [
        {k: v for k, v in r.items() if k not in CLOCK} for r in read_table(path / "progress.csv")
    ]
    (events,) = path.glob("events.out.tfevents.*")
    found = {
        "names": sorted(
            str(p.relative_to(path)) for p in path.rglob("*") if not p.name.startswith("events.")
        ),
        "columns": (path / "progress.csv").read_text().partition("\n")[0],
        "rows": rows,
        "events": list(scalars(events)),
        "last": os.readlink(path / "checkpoints" / "last"),
    }
    for checkpoint in (path / "checkpoints").glob("step_*"):
        for name in ("policy.json", "policy.safetensors"):
            found[checkpoint.name, name] = (checkpoint / name).read_bytes()
        state = load_state(checkpoint / "training")
        del state["run"]["elapsed_seconds"], state["run"]["log"]["events"]["file"]
        found[checkpoint.name, "state"] = to_bytes(state)
    return found


def scalars(file):
    """Step, name and value of everything in a tensorboard file."""
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.tag not in CLOCK:
                yield event.step, value.tag, value.tensor.float_val[0]


def assert_same(path, reference):
    """Compare two runs, one thing after the other."""
    here, there = contents(path), contents(reference)
    assert here.keys() == there.keys()
    for what in here:
        if "state" in what:  # its JSON line by line first, so that a difference has a name
            assert here[what][0].splitlines() == there[what][0].splitlines(), what
        assert here[what] == there[what], what
    assert (path / "curve.png").read_bytes() == (reference / "curve.png").read_bytes()


def cut(source, target, steps):
    """Copy a run as it was when its checkpoint at `steps` was the last; returns the copy."""
    shutil.copytree(source, target, symlinks=True)
    for checkpoint in (target / "checkpoints").glob("step_*"):
        if int(checkpoint.name[5:]) > steps:
            shutil.rmtree(checkpoint)
    return target


@contextmanager
def short_evaluations():
    """Two episodes instead of twenty: what they find does not matter here, that it is kept does."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (callback, training_run):
            patch.setattr(module, "evaluate", functools.partial(evaluate, episodes=2))
        yield


@pytest.fixture(autouse=True, scope="module")
def _short_evaluations():
    with short_evaluations():
        yield


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run that was never stopped; not to be changed."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("runs") / "whole"
    with short_evaluations():
        train(SMALL, path)
    return path


@pytest.fixture
def copy(run, tmp_path):
    """The same, to be changed."""
    shutil.copytree(run, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


LAUNCH = """
import os, signal, sys
sys.stdout.flush()
for stream in (1, 2):
    os.dup2(os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
{before}
from functools import partial
from nprobot.training import callback, training_run
callback.evaluate = training_run.evaluate = partial(training_run.evaluate, episodes=2)
from nprobot.cli import main
code = main({arguments!r})
{after}
raise SystemExit(code)
"""


PRELOAD = [
    *("nprobot.cli.train", "nprobot.training.training_run"),
    # What they load when it is needed; torch has a second's worth for its first optimiser.
    *("torch._dynamo", "gymnasium.envs.mujoco.inverted_pendulum_v5"),
]


class Launcher:
    """Starts the program in processes that can be killed; libraries are loaded once for all."""

    def __init__(self, log):
        self.log = log
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)

    def start(self, *arguments, before="", after=""):
        code = LAUNCH.format(
            log=str(self.log), arguments=[str(a) for a in arguments], before=before, after=after
        )
        # By name: a module of tests cannot be imported there.
        process = self.context.Process(target=exec, args=(code, {}))
        process.start()
        return process

    def said(self):
        return self.log.read_text()


@pytest.fixture
def launcher(tmp_path):
    return Launcher(tmp_path / "output")


@pytest.fixture(scope="session")
def tools():
    """Functions of this module, for tests that cannot import it."""
    return sys.modules[__name__]
