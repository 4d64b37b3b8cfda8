"""Walks through an environment and notes its state as a tree; see `env_state`."""

from __future__ import annotations

import enum
import logging
import random
from collections import OrderedDict, defaultdict, deque
from pathlib import PurePath
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from nprobot.errors import NprobotError

from .simulator_state import is_model, is_simulation, model_digests, save_model, save_simulation

Node = Any
"""Of a tree: a number, string or None as it is, anything else a dict with its "kind"."""

MOST_NODES = 200_000
MOST_BYTES = 64 * 2**20
"""What is larger is not an environment's state, but something that it has got hold of."""

SEQUENCES: tuple[type, ...] = (list, tuple, set, frozenset, deque)
MAPPINGS: tuple[type, ...] = (dict, OrderedDict, defaultdict)

_NO_STATE = (type, EnvSpec, PurePath, logging.Logger, logging.Handler)
_HEAP_TYPE = 1 << 9
"""The flag of classes that are made at run time, as those written in Python are."""


class Recorder:
    """One walk through an environment; every object is noted once.

    Args:
        models: fingerprints of MuJoCo's models in a new environment, by their path; None for the
            walk through that new environment.

    Attributes:
        models: the same, completed by the walk through a new environment.
    """

    def __init__(self, models: dict[str, dict[str, str]] | None = None) -> None:
        self.models = {} if models is None else models
        self._is_new = models is None
        self._paths: dict[int, str] = {}
        self._alive: list[object] = []  # so that no two objects have the same id
        self._bytes = 0

    def record(self, value: Any, path: str) -> Node:  # noqa: ANN401
        """The state of an object and of all that it refers to.

        Raises:
            NprobotError: it is too large.
        """
        if value is None or type(value) in (bool, int, float, str):
            return value
        if id(value) in self._paths:
            return {"kind": "same", "path": self._paths[id(value)]}
        self._paths[id(value)] = path
        self._alive.append(value)
        if len(self._alive) > MOST_NODES or self._bytes > MOST_BYTES:
            raise NprobotError("the state of the environment is too large to be saved")
        return (
            self._numbers(value, path)
            or self._container(value, path)
            or self._simulator(value, path)
            or self._environment(value, path)
            or self._object(value, path)
        )

    def _numbers(self, value: Any, path: str) -> Node:  # noqa: ANN401
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value, path)
        if isinstance(value, np.random.Generator):
            return {"kind": "generator", "state": value.bit_generator.state}
        if isinstance(value, np.random.RandomState):
            return {"kind": "random state", "state": value.get_state()}
        if isinstance(value, random.Random):
            return {"kind": "random", "state": value.getstate()}
        if isinstance(value, enum.Enum):
            return {"kind": "enum", "type": type_name(value), "name": value.name}
        if isinstance(value, bytes):
            return {"kind": "bytes", "value": np.frombuffer(value, np.uint8).copy()}
        return None

    def _array(self, value: np.ndarray[Any, Any] | np.generic, path: str) -> Node:
        dtype = value.dtype
        if dtype.kind not in "biuf" or dtype.itemsize > 8 or not dtype.isnative:
            return {"kind": "left", "type": f"numbers of type {dtype}"}
        self._bytes += value.nbytes
        if isinstance(value, np.generic):
            return {"kind": "scalar", "value": np.array(value)}
        base = value.base
        if isinstance(base, np.ndarray) and base.flags.c_contiguous and base.flags.owndata:
            # A part of another array, which may well be in the state too.
            return {
                "kind": "part",
                "of": self.record(base, f"{path}.base"),
                "offset": value.ctypes.data - base.ctypes.data,
                "shape": value.shape,
                "strides": value.strides,
                "dtype": dtype.str,
            }
        # On memory that is not numpy's: that of a simulation.
        window = value.flags.writeable and base is not None
        return {"kind": "array", "value": np.array(value), "window": window}

    def _container(self, value: Any, path: str) -> Node:  # noqa: ANN401
        named = isinstance(value, tuple) and hasattr(value, "_fields")
        if type(value) in SEQUENCES or named:
            kind, name = "sequence", type(value).__name__
            if named:
                kind, name = "named tuple", type_name(value)
            items = [self.record(item, f"{path}[{i}]") for i, item in enumerate(value)]
            return {"kind": kind, "type": name, "items": items}
        if type(value) in MAPPINGS and all(map(_is_key, value)):
            entries = [[key, self.record(v, f"{path}[{key!r}]")] for key, v in value.items()]
            return {"kind": "mapping", "type": type(value).__name__, "entries": entries}
        return None

    def _simulator(self, value: Any, path: str) -> Node:  # noqa: ANN401
        if is_simulation(value):
            return {"kind": "simulation", **save_simulation(value)}
        if is_model(value):
            if self._is_new:
                self.models[path] = model_digests(value)
            return {"kind": "model", "changed": save_model(value, self.models.get(path, {}))}
        return None

    def _environment(self, value: Any, path: str) -> Node:  # noqa: ANN401
        """Of an environment or wrapper that saves its state itself."""
        if not isinstance(value, gymnasium.Env):
            return None
        inner = value.env if isinstance(value, gymnasium.Wrapper) else None
        theirs: Any = value
        try:
            if hasattr(value, "save_actuators"):
                capsule = np.frombuffer(theirs.save_actuators(), np.uint8).copy()
                node = {"kind": "actuators", "capsule": capsule}
            elif saves_itself(value):
                node = {"kind": "own", "type": type_name(value), "state": theirs.state_dict()}
            else:
                return None
        except Exception as error:
            raise NprobotError(f"{path} cannot save its state: {error}") from error
        return node | {"env": None if inner is None else self.record(inner, f"{path}.env")}

    def _object(self, value: Any, path: str) -> Node:  # noqa: ANN401
        if not is_plain(value):
            return {"kind": "left", "type": type_name(value)}
        children = {name: self.record(v, f"{path}.{name}") for name, v in members(value).items()}
        return {"kind": "object", "type": type_name(value), "members": children}


def members(value: object) -> dict[str, Any]:
    """Attributes of a Python object, those in slots among them."""
    found = dict(vars(value)) if hasattr(value, "__dict__") else {}
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def is_plain(value: object) -> bool:
    """Whether an object is written in Python through and through, so that its attributes are it."""
    if isinstance(value, _NO_STATE):
        return False
    cls = type(value)
    if type(cls).__module__ not in ("builtins", "abc", "typing"):
        return False  # a class made by the machinery of an extension
    in_python = all(base.__flags__ & _HEAP_TYPE for base in cls.__mro__ if base is not object)
    return in_python and (hasattr(value, "__dict__") or bool(members(value)))


def saves_itself(env: object) -> bool:
    """Whether an environment or wrapper has a `state_dict` of its own."""
    return hasattr(env, "state_dict") and hasattr(env, "load_state_dict")


def type_name(value: object) -> str:
    """Module and name of an object's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_key(key: object) -> bool:
    if isinstance(key, tuple):
        return all(map(_is_key, key))
    return key is None or type(key) in (bool, int, float, str)
