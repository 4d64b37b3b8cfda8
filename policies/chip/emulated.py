"""An emulated device behind the contract that a real one is learned on by.

Its weights, and everything random about it, lie hidden: what an `EmulatedChip` can be asked for is
what `Chip` says. To be sure of that, run it in another process (`nprobot chip serve`).
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import SeedSequence
from torch import Tensor

from ...errors import ConfigError, DamagedFileError
from ...hidden import Vault, seal, unseal
from .contract import (
    ArraySpec,
    Change,
    Numbers,
    WeightChange,
    Weights,
    checked_change,
    checked_weights,
)
from .crossbar import Crossbar
from .devices import Cells, coincidences, whole_pulses
from .nonidealities import ChipModel, ChipSpec, PulsedDevice, Site, resolve

FILLED = 0.6
"""Share of its range that the largest weight of a layer takes when a chip is written first."""
LEAST_SCALE = 2.0
"""Weights of a layer can grow to at least this over √d, times 1 / `FILLED`."""
TRAIN_LENGTH = 31
"""Slots of a pulse train: no outer product of a row moves a weight by more steps than that."""
_ACTIVATIONS = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}


class _Array:
    """One layer: its devices, what is wrong with reading them, and what was done to it."""

    def __init__(
        self,
        spec: ArraySpec,
        device: PulsedDevice,
        models: Sequence[ChipModel],
        seeds: tuple[SeedSequence, SeedSequence],
    ) -> None:
        of_device, of_noise = (sequence.spawn(len(models) + 2) for sequence in seeds)
        words = [[_word(s) for s in own] for own in (of_device, of_noise)]
        sites = [Site(*pair) for pair in zip(words[0][2:], words[1][2:], strict=True)]
        self.spec, self.device = spec, device
        self.crossbar = Crossbar(list(zip(models, sites, strict=True)))
        self.fresh = torch.Generator().manual_seed(words[1][0])
        fixed = torch.Generator().manual_seed(words[0][0])
        # The biases are one more column, whose input is 1.
        self.cells = Cells(device, (spec.outputs, spec.inputs + 1), fixed, self.fresh)
        self.scale = LEAST_SCALE / spec.inputs**0.5 / FILLED
        self.reads = 0.0
        self.first = torch.Generator().manual_seed(words[0][1])

    def begin(self) -> None:
        """Weights as a device has them that nobody has written: small, and anyhow."""
        shape = (self.spec.outputs, self.spec.inputs + 1)
        # As PyTorch begins a linear layer: uniform within ±1 / √d.
        bound = 1 / self.spec.inputs**0.5 / self.scale
        self.cells.program(bound * (2 * torch.rand(shape, generator=self.first) - 1))

    def run(self, x: Tensor) -> Tensor:
        written = self.scale * self.cells.weights
        self.reads += float(x.shape[0] * written.numel())
        return self.crossbar.compute(x, written[:, :-1], written[:, -1], F.linear, x.shape[0])

    def write(self, weight: Numbers, bias: Numbers) -> None:
        target = torch.from_numpy(np.concatenate([weight, bias[:, None]], 1))
        least = LEAST_SCALE / self.spec.inputs**0.5
        self.scale = max(float(target.abs().max()), least) / FILLED
        self.cells.program(target / self.scale)

    def change(self, change: Change) -> None:
        step = self.device.step * self.scale
        if isinstance(change, WeightChange):
            wanted = torch.from_numpy(np.concatenate([change.weights, change.bias[:, None]], 1))
            pulses = whole_pulses(wanted.abs() / step, self.fresh)
            up, down = pulses * (wanted > 0), pulses * (wanted < 0)
        else:
            inputs = torch.from_numpy(np.pad(change.inputs, ((0, 0), (0, 1)), constant_values=1.0))
            errors = torch.from_numpy(change.errors) * (1.0 if change.rate >= 0 else -1.0)
            gain = abs(change.rate) / step
            up, down = coincidences(errors, inputs, gain, TRAIN_LENGTH, self.fresh)
        self.cells.pulse(up, down)

    def read(self) -> tuple[Numbers, Numbers]:
        written = (self.scale * self.cells.weights).numpy().astype(np.float32)
        self.reads += float(written.size)
        return written[:, :-1].copy(), written[:, -1].copy()


class _Emulation:
    """What is hidden of an emulated chip."""

    def __init__(self, seeds: tuple[SeedSequence, SeedSequence]) -> None:
        self.seeds = seeds
        self.identity = uuid.uuid4().hex
        self.arrays: list[_Array] = []
        self.updates = 0

    def secret(self) -> list[int]:
        return [_word(SeedSequence(s.entropy, spawn_key=s.spawn_key)) for s in self.seeds]


_EMULATIONS: Vault[_Emulation] = Vault()


class EmulatedChip:
    """A device whose weights are written by pulses, read through converters, and noisy.

    Args:
        chip: what is wrong with it, as of `nprobot.policies.chip.resolve`; with a preset or model
            that says how it is written, or else it is written exactly.
        layers: its shape; empty for one that takes on that of the first network.
        seed: the seed of everything that changes; None draws one.
        device_seed: which device it is: of what is fixed for life. From `seed` if None.

    Attributes:
        models: what is wrong with it.
        layers: as given.

    Raises:
        ConfigError: it has two kinds of devices, or layers that do not fit each other.
        UnknownNameError: there is no such preset, model or parameter.
    """

    def __init__(
        self,
        chip: ChipSpec = "exact",
        layers: Sequence[ArraySpec] = (),
        *,
        seed: int | SeedSequence | None = None,
        device_seed: int | SeedSequence | None = None,
    ) -> None:
        self.models = resolve(chip)
        devices = [model for model in self.models if isinstance(model, PulsedDevice)]
        if len(devices) > 1:
            raise ConfigError(f"a chip has one kind of devices, not {len(devices)}")
        self.layers: tuple[ArraySpec, ...] = ()
        noise, device = _sequence(seed).spawn(2)
        if device_seed is not None:
            device = _sequence(device_seed)
        _EMULATIONS.hide(self, _Emulation((device, noise)))
        if layers:
            self.configure(layers)

    @property
    def identity(self) -> str:
        """Another one for every chip that is made, the same for one that is restored."""
        return _EMULATIONS.of(self).identity

    def configure(self, layers: Sequence[ArraySpec]) -> None:
        """Take on a shape, with weights that nobody has written.

        Raises:
            ConfigError: it has one already, or layers do not fit each other.
        """
        if self.layers:
            raise ConfigError(
                f"the chip has its layers already: {', '.join(map(str, self.layers))}"
            )
        for before, after in itertools.pairwise(layers):
            if before.outputs != after.inputs:
                raise ConfigError(f"a layer of {before} cannot feed one of {after}")
        exact = PulsedDevice(1e-6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 10.0, -10.0, 0.0)
        found = [model for model in self.models if isinstance(model, PulsedDevice)]
        hidden = _EMULATIONS.of(self)
        spawned = (sequence.spawn(len(layers)) for sequence in hidden.seeds)
        self.layers = tuple(layers)
        hidden.arrays = [
            _Array(spec, found[0] if found else exact, self.models, own)
            for spec, own in zip(layers, zip(*spawned, strict=True), strict=True)
        ]
        for array in hidden.arrays:
            array.begin()

    @torch.no_grad()
    def forward(
        self, inputs: Numbers, first: int = 0, last: int | None = None
    ) -> list[Numbers | None]:
        """As of `Chip`."""
        arrays = _EMULATIONS.of(self).arrays[first : None if last is None else last + 1]
        x = torch.from_numpy(np.ascontiguousarray(inputs, np.float32))
        shown: list[Numbers | None] = []
        for array in arrays:
            a = array.run(x)
            shown.append(a.numpy() if array.spec.readable else None)
            x = _ACTIVATIONS[array.spec.activation](a)
        return shown

    def update(self, changes: Sequence[Change]) -> None:
        """As of `Chip`."""
        hidden = _EMULATIONS.of(self)
        checked = [checked_change(change, self.layers) for change in changes]
        for change in checked:
            hidden.arrays[change.layer].change(change)
        hidden.updates += bool(checked)

    def read(self) -> list[tuple[Numbers, Numbers]]:
        """As of `Chip`: exact, but for noise that a write has left."""
        return [array.read() for array in _EMULATIONS.of(self).arrays]

    def write(self, weights: Weights) -> None:
        """Program all weights, each as near as its device can be brought."""
        for array, (weight, bias) in zip(
            _EMULATIONS.of(self).arrays, checked_weights(weights, self.layers), strict=True
        ):
            array.write(weight, bias)

    def refresh(self) -> None:
        """Set pairs of devices that only grow back to the same difference."""
        for array in _EMULATIONS.of(self).arrays:
            array.cells.refresh()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        for array in _EMULATIONS.of(self).arrays:
            array.cells.advance(seconds)

    def fail(self, share: float, seed: int = 0) -> None:
        """Let a share of the devices get stuck from now on."""
        generator = torch.Generator().manual_seed(seed)
        for array in _EMULATIONS.of(self).arrays:
            array.cells.fail(share, generator)

    def ledger(self) -> dict[str, float]:
        """What was spent: pulses, devices read, changes, and energy in J, as far as assumed."""
        hidden = _EMULATIONS.of(self)
        pulses = sum(array.cells.pulses for array in hidden.arrays)
        reads = sum(array.reads for array in hidden.arrays)
        energy = sum(
            array.cells.pulses * array.device.pulse_energy + array.reads * array.device.read_energy
            for array in hidden.arrays
        )
        return {
            "pulses": pulses,
            "reads": reads,
            "updates": float(hidden.updates),
            "energy": energy,
        }

    def save(self) -> bytes:
        """Everything about it, sealed with its seeds."""
        hidden = _EMULATIONS.of(self)
        state: dict[str, Any] = {
            "identity": hidden.identity,
            "updates": hidden.updates,
            "layers": [
                [spec.inputs, spec.outputs, spec.activation, spec.readable] for spec in self.layers
            ],
            "arrays": [
                {
                    "cells": array.cells.save(),
                    "crossbar": array.crossbar.save(),
                    "fresh": array.fresh.get_state().numpy(),
                    "scale": array.scale,
                    "reads": array.reads,
                }
                for array in hidden.arrays
            ],
        }
        return seal(state, hidden.secret(), "emulated chip")

    def restore(self, capsule: bytes) -> None:
        """Become the chip that was saved: the same device, its weights, its noise, its past.

        Raises:
            DamagedFileError: it was damaged, or is of a chip with other seeds or models.
        """
        hidden = _EMULATIONS.of(self)
        state: Mapping[str, Any] = unseal(capsule, hidden.secret(), "emulated chip")
        layers = tuple(ArraySpec(*spec) for spec in state["layers"])
        if self.layers != layers:
            if self.layers:
                raise DamagedFileError(
                    f"the saved chip has the layers {', '.join(map(str, layers))}, this one "
                    f"{', '.join(map(str, self.layers))}"
                )
            self.configure(layers)
        for array, saved in zip(hidden.arrays, state["arrays"], strict=True):
            array.cells.restore(saved["cells"])
            array.crossbar.restore(saved["crossbar"])
            array.fresh.set_state(torch.from_numpy(saved["fresh"]))
            array.scale, array.reads = float(saved["scale"]), float(saved["reads"])
        hidden.identity, hidden.updates = str(state["identity"]), int(state["updates"])


def parse_layers(text: str, activation: str, unreadable: Sequence[int] = ()) -> list[ArraySpec]:
    """The shape in a text like ``11,64,64,3``: units, inputs first.

    Args:
        text: the units.
        activation: between the layers.
        unreadable: places of layers that do not show themselves, from 0.

    Raises:
        ConfigError: it is no such text.
    """
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) < 2:
        raise ConfigError(f"layers are numbers with commas between, as 11,64,64,3; got {text!r}")
    last = len(sizes) - 2
    return [
        ArraySpec(
            *(sizes[i], sizes[i + 1], "identity" if i == last else activation),
            i not in unreadable,
        )
        for i in range(last + 1)
    ]


def load_state(chip: EmulatedChip, path: Path) -> bool:
    """Let a chip become the one that a file holds, if there is a file; says whether there was."""
    if not path.exists():
        return False
    chip.restore(path.read_bytes())
    return True


def _sequence(seed: int | SeedSequence | None) -> SeedSequence:
    return seed if isinstance(seed, SeedSequence) else SeedSequence(seed)


def _word(sequence: SeedSequence) -> int:
    return int(sequence.generate_state(1, "uint64")[0] >> 1)
