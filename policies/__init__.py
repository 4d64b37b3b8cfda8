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
    from .onnx_file import OnnxPolicy, load_onnx, save_onnx
    from .policy import Policy
    from .policy_file import PolicyFileError, load, save
    from .sb3_zip import load_trusted_sb3_zip

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
    "OnnxPolicy": "onnx_file",
    "load_onnx": "onnx_file",
    "save_onnx": "onnx_file",
    "Policy": "policy",
    "PolicyFileError": "policy_file",
    "load": "policy_file",
    "save": "policy_file",
    "load_trusted_sb3_zip": "sb3_zip",
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
    "OnnxPolicy",
    "load_onnx",
    "save_onnx",
    "Policy",
    "PolicyFileError",
    "load",
    "save",
    "load_trusted_sb3_zip",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
