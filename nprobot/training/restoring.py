"""Generators and optimisers from a file, checked: numpy and torch trust what they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

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
        raise ValueError("the saved state of numpy's global generator makes no sense")
    np.random.set_state(state)  # noqa: NPY002 - SB3 draws minibatches from it


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
