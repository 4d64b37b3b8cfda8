"""Learning curves of PPO by backpropagation and by node perturbation: one figure, one table.

Three seeds of every learner on InvertedPendulum-v5 (100k steps) and Reacher-v5 (300k). Every run is
a call of `nprobot train`, which is kept in the row; a finished run is not repeated, so a cut-off
costs one run. Learning rates come from `search`, the same small search for every learner.

    python scripts/learning_curves.py search   # rows of search.csv
    python scripts/learning_curves.py run       # rows.csv, curves.csv
    python scripts/learning_curves.py ablate    # DANP with one default changed at a time
    python scripts/learning_curves.py report    # figure and tables in docs/
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from rows import ROOT, append, command_line, read

RESULTS = ROOT / "results" / "learning_curves"
RUNS = ROOT / "runs" / "learning_curves"
TASKS = {"InvertedPendulum-v5": 100_000, "Reacher-v5": 300_000}
FAST_R = ("--decorrelation-lr", "0.001")
"""The default when these curves were made; it is a tenth of that now (docs/benchmark.md)."""
LEARNERS: dict[str, tuple[str, ...]] = {
    "BP": ("--rule", "bp"),
    "NP": ("--rule", "np", "--samples", "1"),
    "ANP": ("--rule", "anp", "--samples", "1"),
    "DNP": ("--rule", "dnp", "--samples", "1", *FAST_R),
    "DANP": ("--rule", "danp", "--samples", "1", *FAST_R),
    "DANP, K = 8": ("--rule", "danp", "--samples", "8", *FAST_R),
}
SEEDS = (0, 1, 2)
SEARCH_TASK, SEARCH_STEPS, SEARCH_SEEDS = "Reacher-v5", 100_000, (100, 101)
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
BATCH_SIZES = {"BP": (64, 256)}
"""Tried by `search`; the perturbation rules use their default of 256."""
EPISODES = 100
"""Deterministic episodes that measure a finished policy."""
ABLATIONS: dict[str, tuple[str, ...]] = {
    "as chosen": (),
    "σ = 0.001": ("--sigma", "0.001"),
    "Gaussian noise": ("--noise", "gaussian"),
    "gradient clipped at 0.5": ("--max-grad-norm", "0.5"),
    "constant learning rate": ("--lr-schedule", "constant"),
    "η_R = 0.01": ("--decorrelation-lr", "0.01"),
    "η_R = 0.0001": ("--decorrelation-lr", "0.0001"),
    "not normalised": ("--normalise", "off"),
}
"""What `ablate` changes for DANP with K = 8, on the search's task, three seeds each."""
COMMON = ("--lr-schedule", "linear", "--normalise", "on", "--sigma", "0.01")
"""What helps every learner: decay of the learning rate, normalised observations and rewards."""


@dataclass(frozen=True)
class Job:
    """One training run."""

    task: str
    learner: str
    steps: int
    seed: int
    learning_rate: float
    batch_size: int
    change: str = "as chosen"

    @property
    def key(self) -> tuple[str, ...]:
        """What tells its row from others."""
        return tuple(str(value) for value in vars(self).values())

    @property
    def command(self) -> list[str]:
        """The command line of the run, without its folder."""
        return [
            *("train", "--env", self.task, *LEARNERS[self.learner]),
            *("--steps", str(self.steps), "--seed", str(self.seed)),
            *("--learning-rate", str(self.learning_rate)),
            *("--batch-size", str(self.batch_size), "--n-steps", "256"),
            *COMMON,
            *ABLATIONS[self.change],
        ]


def main() -> None:
    """Search, run, ablate or report."""
    parser = command_line(__doc__, "search", "run", "ablate", "report")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default 2)")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="of `run`")
    options = parser.parse_args()
    if options.stage == "search":
        execute(search_jobs(), RESULTS / "search.csv", None, options.jobs)
    elif options.stage == "run":
        execute(run_jobs(options.tasks), RESULTS / "rows.csv", RESULTS / "curves.csv", options.jobs)
    elif options.stage == "ablate":
        execute(ablation_jobs(), RESULTS / "ablations.csv", None, options.jobs)
    else:
        from learning_curves_report import report

        report()


