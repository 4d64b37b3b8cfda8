"""The controller for other programs: JSON messages over a ZeroMQ socket.

One JSON object asks, one answers. Anybody may send anything, so `answer` has an answer to
everything and never raises.

| `"type"` asked | also takes | answer |
|---|---|---|
| `"describe"` | | `"description"`: shapes, bounds, rate, environment, protocol version |
| `"step"` | `"observation"`: numbers in lists; `"age"` in s | `"action"`: numbers, and `"fault"` |
| `"reset"` | `"action"`: what the robot does now | `"done"`; a new episode, a fault stays |
| `"clear_fault"` | | `"done"`, with the `"fault"` that was cleared |
| `"trip"` | `"message"` | `"done"`; latches a fault, as an emergency stop does |
| `"status"` | | `"status"`: steps, latencies, fault |

A message may carry an `"id"`; the answer repeats it. What is no such message gets `"error"` with a
`"code"` for programs and a `"message"` for people. An observation that *is* a list of numbers but a
bad one (NaN, another shape, out of range) is no error of the message: it latches a fault and is
answered with the safe action.
"""

from __future__ import annotations

import importlib
import ipaddress
import json
import math
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from nprobot.errors import ConfigError, DeployError, MessageError, MissingPackageError
from nprobot.policies.files.policy import Array, BoxAction

from .controller import Controller
from .safety import ControlFault

LOOPBACK = "127.0.0.1"
PORT = 5757
_WAIT = 200
"""Milliseconds between looks at whether to stop."""

PROTOCOL = 1
LARGEST_MESSAGE = 2**20
"""Bytes."""
LONGEST_ID = 100

Message = Mapping[str, Any]


def answer(controller: Controller, data: bytes) -> bytes:
    """The answer to a message.

    Args:
        controller: what the message is for.
        data: the message, JSON in UTF-8.

    Returns:
        The answer, JSON in UTF-8 without NaN or infinity.
    """
    name: int | str | None = None
    try:
        message = _parse(data)
        name = message.get("id")
        kind = message.get("type")
        if not isinstance(kind, str) or kind not in _ANSWERS:
            raise MessageError(
                "unknown-type",
                f"the type of a message is one of {', '.join(_ANSWERS)}; got {kind!r:.40}",
            )
        takes, handler = _ANSWERS[kind]
        if unknown := set(message) - {"type", "id", *takes}:
            raise MessageError(
                "unknown-key",
                f"{kind!r} takes the keys {', '.join(('type', 'id', *takes))}; got "
                f"{', '.join(sorted(unknown)):.80}",
            )
        reply = handler(controller, message)
    except MessageError as error:
        reply = {"type": "error", "code": error.code, "message": str(error)}
    except RecursionError:  # of a message that Python can read but not print
        reply = {"type": "error", "code": "too-deep", "message": "the message is nested too deep"}
    if name is not None:
        reply = {**reply, "id": name}
    return json.dumps(reply, allow_nan=False).encode()


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > LARGEST_MESSAGE:
        raise MessageError("too-large", f"a message has at most {LARGEST_MESSAGE:,} bytes")
    try:
        message = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MessageError(
            "not-json", f"a message is a JSON object in UTF-8: {error!s:.100}"
        ) from None
    if not isinstance(message, dict):
        raise MessageError(
            "not-an-object", 'a message is a JSON object, such as {"type": "status"}'
        )
    name = message.get("id", "")
    if not isinstance(name, int | str) or len(str(name)) > LONGEST_ID:
        raise MessageError("bad-id", f"an id is a text or integer of up to {LONGEST_ID} characters")
    return message


def _describe(controller: Controller, message: Message) -> dict[str, Any]:
    policy = controller.policy
    action: dict[str, Any]
    if isinstance(policy.action, BoxAction):
        action = {
            "kind": "box",
            "low": _numbers(policy.action.low),
            "high": _numbers(policy.action.high),
        }
    else:
        action = {"kind": "discrete", "choices": list(policy.action.choices)}
    return {
        "type": "description",
        "protocol": PROTOCOL,
        "observation": {"shape": list(policy.observation_shape)},
        "action": {"shape": list(controller.previous_action.shape), **action},
        "rate": controller.rate,
        "environment": policy.task.id if policy.task else None,
    }


def _step(controller: Controller, message: Message) -> dict[str, Any]:
    if not isinstance(message.get("observation"), list):
        raise MessageError("no-observation", '"step" needs an "observation": a list of numbers')
    _only_numbers(message["observation"])
    age = message.get("age", 0.0)
    if isinstance(age, bool) or not isinstance(age, int | float):
        raise MessageError("bad-age", f'"age" is a number of seconds, got {age!r:.40}')
    action = controller.step(message["observation"], age=age)
    return {"type": "action", "action": action.tolist(), "fault": _fault(controller.fault)}


