"""Errors of networks and layers, raised before any work starts."""

from __future__ import annotations


class UnsupportedLayerError(TypeError):
    """A module holds parameters that node perturbation cannot reach."""


class ArchitectureError(ValueError):
    """A network description does not make sense (sizes, activation, conversion)."""


class HardwareError(ValueError):
    """A description of noisy hardware does not make sense, or does not fit the network."""


class NoiseInaccessibleError(TypeError):
    """Something was asked for that takes knowing noise which is hidden."""
