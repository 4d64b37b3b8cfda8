"""A chip in another process, or on another machine: JSON messages over ZeroMQ.

One JSON object asks, one answers, as with `nprobot deploy --serve`. An array is an object
``{"shape": [rows, columns], "float32": "…"}`` with its numbers in base64, little-endian, row by
row.

| `"type"` asked | also takes | answer |
|---|---|---|
| `"describe"` | | `"description"`: `protocol`, `identity`, `layers`, and what it `can` |
| `"configure"` | `layers` | `"description"` |
| `"forward"` | `inputs`, `first`, `last`, `changes` | `"activities"`: `activities`, some null |
| `"update"` | `changes` | `"done"` |
| `"read"` | | `"weights"`: `weights`, a list of `{weights, bias}` |
| `"write"` | `weights` | `"done"` |
| `"calibrate"`, `"refresh"` | | `"done"` |
| `"advance"` | `seconds` | `"done"` |
| `"ledger"` | | `"ledger"`: `ledger`, numbers by name |

A layer is ``{"inputs", "outputs", "activation", "readable"}``; a change ``{"layer", "weights",
"bias"}`` or ``{"layer", "errors", "inputs", "rate"}``. What a `"forward"` says under `changes` is
done before its batch runs, so that a whole minibatch is one request. A message may carry an `"id"`,
which the answer repeats; what cannot be answered gets an `"error"` with a `"message"`.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import ChipError, ConfigError, MissingPackageError, NprobotError
from .contract import (
    ArraySpec,
    Change,
    Chip,
    Numbers,
    OuterProduct,
    WeightChange,
    Weights,
    checked_activities,
    checked_weights,
    optional,
)

PROTOCOL = 1
SCHEMES = ("tcp://", "ipc://")
"""What the address of a chip begins with."""
OPTIONAL = ("configure", "write", "calibrate", "refresh", "advance", "ledger")
"""Messages that a chip need not understand; its description says which of them it `can`."""
LARGEST = 2**26
"""Bytes of a message."""

Message = Mapping[str, Any]


def pack(values: Numbers | None) -> dict[str, Any] | None:
    """An array as JSON."""
    if values is None:
        return None
    array = np.ascontiguousarray(values, "<f4")
    return {"shape": array.shape, "float32": base64.b64encode(array.tobytes()).decode("ascii")}


def unpack(value: object) -> Numbers:
    """The array in a JSON object.

    Raises:
        ChipError: there is none in it.
    """
    try:
        shape = [int(size) for size in value["shape"]]  # type: ignore[index]
        flat = np.frombuffer(base64.b64decode(value["float32"], validate=True), "<f4")  # type: ignore[index]
        return flat.reshape(shape).astype(np.float32)
    except (TypeError, KeyError, ValueError) as error:
        raise ChipError(f"expected an array, shape and float32; got {value!r:.60}") from error


def pack_change(change: Change) -> dict[str, Any]:
    """A change as JSON."""
    return {
        name: pack(part) if isinstance(part, np.ndarray) else part
        for name, part in vars(change).items()
    }


def unpack_change(value: Mapping[str, Any]) -> Change:
    """The change in a JSON object.

    Raises:
        ChipError: there is none in it.
    """
    try:
        layer = int(value["layer"])
        if "errors" in value:
            arrays = unpack(value["errors"]), unpack(value["inputs"])
            return OuterProduct(layer, *arrays, float(value["rate"]))
        return WeightChange(layer, unpack(value["weights"]), unpack(value["bias"]))
    except (TypeError, KeyError, ValueError) as error:
        raise ChipError(f"this is no change of a layer: {value!r:.60}") from error


class ChipMessages:
    """Answers messages on behalf of a chip; never raises.

    Args:
        chip: the device, or its driver.
        after_change: called when its weights may have changed.

    Attributes:
        largest: bytes of a message.
    """

    def __init__(self, chip: Chip, after_change: Callable[[], None] = lambda: None) -> None:
        self.chip = chip
        self.largest = LARGEST
        self._after_change = after_change

    def answer(self, data: bytes | None, client: str = "") -> bytes:
        """The answer to a message.

        Args:
            data: the message, JSON in UTF-8; None for one that is not a single frame.
            client: the connection that it came by; all are alike.
        """
        name: object = None
        try:
            message = json.loads(data or b"null")
            if not isinstance(message, dict):
                raise ChipError('a message is a JSON object, such as {"type": "describe"}')
            name = message.get("id")
            reply = self._reply(message)
        except NprobotError as error:
            reply = {"type": "error", "message": str(error)}
        except Exception as error:  # a driver may raise anything, and a stranger send anything
            reply = {"type": "error", "message": f"{type(error).__name__}: {error!s:.200}"}
        if name is not None:
            reply["id"] = name
        return json.dumps(reply).encode()

    def _reply(self, message: Message) -> dict[str, Any]:
        chip, kind = self.chip, message.get("type")
        match kind:
            case "describe":
                return self._description()
            case "configure":
                layers = [ArraySpec(**layer) for layer in message["layers"]]
                optional(chip, "configure")(layers)
                self._after_change()
                return self._description()
            case "forward":
                self._update(message.get("changes") or ())
                first, last = message.get("first", 0), message.get("last")
                shown = chip.forward(unpack(message["inputs"]), first, last)
                return {"type": "activities", "activities": [pack(a) for a in shown]}
            case "update":
                self._update(message["changes"])
            case "read":
                found = [{"weights": pack(w), "bias": pack(b)} for w, b in chip.read()]
                return {"type": "weights", "weights": found}
            case "write":
                given = [(unpack(w["weights"]), unpack(w["bias"])) for w in message["weights"]]
                optional(chip, "write")(given)
                self._after_change()
            case "calibrate" | "refresh":
                optional(chip, kind)()
                self._after_change()
            case "advance":
                optional(chip, "advance")(float(message["seconds"]))
                self._after_change()
            case "ledger":
                return {"type": "ledger", "ledger": dict(optional(chip, "ledger")())}
            case _:
                raise ChipError(f"a chip knows no message of the type {kind!r:.40}")
        return {"type": "done"}

    def _update(self, changes: Sequence[Mapping[str, Any]]) -> None:
        if changes:
            self.chip.update([unpack_change(change) for change in changes])
            self._after_change()

    def _description(self) -> dict[str, Any]:
        return {
            "type": "description",
            "protocol": PROTOCOL,
            "identity": self.chip.identity,
            "layers": [dataclasses.asdict(layer) for layer in self.chip.layers],
            "can": [name for name in OPTIONAL if hasattr(self.chip, name)],
        }


class RemoteChip:
    """A chip behind an address; what it is asked to change waits for its next batch.

    Args:
        address: ``tcp://HOST:PORT`` or ``ipc://FILE``.
        timeout: seconds that an answer may take.

    Attributes:
        address: as given.
        requests: sent so far.

    Raises:
        ConfigError: it is no address.
        ChipError: nobody answers there, or no chip of this protocol.
    """

    def __init__(self, address: str, timeout: float = 10.0) -> None:
        try:
            import zmq
        except ImportError as error:
            raise MissingPackageError(
                "a chip in another process needs pyzmq: pip install 'nprobot[serve]'"
            ) from error
        if not address.startswith(SCHEMES):
            raise ConfigError(f"a chip's address begins with tcp:// or ipc://, got {address!r}")
        self.address, self.timeout, self.requests = address, timeout, 0
        self._zmq, self._ids = zmq, itertools.count(1)
        self._waiting: list[Change] = []
        self._socket: Any = None
        self._describe(self._ask("describe"))

    @property
    def identity(self) -> str:
        """As the chip says it now: another one if it was exchanged meanwhile."""
        self._describe(self._ask("describe"))
        return self._identity

    def can(self, name: str) -> bool:
        """Whether the chip understands one of the messages that it need not."""
        return name in self._can

    def forward(
        self, inputs: Numbers, first: int = 0, last: int | None = None
    ) -> list[Numbers | None]:
        """As of `Chip`; changes that wait go with it."""
        ran = self.layers[first : None if last is None else last + 1]
        reply = self._ask(
            "forward", "activities", inputs=pack(inputs), first=first, last=last, **self._changes()
        )
        shown = [None if a is None else unpack(a) for a in _list(reply, "activities")]
        return checked_activities(shown, ran, len(inputs))

    def update(self, changes: Sequence[Change]) -> None:
        """As of `Chip`, with the next request."""
        self._waiting += changes

    def read(self) -> list[tuple[Numbers, Numbers]]:
        """As of `Chip`."""
        self._flush()
        found = _list(self._ask("read", "weights"), "weights")
        try:
            weights = [(unpack(w["weights"]), unpack(w["bias"])) for w in found]
        except (TypeError, KeyError) as error:
            raise ChipError(f"{self.address} answered without weights: {found!r:.60}") from error
        return checked_weights(weights, self.layers)

    def write(self, weights: Weights) -> None:
        """Program all weights."""
        self._waiting.clear()
        packed = [{"weights": pack(w), "bias": pack(b)} for w, b in weights]
        self._optional("write", weights=packed)

    def configure(self, layers: Sequence[ArraySpec]) -> None:
        """Have the chip take on a shape."""
        described = [dataclasses.asdict(layer) for layer in layers]
        self._describe(self._optional("configure", "description", layers=described))

    def calibrate(self) -> None:
        """What the device's maker means by it."""
        self._optional("calibrate")

    def refresh(self) -> None:
        """What the device's maker means by it."""
        self._optional("refresh")

    def advance(self, seconds: float) -> None:
        """Let time pass on an emulated chip."""
        self._optional("advance", seconds=seconds)

    def ledger(self) -> dict[str, float]:
        """What was spent."""
        self._flush()
        reply = self._optional("ledger", "ledger")
        return {str(name): float(value) for name, value in reply["ledger"].items()}

    def close(self) -> None:
        """Let go of the address."""
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    def _changes(self) -> dict[str, Any]:
        waiting, self._waiting = self._waiting, []
        return {"changes": [pack_change(change) for change in waiting]} if waiting else {}

    def _flush(self) -> None:
        if self._waiting:
            self._ask("update", **self._changes())

    def _optional(self, kind: str, answer: str = "done", **content: Any) -> Message:
        if not self.can(kind):
            raise ConfigError(f"the chip at {self.address} does not {kind}")
        return self._ask(kind, answer, **content)

    def _describe(self, description: Message) -> None:
        if description.get("protocol") != PROTOCOL:
            raise ChipError(
                f"{self.address} speaks version {description.get('protocol')!r} of the protocol of "
                f"chips; this nprobot speaks {PROTOCOL}"
            )
        try:
            self.layers = tuple(ArraySpec(**layer) for layer in description["layers"])
            self._identity, self._can = str(description["identity"]), list(description["can"])
        except (TypeError, KeyError, ConfigError) as error:
            raise ChipError(f"{self.address} describes no chip: {error}") from error

    def _ask(self, kind: str, answer: str = "", **content: Any) -> Message:
        """Send a message and wait for its answer.

        Raises:
            ChipError: there is none in time, or it is an error or another one.
        """
        zmq, name = self._zmq, next(self._ids)
        if self._socket is None:
            self._socket = zmq.Context.instance().socket(zmq.REQ)
            self._socket.setsockopt(zmq.LINGER, 0)
            try:
                self._socket.connect(self.address)
            except zmq.ZMQError as error:
                raise ConfigError(f"{self.address} is no address: {error}") from error
        message = {"type": kind, **content, "id": name}
        self._socket.send(json.dumps(message).encode())
        self.requests += 1
        if not self._socket.poll(int(1000 * self.timeout)):
            self.close()  # a REQ socket that has not had its answer can ask nothing more
            raise ChipError(f"the chip at {self.address} did not answer within {self.timeout:g} s")
        try:
            reply = json.loads(self._socket.recv())
        except ValueError as error:
            raise ChipError(f"{self.address} answered something else than JSON") from error
        if not isinstance(reply, dict) or reply.get("id") != name:
            raise ChipError(f"{self.address} answered something else than it was asked")
        if reply.get("type") == "error":
            raise ChipError(f"the chip at {self.address}: {reply.get('message')!s:.300}")
        expected = answer or {"describe": "description"}.get(kind, "done")
        if reply.get("type") != expected:
            raise ChipError(
                f"{self.address} answered {reply.get('type')!r:.40} to {kind!r}, not {expected!r}"
            )
        return reply


def _list(reply: Message, name: str) -> list[Any]:
    found = reply.get(name)
    if not isinstance(found, list):
        raise ChipError(f"the chip answered without {name}")
    return found
