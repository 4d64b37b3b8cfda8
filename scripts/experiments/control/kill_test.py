"""Runs killed by SIGKILL at random moments, resumed, and compared with runs never stopped.

Each command below runs once to its end. Then the same command is started again and again, killed
after a random time and resumed, up to six times a run, and what it leaves behind is compared, file
by file: weights, R, optimiser, normalisers, replay buffer, traces, generators, actuators, counters
and logs. Only what a clock or a process id says may differ.

    python -m scripts.experiments.control.kill_test --kills 50 --out results/kill_test
"""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import tyro
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from ..rows import Row, append, column, read, select

SMALL = ("--samples", "2", "--hidden", "16", "16", "--seed", "3", "--checkpoint-every")
REPLAY = ("--steps", "180", *SMALL, "20", "--learning-starts", "40", "--batch-size", "16")
COMMANDS: dict[str, tuple[str, ...]] = {
    "ppo": (
        *("train", "--env", "Reacher-v5", "--rule", "danp", "--actuators", "worn-gearbox"),
        *("--envs", "2", "--steps", "640", *SMALL, "128", "--n-steps", "64"),
        *("--evaluate-every", "256"),
    ),
    "ppo, two workers": (
        *("train", "--env", "InvertedPendulum-v5", "--envs", "2", "--workers", "2"),
        *("--steps", "640", *SMALL, "128", "--n-steps", "64"),
    ),
    "ppo, robots at once": (
        *("train", "--env", "nprobot/Quadruped-v0", "--envs", "4", "--steps", "640"),
        *(*SMALL, "128", "--n-steps", "32", "--env-kwargs", "duration", "0.6"),
        *("command.every", "0.2", "command.grow", "True"),
    ),
    "nrl": (
        *("train", "--algo", "nrl", "--env", "Reacher-v5", "--actuators", "torque-motor"),
        *("--sensor", "current-sense", "--envs", "2", "--steps", "640", *SMALL, "64"),
    ),
    "sac": ("train", "--algo", "sac", "--rule", "danp", "--env", "Pendulum-v1", *REPLAY),
    "td3": ("train", "--algo", "td3", "--env", "InvertedPendulum-v5", *REPLAY),
    "fit": (
        *("fit", "--task", "arm-inverse-dynamics", "--rule", "danp", "--epochs", "12"),
        *(*SMALL, "1", "--batch-size", "64"),
        *("--task-kwargs", "train", "12", "validation", "2", "test", "2", "duration", "1.0"),
    ),
}
KILLS_A_RUN = 6
CLOCK = {"time/fps", "time/time_elapsed", "seconds", "elapsed_seconds"}


