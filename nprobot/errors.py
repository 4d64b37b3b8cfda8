"""Errors of the learning rules and algorithms; each says what was given and what to do."""

from __future__ import annotations

from nprobot.policies.errors import (
    ArchitectureError,
    HardwareError,
    NoiseInaccessibleError,
    UnsupportedLayerError,
)

__all__ = [
    "ArchitectureError",
    "HardwareError",
    "NoiseInaccessibleError",
    "NoiseShapeError",
    "NonFiniteLossError",
    "PerSampleLossError",
    "RuleError",
    "UnsupportedLayerError",
]


class RuleError(ValueError):
    """A learning rule was asked for, or used, in a way that makes no sense."""


class PerSampleLossError(RuleError):
    """The loss is not one number per sample."""


class NoiseShapeError(RuleError):
    """Explicit perturbations do not fit the network's nodes."""


class NonFiniteLossError(FloatingPointError):
    """The loss is NaN or infinite."""
