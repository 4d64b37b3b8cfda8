"""How many environment steps a CPU second brings, what learning takes of it, and the memory.

Ours (`nprobot.PPO`, NP + feedback, on `nprobot.make_vec`, with and without envpool) beside
stable-baselines3's PPO on a `DummyVecEnv` and on a `SubprocVecEnv`, at the same settings: those of
`--defaults parallel`, networks of 64-64. Every measurement is a process of its own; the ways take
turns. CPU time is that of all threads and processes, memory what they hold without counting shared
pages twice (PSS). Both are of the second iteration, or of the first where one is 8,192 steps or
more.

    python -m scripts.experiments.control.throughput run     # results/throughput/rows.csv
    python -m scripts.experiments.control.throughput report  # docs/how-to/many-environments.md
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import stable_baselines3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

import nprobot
from nprobot.defaults import parallel_settings

from ..pages import ROOT, markdown, put_section
from ..rows import RESULTS, Only, Row, Rows, column, command, keep, read, select

ROWS = RESULTS / "throughput" / "rows.csv"
PAGE = ROOT / "docs" / "how-to" / "many-environments.md"
ENVS = ("nprobot/Quadruped-v0", "HalfCheetah-v5")
COUNTS = (8, 64, 512, 1024, 2048)
WAYS = {
    **{"nprobot": "nprobot", "envpool": "nprobot, envpool"},
    **{"dummy": "SB3, DummyVecEnv", "subproc": "SB3, SubprocVecEnv"},
}
MOST_PROCESSES = 64
"""A process each for more environments needs more memory than most machines have."""
ENOUGH = 8192
"""Steps of an iteration that need no warming up."""


def run(only: Only = (), rounds: int = 2) -> None:
    """Measure what has no row yet.

    Args:
        only: which.
        rounds: of each way.
    """
    jobs = [
        {"env": env, "envs": count, "way": way, "round": number}
        for number in range(rounds)
        for count in COUNTS
        for env in ENVS
        for way in WAYS
        if (way != "subproc" or count <= MOST_PROCESSES)
        and (way != "envpool" or env == "HalfCheetah-v5")
    ]
    keep(ROWS, jobs, in_process_of_its_own, only=only)


def in_process_of_its_own(**job: object) -> Row:
    """Run `measure` there."""
    here = [sys.executable, "-m", "scripts.experiments.control.throughput", "measure"]
    told = [text for name, value in job.items() if name != "round" for text in _flag(name, value)]
    done = subprocess.run([*here, *told], cwd=ROOT, check=True, capture_output=True, text=True)
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def _flag(name: str, value: object) -> tuple[str, str]:
    return f"--{name}", str(value)


def measure(env: str, envs: int, way: str) -> None:
    """Measure one iteration of PPO, and print the row as JSON.

    Args:
        env: environment id.
        envs: how many.
        way: one of `WAYS`.
    """
    vector = environments(env, envs, way)
    settings: dict[str, Any] = {**parallel_settings(envs), "seed": 0, "device": "cpu"}
    if way in ("nprobot", "envpool"):
        model: Any = nprobot.PPO("MlpPolicy", vector, rule="np+feedback", **settings)
    else:
        model = stable_baselines3.PPO("MlpPolicy", vector, **settings)
    steps = model.n_steps * envs
    if steps < ENOUGH:
        model.learn(steps)
    learning = 0.0
    train = model.train

    def timed() -> None:
        nonlocal learning
        begun = time.process_time()
        train()
        learning += time.process_time() - begun

    model.train = timed
    wall, before = time.perf_counter(), cpu_seconds()
    model.learn(steps, reset_num_timesteps=False)
    cpu = cpu_seconds() - before
    row: Row = {
        "steps": steps,
        "cpu_seconds": f"{cpu:.3f}",
        "wall_seconds": f"{time.perf_counter() - wall:.3f}",
        "steps_a_cpu_second": f"{steps / cpu:.0f}",
        "learning_share": f"{learning / cpu:.3f}",
        "megabytes": f"{megabytes():.0f}",
        "load": f"{os.getloadavg()[0]:.1f}",
    }
    vector.close()
    print(json.dumps(row))


def environments(env: str, count: int, way: str) -> VecEnv:
    """The environments of a way."""
    if way in ("nprobot", "envpool"):
        return nprobot.make_vec(env, count, envpool=way == "envpool")
    kind = {"dummy": DummyVecEnv, "subproc": SubprocVecEnv}[way]
    return make_vec_env(env, count, seed=0, vec_env_cls=kind)


def family(process: str = str(os.getpid())) -> list[str]:
    """Numbers of a process, by default this one, of its children and theirs."""
    children = [
        child
        for path in Path(f"/proc/{process}/task").glob("*/children")
        for child in path.read_text().split()
    ]
    return [process, *(relative for child in children for relative in family(child))]


def cpu_seconds() -> float:
    """Of this process and its children, all threads."""
    ticks = 0
    for process in family():
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def megabytes() -> float:
    """Memory of this process and its children; a page that n of them share counts 1/n in each."""
    kilobytes = 0
    for process in family():
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kilobytes += int(line.split()[1])
    return kilobytes / 1024


def report() -> None:
    """Put the table into the page."""
    rows = read(ROWS)
    lines = []
    for env in ENVS:
        for count in COUNTS:
            for way, title in WAYS.items():
                if own := select(rows, env=env, envs=count, way=way):
                    lines.append([env, f"{count:,}", title, *cells(own, rows)])
    heading = (
        *("environment", "how many", "way", "steps a CPU second", "× DummyVecEnv"),
        *("learning's share", "memory, MB"),
    )
    put_section("throughput", markdown(heading, lines), PAGE)


def cells(own: Rows, rows: Rows) -> list[str]:
    """Medians over the rounds."""
    speed = statistics.median(column(own, "steps_a_cpu_second"))
    beside = select(rows, env=own[0]["env"], envs=own[0]["envs"], way="dummy")
    ratio = ""
    if beside:
        ratio = f"{speed / statistics.median(column(beside, 'steps_a_cpu_second')):.1f}"
    share = statistics.median(column(own, "learning_share"))
    memory = statistics.median(column(own, "megabytes"))
    return [f"{speed:,.0f}", ratio, f"{share:.0%}", f"{memory:,.0f}"]


if __name__ == "__main__":
    command(__doc__, run, measure, report)
