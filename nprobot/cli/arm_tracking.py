"""What `nprobot evaluate` adds on the arm: how well it follows, beside PD control and the bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from nprobot.policies.files.policy import Policy
from nprobot.regression.controller import ARM_TRACK
from nprobot.regression.tracking import SHIFTED, track

ROBOTS: Mapping[str, Mapping[str, float]] = {
    "as it is": {},
    "loaded": SHIFTED,
}
COLUMNS = {
    "position_error": ("joint error", 1000, "mrad"),
    "feedback_torque": ("PD torque", 1, "N·m"),
    "torque_error": ("wrong torque", 1, "N·m"),
}


def measure(policy: Policy, *, episodes: int, seed: int) -> list[dict[str, Any]]:
    """Track with PD control alone, with the policy, and with exact inverse dynamics.

    Args:
        policy: a controller of `nprobot/ArmTrack-v0`.
        episodes: how many references.
        seed: where they come from.

    Returns:
        A row a controller and robot: `position_error` in rad RMS, `feedback_torque` and
        `torque_error` in N·m RMS. Where the policy gives the whole torque (``control="torque"``),
        there is no PD control to compare with.
    """
    kwargs = {} if policy.task is None or policy.task.id != ARM_TRACK else policy.task.kwargs
    controllers: dict[str, Any] = {"this policy": policy}
    if kwargs.get("control", "feedforward") == "feedforward":
        controllers = {"PD alone": None, **controllers, "exact model": "exact"}
    rows = []
    for robot, shift in ROBOTS.items():
        for name, controller in controllers.items():
            result = track(controller, episodes=episodes, seed=seed, env_kwargs={**kwargs, **shift})
            values = {column: getattr(result, column) for column in COLUMNS}
            rows.append({"robot": robot, "controller": name, **values})
    return rows


def tracking_table(rows: list[dict[str, Any]]) -> Table:
    """The rows of `measure` for a person."""
    table = Table(
        *("arm", "controller", *(f"{name}, {unit}" for name, _, unit in COLUMNS.values())),
        box=box.SIMPLE_HEAD,
        title="tracking, root mean squares over steps and joints",
        title_justify="left",
        title_style="bold",
        caption=f"loaded: {SHIFTED['payload']:g} kg payload, friction × "
        f"{SHIFTED['friction_scale']:g}",
        caption_justify="left",
    )
    for column in table.columns[2:]:
        column.justify = "right"
    seen = ""
    for row in rows:
        numbers = [f"{row[name] * scale:.2f}" for name, (_, scale, _) in COLUMNS.items()]
        table.add_row("" if row["robot"] == seen else row["robot"], row["controller"], *numbers)
        seen = row["robot"]
    return table
