"""Nested training state on disk: tensors in safetensors, all else in JSON; no pickle.

A state is a tree of dicts, lists and tuples whose leaves are torch tensors, numpy arrays, numbers,
strings, booleans and None. It comes back as it was, bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from nprobot.errors import DamagedFileError

# A JSON object with one of these keys, alone, stands for something that JSON cannot say.
_TENSOR, _ARRAY, _TUPLE, _ITEMS, _FLOAT = "$tensor", "$array", "$tuple", "$items", "$float"


_UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, RecursionError, OverflowError),
    safetensors.SafetensorError,
)


def save_state(stem: Path, state: object) -> None:
    """Write a state as ``<stem>.safetensors`` and ``<stem>.json``.

    Raises:
        TypeError: the state holds something else than the types above.
        OSError: the files cannot be written.
    """
    description, tensors = to_bytes(state)
    # Not by safetensors' own writing: what a full disk does to that is not an OSError.
    stem.with_suffix(".safetensors").write_bytes(tensors)
    stem.with_suffix(".json").write_bytes(description)


def load_state(stem: Path) -> Any:  # noqa: ANN401
    """Read what `save_state` wrote; tensors are on the CPU.

    Raises:
        DamagedFileError: a file is missing or cannot be read.
    """
    try:
        description = stem.with_suffix(".json").read_bytes()
        return from_bytes(description, stem.with_suffix(".safetensors").read_bytes())
    except _UNREADABLE as error:
        raise DamagedFileError(
            f"the training state {stem}.json with {stem.name}.safetensors cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def to_bytes(state: object) -> tuple[bytes, bytes]:
    """Contents of the JSON file and of the safetensors file."""
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_encode(state, "", tensors), indent=1, allow_nan=False)
    return text.encode() + b"\n", safetensors.torch.save(tensors)


def from_bytes(description: bytes, tensors: bytes) -> Any:  # noqa: ANN401
    """The inverse of `to_bytes`."""
    return _decode(json.loads(description), safetensors.torch.load(tensors))


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Set the state of an optimiser.

    Raises:
        ValueError: it is no state of that optimiser with these parameters.
    """
    settings = [_kinds(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    if [_kinds(group) for group in optimizer.param_groups] != settings:
        raise ValueError("the optimiser has other settings than the saved one")
    names = _STATES.get(type(optimizer))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            saved = optimizer.state.get(parameter, {})
            if saved and names is not None and saved.keys() != names:
                raise ValueError(f"the saved optimiser remembers {', '.join(map(str, saved))}")
            if any(tuple(value.shape) not in ((), parameter.shape) for value in saved.values()):
                raise ValueError("the saved optimiser is of parameters of another shape")


def _encode(value: object, path: str, tensors: dict[str, torch.Tensor]) -> object:
    if isinstance(value, torch.Tensor | np.ndarray):
        # Its own memory: tensors that share it cannot be saved.
        if isinstance(value, torch.Tensor):
            kind, tensor = _TENSOR, value.detach().cpu()
        else:
            kind, tensor = _ARRAY, torch.as_tensor(np.array(value))
        while path in tensors:  # {"a.b": …} and {"a": {"b": …}}
            path += "'"
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
            # A copy, in memory as torch aligns it: where numbers lie can change how they are added.
            return tensors[content].clone()
        if key == _ARRAY:
            return tensors[content].numpy().copy()
        if key == _TUPLE:
            return tuple(_decode(item, tensors) for item in content)
        if key == _ITEMS:
            return {_decode(k, tensors): _decode(v, tensors) for k, v in content}
        if key == _FLOAT:
            return float(content)
    return {key: _decode(item, tensors) for key, item in value.items()}


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


_STATES: dict[type[torch.optim.Optimizer], set[str]] = {
    cls: {"step", "exp_avg", "exp_avg_sq"} for cls in (torch.optim.Adam, torch.optim.AdamW)
}
"""What optimisers remember of a parameter, where that is known."""


def _kinds(group: Mapping[str, Any]) -> dict[str, Any]:
    """Names of an optimiser's settings, and of what kind they are: a number, a flag, several."""
    numbers = (int, float)
    return {
        name: "number" if type(value) in numbers else type(value)
        for name, value in group.items()
        if name != "params"
    }


_PLACES = {"MT19937": ("pos", 624), "Philox": ("buffer_pos", 4)}
"""Where a generator keeps how far it has read its buffer, and how long that is."""


def restore_generator(generator: np.random.BitGenerator, state: Mapping[str, Any]) -> None:
    """Set the state of a bit generator.

    Raises:
        ValueError: it is no state of that generator.
    """
    name = type(generator).__name__
    if name in _PLACES:
        key, size = _PLACES[name]
        place = state[key] if key in state else state["state"][key]
        if not 0 <= int(place) <= size:
            raise ValueError(f"{place} is no place in the buffer of {name}, which has {size} words")
    generator.state = dict(state)


def restore_numpy(state: tuple[Any, ...]) -> None:
    """Set the state of numpy's global generator.

    Raises:
        ValueError: it is no state of it.
    """
    if len(state) < 3 or not 0 <= int(state[2]) <= 624:
        raise ValueError("the saved state of numpy's global generator is damaged")
    np.random.set_state(state)  # noqa: NPY002 - SB3 draws minibatches from it
