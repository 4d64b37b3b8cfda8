"""What an ONNX file may hold before a runtime sees it: plain arithmetic, and nothing from outside.

An ONNX file can point at other files on the disk, loop for ever, or call operators of a plug-in.
Those that we write do none of this, so everything that we do not write is refused. The file is a
protocol-buffer message: this module walks through it and holds every field, at every level, against
a list, so that a robot needs no further package to check a file. Field numbers: `onnx.proto3` of
the ONNX project.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ...errors import FileError

LARGEST = 256 * 2**20
"""Bytes of a file that is read at all."""
MOST_NODES = 2000

OPERATORS = frozenset(
    (
        *("Add", "ArgMax", "Cast", "Clip", "Concat", "Div", "Elu", "Erf", "Flatten", "Gemm"),
        *("Identity", "LeakyRelu", "Max", "Min", "Mul", "Relu", "Reshape", "Sigmoid", "Slice"),
        *("Sub", "Tanh"),
    )
)

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Message:
    """What one kind of message may hold.

    Attributes:
        name: for error messages.
        plain: numbers of the fields with plain values.
        inside: number → kind, of the fields that hold messages.
        check: looks at a plain field of bytes: number, value.
    """

    name: str
    plain: frozenset[int]
    inside: dict[int, Message] = field(default_factory=dict)
    check: Callable[[int, bytes], None] = lambda number, value: None


def _check_node(number: int, value: bytes) -> None:
    if number == 4 and value.decode("utf-8", "replace") not in OPERATORS:
        raise FileError(f"the operator {value.decode('utf-8', 'replace')!r}")
    if number == 7 and value not in (b"", b"ai.onnx"):
        raise FileError("an operator that is not ONNX's own")


def _check_operator_set(number: int, value: bytes) -> None:
    if number == 1 and value not in (b"", b"ai.onnx"):
        raise FileError("a set of operators that is not ONNX's own")


# dims, data_type, name, raw_data: no text, no external data, no location outside the file.
TENSOR = Message("tensor", frozenset((1, 2, 8, 9)))
# name, f, i, floats, ints, type; tensors, but neither graphs (loops, branches) nor functions.
ATTRIBUTE = Message("attribute", frozenset((1, 2, 3, 7, 8, 20)), {5: TENSOR})
# input, output, name, op_type, domain.
NODE = Message("node", frozenset((1, 2, 3, 4, 7)), {5: ATTRIBUTE}, _check_node)
DIMENSION = Message("dimension", frozenset((1, 2)))
SHAPE = Message("shape", frozenset(), {1: DIMENSION})
TENSOR_TYPE = Message("tensor type", frozenset((1,)), {2: SHAPE})
TYPE = Message("type", frozenset(), {1: TENSOR_TYPE})
VALUE = Message("value", frozenset((1,)), {2: TYPE})
GRAPH = Message("graph", frozenset((2,)), {1: NODE, 5: TENSOR, 11: VALUE, 12: VALUE})
OPERATOR_SET = Message("operator set", frozenset((1, 2)), {}, _check_operator_set)
METADATA = Message("metadata", frozenset((1, 2)))
# ir_version, producer_name, producer_version.
MODEL = Message("model", frozenset((1, 2, 3)), {7: GRAPH, 8: OPERATOR_SET, 14: METADATA})


def check_contents(data: bytes) -> None:
    """Refuse a file with anything else than a policy's arithmetic in it.

    Args:
        data: the whole file.

    Raises:
        FileError: it is not ONNX, or holds what we never write: loops, branches, functions,
            references to other files, operators of plug-ins or outside `OPERATORS`.
    """
    if len(data) > LARGEST:
        raise FileError(f"{len(data):,} bytes; a policy has at most {LARGEST:,}")
    if not data:
        raise FileError("nothing")
    nodes = _walk(memoryview(data), MODEL)
    if nodes > MOST_NODES:
        raise FileError(f"{nodes} operators; a policy has at most {MOST_NODES}")


def _walk(data: memoryview, kind: Message) -> int:
    """Check a message and all inside it; returns how many nodes there are.

    A field may come several times; each one is checked, whichever a reader would take.
    """
    nodes = int(kind is NODE)
    for number, value in _fields(data):
        if number in kind.inside:
            if value is None:
                raise FileError(f"a {kind.name} with field {number} of another type")
            nodes += _walk(value, kind.inside[number])
        elif number not in kind.plain:
            raise FileError(f"a {kind.name} with field {number}, which no policy of ours has")
        elif value is not None:
            kind.check(number, bytes(value))
    return nodes


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Number and content of each field of a message; None for those that are no bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == VARINT:
            _, at = _varint(data, at)
            yield number, None
            continue
        if wire_type == BYTES:
            size, at = _varint(data, at)
        elif wire_type in (FIXED32, FIXED64):
            size = 4 if wire_type == FIXED32 else 8
        else:
            raise FileError("something that is not an ONNX model")
        if number == 0 or at + size > len(data):
            raise FileError("something that is not an ONNX model, or only the start of one")
        yield number, data[at : at + size] if wire_type == BYTES else None
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = 0
    for i in range(10):
        if at + i >= len(data):
            break
        value |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return value, at + i + 1
    raise FileError("something that is not an ONNX model, or only the start of one")
