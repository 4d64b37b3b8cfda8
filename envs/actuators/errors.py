"""Errors and warnings of actuators: what was given, what is allowed, what to do."""

from __future__ import annotations


class ActuatorError(ValueError):
    """Actuators were asked for something that makes no sense; the base of the errors below."""


class ModelConfigError(ActuatorError):
    """A model has an impossible value, an unknown key, or names actuators that do not exist."""


class UnknownModelError(ActuatorError):
    """No model or preset has that name."""


class UnsupportedActionSpaceError(ActuatorError):
    """The action space is not a `Box` of floats, so there is no actuator to be noisy."""


class UnboundedRangeError(ActuatorError):
    """A fraction of the action range was asked for, and the range is infinite."""


class UnknownTimeStepError(ActuatorError):
    """A time in seconds was given, and the environment does not say how long a step is."""


class ActionShapeError(ActuatorError):
    """An action has another shape than the action space."""


class SensorError(ActuatorError):
    """The sensor would be free of noise, so it would read out the hidden perturbation."""


class ControlCostError(ActuatorError):
    """The environment cannot charge the commanded action while it executes another."""


class NestedActuatorsError(ActuatorError):
    """The environment already has noisy actuators."""


class SealedStateError(ActuatorError):
    """A saved state cannot be made, or cannot be opened here."""


class HiddenStateError(TypeError):
    """Noisy hardware cannot be copied or pickled: the copy would give its noise away."""


class ActuatorForcesObservedWarning(UserWarning):
    """The environment itself puts actuator forces into the observation."""