def _reset(controller: Controller, message: Message) -> dict[str, Any]:
    action = message.get("action")
    if action is not None:
        _only_numbers(action)
    try:
        controller.reset(action)
    except ConfigError as error:
        raise MessageError("bad-action", f"{error!s:.200}") from None
    return {"type": "done", "fault": _fault(controller.fault)}


def _clear_fault(controller: Controller, message: Message) -> dict[str, Any]:
    return {"type": "done", "fault": _fault(controller.clear_fault())}


def _trip(controller: Controller, message: Message) -> dict[str, Any]:
    text = message.get("message", "tripped by a client")
    if not isinstance(text, str):
        raise MessageError("bad-message", '"message" is a text')
    controller.trip(text[:200])
    return {"type": "done", "fault": _fault(controller.fault)}


def _status(controller: Controller, message: Message) -> dict[str, Any]:
    latency = controller.latency.summary()
    return {
        "type": "status",
        "steps": controller.steps,
        "fault": _fault(controller.fault),
        "latency": {
            "p50": _finite(latency.p50),
            "p99": _finite(latency.p99),
            "max": latency.longest,
            "missed": latency.missed,
        },
    }


_ANSWERS: dict[str, tuple[tuple[str, ...], Callable[[Controller, Message], dict[str, Any]]]] = {
    "describe": ((), _describe),
    "step": (("observation", "age"), _step),
    "reset": (("action",), _reset),
    "clear_fault": ((), _clear_fault),
    "trip": (("message",), _trip),
    "status": ((), _status),
}
"""Type of a message → the keys it may have, and what answers it."""


def _only_numbers(value: object) -> None:
    """Refuse anything but numbers in nested lists."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, bool) or not isinstance(part, int | float):
            raise MessageError("not-numbers", f"expected numbers in lists, got {part!r:.40}")


def _fault(fault: ControlFault | None) -> dict[str, Any] | None:
    if fault is None:
        return None
    return {"kind": str(fault.kind), "step": fault.step, "message": fault.message}


def _numbers(values: Array) -> list[float | None]:
    """Numbers in flat order; null where there is no bound."""
    return [_finite(float(value)) for value in values.ravel()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class PolicyServer:
    """Offers a controller on a ZeroMQ REP socket, one answer for each message.

    By default only programs on this machine can connect. There is no password and no encryption:
    on another address, anybody who reaches the port controls the robot.

        with PolicyServer(controller) as server:
            server.serve()

    Args:
        controller: answers; do not step it yourself meanwhile.
        host: address to listen on.
        port: 0 for any that is free.

    Attributes:
        endpoint: where it listens, for a client's `connect`.
        answered: messages answered so far.

    Raises:
        DeployError: the address cannot be used.
        MissingPackageError: the package `pyzmq` is not installed.
    """

    def __init__(self, controller: Controller, host: str = LOOPBACK, port: int = PORT) -> None:
        zmq = _zmq()
        if not 0 <= port < 2**16:
            raise DeployError(f"a port is a number from 0 to 65535, got {port}")
        self.controller = controller
        self.answered = 0
        self._stop = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)
        self._socket.setsockopt(zmq.IPV6, ":" in host)
        try:
            self._socket.bind(f"tcp://{f'[{host}]' if ':' in host else host}:{port or '*'}")
        except zmq.ZMQError as error:
            self.close()
            raise DeployError(f"cannot listen on {host}, port {port}: {error}") from error
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def serve(self) -> None:
        """Answer messages until `stop` is called."""
        while not self._stop.is_set():
            self.serve_one()

    def serve_one(self) -> bool:
        """Answer the next message, if one comes soon; returns whether one came."""
        if not self._socket.poll(_WAIT):
            return False
        parts = self._socket.recv_multipart()
        reply = answer(self.controller, parts[0] if len(parts) == 1 else b"")
        self.answered += 1  # before the client can see the answer
        self._socket.send(reply)
        return True

    def stop(self) -> None:
        """End `serve` soon; may be called from any thread."""
        self._stop.set()

    def close(self) -> None:
        """Give up the address."""
        self._socket.close()
        self._context.term()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _zmq() -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module("zmq")
    except ImportError as error:
        raise MissingPackageError(
            f"--serve needs `pip install 'nprobot[serve]'` ({error})"
        ) from error
