"""Nested training state on disk: tensors in safetensors, all else in JSON; no pickle.

A state is a tree of dicts, lists and tuples whose leaves are torch tensors, numpy arrays, numbers,
strings, booleans and None. It comes back as it was, bit for bit.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from .errors import DamagedRunError

# A JSON object with one of these keys, alone, stands for something that JSON cannot say.
_TENSOR, _ARRAY, _TUPLE, _ITEMS, _FLOAT = "$tensor", "$array", "$tuple", "$items", "$float"


def save_state(stem: Path, state: object) -> None:
    """Write a state as ``<stem>.safetensors`` and ``<stem>.json``.

    Raises:
        TypeError: the state holds something else than the types above.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_encode(state, "", tensors), indent=1, allow_nan=False)
    safetensors.torch.save_file(tensors, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def load_state(stem: Path) -> Any:  # noqa: ANN401
    """Read what `save_state` wrote; tensors are on the CPU.

    Raises:
        DamagedRunError: a file is missing or cannot be read.
    """
    try:
        description = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(stem.with_suffix(".safetensors"))
        return _decode(description, tensors)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise DamagedRunError(
            f"the training state {stem}.json with {stem.name}.safetensors cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def _encode(value: object, path: str, tensors: dict[str, torch.Tensor]) -> object:
    if isinstance(value, torch.Tensor | np.ndarray):
        kind = _TENSOR if isinstance(value, torch.Tensor) else _ARRAY
        tensor = torch.as_tensor(value).detach().cpu()
        # Its own memory: tensors that share it cannot be saved.
        tensors[path] = tensor.clone(memory_format=torch.contiguous_format)
        return {kind: path}
    if isinstance(value, dict):
        children = [(key, _encode(v, _join(path, key), tensors)) for key, v in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(children)
        return {_ITEMS: [[_encode(key, path, tensors), child] for key, child in children]}
    if isinstance(value, list | tuple):
        items = [_encode(item, _join(path, i), tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    if isinstance(value, np.generic):
        return _encode(value.item(), path, tensors)
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"the state {path or '(root)'} is a {type(value).__name__}, which is not saved")


def _decode(value: Any, tensors: dict[str, torch.Tensor]) -> object:  # noqa: ANN401
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (key, content), *_ = value.items()
        if key == _TENSOR:
            return tensors[content]
        if key == _ARRAY:
            return tensors[content].numpy()
        if key == _TUPLE:
            return tuple(_decode(item, tensors) for item in content)
        if key == _ITEMS:
            return {_decode(k, tensors): _decode(v, tensors) for k, v in content}
        if key == _FLOAT:
            return float(content)
    return {key: _decode(item, tensors) for key, item in value.items()}


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
