"""The controller for other programs: JSON messages for ZeroMQ's REQ sockets.

One JSON object asks, one answers. Anybody may send anything, so `MessageHandler.answer` has an
answer to everything and never raises.

| `"type"` asked | also takes | answer |
|---|---|---|
| `"describe"` | | `"description"`: shapes, bounds, rate, environment, protocol version |
| `"step"` | `"observation"`: numbers in lists; `"age"` in s | `"action"`: numbers, and `"fault"` |
| `"reset"` | `"action"`: what the robot does now | `"done"`; a new episode, a fault stays |
| `"clear_fault"` | `"key"` | `"done"`, with the `"fault"` that was cleared |
| `"trip"` | `"message"`, `"key"` | `"done"`; latches a fault, as an emergency stop does |
| `"status"` | | `"status"`: steps, latencies, fault |

A message may carry an `"id"`; the answer repeats it. What is no such message gets `"error"` with a
`"code"` for programs and a `"message"` for people. An observation that *is* a list of numbers but a
bad one (NaN, another shape, out of range) is no error of the message: it latches a fault and is
answered with the safe action.

Any client may clear a fault that the controller has found. A stop that a client has tripped is
cleared by the connection that tripped it, or by any that gives the `"key"` it was tripped with; if
several have tripped, all have to clear. If nobody can any more, restart the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import math
import socket
import threading
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from nprobot.errors import ConfigError, DeployError, MessageError
from nprobot.policies.files.policy import Array, BoxAction

from .controller import Controller
from .safety import ControlFault
from .zmtp import Incoming, ProtocolError, answer_to, greet, read_message

LOOPBACK = "127.0.0.1"
PORT = 5757

PROTOCOL = 2
"""Version of the messages. In version 1 any client could clear any fault."""
LONGEST_ID = 100
MOST_STOPS = 100
"""Emergency stops that are remembered one by one."""
MOST_CLIENTS = 64
MOST_SECONDS = 10.0
"""Seconds that a client may take to greet, and to read an answer."""
PAUSE = 0.005
"""Seconds that a client waits for an answer if it has asked again before it had the last one."""

Message = Mapping[str, Any]


class MessageHandler:
    """Answers the messages of all clients, and remembers which of them have stopped the robot.

    Args:
        controller: what the messages are for.

    Attributes:
        largest: bytes of a message: an observation as numbers of 32 digits, and 64 KiB.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.largest = 2**16 + 32 * math.prod(controller.policy.observation_shape)
        self._stops: set[tuple[str, str]] = set()

    def answer(self, data: bytes | None, client: str = "") -> bytes:
        """The answer to a message.

        Args:
            data: the message, JSON in UTF-8; None for one that is not a single frame.
            client: the connection that it came by.

        Returns:
            The answer, JSON in UTF-8 without NaN or infinity.
        """
        name: int | str | None = None
        try:
            message = self._parse(data)
            name = message.get("id")
            kind = message.get("type")
            if not isinstance(kind, str) or kind not in _TAKES:
                raise MessageError(
                    "unknown-type",
                    f"the type of a message is one of {', '.join(_TAKES)}; got {kind!r:.40}",
                )
            takes = ("type", "id", *_TAKES[kind])
            if unknown := set(message) - set(takes):
                raise MessageError(
                    "unknown-key",
                    f"{kind!r} takes the keys {', '.join(takes)}; got "
                    f"{', '.join(sorted(unknown)):.80}",
                )
            reply = json.dumps(self._reply(kind, message, client), allow_nan=False)
        except MessageError as error:
            reply = json.dumps({"type": "error", "code": error.code, "message": str(error)})
        except RecursionError:  # of a message that Python can read but not print
            text = "the message is nested too deep"
            reply = json.dumps({"type": "error", "code": "too-deep", "message": text})
        except Exception as error:  # the robot's program continues, whatever has failed here
            text = f"{type(error).__name__}: {error!s:.200}"
            reply = json.dumps({"type": "error", "code": "internal", "message": text})
        if name is not None:
            reply = f'{reply[:-1]}, "id": {json.dumps(name)}}}'
        return reply.encode()

    def _parse(self, data: bytes | None) -> dict[str, Any]:
        if data is None:
            raise MessageError(
                "bad-frames", "a message is an empty frame and one of JSON, as REQ sockets send it"
            )
        if len(data) > self.largest:
            raise MessageError("too-large", f"a message has at most {self.largest:,} bytes")
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
            raise MessageError(
                "bad-id", f"an id is a text or integer of up to {LONGEST_ID} characters"
            )
        return message

    def _reply(self, kind: str, message: Message, client: str) -> dict[str, Any]:
        controller = self.controller
        match kind:
            case "describe":
                return _description(controller)
            case "step":
                return _step(controller, message)
            case "reset":
                return _reset(controller, message)
            case "clear_fault":
                return self._clear_fault(client, _text(message, "key"))
            case "trip":
                return self._trip(client, message)
            case _:
                return _status(controller)

    def _trip(self, client: str, message: Message) -> dict[str, Any]:
        text, key = _text(message, "message"), _text(message, "key")
        if len(self._stops) < MOST_STOPS:
            self._stops.add(("key", key) if key else ("client", client))
        self.controller.trip(text or "tripped by a client")
        return {"type": "done", "fault": _fault(self.controller.fault)}

    def _clear_fault(self, client: str, key: str) -> dict[str, Any]:
        self._stops -= {("client", client), ("key", key)}
        if self._stops and self.controller.fault is not None:
            raise MessageError(
                "stopped",
                f"{len(self._stops)} stops of other clients hold the robot; each is cleared by the "
                "connection that tripped it, or with its key",
            )
        self._stops.clear()  # the program around the server may clear everything
        return {"type": "done", "fault": _fault(self.controller.clear_fault())}


