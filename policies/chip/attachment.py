"""Layers of a network on a device that is known by the contract alone.

The layers stay modules of the network, with parameters that say what the learner believes of the
device's weights. When the first of them is asked for its pre-activations, the whole chain runs on
the device, in one request; the others hand out what it has shown. What an optimiser has added to
the parameters since goes along as changes. What lies between the layers in the network computes
what the device computes by itself: the inputs that a rule multiplies node errors with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ArchitectureError, ConfigError, NonFiniteError
from ..layers import DecorrelatedLinear
from .contract import (
    ArraySpec,
    Chip,
    Numbers,
    WeightChange,
    can,
    checked_activities,
    checked_weights,
    optional,
)
from .nonidealities import Multiply

Pair = tuple[Numbers, Numbers]

_NAMES: Mapping[type[nn.Module], str] = {
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.Identity: "identity",
}
_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}
_BETWEEN = (nn.Flatten,)
"""Modules that change no number."""
ALIKE = 1e-2
"""How far what a layer is fed may be from what the chip has fed it by itself."""
SAME_WEIGHTS = 0.8
"""Least cosine of the weights of a policy and of those of a chip that is said to hold it."""


class Attachment:
    """What the layers of one network on one chip share.

    Args:
        chip: the device.
        layers: the layers of the network, in the chain's order.
        whole: whether the chain runs in one request.
    """

    def __init__(self, chip: Chip, layers: Sequence[nn.Linear], whole: bool) -> None:
        self.chip = chip
        self.specs = tuple(chip.layers)
        self.whole = whole
        self._layers = [ref(layer) for layer in layers]
        self._believed: list[Pair] | None = None
        """What the device was last known to hold; None before that is settled."""
        self._shown: dict[int, Tensor | None] = {}
        self._handed_out: set[int] = set()
        self._compared: set[int] = set()

    def compute(self, index: int, x: Tensor) -> Tensor:
        """Pre-activations of a layer for its inputs, (rows, d)."""
        spec, rows = self.specs[index], x.shape[0]
        if index == 0 or not self.whole:
            self._run(index, x)
        shown = self._shown.get(index)
        stale = index not in self._shown or index in self._handed_out
        if stale or (shown is not None and len(shown) != rows):
            raise ArchitectureError(
                f"layer {index} of the chip is asked for {rows} rows before the layers ahead of it "
                "were: the chip runs its layers one after the other, and so must the network"
            )
        if index and self.whole and index not in self._compared:
            self._compare(index, x)
        self._handed_out.add(index)
        return x.new_zeros(rows, spec.outputs) if shown is None else shown

    def settle(self) -> None:
        """Program the network's weights, if it has not been settled what the device holds."""
        if self._believed is None:
            if can(self.chip, "write"):
                optional(self.chip, "write")([_arrays(layer) for layer in self._modules()])
            self._read()

    def read_back(self) -> None:
        """Have the parameters say what the device holds."""
        if self._believed is None:
            self.settle()
        else:
            self._send()
            self._read()

    def save(self) -> dict[str, Any]:
        """Which device it is, and, of an emulated one in this process, all about it."""
        state = getattr(self.chip, "save", None)
        capsule = "" if state is None else state().hex()
        return {"identity": self.chip.identity, "state": capsule}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on with the device that was saved, or program the parameters into another one."""
        self._believed = None
        if saved["state"] and hasattr(self.chip, "restore"):
            self.chip.restore(bytes.fromhex(saved["state"]))
        if self.chip.identity == saved["identity"]:
            self._read()
        else:
            self.settle()

    def recognise(self) -> None:
        """Believe that the device holds the parameters, if it does.

        Raises:
            ConfigError: it holds something else.
        """
        found = checked_weights(self.chip.read(), self.chip.layers)
        own = np.concatenate([p.ravel() for layer in self._modules() for p in _arrays(layer)])
        there = np.concatenate([part.ravel() for pair in found for part in pair])
        norm = float(np.linalg.norm(own) * np.linalg.norm(there))
        cosine = float(own @ there) / norm if norm else 0.0
        if cosine < SAME_WEIGHTS:
            raise ConfigError(
                f"the chip does not hold this policy: the cosine of their weights is {cosine:.2f}."
                " Continue its run (nprobot train --resume), which programs a chip that has lost "
                "its weights, or evaluate it off the chip (--chip ideal)"
            )
        self._believe(found)

    def _read(self) -> None:
        self._believe(checked_weights(self.chip.read(), self.chip.layers))

    def _believe(self, weights: Sequence[Pair]) -> None:
        with torch.no_grad():
            for layer, (weight, bias) in zip(self._modules(), weights, strict=False):
                layer.weight.copy_(torch.from_numpy(weight))
                layer.bias.copy_(torch.from_numpy(bias))
        self._believed = [_arrays(layer) for layer in self._modules()]

    def _send(self) -> None:
        """Ask the device for what was added to the parameters."""
        assert self._believed is not None
        changes = []
        for index, layer in enumerate(self._modules()):
            weight, bias = _arrays(layer)
            known = self._believed[index]
            if np.array_equal(weight, known[0]) and np.array_equal(bias, known[1]):
                continue
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise NonFiniteError(
                    f"a weight of layer {index} became NaN or infinite; the chip was not asked for "
                    "it"
                )
            changes.append(WeightChange(index, weight - known[0], bias - known[1]))
            self._believed[index] = weight, bias
        if changes:
            self.chip.update(changes)

    def _run(self, index: int, x: Tensor) -> None:
        if self._believed is None:
            self.settle()
        self._send()
        fed = np.ascontiguousarray(x.detach().cpu().numpy(), np.float32)
        shown = self.chip.forward(fed, index, None if self.whole else index)
        ran = self.specs[index : None if self.whole else index + 1]
        checked = checked_activities(shown, ran, len(fed))
        self._shown = {
            index + i: None if a is None else torch.from_numpy(a).to(x)
            for i, a in enumerate(checked)
        }
        self._handed_out = set()

    def _compare(self, index: int, x: Tensor) -> None:
        """See once that the network does between two layers what the chip does."""
        self._compared.add(index)
        before = self._shown.get(index - 1)
        if before is None:
            return
        by_chip = _FUNCTIONS[self.specs[index - 1].activation](before)
        if by_chip.shape != x.shape or float((by_chip - x).abs().max()) > ALIKE:
            raise ArchitectureError(
                f"the network does something else before layer {index} than the chip, which "
                f"applies {self.specs[index - 1].activation}"
            )

    def _modules(self) -> list[nn.Linear]:
        found = [layer() for layer in self._layers]
        assert None not in found, "a layer keeps its attachment, not the other way round"
        return found  # type: ignore[return-value]


def _arrays(layer: nn.Linear) -> Pair:
    """Copies of a layer's parameters."""
    weight, bias = (p.detach().cpu().float().numpy().copy() for p in (layer.weight, layer.bias))
    return weight, bias


