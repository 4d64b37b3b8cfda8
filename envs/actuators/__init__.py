"""Models of noisy actuators and the wrappers that put them before a robot."""

from .errors import (
    ActionShapeError,
    ActuatorError,
    ActuatorForcesObservedWarning,
    ControlCostError,
    HiddenStateError,
    ModelConfigError,
    NestedActuatorsError,
    SealedStateError,
    SensorError,
    UnboundedRangeError,
    UnknownModelError,
    UnknownTimeStepError,
    UnsupportedActionSpaceError,
)
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
    "ActionShapeError",
    "ActuatorError",
    "ActuatorForcesObservedWarning",
    "ActuatorModel",
    "ActuatorOracle",
    "Backlash",
    "ControlCostError",
    "DeadZone",
    "Delay",
    "DeviceMismatch",
    "DroppedCommands",
    "EpisodeBias",
    "GainDrift",
    "GainLoss",
    "HiddenStateError",
    "Lag",
    "Latency",
    "ModelConfigError",
    "NestedActuatorsError",
    "NoisyActuators",
    "NoisyActuatorsVector",
    "OffsetDrift",
    "OrnsteinUhlenbeckNoise",
    "Preset",
    "Quantisation",
    "RandomDelay",
    "SampleAndHold",
    "Saturation",
    "SealedStateError",
    "SensorError",
    "SignalDependentNoise",
    "StuckCommands",
    "TelegraphNoise",
    "UnboundedRangeError",
    "UnknownModelError",
    "UnknownTimeStepError",
    "UnsupportedActionSpaceError",
    "WhiteNoise",
    "model_from_dict",
    "resolve",
    "scale_noise",
]
