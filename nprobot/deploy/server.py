"""The controller for other programs: a ZeroMQ socket that answers the messages of `messages`."""

from __future__ import annotations

import importlib
import ipaddress
import threading
from types import TracebackType
from typing import Any

from nprobot.errors import DeployError

from .controller import Controller
from .messages import LARGEST_MESSAGE, answer

LOOPBACK = "127.0.0.1"
PORT = 5757
_WAIT = 200
"""Milliseconds between looks at whether to stop."""


class PolicyServer:
    """Offers a controller on a ZeroMQ REP socket, one answer for each message.

    By default only programs on this machine can connect. There is no password and no encryption:
    on another address, whoever reaches the port controls the robot.

        with PolicyServer(controller) as server:
            server.serve()

    Args:
        controller: answers; nobody else should step it meanwhile.
        host: address to listen on.
        port: 0 for any that is free.

    Attributes:
        endpoint: where it listens, for a client's `connect`.
        answered: messages answered so far.

    Raises:
        DeployError: the package `pyzmq` is missing, or the address cannot be used.
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
        self.answered += 1  # before whoever asked can see the answer
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
        raise DeployError(f"--serve needs `pip install 'nprobot[serve]'` ({error})") from error
