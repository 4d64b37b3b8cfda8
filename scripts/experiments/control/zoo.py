"""Trains the policies of the zoo, exports them to policies/zoo/, and films them side by side.

Each is trained by a command kept here. A run that is cut off continues from its last checkpoint;
one that is finished is not repeated. So the same call can be made until everything is there.

    python -m scripts.experiments.control.zoo status  # the commands, and how far each is
    python -m scripts.experiments.control.zoo train Reacher  # or several; all without a name
    python -m scripts.experiments.control.zoo train Reacher --replace  # in place of its like
    python -m scripts.experiments.control.zoo film  # docs/figures/zoo.gif
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image, ImageDraw

from nprobot.catalogue import learner_title
from nprobot.deploy import choose_backend, export_run
from nprobot.policies import zoo
from nprobot.policies.files.policy import recorded_rule
from nprobot.regression import FitFolder
from nprobot.training import RunFolder, environments

from ..pages import FIGURES
from ..rows import ROOT, command

RUNS = Path("runs") / "zoo"
"""In the repository; relative, so that no path of a machine gets into a file."""
LICENCE = "MIT"

DANP = "--rule danp --samples 8 --decorrelation-lr 0.001"
FEEDBACK = "--rule np+feedback --defaults general"
FALLING = "--learning-rate 0.001 --lr-schedule linear"
COMMANDS = {
    "InvertedPendulum": f"train --env InvertedPendulum-v5 --steps 60000 {DANP} "
    "--sigma 0.01 --lr-schedule linear --normalise on",
    "InvertedDoublePendulum": "train --env InvertedDoublePendulum-v5 --steps 300000 "
    f"{FEEDBACK} {FALLING}",
    "Reacher": f"train --env Reacher-v5 --steps 300000 {DANP}",
    "Swimmer": f"train --env Swimmer-v5 --steps 500000 {FEEDBACK} {FALLING} --gamma 0.9999",
    "Hopper": f"train --env Hopper-v5 --steps 1000000 {FEEDBACK} {FALLING}",
    "HalfCheetah": f"train --env HalfCheetah-v5 --steps 600000 {FEEDBACK} {FALLING}",
    "ArmReach": f"train --env nprobot/ArmReach-v0 --steps 600000 {FEEDBACK} "
    "--learning-rate 0.0003 --lr-schedule constant",
    "Quadruped": "train --robot quadruped --task velocity --randomise --actuators servo "
    "--steps 1000000 --evaluate-every 200000 --envs 16 --n-steps 256 --batch-size 256 "
    "--lr-schedule linear --learning-rate 0.0005",
    "Quadrotor": f"train --robot quadrotor --task hover --steps 400000 {FEEDBACK} "
    "--lr-schedule linear --envs 16 --n-steps 256 --batch-size 256 --learning-rate 0.0005 "
    "--evaluate-every 100000",
    "ArmTrack": "fit --task arm-inverse-dynamics --epochs 6 --rule danp --samples 16 "
    "--sigma 0.001 --decorrelation-lr 0.001",
}
"""Name in the zoo → arguments of `nprobot`: what trains the policy, or fits it to data."""

FILM = FIGURES / "zoo.gif"
COLUMNS, SIDE = 5, 180
"""Robots in a row; pixels of each."""
SECONDS, RATE = 5.0, 12.5
"""Length, and pictures a second of the robots' time."""
COLOURS = 48
CROPS = {
    "Reacher": (45, 90, 435, 480),
    "InvertedDoublePendulum": (120, 60, 360, 300),
}
"""What of 480 x 480 pixels is worth seeing, where that is not all."""
NAMES = (
    *("Hopper", "HalfCheetah", "Swimmer", "Reacher"),
    *("InvertedPendulum", "InvertedDoublePendulum", "ArmReach", "ArmTrack"),
    *("Quadruped", "Quadrotor"),
)


def status() -> None:
    """Show the commands, and how far each policy is."""
    for name in COMMANDS:
        print(f"{name} ({state(name)})\n    nprobot {shlex.join(command_of(name))}")


def train(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(COMMANDS), replace: bool = False
) -> None:
    """Train policies and export them.

    Args:
        names: of the policies.
        replace: those that are in the zoo already.
    """
    if unknown := set(names) - set(COMMANDS):
        sys.exit(f"no command for {', '.join(sorted(unknown))}; known: {', '.join(COMMANDS)}")
    for name in names:
        train_one(name)
        export(name, replace)


def command_of(name: str) -> list[str]:
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
    if not (folder / "config.json").exists():
        return None
    steps = [int(path.name.split("_")[1]) for path in folder.glob("checkpoints/step_*")]
    return max(steps, default=0)


def finished(name: str, steps: int) -> bool:
    """Whether a run, or a fit, has done all that its command asks for."""
    if command_of(name)[0] == "train":
        return steps >= (RunFolder.open(RUNS / name).config.steps or 0)
    fit = FitFolder.open(RUNS / name)
    rows = fit.read_progress()
    return bool(rows) and rows[-1]["epoch"] >= fit.config.epochs


def train_one(name: str) -> None:
    """Start the run of a policy, or continue it, or leave it if it is finished."""
    steps, folder = trained_steps(name), RUNS / name
    if steps == 0:  # cut off before its first checkpoint: nothing to continue from
        shutil.rmtree(folder)
    if not steps:
        arguments = command_of(name)
    elif not finished(name, steps):
        arguments = [command_of(name)[0], "--resume", str(folder)]
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


def pictures(name: str) -> Iterator[Image.Image]:
    """One after the other, without an end; an episode that is over is followed by another."""
    policy = zoo.load_policy(name)
    task = policy.task
    assert task is not None and task.control_rate is not None, "the zoo's policies have both"
    options: dict[str, Any] = {"render_mode": "rgb_array", "width": 480, "height": 480}
    env = environments.make(task.id, task.kwargs, **options)
    label = f"{name}: {learner_title(recorded_rule(policy.provenance))}"
    time, shown, seed = 0.0, 0, 0
    while True:
        observation, _ = env.reset(seed=seed)
        done, seed = False, seed + 1
        while not done:
            if time >= shown / RATE:
                shown += 1
                image = Image.fromarray(np.asarray(env.render()))
                image = image.crop(CROPS.get(name, (0, 0, *image.size)))
                image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                ImageDraw.Draw(image).text(
                    (5, 3), label, fill="white", stroke_fill="black", stroke_width=1
                )
                yield image
            observation, _, ended, cut, _ = env.step(policy.predict(observation))
            time, done = time + 1 / task.control_rate, ended or cut


def film() -> None:
    """Film the policies side by side."""
    choose_backend()
    count = int(SECONDS * RATE)
    # One robot after the other: renderers side by side draw with each other's textures.
    robots = [list(islice(pictures(name), count)) for name in NAMES if name in zoo.names()]
    size = (COLUMNS * SIDE, -(-len(robots) // COLUMNS) * SIDE)
    frames = []
    for robot_frames in zip(*robots, strict=True):
        sheet = Image.new("RGB", size)
        for place, picture in enumerate(robot_frames):
            row, column = divmod(place, COLUMNS)
            sheet.paste(picture, (column * SIDE, row * SIDE))
        frames.append(sheet.quantize(COLOURS, dither=Image.Dither.NONE))
    duration = int(1000 / RATE)
    frames[0].save(FILM, save_all=True, append_images=frames[1:], duration=duration, loop=0)
    print(f"{FILM.name}: {FILM.stat().st_size / 1e6:.1f} MB, {len(frames)} pictures")


if __name__ == "__main__":
    os.chdir(ROOT)
    command(__doc__, status, train, film)
