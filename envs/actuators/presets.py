"""The actuator models by name, ready-made actuators with their sources, and how to name either."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ActuatorError
from .mechanics import Backlash, DeadZone, GainLoss, Lag, Quantisation, Saturation
from .model import ActuatorModel, did_you_mean
from .noise import (
    DeviceMismatch,
    EpisodeBias,
    GainDrift,
    OffsetDrift,
    OrnsteinUhlenbeckNoise,
    SignalDependentNoise,
    TelegraphNoise,
    WhiteNoise,
)
from .timing import (
    Delay,
    DroppedCommands,
    Latency,
    RandomDelay,
    SampleAndHold,
    StuckCommands,
)

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
    """Makes a model from what `to_dict` wrote.

    Args:
        values: The model's name under "model", and its parameters.

    Raises:
        ActuatorError: If no model has that name.
        ActuatorError: For unknown keys and impossible values.
    """
    if "model" not in values:
        raise ActuatorError(
            f"{dict(values)!r} does not say which model it is; add a key 'model', "
            f"one of {', '.join(MODELS)}."
        )
    parameters = {key: value for key, value in values.items() if key != "model"}
    return _model_named(values["model"]).from_mapping(parameters)


def resolve(
    models: ModelSpec, presets: Mapping[str, Preset] = PRESETS
) -> tuple[ActuatorModel, ...]:
    """Turns whatever names actuator models into the models.

    Args:
        models: A preset's name, a model, a dictionary as `to_dict` writes it, or a sequence of
            these.
        presets: The presets that names refer to.

    Raises:
        ActuatorError: If a name is no preset.
        ActuatorError: If something is no model, or has impossible values.
    """
    if isinstance(models, ActuatorModel):
        return (models,)
    if isinstance(models, str):
        if models not in presets:
            hint = (
                f" {models} is a model: write {models}()."
                if models in MODELS
                else f" The presets are {', '.join(presets)}."
            )
            raise ActuatorError(
                f"There is no preset {models!r}{did_you_mean(models, presets)}{hint}"
            )
        return presets[models].models
    if isinstance(models, Mapping):
        return (model_from_dict(models),)
    if isinstance(models, Iterable) and not isinstance(models, bytes):
        return tuple(model for part in models for model in resolve(part, presets))
    raise ActuatorError(
        f"{models!r} is neither a preset's name, nor a model such as WhiteNoise(0.1), nor a "
        "dictionary with a key 'model', nor a sequence of these."
    )


def scale_noise(models: ModelSpec, factor: float) -> tuple[ActuatorModel, ...]:
    """The same actuators with all noise `factor` times as strong; 0 leaves what is not random.

    Standard deviations, amplitudes and drifts are multiplied, probabilities too (up to 1). Delays,
    lags, dead zones and faults stay as they are.
    """
    if not 0 <= factor < float("inf"):
        raise ActuatorError(f"factor={factor!r} must be a finite number of at least 0.")
    return tuple(model.scaled(factor) for model in resolve(models))


def _model_named(name: object) -> type[ActuatorModel]:
    if not isinstance(name, str) or name not in MODELS:
        raise ActuatorError(
            f"There is no actuator model {name!r}{did_you_mean(name, MODELS)} "
            f"The models are {', '.join(MODELS)}."
        )
    return MODELS[name]
