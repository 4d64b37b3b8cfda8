"""What a device has to do to be learned on: the protocol that its driver implements. No torch.

A chip is a chain of layers. It is fed a batch, computes all layers with its own weights and its own
activation functions between them, and shows the pre-activations of those that can be read. Nothing
else of it is known: neither its noise nor what its weights are at this moment. It changes its
weights by what it is asked to add to them, as well as it can.

A driver needs no base class. What it raises reaches the user as a `ChipError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...errors import ChipError, ConfigError

Numbers = NDArray[np.float32]
Weights = Sequence[tuple[Numbers, Numbers]]
"""Of every layer its weights, shape (n, d), and biases, (n,)."""

ACTIVATIONS_OF_CHIPS = ("identity", "tanh", "relu", "sigmoid")
"""What a chip may do to its pre-activations before the next layer."""


@dataclass(frozen=True)
class ArraySpec:
    """A layer of a chip.

    Attributes:
        inputs: d, numbers that its weights multiply.
        outputs: n, its nodes.
        activation: what the chip does to the pre-activations before the next layer; a name from
            `ACTIVATIONS_OF_CHIPS`. That of the last layer is left to the learner.
        readable: whether its pre-activations leave the chip.

    Raises:
        ConfigError: a size is below 1, or there is no such activation.
    """

    inputs: int
    outputs: int
    activation: str = "identity"
    readable: bool = True

    def __post_init__(self) -> None:
        if not all(isinstance(size, int) and size >= 1 for size in (self.inputs, self.outputs)):
            raise ConfigError(
                f"a layer has 1 or more inputs and outputs, got {self.inputs} and {self.outputs}"
            )
        if self.activation not in ACTIVATIONS_OF_CHIPS:
            raise ConfigError(
                f"a chip has no activation {self.activation!r} between its layers; known: "
                f"{', '.join(ACTIVATIONS_OF_CHIPS)}"
            )

    def __str__(self) -> str:
        hidden = "" if self.readable else ", unreadable"
        return f"{self.inputs} to {self.outputs} ({self.activation}{hidden})"


@dataclass(frozen=True)
class WeightChange:
    """Add numbers to the weights of a layer.

    Attributes:
        layer: its place in the chain, from 0.
        weights: shape (n, d).
        bias: shape (n,).
    """

    layer: int
    weights: Numbers
    bias: Numbers


@dataclass(frozen=True)
class OuterProduct:
    """Take ``rate · errorsᵀ inputs`` from the weights of a layer, and from its biases likewise.

    A crossbar does this in place, all weights at once, by pulses on its rows and columns.

    Attributes:
        layer: its place in the chain, from 0.
        errors: dL/da of its nodes, shape (rows, n).
        inputs: shape (rows, d).
        rate: step size.
    """

    layer: int
    errors: Numbers
    inputs: Numbers
    rate: float


Change = WeightChange | OuterProduct


@runtime_checkable
class Chip(Protocol):
    """A device that computes the layers of a network and keeps its noise to itself.

    A driver may have more: ``configure(layers)`` takes on the shape of a network, if `layers` is
    empty; ``write(weights)`` programs all weights; ``calibrate()`` and ``refresh()`` are what the
    device's maker means by them; ``advance(seconds)`` lets time pass, in emulations;
    ``ledger()`` says what was spent, numbers by name.
    """

    @property
    def identity(self) -> str:
        """Which device it is, another one after its weights were lost."""

    @property
    def layers(self) -> Sequence[ArraySpec]:
        """The chain, first layer first; empty before a chip of no fixed shape is configured."""

    def forward(
        self, inputs: Numbers, first: int = 0, last: int | None = None
    ) -> Sequence[Numbers | None]:
        """Run a batch.

        Args:
            inputs: the inputs of layer `first`, shape (rows, d).
            first: layer to begin with.
            last: layer to end with; None for the last of the chip. A chip that can run nothing but
                the whole chain raises an error for other values.

        Returns:
            Pre-activations of the layers that ran, shapes (rows, n); None where not readable.
        """

    def update(self, changes: Sequence[Change]) -> None:
        """Change weights, as well as the device does it."""

    def read(self) -> Weights:
        """The weights as they are now, as well as the device can tell."""


def can(chip: Chip, name: str) -> bool:
    """Whether a chip has a method that it need not have; one that stands for another may say so."""
    said = getattr(chip, "can", None)
    return hasattr(chip, name) if said is None else bool(said(name))


def optional(chip: Chip, name: str) -> Any:  # noqa: ANN401 - methods differ
    """A method that a chip need not have.

    Raises:
        ConfigError: it has not.
    """
    method = getattr(chip, name, None)
    if method is None:
        raise ConfigError(f"{type(chip).__name__} does not {name}: its driver has no such method")
    return method


def checked_activities(
    answer: Sequence[Numbers | None], layers: Sequence[ArraySpec], rows: int
) -> list[Numbers | None]:
    """What `Chip.forward` has answered, if it is what was asked for.

    Args:
        answer: the answer of the chip.
        layers: that ran.
        rows: of the batch.

    Raises:
        ChipError: a shape is wrong, or a number is not finite.
    """
    if len(answer) != len(layers):
        raise ChipError(f"the chip ran {len(layers)} layers and shows {len(answer)}")
    checked: list[Numbers | None] = []
    for index, (values, spec) in enumerate(zip(answer, layers, strict=True)):
        if not spec.readable or values is None:
            if spec.readable:
                raise ChipError(f"the chip does not show layer {index} of those that ran")
            checked.append(None)  # what it may say of a layer that cannot be read is not looked at
            continue
        array = np.asarray(values, np.float32)
        if array.shape != (rows, spec.outputs):
            raise ChipError(
                f"the chip shows layer {index} of those that ran with shape {array.shape}; "
                f"{(rows, spec.outputs)} is right"
            )
        checked.append(finite(array, f"pre-activation of layer {index} of those that ran"))
    return checked


def checked_weights(answer: Weights, layers: Sequence[ArraySpec]) -> list[tuple[Numbers, Numbers]]:
    """Weights of a chip, if they fit it.

    Raises:
        ChipError: a shape is wrong, or a number is not finite.
    """
    shapes = [((spec.outputs, spec.inputs), (spec.outputs,)) for spec in layers]
    given = [tuple(np.shape(part) for part in layer) for layer in answer]
    if given != shapes:
        raise ChipError(f"weights have shapes {given}; those of the chip's layers are {shapes}")
    return [
        (
            finite(np.asarray(weight, np.float32), f"weight of layer {index}"),
            finite(np.asarray(bias, np.float32), f"bias of layer {index}"),
        )
        for index, (weight, bias) in enumerate(answer)
    ]


def checked_change(change: Change, layers: Sequence[ArraySpec]) -> Change:
    """A change, if it fits the chip.

    Raises:
        ChipError: there is no such layer, a shape is wrong, or a number is not finite.
    """
    if not 0 <= change.layer < len(layers):
        raise ChipError(f"the chip has no layer {change.layer}; it has {len(layers)}")
    spec = layers[change.layer]
    right: list[tuple[int, ...]]
    if isinstance(change, WeightChange):
        parts = change.weights, change.bias
        right = [(spec.outputs, spec.inputs), (spec.outputs,)]
    else:
        parts = change.errors, change.inputs
        rows = len(change.errors)
        right = [(rows, spec.outputs), (rows, spec.inputs)]
        if not np.isfinite(change.rate):
            raise ChipError(f"the rate of a change of layer {change.layer} is {change.rate}")
    if (given := [part.shape for part in parts]) != right:
        raise ChipError(f"a change of layer {change.layer} has shapes {given}; {right} is right")
    for part in parts:
        finite(part, f"number of a change of layer {change.layer}")
    return change


def finite(values: Numbers, what: str) -> Numbers:
    """The values, if all are finite.

    Raises:
        ChipError: one is not.
    """
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)]
        raise ChipError(f"{len(bad)} of {values.size} numbers are not finite ({bad[0]}): {what}")
    return values
