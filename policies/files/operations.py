"""The operations that a policy file's network is made of, evaluated with numpy.

A new operation costs one function and one line in `FUNCTIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import ArchitectureError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Operation:
    """One step of a network.

    Attributes:
        name: a key of `FUNCTIONS`.
        arrays: weight (n, d) and bias (n,) of "linear"; nothing for the others.
        settings: numbers such as the slope of "leaky_relu".

    Raises:
        ArchitectureError: the name is unknown, or something it needs is missing or not finite.
    """

    name: str
    arrays: Mapping[str, Array] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in FUNCTIONS:
            raise ArchitectureError(
                f"unknown operation {self.name!r}; known: {', '.join(FUNCTIONS)}"
            )
        needed = SETTINGS.get(self.name, ())
        if set(self.settings) != set(needed):
            raise ArchitectureError(
                f"{self.name} takes the settings {needed}, got {tuple(self.settings)}"
            )
        if set(self.arrays) != ({"weight", "bias"} if self.name == "linear" else set()):
            raise ArchitectureError(f"{self.name} does not take the arrays {tuple(self.arrays)}")
        for name, value in (*self.arrays.items(), *self.settings.items()):
            if not np.isfinite(np.asarray(value)).all():
                raise ArchitectureError(f"the {name} of {self.name} is not finite")
        if self.name == "linear":
            weight, bias = self.arrays["weight"], self.arrays["bias"]
            if weight.ndim != 2 or bias.shape != weight.shape[:1]:
                raise ArchitectureError(f"weight {weight.shape} and bias {bias.shape} do not fit")

    def __call__(self, x: Array) -> Array:
        """The operation on a batch of rows, (B, *shape) to (B, *output shape)."""
        return FUNCTIONS[self.name](x, **self.arrays, **self.settings)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one output for the shape of one input.

        Raises:
            ArchitectureError: the operation does not take such an input.
        """
        if self.name == "flatten":
            return (math.prod(shape),)
        if self.name != "linear":
            return shape
        n, d = self.arrays["weight"].shape
        if shape != (d,):
            raise ArchitectureError(f"linear takes {d} inputs and gets {shape}")
        return (n,)

    def describe(self, prefix: str, store: Callable[[str, Array], str]) -> dict[str, Any]:
        """The operation as a JSON object; `store` keeps an array and returns its name."""
        arrays = {name: store(f"{prefix}.{name}", array) for name, array in self.arrays.items()}
        return {"op": self.name, **arrays, **self.settings}

    @classmethod
    def read(cls, entry: Mapping[str, Any], tensors: Mapping[str, Array]) -> Operation:
        """The operation that `describe` described.

        Raises:
            ArchitectureError: the description makes no sense.
            KeyError: it names a tensor that is not there.
        """
        arrays = {k: tensors[v] for k, v in entry.items() if k != "op" and isinstance(v, str)}
        settings = {k: float(v) for k, v in entry.items() if k != "op" and not isinstance(v, str)}
        return cls(entry["op"], arrays, settings)


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """``x Wᵀ + b``, (B, d) to (B, n)."""
    return x @ weight.T + bias


def leaky_relu(x: Array, negative_slope: float) -> Array:
    """Identity above zero, `negative_slope` times x below."""
    return np.where(x > 0, x, x * negative_slope)


def elu(x: Array, alpha: float) -> Array:
    """Identity above zero, ``alpha (exp x - 1)`` below."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def sigmoid(x: Array) -> Array:
    """Logistic function, written with tanh so that no exponential overflows."""
    return 0.5 * (np.tanh(0.5 * x) + 1)


def gelu(x: Array) -> Array:
    """Product of x and the cumulative normal distribution at x."""
    # numpy has no error function; one call for each number is slow but exact.
    probability = 0.5 + 0.5 * np.asarray(_erf(x / math.sqrt(2)), dtype=x.dtype)
    return x * probability


_erf = np.frompyfunc(math.erf, 1, 1)

FUNCTIONS: dict[str, Callable[..., Array]] = {
    "linear": linear,
    "flatten": lambda x: x.reshape(len(x), -1),
    "identity": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": leaky_relu,
    "elu": elu,
    "gelu": gelu,
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
}

SETTINGS: dict[str, tuple[str, ...]] = {"leaky_relu": ("negative_slope",), "elu": ("alpha",)}
