"""A learned inverse-dynamics model at work: how well the arm follows with it as feed-forward.

Each rule learns the arm's inverse dynamics in 12 epochs (K = 16, three seeds, settings from the
search of `scripts/inverse_dynamics.py`); then the arm follows 20 random references on
`nprobot/ArmTrack-v0` with a compliant PD controller and the model's torques, as it is and with a
payload and more friction, which no model has seen. A finished row is not repeated.

    python scripts/arm_feedforward.py run      # models in runs/, rows.csv
    python scripts/arm_feedforward.py report   # table and figure in docs/
    python scripts/arm_feedforward.py film     # PD alone beside PD with a DANP-trained model
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from inverse_dynamics import RESULTS, SEEDS, read_rows
from numpy.typing import NDArray
from rows import FIGURES, ROOT, append, command_line, put_section, read

from nprobot.envs import datasets
from nprobot.regression import Model, feedforward_policy, fit, load, track
from nprobot.regression.tracking import NOMINAL, SHIFTED

MODELS = ROOT / "runs" / "arm_feedforward"
ROWS = ROOT / "results" / "arm_feedforward" / "rows.csv"
RULES = ("bp", "np", "anp", "dnp", "danp", "dbp", "inp", "dinp")
ROBOTS = {"nominal": NOMINAL, "shifted": SHIFTED}
EPISODES = 20
FILM_SEED, FILM_STEPS = 4, 500


@dataclass(frozen=True)
class Row:
    """One controller on one robot."""

    controller: str
    seed: int
    robot: str
    episodes: int
    position_error: float
    feedback_torque: float
    torque_error: float
    test_nmse: float


def main() -> None:
    """Run, report or film."""
    stage = command_line(__doc__, "run", "report", "film").parse_args().stage
    torch.set_num_threads(1)
    {"run": run, "report": report, "film": film}[stage]()


def run() -> None:
    """Learn and track what is missing."""
    done = {(row["controller"], int(row["seed"]), row["robot"]) for row in read(ROWS)}
    for controller, seed in controllers():
        wanted = [robot for robot in ROBOTS if (controller, seed, robot) not in done]
        if not wanted:
            continue
        fixed = {"PD": None, "exact": "exact", "nominal": "nominal"}
        given, nmse = (
            (fixed[controller], np.nan) if controller in fixed else learned(controller, seed)
        )
        for robot in wanted:
            result = track(given, episodes=EPISODES, seed=seed, **ROBOTS[robot])
            row = Row(
                controller,
                seed,
                robot,
                EPISODES,
                round(result.position_error, 6),
                round(result.feedback_torque, 5),
                round(result.torque_error, 5),
                round(nmse, 6),
            )
            append(ROWS, [asdict(row)])
            print(row, flush=True)


def controllers() -> Iterator[tuple[str, int]]:
    """Names and seeds: PD alone, the bounds, then every rule."""
    for controller in ("PD", "exact", "nominal", *RULES):
        for seed in SEEDS:
            yield controller, seed


def learned(rule: str, seed: int) -> tuple[Model, float]:
    """The model that a rule learns, and its test nMSE; from disk if it is there."""
    folder = MODELS / f"{rule}-{seed}"
    data = datasets.inverse_dynamics()
    if not (folder / "scores.csv").exists():
        samples = 1 if rule in ("bp", "dbp") else 16
        found = [
            row
            for row in read_rows(RESULTS / "rows.csv")
            if (row.budget, row.rule, row.samples, row.seed) == ("epochs", rule, samples, seed)
        ]
        if not found:
            command = f"python scripts/inverse_dynamics.py run --rule {rule}"
            raise SystemExit(f"no row of {rule}: first `{command}`")
        fit(
            [128, 128],
            data,
            rule,
            samples=samples,
            epochs=found[0].epochs,
            learning_rate=found[0].learning_rate,
            weight_decay=found[0].weight_decay,
            decorrelation_lr=found[0].decorrelation_lr,
            seed=seed,
            out=folder,
        )
    model = load(folder)
    nmse = datasets.nmse(model.predict(data.test.inputs), data.test.targets)
    return model, float(nmse.mean())


NAMES = {
    "PD": "PD alone",
    "exact": "PD + exact inverse dynamics",
    "nominal": "PD + exact, of the nominal arm",
} | {rule: f"PD + {rule.upper()}" for rule in RULES}


def report() -> None:
    """Write the table and draw the figure."""
    rows = read(ROWS)
    values: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        for column in ("position_error", "feedback_torque", "torque_error"):
            key = (row["controller"], row["robot"], column)
            values.setdefault(key, []).append(float(row[column]))
    present = [name for name in NAMES if (name, "nominal", "position_error") in values]
    lines = [
        "| | error, mrad RMS | PD torque, N·m RMS | torque error, N·m RMS "
        "| error, mrad RMS | PD torque, N·m RMS | torque error, N·m RMS |",
        "|---|---|---|---|---|---|---|",
        "| | nominal arm | | | payload 0.5 kg, friction × 1.5 | | |",
    ]
    for name in present:
        cells = []
        for robot in ROBOTS:
            error = [1000 * v for v in values[name, robot, "position_error"]]
            cells.append(spread(error, 2))
            cells += [
                spread(values[name, robot, column], 2)
                for column in ("feedback_torque", "torque_error")
            ]
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} |")
    put_section("arm_feedforward", lines, ROOT / "docs" / "regression.md")
    draw(present, values)


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation over the seeds."""
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def draw(present: list[str], values: dict[tuple[str, str, str], list[float]]) -> None:
    """Bars of the tracking error, a point a seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = [name for name in ("PD", *RULES, "nominal", "exact") if name in present]
    figure = Figure(figsize=(9.0, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = {"nominal": "#08519c", "shifted": "#d94801"}
    labels = {"nominal": "the arm that was learned", "shifted": "0.5 kg payload, 1.5 × friction"}
    for offset, robot in zip((-0.2, 0.2), ROBOTS, strict=True):
        for place, name in enumerate(order):
            points = [1000 * v for v in values[name, robot, "position_error"]]
            axes.bar(
                *(place + offset, statistics.fmean(points), 0.38),
                **{"color": colours[robot], "alpha": 0.75},
                label=labels[robot] if place == 0 else None,
            )
            axes.plot([place + offset] * len(points), points, ".", color="0.15", markersize=4)
    half = 500 * statistics.fmean(values["PD", "nominal", "position_error"])
    axes.axhline(half, color="0.4", linewidth=1, linestyle="--")
    axes.text(
        len(order) - 0.5, half * 1.05, "half of PD alone", ha="right", va="bottom", color="0.3"
    )
    axes.set_yscale("log")
    axes.set_xticks(range(len(order)))
    short = {"PD": "PD alone", "nominal": "exact,\nnominal arm", "exact": "exact"}
    axes.set_xticklabels([short.get(name, f"+ {name.upper()}") for name in order], fontsize=9)
    axes.set_ylabel("tracking error, mrad RMS")
    axes.grid(color="0.9", axis="y", which="both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / "arm_feedforward.png")


def film() -> None:
    """The same reference twice: PD alone on the left, with the DANP-trained model on the right."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    import gymnasium
    import imageio.v2 as imageio

    policy = feedforward_policy(learned("danp", 0)[0])
    zero = np.zeros(7, dtype=np.float32)
    sides = [("PD alone", lambda seen: zero), ("PD + DANP-trained model", policy.predict)]
    envs = [
        gymnasium.make(
            "nprobot/ArmTrack-v0",
            render_mode="rgb_array",
            width=480,
            height=480,
            motion="rhythmic",
        )
        for _ in sides
    ]
    seen = [env.reset(seed=FILM_SEED)[0] for env in envs]
    squares: list[list[float]] = [[] for _ in sides]
    FIGURES.mkdir(parents=True, exist_ok=True)
    with imageio.get_writer(FIGURES / "arm_feedforward.mp4", fps=25, macro_block_size=8) as video:
        for step in range(FILM_STEPS):
            frames = []
            for i, (env, (title, act)) in enumerate(zip(envs, sides, strict=True)):
                seen[i], *_, info = env.step(act(seen[i]))
                squares[i].append(info["tracking_error"] ** 2)
                if step % 4 == 0:
                    error = 1000 * np.sqrt(np.mean(squares[i]))
                    frame = cast("NDArray[np.uint8]", env.render())
                    frames.append(caption(frame, f"{title}: {error:.0f} mrad RMS"))
            if frames:
                video.append_data(np.hstack(frames))
    for env in envs:
        env.close()


def caption(frame: NDArray[np.uint8], text: str) -> NDArray[Any]:
    """The frame with a line of text on it."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(frame)
    ImageDraw.Draw(image).text((16, 14), text, fill=(30, 30, 34), font=ImageFont.load_default(20))
    return np.asarray(image)


if __name__ == "__main__":
    main()
