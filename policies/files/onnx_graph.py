"""Which operators an ONNX file has, found without the runtime that would evaluate them.

A graph of a few hundred bytes can loop for ever, or fill any memory. What `save_onnx` writes needs
a few dozen operators that do neither, so nothing else is given to the runtime.
"""

from __future__ import annotations

from collections.abc import Iterator

OPERATORS = frozenset(
    (
        *("Add", "ArgMax", "Cast", "Clip", "Concat", "Div", "Elu", "Erf", "Flatten", "Gather"),
        *("Gelu", "Gemm", "Identity", "LeakyRelu", "MatMul", "Max", "Min", "Mul", "Relu"),
        *("Reshape", "Sigmoid", "Split", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"),
    )
)
"""Operators of policies, in ONNX's own domain."""

_GRAPH, _NODE, _OPERATOR, _DOMAIN = 7, 1, 4, 7
_UNUSED = {20: "training", 25: "functions"}
"""Fields of a model, of a graph and of a node (onnx.proto3); parts of models that policies lack."""


def operators(model: bytes) -> set[str]:
    """The operators of the nodes of a model; those of a plug-in as ``domain.operator``.

    Nodes inside nodes (of loops and branches) are not looked at: what holds them is no operator of
    a policy.

    Raises:
        ValueError: it is no ONNX model, or has parts that no policy has.
    """
    found = set()
    for field, graph in _fields(model):
        if field in _UNUSED:
            raise ValueError(f"it has its own {_UNUSED[field]}")
        if field != _GRAPH:
            continue
        for part, node in _fields(graph):
            if part == _NODE:
                named = {_OPERATOR: [""], _DOMAIN: [""]}  # a field may be there more than once
                for what, text in _fields(node):
                    if what in named:
                        named[what].append(text.decode("utf-8", "replace"))
                found |= {name for name in named[_OPERATOR] if name}
                found |= {f"{domain}.*" for domain in named[_DOMAIN] if domain}
    return found


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of the fields of a protocol buffer that have a length."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(message, at)
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("it is no protocol buffer")
        if size > end - at:
            raise ValueError("it is cut off")
        if kind == 2:
            yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            raise ValueError("it is cut off")
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("it is no protocol buffer")
