"""Networks, decorrelating layers and policy files; torch is imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import ArchitectureError, UnsupportedLayerError
    from .layers import (
        BiasHead,
        DecorrelatedConv2d,
        DecorrelatedLinear,
        decorrelate,
        fold,
        is_decorrelated,
    )
    from .networks import ACTIVATIONS, mlp

_HOME = {
    "ArchitectureError": "errors",
    "UnsupportedLayerError": "errors",
    "BiasHead": "layers",
    "DecorrelatedConv2d": "layers",
    "DecorrelatedLinear": "layers",
    "decorrelate": "layers",
    "fold": "layers",
    "is_decorrelated": "layers",
    "ACTIVATIONS": "networks",
    "mlp": "networks",
}

__all__ = [  # noqa: RUF022 - in the order of the modules
    "ArchitectureError",
    "UnsupportedLayerError",
    "BiasHead",
    "DecorrelatedConv2d",
    "DecorrelatedLinear",
    "decorrelate",
    "fold",
    "is_decorrelated",
    "ACTIVATIONS",
    "mlp",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
