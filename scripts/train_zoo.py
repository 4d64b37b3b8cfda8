"""Trains the policies of the zoo and exports them to policies/zoo/, each by a command kept here.

A run that is cut off goes on from its last checkpoint; one that is finished is not repeated. So the
same call can be made until everything is there, one policy a call or all of them:

    python scripts/train_zoo.py                    # which commands, and what there is already
    python scripts/train_zoo.py InvertedPendulum
    python scripts/train_zoo.py all
    python scripts/train_zoo.py Reacher --replace  # put the finished run in place of the one there
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from nprobot.deploy import export_run
from nprobot.policies import zoo
from nprobot.regression import FitFolder
from nprobot.runs.description import CONFIG_FILE
from nprobot.training.folder import RunFolder

ROOT = Path(__file__).parents[1]
RUNS = Path("runs") / "zoo"
"""Relative, so that no path of a machine gets into a file."""
LICENCE = "MIT"

DANP = "--rule danp --samples 8 --decorrelation-lr 0.001"
FEEDBACK = "--rule np --feedback --defaults general"
COMMANDS = {
    "InvertedPendulum": f"train --env InvertedPendulum-v5 --steps 60000 {DANP} "
    "--sigma 0.01 --lr-schedule linear --normalise on",
    "InvertedDoublePendulum": f"train --env InvertedDoublePendulum-v5 --steps 300000 {FEEDBACK}",
    "Reacher": f"train --env Reacher-v5 --steps 300000 {DANP}",
    "Swimmer": f"train --env Swimmer-v5 --steps 500000 {FEEDBACK} --gamma 0.9999",
    "Hopper": f"train --env Hopper-v5 --steps 1000000 {FEEDBACK}",
    "HalfCheetah": f"train --env HalfCheetah-v5 --steps 600000 {FEEDBACK}",
    "ArmReach": f"train --env nprobot/ArmReach-v0 --steps 600000 {FEEDBACK} "
    "--learning-rate 0.0003 --lr-schedule constant",
    "ArmTrack": "fit --task arm-inverse-dynamics --epochs 6 --rule danp --samples 16",
}
"""Name in the zoo → arguments of `nprobot`: what trains the policy, or fits it to data."""


def main() -> None:
    """Train, export, or list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"{', '.join(COMMANDS)}, or all")
    parser.add_argument(
        "--replace", action="store_true", help="replace a policy that is in the zoo already"
    )
    options = parser.parse_args()
    os.chdir(ROOT)
    names = list(COMMANDS) if options.names == ["all"] else options.names
    if unknown := set(names) - set(COMMANDS):
        parser.error(f"no command for {', '.join(sorted(unknown))}; known: {', '.join(COMMANDS)}")
    if not names:
        for name in COMMANDS:
            print(f"{name} ({state(name)})\n    nprobot {shlex.join(command(name))}")
        return
    for name in names:
        train(name)
        export(name, options.replace)


def command(name: str) -> list[str]:
    """The arguments of `nprobot` that train a policy."""
    return [*shlex.split(COMMANDS[name]), "--out", str(RUNS / name)]


def state(name: str) -> str:
    """How far a policy is, for a person."""
    inside = "in the zoo" if name in zoo.names() else "not in the zoo"
    steps = trained_steps(name)
    return f"{inside}, no run" if steps is None else f"{inside}, run at step {steps:,}"


def trained_steps(name: str) -> int | None:
    """Steps of the last checkpoint of a policy's run; None if there is no run."""
    folder = RUNS / name
    if not (folder / CONFIG_FILE).exists():
        return None
    steps = [int(path.name.split("_")[1]) for path in folder.glob("checkpoints/step_*")]
    return max(steps, default=0)


def finished(name: str, steps: int) -> bool:
    """Whether a run, or a fit, has done all that its command asks for."""
    if command(name)[0] == "train":
        return steps >= (RunFolder.open(RUNS / name).config.steps or 0)
    fit = FitFolder.open(RUNS / name)
    rows = fit.read_progress()
    return bool(rows) and rows[-1]["epoch"] >= fit.config.epochs


def train(name: str) -> None:
    """Start the run of a policy, or go on with it, or leave it if it is finished."""
    steps, folder = trained_steps(name), RUNS / name
    if steps == 0:  # cut off before its first checkpoint: nothing to go on from
        shutil.rmtree(folder)
    if not steps:
        arguments = command(name)
    elif not finished(name, steps):
        arguments = [command(name)[0], "--resume", str(folder)]
    else:
        print(f"{name}: the run is finished, {steps:,} steps")
        return
    print(f"{name}: nprobot {shlex.join(arguments)}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "nprobot", *arguments], env=environment)
    if done.returncode:
        sys.exit(done.returncode)


def export(name: str, replace: bool) -> None:
    """Put the policy of a finished run into the zoo."""
    target = zoo.ROOT / name
    if target.exists() and not replace:
        print(f"{name}: in the zoo already; --replace puts this run in its place")
        return
    beside = target.with_name(f".{name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    result = export_run(RUNS / name, beside, licence=LICENCE, reference=f"zoo:{name}")
    shutil.rmtree(target, ignore_errors=True)
    os.rename(beside, target)
    print(f"{name}: return {result.evaluation} in {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
