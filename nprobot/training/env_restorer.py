"""Walks through a saved state and a new environment side by side; see `env_state`."""

from __future__ import annotations

import copy
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nprobot.errors import NprobotError
from nprobot.runs.generators import restore_generator

from .env_recorder import MAPPINGS, SEQUENCES, Node, is_plain, members, saves_itself, type_name
from .simulator_state import is_model, is_simulation, restore_model, restore_simulation

_ABSENT = object()
_BIT_GENERATORS: dict[str, type[np.random.BitGenerator]] = {
    kind.__name__: kind
    for kind in (
        *(np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937),
        *(np.random.Philox, np.random.SFC64),
    )
}
_CHANGED_IN_PLACE = ("object", "own", "actuators", "simulation", "model")


class Restorer:
    """One walk. What others may refer to is changed in place, so that they see it too.

    But not containers that a module or a class holds for everybody, such as the camera of all
    environments of a kind: this environment gets its own.
    """

    def __init__(self) -> None:
        self._objects: dict[str, Any] = {}
        self._everybodys = set(_containers(_namespaces()))
        self._within_everybodys = False

    def restore(self, node: Node, current: Any, path: str) -> Any:  # noqa: ANN401
        """What belongs at a place.

        Args:
            node: of the saved state.
            current: what a new environment has there.
            path: of the place.

        Returns:
            `current` itself, changed, or something new.

        Raises:
            NprobotError: the new environment has another kind of object there.
        """
        if not isinstance(node, dict):
            return node
        kind = node["kind"]
        if kind == "same":
            return self._objects[node["path"]]
        if kind == "left":
            _expect(current is not _ABSENT, path)
            value = current
        elif kind in _CHANGED_IN_PLACE:
            value = self._objects[path] = current
            self._change(kind, node, current, path)
        elif kind in ("sequence", "named tuple"):
            value = self._sequence(kind, node, current, path)
        elif kind == "mapping":
            value = self._mapping(node, current, path)
        elif kind == "part":
            base = self.restore(node["of"], getattr(current, "base", _ABSENT), f"{path}.base")
            # numpy checks that the part is within the whole.
            layout = (node["offset"], node["strides"])
            value = np.ndarray(node["shape"], np.dtype(node["dtype"]), base, *layout)
        else:
            value = _data(kind, node, current, path)
        self._objects[path] = value
        return value

    def _change(self, kind: str, node: Node, current: Any, path: str) -> None:  # noqa: ANN401
        if kind == "simulation":
            _expect(is_simulation(current), path)
            restore_simulation(current, node)
        elif kind == "model":
            _expect(is_model(current), path)
            restore_model(current, node["changed"])
        elif kind == "actuators":
            _expect(hasattr(current, "restore_actuators"), path)
            current.restore_actuators(node["capsule"].tobytes())
            self.restore(node["env"], current.env, f"{path}.env")
        elif kind == "own":
            _expect(type_name(current) == node["type"] and saves_itself(current), path)
            if node["env"] is not None:
                self.restore(node["env"], current.env, f"{path}.env")
            current.load_state_dict(node["state"])
        else:
            _expect(type_name(current) == node["type"] and is_plain(current), path)
            self._attributes(node["members"], current, path)

    def _attributes(self, saved: Mapping[str, Node], current: object, path: str) -> None:
        present = members(current)
        self._everybodys.update(_containers(vars(cls) for cls in type(current).__mro__))
        for name in present.keys() - saved.keys():
            object.__delattr__(current, name)
        for name, child in saved.items():
            before = present.get(name, _ABSENT)
            after = self.restore(child, before, f"{path}.{name}")
            if after is not before:
                # Not setattr: the attribute may be that of a frozen dataclass.
                object.__setattr__(current, name, after)

    def _sequence(self, kind: str, node: Node, current: Any, path: str) -> Any:  # noqa: ANN401
        nodes = node["items"]
        present = list(current) if isinstance(current, list | tuple | deque) else []
        present += [_ABSENT] * (len(nodes) - len(present))

        def items() -> list[Any]:
            pairs = enumerate(zip(nodes, present, strict=False))
            return [self.restore(child, old, f"{path}[{i}]") for i, (child, old) in pairs]

        if kind == "named tuple":
            _expect(type_name(current) == node["type"] and hasattr(current, "_make"), path)
            return current._make(items())
        cls = {kind.__name__: kind for kind in SEQUENCES}[node["type"]]
        with self._own(current, cls) as current:
            if cls in (tuple, frozenset):
                return cls(items())
            self._objects[path] = current
            values = items()
        current.clear()
        current.update(values) if cls is set else current.extend(values)
        return current

    def _mapping(self, node: Node, current: Any, path: str) -> Any:  # noqa: ANN401
        cls = {kind.__name__: kind for kind in MAPPINGS}[node["type"]]
        with self._own(current, cls) as current:
            self._objects[path] = current
            entries = [
                (key, self.restore(child, current.get(key, _ABSENT), f"{path}[{key!r}]"))
                for key, child in node["entries"]
            ]
        current.clear()
        current.update(entries)
        return current

    @contextmanager
    def _own(self, current: Any, cls: type) -> Iterator[Any]:  # noqa: ANN401
        """A container that may be changed; whatever is in one of everybody's is copied, too."""
        before = self._within_everybodys
        self._within_everybodys = before or id(current) in self._everybodys
        try:
            if type(current) is not cls:
                yield cls()
            else:
                yield copy.copy(current) if self._within_everybodys else current
        finally:
            self._within_everybodys = before


