"""Errors of networks and layers, raised before any work starts."""

from __future__ import annotations


class UnsupportedLayerError(TypeError):
    """A module holds parameters that node perturbation cannot reach."""


class ArchitectureError(ValueError):
    """A network description does not make sense (sizes, activation, conversion)."""
