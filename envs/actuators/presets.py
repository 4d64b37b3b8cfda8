"""The actuator models by name, ready-made actuators with their sources, and how to name either.

The tables of `docs/reference/actuators.md` are made from them:
`python -m nprobot.envs.actuators.presets docs/reference/actuators.md` puts them into the page.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError, UnknownNameError
from .actuator_model import ActuatorModel
from .actuator_noise import (
    DeviceMismatch,
    EpisodeBias,
    GainDrift,
    OffsetDrift,
    OrnsteinUhlenbeckNoise,
    SignalDependentNoise,
    TelegraphNoise,
    WhiteNoise,
)
from .command_timing import (
    Delay,
    DroppedCommands,
    Latency,
    RandomDelay,
    SampleAndHold,
    StuckCommands,
)
from .mechanics import Backlash, DeadZone, GainLoss, Lag, Quantisation, Saturation

#: Every model under the name that `to_dict` writes.
MODELS: dict[str, type[ActuatorModel]] = {
    model.__name__: model
    for model in (
        WhiteNoise,
        SignalDependentNoise,
        OrnsteinUhlenbeckNoise,
        EpisodeBias,
        DeviceMismatch,
        OffsetDrift,
        GainDrift,
        TelegraphNoise,
        Quantisation,
        DeadZone,
        Backlash,
        Saturation,
        Lag,
        GainLoss,
        Delay,
        Latency,
        RandomDelay,
        DroppedCommands,
        StuckCommands,
        SampleAndHold,
    )
}

#: What may stand where actuator models are asked for.
ModelSpec = (
    str | ActuatorModel | Mapping[str, Any] | Iterable[str | ActuatorModel | Mapping[str, Any]]
)


@dataclass(frozen=True)
class Preset:
    """Ready-made actuators.

    Attributes:
        models: The models in the order in which commands pass them.
        about: What it stands for.
        source: Where its numbers come from; says so where a number is our own choice.
    """

    models: tuple[ActuatorModel, ...]
    about: str
    source: str


_RWRL = (
    "Real-World RL suite (Dulac-Arnold et al. 2020, arXiv 2003.11881), combined challenge “{}”, "
    "action part only: realworldrl_suite/environments/realworld_env.py. Its actions span ±1, so a "
    "standard deviation there is one in units of the half range here. Until the first command "
    "arrives it repeats that command; here the actuators rest."
)

#: Actuators to be named in place of models.
PRESETS: dict[str, Preset] = {
    "ideal": Preset((), "does what it is told", "–"),
    "servo": Preset(
        (
            Latency(0.02),
            Quantisation(2 / 4096),
            Lag(0.05),
            Backlash(2 * 0.25 / 360),
            WhiteNoise(0.01),
        ),
        "a digital servo on a bus, its action range one turn",
        "4096 steps a turn and 0.25° of backlash: data sheet of the ROBOTIS XM540-W150. Lag 50 ms: "
        "a bus servo LX-16A measured at 53 ms (tiuksenia/mao-flexible-spine-rl-mujoco). Latency "
        "20 ms: middle of the 0–40 ms over which Tan et al. 2018 (arXiv 1804.10332; their "
        "minitaur_env_randomizer_config.py) randomise it. Noise 1 %: our choice.",
    ),
    "torque-motor": Preset(
        (
            Lag(0.0024),
            SignalDependentNoise(0.1),
            OrnsteinUhlenbeckNoise(0.05, 0.05),
            Saturation(1.0),
        ),
        "a direct-drive torque motor with noise that grows with torque, and slow ripple",
        "Lag: torque bandwidth of 66 Hz of the PULSE115-60 actuator (Pérez-Díaz et al. 2024). Law "
        "of the signal-dependent noise: Harris & Wolpert 1998 (Nature 394, 780); its 10 % and the "
        "ripple of 5 % over 50 ms are our choice, at the strong end, for learning from noise.",
    ),
    "worn-gearbox": Preset(
        (
            DeviceMismatch(gain_std=0.1, offset_std=0.02),
            OffsetDrift(diffusion=0.002, limit=0.1),
            Lag(0.05),
            DeadZone(0.05),
            Backlash(20 * 0.25 / 360),
            OrnsteinUhlenbeckNoise(0.03, 0.1),
        ),
        "a servo at the end of its life: play, friction, uneven gains, wandering zero",
        "Backlash: ten times the data sheet's 0.25° of a new ROBOTIS XM540-W150, on a range of one "
        "turn. Gain: ±20 % at two standard deviations, the range of motor strength of Tan et al. "
        "2018 (as above). Lag as for “servo”. Dead zone, drift and noise: our choice.",
    ),
    "easy": Preset(
        (Delay(3), WhiteNoise(0.1)),
        "late by 3 steps, noise 0.1",
        _RWRL.format("easy"),
    ),
    "medium": Preset(
        (Delay(6), WhiteNoise(0.3), SampleAndHold(2)),
        "late by 6 steps, noise 0.3, every action twice",
        _RWRL.format("medium"),
    ),
    "hard": Preset(
        (Delay(9), WhiteNoise(1.0), SampleAndHold(3)),
        "late by 9 steps, noise 1.0, every action three times",
        _RWRL.format("hard"),
    ),
}

#: Sensors to be named in place of models.
SENSORS: dict[str, Preset] = {
    "current-sense": Preset(
        (WhiteNoise(0.02), Quantisation(2 / 4096)),
        "motor current through a shunt: 2 % noise, 12 bits",
        "our choice, typical of motor drivers",
    ),
}


def model_from_dict(values: Mapping[str, Any]) -> ActuatorModel:
    """Make a model from what `to_dict` wrote.

    Args:
        values: the model's name under "model", and its parameters.

    Raises:
        UnknownNameError: there is no model, or no parameter, of that name.
        ConfigError: the name is missing, or a value is not allowed.
    """
    name = values.get("model")
    if name is None:
        raise ConfigError(
            f"{dict(values)!r} does not say which model it is; add a key 'model', "
            f"one of {', '.join(MODELS)}."
        )
    if not isinstance(name, str) or name not in MODELS:
        raise UnknownNameError("actuator model", name, MODELS)
    return MODELS[name].from_dict(values)


def resolve(
    models: ModelSpec, presets: Mapping[str, Preset] = PRESETS
) -> tuple[ActuatorModel, ...]:
    """Turn whatever names actuator models into the models.

    Args:
        models: a preset's name, a model, a dictionary as `to_dict` writes it, or a sequence of
            these.
        presets: the presets that names refer to.

    Raises:
        UnknownNameError: there is no preset, model or parameter of that name.
        ConfigError: something is no model, or has impossible values.
    """
    if isinstance(models, ActuatorModel):
        return (models,)
    if isinstance(models, str):
        if models not in presets:
            hint = f"({models} is a model: write {models}())" if models in MODELS else ""
            raise UnknownNameError("actuator preset", models, presets, hint)
        return presets[models].models
    if isinstance(models, Mapping):
        return (model_from_dict(models),)
    if isinstance(models, Iterable) and not isinstance(models, bytes):
        return tuple(model for part in models for model in resolve(part, presets))
    raise ConfigError(
        f"{models!r} is neither a preset's name, nor a model such as WhiteNoise(0.1), nor a "
        "dictionary with a key 'model', nor a sequence of these."
    )


def scale_noise(models: ModelSpec, factor: float) -> tuple[ActuatorModel, ...]:
    """The same actuators with all noise `factor` times as strong; 0 leaves what is not random.

    Standard deviations, amplitudes and drifts are multiplied, probabilities too (up to 1). Delays,
    lags, dead zones and faults stay as they are.
    """
    if not 0 <= factor < math.inf:
        raise ConfigError(f"factor={factor!r} must be a finite number of at least 0.")
    return tuple(model.scaled(factor) for model in resolve(models))


def documentation_tables() -> dict[str, str]:
    """The tables of the page, each under the name that marks its place there."""
    models = [
        "| model | formula | parameters (default, unit) | at a new episode |",
        "|---|---|---|---|",
    ]
    for name, model in MODELS.items():
        about = (model.__doc__ or "").splitlines()[0]
        parameters = "<br>".join(map(_parameter_cell, _own_fields(model)))
        models.append(_row(f"**{name}**<br>{about}", model.formula, parameters, model.memory))
    return {
        "models": "\n".join(models),
        "presets": _preset_table(PRESETS),
        "sensors": _preset_table(SENSORS),
    }


def with_tables(page: str) -> str:
    """A page with the tables put between their marks, `<!-- NAME -->` and `<!-- end NAME -->`."""
    for name, table in documentation_tables().items():
        begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        page = f"{head}{begin}\n{table}\n{end}{tail}"
    return page


def _preset_table(presets: Mapping[str, Preset]) -> str:
    rows = ["| preset | models, in order | sources |", "|---|---|---|"]
    for name, preset in presets.items():
        models = "<br>".join(f"`{_call(model)}`" for model in preset.models) or "none"
        rows.append(_row(f"**{name}**<br>{preset.about}", models, preset.source))
    return "\n".join(rows)


def _own_fields(model: type[ActuatorModel]) -> list[dataclasses.Field[Any]]:
    """The parameters that are not common to many models."""
    return [
        field for field in dataclasses.fields(model) if field.name not in ("actuators", "units")
    ]


def _parameter_cell(field: dataclasses.Field[Any]) -> str:
    unit = field.metadata["unit"]
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
        return "2/4096" if value > 0 and math.isclose(value, 2 / 4096) else f"{value:.4g}"
    return repr(value)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