def _namespaces() -> Iterator[Mapping[str, Any]]:
    for module in [*sys.modules.values()]:
        if isinstance(module, ModuleType):
            # Past its own `__getattribute__`: a module that loads when it is used stays unloaded.
            yield object.__getattribute__(module, "__dict__")


def _containers(namespaces: Iterable[Mapping[str, Any]]) -> Iterator[int]:
    """The ids of the containers that namespaces hold."""
    for names in namespaces:
        for value in [*names.values()]:
            if type(value) in (*SEQUENCES, *MAPPINGS):
                yield id(value)


def _data(kind: str, node: Node, current: Any, path: str) -> Any:  # noqa: ANN401
    """Numbers and generators of them."""
    if kind == "array":
        return _array(node["value"], node["window"], current)
    if kind == "scalar":
        return node["value"][()]
    if kind == "bytes":
        return node["value"].tobytes()
    if kind == "enum":
        _expect(type_name(current) == node["type"], path)
        return type(current)[node["name"]]
    if kind == "generator":
        name = node["state"]["bit_generator"]
        if not isinstance(current, np.random.Generator) or (
            type(current.bit_generator).__name__ != name
        ):
            current = np.random.Generator(_BIT_GENERATORS[name]())
        restore_generator(current.bit_generator, node["state"])
    elif kind == "random state":
        if not isinstance(current, np.random.RandomState):
            current = np.random.RandomState()
        _expect(0 <= int(node["state"][2]) <= 624, path)  # numpy does not check it
        current.set_state(node["state"])
    elif kind == "random":
        if not isinstance(current, random.Random):
            current = random.Random()
        current.setstate(node["state"])
    else:
        raise NprobotError(f"{path} is of an unknown kind, {kind!r}")
    return current


def _array(saved: NDArray[Any], window: bool, current: Any) -> NDArray[Any]:  # noqa: ANN401
    """The saved array; where both show the memory of a simulation, written to the present one."""
    if (
        window
        and isinstance(current, np.ndarray)
        and current.flags.writeable
        and not isinstance(current.base, np.ndarray | None)
        and (current.shape, current.dtype) == (saved.shape, saved.dtype)
    ):
        current[...] = saved
        return current
    return saved.copy()


def _expect(met: bool, path: str) -> None:
    if not met:
        raise NprobotError(f"a new environment has another kind of object at {path}")
