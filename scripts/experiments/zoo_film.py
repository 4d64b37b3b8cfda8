"""Films the policies of the zoo side by side, for the README.

python scripts/zoo_film.py     # docs/figures/zoo.gif
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from rows import FIGURES, ROOT

from nprobot.catalogue import learner_title
from nprobot.deploy.rendering import choose_backend
from nprobot.policies import zoo
from nprobot.policies.files.policy import recorded_rule
from nprobot.training import environments

FILM = FIGURES / "zoo.gif"
COLUMNS, SIDE = 4, 200
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
)


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


def main() -> None:
    """Render, tile, save."""
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
    print(f"{FILM.relative_to(ROOT)}: {FILM.stat().st_size / 1e6:.1f} MB, {len(frames)} pictures")


if __name__ == "__main__":
    main()