def search_jobs() -> list[Job]:
    """Every learner with every learning rate (and batch size, where there is a choice)."""
    return [
        Job(SEARCH_TASK, learner, SEARCH_STEPS, seed, rate, batch)
        for seed in SEARCH_SEEDS
        for rate in LEARNING_RATES
        for learner in LEARNERS
        for batch in BATCH_SIZES.get(learner, (256,))
    ]


def run_jobs(tasks: list[str]) -> list[Job]:
    """Every learner on every task with the settings that `search` found best."""
    best = best_settings()
    return [
        Job(task, learner, TASKS[task], seed, *best[learner])
        for task in tasks
        for seed in SEEDS
        for learner in LEARNERS
    ]


def ablation_jobs() -> list[Job]:
    """DANP with K = 8, one setting changed at a time."""
    learner = "DANP, K = 8"
    best = best_settings()[learner]
    return [
        Job(SEARCH_TASK, learner, SEARCH_STEPS, seed, *best, change)
        for seed in SEEDS
        for change in ABLATIONS
    ]


def best_settings() -> dict[str, tuple[float, int]]:
    """Learning rate and batch size with the best mean return in the search, of every learner."""
    returns: dict[str, dict[tuple[float, int], list[float]]] = {}
    for row in read(RESULTS / "search.csv"):
        setting = (float(row["learning_rate"]), int(row["batch_size"]))
        own = returns.setdefault(row["learner"], {}).setdefault(setting, [])
        own.append(float(row["return_mean"]))
    if missing := set(LEARNERS) - set(returns):
        sys.exit(f"no search rows for {', '.join(missing)}: run the stage `search` first")
    return {
        learner: max(own, key=lambda setting: sum(own[setting]) / len(own[setting]))
        for learner, own in returns.items()
    }


def execute(jobs: list[Job], rows: Path, curves: Path | None, workers: int) -> None:
    """Run the jobs that have no row yet; write each row as its run ends."""
    done = {
        tuple(row.get(name, "as chosen") for name in Job.__dataclass_fields__) for row in read(rows)
    }
    waiting = [job for job in jobs if job.key not in done]
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are there; {len(waiting)} to go")
    lock = Lock()

    def work(job: Job) -> None:
        result, curve = run(job)
        with lock:
            if curves is not None:
                append(curves, curve)
            append(rows, [result])
            what = f"{job.task} {job.learner}, seed {job.seed}, rate {job.learning_rate:g}"
            print(f"{what}: {float(result['return_mean']):.2f}", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        for future in as_completed([pool.submit(work, job) for job in waiting]):
            if error := future.exception():
                pool.shutdown(cancel_futures=True)
                raise error


def run(job: Job) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Train and measure; the row of the result, and those of the curve."""
    folder = RUNS / "-".join(job.key).replace("/", "_").replace(" ", "")
    if folder.exists():  # left by a run that was cut off
        shutil.rmtree(folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "nprobot"]
    trained = subprocess.run(
        [*program, *job.command, "--out", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if trained.returncode:
        raise RuntimeError(f"{shlex.join(job.command)} failed:\n{trained.stderr}")
    measured = subprocess.run(
        [*program, "evaluate", str(folder), "--episodes", str(EPISODES), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    evaluation = json.loads(measured.stdout)
    description = json.loads((folder / "checkpoints" / "last" / "policy.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    progress = read(folder / "progress.csv")
    made = description["provenance"]
    row: dict[str, object] = {
        **vars(job),
        "return_mean": evaluation["return_mean"],
        "return_sd": evaluation["return_sd"],
        "episodes": EPISODES,
        "forward_passes": made["forward_passes"],
        "backward_passes": made["backward_passes"],
        "seconds": max(float(r["time/time_elapsed"]) for r in progress if r["time/time_elapsed"]),
        **config["sessions"][-1]["versions"],
        "commit": config["sessions"][-1]["git_commit"],
        "command": "nprobot " + shlex.join(job.command),
    }
    curve: list[dict[str, object]] = [
        {
            "task": job.task,
            "learner": job.learner,
            "seed": job.seed,
            "step": r["time/total_timesteps"],
            "return": r["rollout/ep_rew_last"],
        }
        for r in progress
        if r.get("rollout/ep_rew_last")
    ]
    return row, curve


if __name__ == "__main__":
    main()