_TAKES: Mapping[str, tuple[str, ...]] = {
    "describe": (),
    "step": ("observation", "age"),
    "reset": ("action",),
    "clear_fault": ("key",),
    "trip": ("message", "key"),
    "status": (),
}
"""Type of a message → the keys it may have."""


def _description(controller: Controller) -> dict[str, Any]:
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
    if not isinstance(message.get("observation"), list | int | float):
        raise MessageError("no-observation", '"step" needs an "observation": a list of numbers')
    _only_numbers(message["observation"])  # a single one for a policy of shape ()
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


def _status(controller: Controller) -> dict[str, Any]:
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


def _text(message: Message, name: str) -> str:
    """A text of a message, empty if it has none; what a terminal would obey is left out of it."""
    text = message.get(name, "")
    if not isinstance(text, str):
        raise MessageError(f"bad-{name}", f'"{name}" is a text')
    return "".join(c for c in text[:200] if c.isprintable())


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


@dataclass
class _Client:
    """A connection.

    Attributes:
        task: that talks to it.
        heard: whether a message has come from it, and when something was last heard, s.
    """

    task: asyncio.Task[Any]
    heard: tuple[bool, float]


class Answers(Protocol):
    """What answers the messages of all clients."""

    largest: int
    """Bytes of a message."""

    def answer(self, data: bytes | None, client: str = "") -> bytes:
        """The answer to a message of a client; never raises."""


class MessageServer:
    """Offers what answers messages to ZeroMQ's REQ sockets, one answer for each message.

    By default only programs on this machine can connect. There is no password and no encryption.

    Clients are answered in turn, a message each, and what one has sent beyond that waits in the
    network's buffers: a client that floods the server slows the others down by one message at a
    time, and is answered `PAUSE` later each time, so that it does not take the processor. There
    are `MOST_CLIENTS` connections; one more takes the place of the one that has been silent for
    longest.

    Args:
        messages: answers.
        host: address to listen on.
        port: 0 for any that is free.

    Attributes:
        endpoint: where it listens, for a client's `connect`.
        answered: messages answered so far.

    Raises:
        DeployError: the address cannot be used.
    """

    def __init__(self, messages: Answers, host: str, port: int) -> None:
        if not 0 <= port < 2**16:
            raise DeployError(f"a port is a number from 0 to 65535, got {port}")
        self.answered = 0
        self._messages = messages
        self._clients: dict[str, _Client] = {}
        self._names = itertools.count()
        self._stop = threading.Event()
        self._wake: Callable[[], object] = lambda: None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, UnicodeError) as error:
            raise DeployError(f"cannot listen on {host}, port {port}: {error}") from error
        address, taken = self._socket.getsockname()[:2]
        self.endpoint = f"tcp://{f'[{address}]' if ':' in host else address}:{taken}"

    def __enter__(self) -> Self:
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
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(told.set)
        if self._stop.is_set():
            return
        server = await asyncio.start_server(self._talk, sock=self._socket.dup())
        await told.wait()
        self._wake = lambda: None
        server.close()

    async def _talk(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Answer one client until it goes, or sends what it must not."""
        task, name = asyncio.current_task(), str(next(self._names))
        assert task is not None, "a coroutine runs in a task"
        if len(self._clients) >= MOST_CLIENTS:
            silent = min(self._clients, key=lambda name: self._clients[name].heard)
            self._clients.pop(silent).task.cancel()
        client = self._clients[name] = _Client(task, (False, time.monotonic()))
        try:
            async with asyncio.timeout(MOST_SECONDS):
                await greet(reader, writer)
            while True:
                message = await self._next(reader, writer, may_wait=client.heard[0])
                client.heard = True, time.monotonic()
                reply = self._messages.answer(message.body, name)
                self.answered += 1  # before the client can see the answer
                writer.write(answer_to(message, reply))
                async with asyncio.timeout(MOST_SECONDS):
                    await writer.drain()
        except (ProtocolError, asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            # TimeoutError is an OSError: a client that does not take its answers. A task that is
            # cancelled ends here, too: Python 3.11 prints a traceback of one that says so.
            pass
        finally:
            self._clients.pop(name, None)
            writer.transport.abort()  # it might never take what it has not taken yet

    async def _next(self, reader: StreamReader, writer: StreamWriter, may_wait: bool) -> Incoming:
        """The next message, after the others' turn, and a pause if it did not wait for its own."""
        reading = asyncio.ensure_future(read_message(reader, writer, self._messages.largest))
        reading.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            await asyncio.sleep(0)
            if may_wait and reading.done():
                await asyncio.sleep(PAUSE)
            return await reading
        finally:
            reading.cancel()

    def stop(self) -> None:
        """End `serve` soon; may be called from any thread."""
        self._stop.set()
        with contextlib.suppress(RuntimeError):  # it has just ended by itself
            self._wake()

    def close(self) -> None:
        """Give up the address."""
        self._socket.close()


class PolicyServer(MessageServer):
    """Offers a controller: on another address than this machine's own, anybody controls the robot.

        with PolicyServer(controller) as server:
            server.serve()

    Args:
        controller: answers; do not step it yourself meanwhile.
        host: address to listen on.
        port: 0 for any that is free.

    Raises:
        DeployError: the address cannot be used.
    """

    def __init__(self, controller: Controller, host: str = LOOPBACK, port: int = PORT) -> None:
        super().__init__(MessageHandler(controller), host, port)
        self.controller = controller


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