def run(
    kills: int = 50,
    seed: int = 0,
    only: tuple[str, ...] = tuple(COMMANDS),
    out: Path | None = None,
) -> None:
    """Kill, resume, compare, and say how it went.

    Args:
        kills: in all.
        seed: of the moments.
        only: these commands.
        out: folder for rows.csv; rows that are there count.
    """
    rows = [] if out is None else read(out / "rows.csv")
    luck = random.Random(seed + len(rows))
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("NPROBOT_CACHE", f"{folder}/cache")
        runs = Runs(Path(folder), luck, len(rows))
        while (left := kills - sum(column(rows, "kills"))) > 0:
            for name in only:
                share = -(-kills // len(only)) - sum(column(select(rows, command=name), "kills"))
                if min(left, share) > 0:
                    row = runs.kill(name, int(min(left, share, KILLS_A_RUN)))
                    left -= row["kills"]
                    rows.append(row)
                    print(row, flush=True)
                    if out is not None:
                        append(out / "rows.csv", [row])
    total, good = (sum(column(own, "kills")) for own in (rows, select(rows, identical=True)))
    print(f"{total:.0f} kills in {len(rows)} runs; {good:.0f} in runs that ended bit-identical")
    raise SystemExit(good != total)


class Runs:
    """Starts the commands in processes that can be killed; libraries are loaded once for all.

    Args:
        folder: where the runs go.
        luck: decides when they are killed.
        first: runs that were killed before these.
    """

    def __init__(self, folder: Path, luck: random.Random, first: int) -> None:
        self.folder, self.luck, self._number = folder, luck, first
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            ["nprobot.cli.train", "nprobot.training.training_run", "nprobot.regression.fit_run"]
        )
        # Loads the libraries, so that no run is timed while they load.
        process = self._context.Process(target=int)
        process.start()
        process.join()
        self._references: dict[str, tuple[dict[str, str], float]] = {}

    def reference(self, name: str) -> tuple[dict[str, str], float]:
        """What a run leaves behind that was never stopped, and how long it takes, s."""
        if name not in self._references:
            path = self.folder / f"{name} whole"
            began = time.perf_counter()
            process = self._start([*COMMANDS[name], "--out", str(path)])
            process.join()
            self._check(process)
            self._references[name] = contents(path), time.perf_counter() - began
        return self._references[name]

    def kill(self, name: str, most: int) -> Row:
        """Kill a run several times, if it lives long enough, and let it end."""
        expected, duration = self.reference(name)
        self._number += 1
        path = self.folder / f"run {self._number}"
        lives: list[float] = []
        while True:
            new = [*COMMANDS[name], "--out", str(path)]
            again = [COMMANDS[name][0], "--resume", str(path)]
            process = self._start(again if (path / "config.json").exists() else new)
            moment = self.luck.uniform(0.02, duration) if len(lives) < most else None
            process.join(moment)
            if process.is_alive():
                process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                self._check(process)
                break
            assert moment is not None, "killed by somebody else"
            lives.append(moment)
            if complete(path):  # all was written; only its process had not ended yet
                break
        found = contents(path)
        differs = [key for key in expected | found if expected.get(key) != found.get(key)]
        alive = " ".join(f"{seconds:.2f}" for seconds in lives)
        return {
            **{"command": name, "number": self._number, "kills": len(lives)},
            **{"seconds_alive": alive, "identical": not differs, "differs": " ".join(differs)},
        }

    def _start(self, arguments: list[str]) -> BaseProcess:
        process = self._context.Process(
            target=run_command, args=(arguments, str(self.folder / "output"))
        )
        process.start()
        return process

    def _check(self, process: BaseProcess) -> None:
        if process.exitcode != 0:
            raise SystemExit((self.folder / "output").read_text())


def run_command(arguments: list[str], output: str) -> None:
    """`nprobot` with these arguments, what it prints appended to a file."""
    from nprobot.cli import main as nprobot

    for stream in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    raise SystemExit(nprobot(arguments))


def complete(path: Path) -> bool:
    """Whether a run has said that it has ended, which is the last thing that it does."""
    file = path / "config.json"
    return file.exists() and json.loads(file.read_text())["sessions"][-1].get("ended") == "complete"


def contents(path: Path) -> dict[str, str]:
    """A digest of everything that a run has left behind, but for what a clock says."""
    found = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink()):
        name = str(file.relative_to(path))
        if file.name in ("config.json", "checkpoint.json") or "/last/" in name:
            continue  # sessions, and checksums of what has been read already
        if file.name == "progress.csv":
            rows = list(csv.DictReader(file.open(newline="")))
            said: object = [[list(row), list(_timeless(row).values())] for row in rows]
        elif file.name == "training.json":
            said = _timeless(json.loads(file.read_text()))
        elif "tfevents" in file.name:
            name, said = "events", list(_scalars(file))
        else:
            said = hashlib.sha256(file.read_bytes()).hexdigest()
        found[name] = hashlib.sha256(repr(said).encode()).hexdigest()
    found["last"] = os.readlink(path / "checkpoints" / "last")
    return found


def _timeless(value: Any) -> Any:  # noqa: ANN401
    """The same without what a clock says, and without the name of the tensorboard file."""
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {k: v for k, v in value.items() if k not in CLOCK}
    if kept.keys() == {"file", "bytes"}:
        kept = {"bytes": kept["bytes"]}
    return {key: _timeless(item) for key, item in kept.items()}


def _scalars(file: Path) -> Iterator[tuple[int, str, float]]:
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.tag not in CLOCK:
                yield event.step, value.tag, value.tensor.float_val[0]


if __name__ == "__main__":
    tyro.cli(run, description=__doc__)