class Place:
    """A layer's place on a chip; stands where an emulated layer has its `Crossbar`."""

    def __init__(self, attachment: Attachment, index: int) -> None:
        self.attachment = attachment
        self.index = index

    def compute(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, multiply: Multiply, rows: int
    ) -> Tensor:
        """As of `Crossbar`; what is written is what the learner believes."""
        a = self.attachment.compute(self.index, x.reshape(-1, x.shape[-1]))
        return a.reshape(*x.shape[:-1], a.shape[-1])

    def secret(self) -> list[int]:
        """None: the device keeps its own."""
        return []

    def save(self) -> dict[str, Any]:
        """Of the whole chip, with its first layer."""
        return {} if self.index else self.attachment.save()

    def ran_beyond(self, state: Mapping[str, Any]) -> bool:
        """A device is never set back, but read."""
        return False

    def restore(self, state: Mapping[str, Any]) -> None:
        """As of `Attachment`, with the first layer."""
        if state:
            self.attachment.restore(state)


def chain_of(network: nn.Module) -> tuple[list[nn.Linear], list[str]]:
    """The linear layers of a network, in order, and the name of what follows each.

    Raises:
        ArchitectureError: it has other layers, or a chip has no such activation.
    """
    layers: list[nn.Linear] = []
    names: list[str] = []
    for module in network.modules():
        if next(module.children(), None) is not None or isinstance(module, _BETWEEN):
            continue
        if type(module) in (nn.Linear, DecorrelatedLinear):
            assert isinstance(module, nn.Linear)
            if module.bias is None:
                raise ArchitectureError("a layer of a chip has biases; use Linear(..., bias=True)")
            layers.append(module)
            names.append("identity")
        elif layers and type(module) in _NAMES:
            names[-1] = _NAMES[type(module)]
        elif not isinstance(module, nn.Identity) and type(module) not in _CONTAINERS:
            raise ArchitectureError(
                f"a chip computes linear layers with {', '.join(_FUNCTIONS)} between them; this "
                f"network has {type(module).__name__}"
            )
    if not layers:
        raise ArchitectureError("the network has no linear layer that a chip could compute")
    return layers, names


_CONTAINERS = (nn.Sequential, nn.ModuleList)


def shape_of(network: nn.Module, unreadable: Sequence[int] = ()) -> list[ArraySpec]:
    """What a chip has to be like that computes a network.

    Args:
        network: linear layers with activation functions between them.
        unreadable: places of layers that the chip does not show.
    """
    layers, names = chain_of(network)
    names[-1] = "identity"  # is the learner's
    return [
        ArraySpec(layer.in_features, layer.out_features, name, i not in unreadable)
        for i, (layer, name) in enumerate(zip(layers, names, strict=True))
    ]


def fit_to(chip: Chip, network: nn.Module, wanted: Sequence[ArraySpec]) -> list[nn.Linear]:
    """The layers of a network that a chip computes: its first ones; configures a chip if need be.

    Args:
        chip: the device.
        network: its modules.
        wanted: its shape.

    Raises:
        ConfigError: the chip has other layers.
    """
    if not chip.layers:
        optional(chip, "configure")(wanted)
    there = list(chip.layers)
    layers = chain_of(network)[0][: len(there)]

    def size(spec: ArraySpec) -> tuple[int, int, str]:
        return spec.inputs, spec.outputs, spec.activation

    own = [size(spec) for spec in wanted[: len(there)]]
    # What follows the last layer of the chip is the learner's.
    if len(own) < len(there) or any(
        a[:2] != b[:2] or (i < len(there) - 1 and a[2] != b[2])
        for i, (a, b) in enumerate(zip(own, map(size, there), strict=True))
    ):
        raise ConfigError(
            f"the chip has the layers {', '.join(map(str, there))}; the network has "
            f"{', '.join(map(str, wanted))}. Give the network the chip's sizes (--hidden, "
            "--activation), or serve a chip with those of the network"
        )
    return layers
