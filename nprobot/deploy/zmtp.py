"""ZMTP 3.0, the wire protocol of ZeroMQ (rfc.zeromq.org/spec/23), from the side that answers.

libzmq keeps the frames of a message until the last has come, however many there are, and shows none
of them before: its limit is one of each frame, and a stranger can fill the memory of any socket.
This reads frame by frame and gives up a connection at the first one too many.
"""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass

MOST_FRAMES = 8
"""Frames that a message may have, with those that say where it comes from."""
LARGEST_COMMAND = 2**12
"""Bytes."""

_MORE, _LONG, _COMMAND = 1, 2, 4
"""Bits of the first byte of a frame."""
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_GREETING = _SIGNATURE + b"\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)


class ProtocolError(Exception):
    """The other side does not speak ZMTP 3, or says more than it may."""


@dataclass(frozen=True)
class Incoming:
    """A message.

    Attributes:
        envelope: the frames up to the empty one, which an answer begins with too.
        body: the frame after it; None if there is not exactly one.
    """

    envelope: list[bytes]
    body: bytes | None


async def greet(reader: StreamReader, writer: StreamWriter) -> None:
    """Exchange greetings and socket types, without passwords or encryption.

    Raises:
        ProtocolError: the other side wants something else.
        IncompleteReadError: it has gone.
    """
    writer.write(_GREETING)
    theirs = await reader.readexactly(len(_GREETING))
    if theirs[:1] + theirs[9:10] != b"\xff\x7f" or theirs[10] < 3:
        raise ProtocolError("no ZMTP of version 3")
    if theirs[12:32] != _GREETING[12:32]:
        raise ProtocolError("another security mechanism than NULL")
    kind, value = b"Socket-Type", b"REP"
    property_ = bytes([len(kind)]) + kind + len(value).to_bytes(4, "big") + value
    writer.write(_frame(b"\x05READY" + property_, _COMMAND))
    flags, size = await _header(reader)
    if not flags & _COMMAND or size > LARGEST_COMMAND:
        raise ProtocolError("no READY")
    if not (await reader.readexactly(size)).startswith(b"\x05READY"):
        raise ProtocolError("no READY")


async def read_message(reader: StreamReader, writer: StreamWriter, largest: int) -> Incoming:
    """The next message; heartbeats before it are answered.

    Args:
        reader: the reader of the connection.
        writer: the writer of the connection.
        largest: bytes that all its frames may have together.

    Raises:
        ProtocolError: the message is larger, or has more frames than `MOST_FRAMES`.
        IncompleteReadError: the other side has gone.
    """
    frames: list[bytes] = []
    total, more = 0, True
    while more:
        flags, size = await _header(reader)
        if flags & _COMMAND:
            if size > LARGEST_COMMAND:
                raise ProtocolError(f"a command of {size:,} bytes")
            command = await reader.readexactly(size)
            if command.startswith(b"\x04PING"):  # and a time to live of two bytes
                writer.write(_frame(b"\x04PONG" + command[7:], _COMMAND))
                await writer.drain()
            continue
        total += size
        if total > largest or len(frames) == MOST_FRAMES:
            raise ProtocolError(f"a message of more than {largest:,} bytes or {MOST_FRAMES} frames")
        frames.append(await reader.readexactly(size))
        more = bool(flags & _MORE)
    if b"" not in frames:
        return Incoming([], None)
    start = frames.index(b"") + 1
    return Incoming(frames[:start], frames[start] if len(frames) == start + 1 else None)


def answer_to(message: Incoming, data: bytes) -> bytes:
    """The bytes that answer a message."""
    return b"".join(_frame(part, _MORE) for part in message.envelope) + _frame(data)


def _frame(data: bytes, flags: int = 0) -> bytes:
    if len(data) < 2**8:
        return bytes([flags, len(data)]) + data
    return bytes([flags | _LONG]) + len(data).to_bytes(8, "big") + data


async def _header(reader: StreamReader) -> tuple[int, int]:
    """Flags and size of the next frame."""
    flags = (await reader.readexactly(1))[0]
    if flags & ~(_MORE | _LONG | _COMMAND) or (flags & _COMMAND and flags & _MORE):
        raise ProtocolError(f"a frame with the flags {flags}")
    return flags, int.from_bytes(await reader.readexactly(8 if flags & _LONG else 1), "big")
