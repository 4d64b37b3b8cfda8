"""The tables of `docs/actuators.md`, made from the code.

`python -m nprobot.envs.actuators.tables docs/actuators.md` puts them into the page.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .model import ActuatorModel
from .presets import MODELS, PRESETS, SENSORS, Preset


def model_table() -> str:
    """One row for each model: what it does, its formula, its parameters and its memory."""
    rows = [
        "| model | formula | parameters (default, unit) | at a new episode |",
        "|---|---|---|---|",
    ]
    for name, model in MODELS.items():
        about = (model.__doc__ or "").splitlines()[0]
        parameters = "<br>".join(_parameter(field) for field in _own_fields(model))
        cells = (f"**{name}**<br>{about}", model.formula, parameters, model.memory)
        rows.append(f"| {' | '.join(map(_escape, cells))} |")
    return "\n".join(rows)


def preset_table(presets: Mapping[str, Preset] = PRESETS) -> str:
    """One row for each preset: what it stands for, its models, its sources."""
    rows = ["| preset | models, in order | sources |", "|---|---|---|"]
    for name, preset in presets.items():
        models = "<br>".join(f"`{_call(model)}`" for model in preset.models) or "none"
        cells = (f"**{name}**<br>{preset.about}", models, preset.source)
        rows.append(f"| {' | '.join(map(_escape, cells))} |")
    return "\n".join(rows)


def tables() -> dict[str, str]:
    """Every table under the name that marks its place in the page."""
    return {"models": model_table(), "presets": preset_table(), "sensors": preset_table(SENSORS)}


def filled(page: str) -> str:
    """A page with the tables put between their marks, `<!-- NAME -->` and `<!-- end NAME -->`."""
    for name, table in tables().items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        page = f"{head}{begin}\n{table}\n{end}{tail}"
    return page


def _own_fields(model: type[ActuatorModel]) -> list[dataclasses.Field[Any]]:
    """The parameters that are not common to all models."""
    return [
        field for field in dataclasses.fields(model) if field.name not in ("actuators", "units")
    ]


def _parameter(field: dataclasses.Field[Any]) -> str:
    unit = field.metadata.get("unit", "1")
    default = _value(field.default) + ("" if unit == "1" else f" {unit}")
    return f"`{field.name}` ({default}): {field.metadata['about']}"


def _call(model: ActuatorModel) -> str:
    values = [
        f"{field.name}={_value(getattr(model, field.name))}" for field in _own_fields(type(model))
    ]
    return f"{type(model).__name__}({', '.join(values)})"


def _value(value: object) -> str:
    """A value as one would write it; multiples of 2/4096 as such."""
    if isinstance(value, float):
        if value > 0 and math.isclose(value, 2 / 4096):
            return "2/4096"
        return f"{value:.4g}"
    return repr(value)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
