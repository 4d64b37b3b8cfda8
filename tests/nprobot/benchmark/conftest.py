"""Small suites and made-up rows that the tests of the benchmark share."""

from __future__ import annotations

import pytest

from nprobot.benchmark import RunSpec
from nprobot.benchmark.rows import FORMAT

TINY = """
about = "for tests"
seeds = {seeds}
envs = 2
hidden = [8]
episodes = 2
points = 2
point_episodes = 1

[[tasks]]
env = "InvertedPendulum-v5"
steps = {steps}

[[learners]]
name = "BP"
algo = "ppo"
rule = "bp"
settings = {{ n_steps = 64, batch_size = 32, n_epochs = 1, learning_rate = 1e-3 }}

[[learners]]
algo = "ppo"
rule = ["np", "danp"]
samples = 2
settings = {{ n_steps = 64, batch_size = 32, n_epochs = 1 }}

[[learners]]
name = "random"
algo = "random"
seeds = 1
"""


@pytest.fixture
def tiny(tmp_path):
    """Writes a suite of a few seconds; returns its path."""

    def write(steps=256, seeds=2, extra=""):
        path = tmp_path / "tiny.toml"
        path.write_text(TINY.format(steps=steps, seeds=seeds) + extra)
        return path

    return write


@pytest.fixture
def made_up():
    """Makes a row as a run would write it."""
    return made_up_row


def made_up_row(learner, seed, value, *, env="Reacher-v5", rule=None, algo="ppo", status="done"):
    """A row as a run would write it."""
    spec = RunSpec(
        env=env, actuators="ideal", steps=1000, learner=learner, algo=algo, rule=rule,
        samples=None, seed=seed,
    )  # fmt: skip
    row = spec.to_dict() | {
        "format": FORMAT,
        "key": spec.key,
        "status": status,
        "suite": "made-up",
        "command": spec.command("made-up"),
        "source": "nowhere",
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:00:01+00:00",
        "versions": {"nprobot": "0.1.0", "torch": "2.13.0"},
        "commit": "abc",
        "machine": "some machine",
        "peak_memory_mib": 300.0,
    }
    if status != "done":
        return row | {"error": "ValueError: made up", "traceback": ""}
    ledger = {
        "env_steps": 1000, "forward_passes": 2000, "backward_passes": 1000,
        "multiply_adds": 50_000, "wall_seconds": 2.0, "cpu_seconds": 1.5,
    }  # fmt: skip
    curve = {name: [0, end / 2, end] for name, end in ledger.items()}
    curve["return_mean"] = [value - 2.0, value - 1.0, value]
    return (
        row | ledger | {"return_mean": value, "return_sd": 1.0, "returns": [value], "curve": curve}
    )
