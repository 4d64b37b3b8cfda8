"""Models of noisy actuators and the wrappers that put them before a robot."""

from .mechanics import Backlash, DeadZone, GainLoss, Lag, Quantisation, Saturation
from .model import ActuatorModel
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
from .oracle import ActuatorOracle
from .presets import MODELS, PRESETS, SENSORS, Preset, model_from_dict, resolve, scale_noise
from .timing import (
    Delay,
    DroppedCommands,
    Latency,
    RandomDelay,
    SampleAndHold,
    StuckCommands,
)
from .vector import NoisyActuatorsVector
from .wrapper import NoisyActuators

__all__ = [
    "MODELS",
    "PRESETS",
    "SENSORS",
    "ActuatorError",
    "ActuatorModel",
    "ActuatorOracle",
    "ActuatorWarning",
    "Backlash",
    "DeadZone",
    "Delay",
    "DeviceMismatch",
    "DroppedCommands",
    "EpisodeBias",
    "GainDrift",
    "GainLoss",
    "Lag",
    "Latency",
    "NoiseInaccessibleError",
    "NoisyActuators",
    "NoisyActuatorsVector",
    "OffsetDrift",
    "OrnsteinUhlenbeckNoise",
    "Preset",
    "Quantisation",
    "RandomDelay",
    "SampleAndHold",
    "Saturation",
    "SignalDependentNoise",
    "StuckCommands",
    "TelegraphNoise",
    "WhiteNoise",
    "model_from_dict",
    "resolve",
    "scale_noise",
]
