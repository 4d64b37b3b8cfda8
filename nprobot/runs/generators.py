"""States of random generators from a file, checked: numpy itself trusts them blindly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
