"""The state of a MuJoCo simulation, so that it goes on bit for bit.

A simulation is determined by MuJoCo's integration state (positions, velocities, activations, time,
warm start of the solver, applied forces, …). Environments also look at what was derived from the
state *before* the last physics step (positions of bodies, contact forces, …), which computing it
anew would change; so that is kept as well.

Only numbers are put back, never indices or addresses: a forged file can make a simulation wrong,
but cannot make it reach outside its memory.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nprobot.errors import NprobotError

_ARENA = ("efc_", "iefc_", "efm_", "iacc", "ifrc_")
"""Beginnings of the names of arrays that every physics step lays out anew."""


def is_simulation(value: object) -> bool:
    """Whether it is MuJoCo's `MjData`."""
    mujoco = sys.modules.get("mujoco")  # who has not imported it has none
    return mujoco is not None and isinstance(value, mujoco.MjData)


def is_model(value: object) -> bool:
    """Whether it is MuJoCo's `MjModel`."""
    mujoco = sys.modules.get("mujoco")
    return mujoco is not None and isinstance(value, mujoco.MjModel)


def save_simulation(data: Any) -> dict[str, Any]:  # noqa: ANN401
    """All that determines how a simulation goes on, and what it shows before that."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.empty(mujoco.mj_stateSize(data.model, kind))
    mujoco.mj_getState(data.model, data, integration, kind)
    derived = {n: a.copy() for n, a in _numbers(data).items() if not n.startswith(_ARENA)}
    return {"integration": integration, "derived": derived}


def restore_simulation(data: Any, state: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Go back to a saved state, in place.

    Raises:
        NprobotError: it is of another model, or another version of MuJoCo.
    """
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.asarray(state["integration"], np.float64)
    if integration.shape != (mujoco.mj_stateSize(data.model, kind),):
        raise NprobotError(
            f"the saved simulation has {integration.size} numbers, this one "
            f"{mujoco.mj_stateSize(data.model, kind)}: another model or version of MuJoCo"
        )
    mujoco.mj_setState(data.model, data, integration, kind)
    mujoco.mj_forward(data.model, data)  # contacts, and everything that is not saved
    mujoco.mj_setState(data.model, data, integration, kind)  # the solver has changed its start
    _overwrite(data, state["derived"])


def model_digests(model: Any) -> dict[str, str]:  # noqa: ANN401
    """A fingerprint of each array of numbers in a model."""
    return {name: _digest(array) for name, array in _model_numbers(model).items()}


def save_model(model: Any, original: Mapping[str, str]) -> dict[str, Any]:  # noqa: ANN401
    """The numbers of a model that the environment has changed since it was made.

    Args:
        model: MuJoCo's `MjModel`.
        original: `model_digests` of the model of a new environment.
    """
    return {
        name: array.copy()
        for name, array in _model_numbers(model).items()
        if original.get(name) != _digest(array)
    }


def restore_model(model: Any, changed: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Change the model of a new environment as the saved one was."""
    _overwrite(model, {n: a for n, a in changed.items() if not n.startswith("opt.")})
    options = {n.removeprefix("opt."): a for n, a in changed.items() if n.startswith("opt.")}
    for name, values in options.items():
        present = getattr(model.opt, name, None)
        if isinstance(present, np.ndarray):
            _overwrite(model.opt, {name: values})
        elif isinstance(present, float):
            setattr(model.opt, name, float(values))


def _model_numbers(model: Any) -> dict[str, NDArray[Any]]:  # noqa: ANN401
    """Arrays of a model and its options; gravity and time step are among the latter."""
    found = _numbers(model)
    for name in _names(model.opt):
        value = getattr(model.opt, name)
        if isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
            found[f"opt.{name}"] = np.asarray(value)
    return found


def _numbers(struct: object) -> dict[str, NDArray[Any]]:
    values = ((name, getattr(struct, name, None)) for name in _names(struct))
    return {n: v for n, v in values if isinstance(v, np.ndarray) and v.dtype.kind == "f"}


def _names(struct: object) -> list[str]:
    return [name for name in dir(type(struct)) if not name.startswith("_")]


def _overwrite(struct: object, saved: Mapping[str, Any]) -> None:
    for name, values in saved.items():
        present = getattr(struct, name, None)
        values = np.asarray(values)
        if (
            not isinstance(present, np.ndarray)
            or present.dtype.kind != "f"
            or (present.shape, present.dtype) != (values.shape, values.dtype)
        ):
            raise NprobotError(
                f"{name} of the saved simulation has shape {values.shape}, here it is "
                f"{getattr(present, 'shape', None)}: another model or version of MuJoCo"
            )
        present[:] = values


def _digest(array: NDArray[Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()
