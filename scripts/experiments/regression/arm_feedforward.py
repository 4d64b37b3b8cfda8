"""A learned inverse-dynamics model at work: how well the arm follows with it as feed-forward.

Each rule learns the arm's inverse dynamics in 12 epochs (K = 16, three seeds, settings from the
search of `inverse_dynamics.py`); then the arm follows 20 random references on
`nprobot/ArmTrack-v0` with a compliant PD controller and the model's torques, as it is and with a
payload and more friction, which no model has seen.

    python -m scripts.experiments.regression.arm_feedforward run  # models in runs/, rows.csv
    python -m scripts.experiments.regression.arm_feedforward report  # table and figure in docs/
    python -m scripts.experiments.regression.arm_feedforward film  # PD alone beside PD with a model
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any, cast

import gymnasium
import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nprobot.deploy import choose_backend
from nprobot.envs import datasets
from nprobot.regression import FittedModel, feedforward_policy, fit, load, track
from nprobot.regression.tracking import NOMINAL, SHIFTED

from ..pages import DOCS, FIGURES, markdown, panels, put_section, save_figure, spread
from ..rows import RESULTS, ROOT, Only, Row, Rows, column, command, keep, read, select
from .inverse_dynamics import FOLDER, HIDDEN, NOISE, SEEDS, arm

MODELS = ROOT / "runs" / "arm_feedforward"
ROWS = RESULTS / "arm_feedforward" / "rows.csv"
RULES = ("bp", "np", "anp", "dnp", "danp", "dbp", "inp", "dinp")
NAMES = {
    "PD": "PD alone",
    "exact": "PD + exact inverse dynamics",
    "nominal": "PD + exact, of the nominal arm",
} | {rule: f"PD + {rule.upper()}" for rule in RULES}
"""Controllers: PD alone, the bounds, then every rule."""
ROBOTS = {"nominal": NOMINAL, "shifted": SHIFTED}
EPISODES = 20
FILM_SEED, FILM_STEPS = 4, 500


def run(only: Only = ()) -> None:
    """Learn and track what has no row."""
    jobs = itertools.product(NAMES, SEEDS, ROBOTS)
    names = ("controller", "seed", "robot")
    keep(ROWS, [dict(zip(names, job, strict=True)) for job in jobs], follow, only=only)


def follow(controller: str, seed: int, robot: str) -> Row:
    """One controller on one robot."""
    fixed = {"PD": None, "exact": "exact", "nominal": "nominal"}
    given, nmse = (fixed[controller], np.nan) if controller in fixed else learned(controller, seed)
    result = track(given, episodes=EPISODES, seed=seed, **ROBOTS[robot])
    return {
        "episodes": EPISODES,
        "position_error": round(result.position_error, 6),
        "feedback_torque": round(result.feedback_torque, 5),
        "torque_error": round(result.torque_error, 5),
        "test_nmse": round(nmse, 6),
    }


def learned(rule: str, seed: int) -> tuple[FittedModel, float]:
    """The model that a rule learns, and its test nMSE; from disk if it is there."""
    folder = MODELS / f"{rule}-{seed}"
    if not (folder / "scores.csv").exists():
        samples = 1 if rule in ("bp", "dbp") else 16
        job = {"budget": "epochs", "rule": rule, "samples": samples, "seed": seed}
        if not (found := select(read(FOLDER / "rows.csv"), **job)):
            raise SystemExit(f"no row of {rule}: first `inverse_dynamics.py run --rule {rule}`")
        fit(
            list(HIDDEN),
            arm(),
            rule,
            samples=samples,
            epochs=int(found[0]["epochs"]),
            learning_rate=float(found[0]["learning_rate"]),
            weight_decay=float(found[0]["weight_decay"]),
            decorrelation_lr=float(found[0]["decorrelation_lr"]),
            seed=seed,
            out=folder,
            **NOISE,
        )
    model, test = load(folder), arm().test
    return model, float(datasets.nmse(model.predict(test.inputs), test.targets).mean())


def report() -> None:
    """Write the table and draw the figure."""
    rows, lines = read(ROWS), []
    lines.append(("", "nominal arm", "", "", "payload 0.5 kg, friction × 1.5", "", ""))
    for name, title in NAMES.items():
        if select(rows, controller=name):
            cells = [title]
            for robot in ROBOTS:
                own = select(rows, controller=name, robot=robot)
                cells.append(spread(errors(own), 2))
                cells += [spread(column(own, n), 2) for n in ("feedback_torque", "torque_error")]
            lines.append(tuple(cells))
    measured = ("error, mrad RMS", "PD torque, N·m RMS", "torque error, N·m RMS")
    table = markdown(("", *measured, *measured), lines)
    put_section("arm_feedforward", table, DOCS / "regression.md")
    draw(rows)


def errors(rows: Rows) -> list[float]:
    """Tracking errors, mrad."""
    return [1000 * error for error in column(rows, "position_error")]


def draw(rows: Rows) -> None:
    """Bars of the tracking error, a point a seed."""
    order = [name for name in ("PD", *RULES, "nominal", "exact") if select(rows, controller=name)]
    figure, (axes,) = panels(1, (9.0, 4.0))
    colours = {"nominal": "#08519c", "shifted": "#d94801"}
    labels = {"nominal": "the arm that was learned", "shifted": "0.5 kg payload, 1.5 × friction"}
    for offset, robot in zip((-0.2, 0.2), ROBOTS, strict=True):
        for place, name in enumerate(order):
            points = errors(select(rows, controller=name, robot=robot))
            axes.bar(
                *(place + offset, statistics.fmean(points), 0.38),
                **{"color": colours[robot], "alpha": 0.75},
                label=labels[robot] if place == 0 else None,
            )
            axes.plot([place + offset] * len(points), points, ".", color="0.15", markersize=4)
    half = statistics.fmean(errors(select(rows, controller="PD", robot="nominal"))) / 2
    axes.axhline(half, color="0.4", linewidth=1, linestyle="--")
    axes.text(
        len(order) - 0.5, half * 1.05, "half of PD alone", ha="right", va="bottom", color="0.3"
    )
    axes.set_yscale("log")
    axes.set_xticks(range(len(order)))
    short = {"PD": "PD alone", "nominal": "exact,\nnominal arm", "exact": "exact"}
    axes.set_xticklabels([short.get(name, f"+ {name.upper()}") for name in order], fontsize=9)
    axes.set_ylabel("tracking error, mrad RMS")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, "arm_feedforward")


def film() -> None:
    """The same reference twice: PD alone on the left, with the DANP-trained model on the right."""
    choose_backend()
    policy = feedforward_policy(learned("danp", 0)[0])
    zero = np.zeros(7, dtype=np.float32)
    sides = [("PD alone", lambda seen: zero), ("PD + DANP-trained model", policy.predict)]
    options = {"render_mode": "rgb_array", "width": 480, "height": 480}
    envs = [gymnasium.make("nprobot/ArmTrack-v0", motion="rhythmic", **options) for _ in sides]
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
    image = Image.fromarray(frame)
    ImageDraw.Draw(image).text((16, 14), text, fill=(30, 30, 34), font=ImageFont.load_default(20))
    return np.asarray(image)


if __name__ == "__main__":
    command(__doc__, run, report, film)
