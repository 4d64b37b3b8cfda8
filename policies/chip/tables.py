"""The tables of `docs/hardware.md`; `python -m nprobot.policies.chip.tables` prints them."""

from __future__ import annotations

import dataclasses

from .models import MODELS, PRESETS, HardwareModel


def model_table() -> str:
    """One row for each model: what it stands for, its formula and its parameters."""
    rows = ["| model | in the place of | parameters (default, unit) |", "|---|---|---|"]
    for name, model in MODELS.items():
        about = (model.__doc__ or "").splitlines()[0]
        parameters = "<br>".join(map(_parameter, dataclasses.fields(model)))
        rows.append(f"| **{name}**<br>{about} | {model.formula} | {parameters} |")
    return "\n".join(rows)


def preset_table() -> str:
    """One row for each preset: its models."""
    rows = ["| preset | models, in order |", "|---|---|"]
    for name, models in PRESETS.items():
        rows.append(f"| **{name}** | {'<br>'.join(map(_call, models)) or 'none'} |")
    return "\n".join(rows)


def filled(page: str) -> str:
    """A page with the tables put between their marks, `<!-- NAME -->` and `<!-- end NAME -->`."""
    for name, table in (("models", model_table()), ("presets", preset_table())):
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        page = f"{head}{begin}\n{table}\n{end}{tail}"
    return page


def _parameter(field: dataclasses.Field[object]) -> str:
    unit = "" if field.metadata["unit"] == "1" else f" {field.metadata['unit']}"
    return f"`{field.name}` ({field.default:g}{unit}): {field.metadata['about']}"


def _call(model: HardwareModel) -> str:
    values = ", ".join(f"{name}={value:g}" for name, value in dataclasses.asdict(model).items())
    return f"`{type(model).__name__}({values})`"


if __name__ == "__main__":
    print(model_table(), end="\n\n")
    print(preset_table())
