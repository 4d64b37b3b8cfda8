"""Layers on an emulated noisy chip: what they compute can be read, what is wrong with them cannot.

`put_on_chip` turns the layers of a network, in place, into layers of a chip. They keep their
parameters: these are what is *written* to the chip. What the chip makes of them, and the noise that
it adds to every pre-activation, lies hidden. The outputs of the network are noisy, during learning
and after it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Never, cast

import torch
import torch.nn.functional as F
from numpy.random import SeedSequence
from torch import Tensor, nn
from typing_extensions import override

from ...errors import ConfigError, NoiseInaccessibleError, UnknownNameError
from ...hidden import Vault, seal, unseal
from ..layers import BiasHead, DecorrelatedConv2d, DecorrelatedLinear, Module, patches
from .attachment import Attachment, Place, fit_to, shape_of
from .contract import Chip
from .nonidealities import ChipModel, ChipSpec, Multiply, PulsedDevice, Site, resolve
from .remote import SCHEMES, RemoteChip


class Crossbar:
    """The hidden part of a layer on a chip: what its models do, and how often it ran.

    Args:
        models: in order, each with its randomness and memory in this layer.
    """

    def __init__(self, models: Sequence[tuple[ChipModel, Site]]) -> None:
        self._models = models
        self._evaluations = 0

    def compute(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, multiply: Multiply, rows: int
    ) -> Tensor:
        """Pre-activations as the chip computes them.

        Args:
            x: inputs of the weights.
            weight: as written.
            bias: as written, in a shape that fits the pre-activations.
            multiply: from inputs and weights to pre-activations.
            rows: samples in the batch.
        """
        for model, site in self._models:
            x = model.inputs(site, x)
            weight = model.weight(site, weight, self._evaluations)
        a = multiply(x, weight)
        if bias is not None:
            a = a + bias
        for model, site in self._models:
            a = model.nodes(site, a, x, weight, multiply)
        self._evaluations += rows
        return a

    def secret(self) -> list[int]:
        """Numbers that only this layer of this chip knows."""
        return [seed for _, site in self._models for seed in site.seeds]

    def save(self) -> dict[str, Any]:
        """Everything that changes as the layer runs."""
        return {
            "evaluations": self._evaluations,
            "sites": [site.save() for _, site in self._models],
        }

    def ran_beyond(self, state: Mapping[str, Any]) -> bool:
        """Whether the layer has run further than in a saved state."""
        return self._evaluations > int(state["evaluations"])

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self._evaluations = int(state["evaluations"])
        for (_, site), saved in zip(self._models, state["sites"], strict=True):
            site.restore(saved)


class ChipLayer(nn.Module):
    """What layers on a chip have in common."""

    off_chip: ClassVar[type[nn.Module]]
    """The same layer without a chip."""
    readable: bool = True
    """Whether its pre-activations can be read, and so the inputs of what comes next."""

    def crossbar_input(self, x: Tensor) -> Tensor:
        """What is fed to the weights, ``x*`` where the layer decorrelates; can be read."""
        raise NotImplementedError

    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        """Pre-activations without bias, from what `crossbar_input` returns."""
        raise NotImplementedError

    def evaluate(self, x: Tensor) -> Tensor:
        """Pre-activations of a batch, noise included.

        With autograd on, the derivative is that of the layer as written: all that anybody who does
        not know the chip can differentiate.
        """
        weight, bias = self._written()
        fed = self.crossbar_input(x)
        with torch.no_grad():
            noisy = _CROSSBARS.of(self).compute(fed, weight, bias, self.multiply, x.shape[0])
        if not torch.is_grad_enabled():
            return noisy
        ideal = self.multiply(fed, weight)
        if bias is not None:
            ideal = ideal + bias
        return ideal + (noisy - ideal).detach()

    def _written(self) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError

    @override
    def __reduce_ex__(self, protocol: object) -> Never:
        raise NoiseInaccessibleError(
            f"{type(self).__name__} cannot be copied or pickled: the copy would let the chip's "
            "noise be tried out in advance. Save its state_dict(), or make a copy off the chip "
            "with nprobot.policies.chip.off_chip_copy(network)"
        )


class ChipLinear(ChipLayer, nn.Linear):
    """`Linear` on a chip."""

    off_chip = nn.Linear

    @override
    def crossbar_input(self, x: Tensor) -> Tensor:
        return x

    @override
    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Noisy pre-activations, shape (..., n), of inputs of shape (..., d)."""
        return self.evaluate(x)

    @override
    def _written(self) -> tuple[Tensor, Tensor | None]:
        return self.weight, self.bias


class ChipDecorrelatedLinear(ChipLayer, DecorrelatedLinear):
    """`DecorrelatedLinear` on a chip; R is applied off the chip, exactly."""

    off_chip = DecorrelatedLinear

    @override
    def crossbar_input(self, x: Tensor) -> Tensor:
        return self.decorrelated_input(x)

    @override
    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Noisy pre-activations, shape (..., n), of inputs of shape (..., d)."""
        return self.evaluate(x)

    @override
    def _written(self) -> tuple[Tensor, Tensor | None]:
        return self.weight, self.bias


class _ChipConvolution(ChipLayer, nn.Conv2d):
    """A convolution as products of patches and weights, which is how a crossbar does it."""

    @override
    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        """Patches (B, positions, d) to pre-activations (B, channels, positions)."""
        return F.linear(x, weight.flatten(1)).mT

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Noisy pre-activations, shape (B, out_channels, height, width)."""
        return self.evaluate(x).view(x.shape[0], self.out_channels, *self._output_size(x))

    @override
    def _written(self) -> tuple[Tensor, Tensor | None]:
        return self.weight, None if self.bias is None else self.bias.unsqueeze(1)

    def _output_size(self, x: Tensor) -> list[int]:
        around = self._reversed_padding_repeated_twice
        padding = (around[2] + around[3], around[0] + around[1])
        return [
            (x.shape[2 + i] + padding[i] - self.dilation[i] * (self.kernel_size[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in (0, 1)
        ]


class ChipConv2d(_ChipConvolution):
    """`Conv2d` on a chip."""

    off_chip = nn.Conv2d

    @override
    def crossbar_input(self, x: Tensor) -> Tensor:
        return patches(self, x)


class ChipDecorrelatedConv2d(_ChipConvolution, DecorrelatedConv2d):
    """`DecorrelatedConv2d` on a chip; R is applied off the chip, exactly."""

    off_chip = DecorrelatedConv2d

    @override
    def crossbar_input(self, x: Tensor) -> Tensor:
        return self.decorrelated_input(x)


class ChipBiasHead(ChipLayer, BiasHead):
    """`BiasHead` on a chip."""

    off_chip = BiasHead

    @override
    def crossbar_input(self, x: Tensor) -> Tensor:
        return x

    @override
    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        return weight.new_zeros(x.shape[0], *self.bias.shape)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """The noisy bias once for each sample, shape (B, n), for any x of shape (B, ...)."""
        return self.evaluate(x)

    @override
    def _written(self) -> tuple[Tensor, Tensor | None]:
        return self.bias, self.bias


ON_CHIP: dict[type[nn.Module], type[ChipLayer]] = {
    kind.off_chip: kind
    for kind in (
        ChipLinear,
        ChipDecorrelatedLinear,
        ChipConv2d,
        ChipDecorrelatedConv2d,
        ChipBiasHead,
    )
}
"""The kinds of layers that can be on a chip."""

_CROSSBARS: Vault[Crossbar | Place] = Vault()


def put_on_chip(
    network: nn.Module,
    chip: ChipSpec | Chip,
    *,
    seed: int | SeedSequence | None = None,
    device_seed: int | SeedSequence | None = None,
    unreadable: Collection[str] = (),
) -> tuple[ChipModel, ...]:
    """Put every layer of a network on a chip, in place.

    The layers stay the same objects with the same parameters, so an optimiser or SB3 policy that
    holds them keeps working, and works with the chip from now on.

    Args:
        network: any module; its `Linear`, `Conv2d`, decorrelated and `BiasHead` layers move. To a
            device, linear layers alone, one after the other.
        chip: what is wrong with an emulated one, see `nprobot.policies.chip.resolve`; or a device:
            a `Chip`, the address of one, or a preset that is written by pulses. Weights are
            programmed into a device that can be programmed when it first computes.
        seed: the seed of everything random; None draws one.
        device_seed: which device it is, decides what is fixed for life; from `seed` if None.
        unreadable: names of layers whose pre-activations never leave the chip.

    Returns:
        The models.

    Raises:
        ConfigError: no layer can be put on a chip, or one is on a chip already.
        UnknownNameError: there is no layer of a name.
        ChipError: a device does not answer.
    """
    if is_device(chip):
        return _attach(network, chip, seed, device_seed, unreadable)
    models = resolve(cast("ChipSpec", chip))
    named = {name: module for name, module in network.named_modules() if type(module) in ON_CHIP}
    layers = list(named.values())
    for name in unreadable:
        if name not in named:
            raise UnknownNameError("layer of the network", name, named)
    if on_chip(network):
        raise ConfigError(
            "the network has layers on a chip already; chain the models and put it there once"
        )
    convolutions = [module for module in layers if isinstance(module, nn.Conv2d)]
    if not layers or any(module.groups != 1 for module in convolutions):
        raise ConfigError(
            "a network for a chip needs layers, and no convolution with groups: "
            + ", ".join(kind.__name__ for kind in ON_CHIP)
        )
    entropy = seed if isinstance(seed, SeedSequence) else SeedSequence(seed)
    noise, device = entropy.spawn(2)
    if isinstance(device_seed, SeedSequence):
        device = device_seed
    elif device_seed is not None:
        device = SeedSequence(device_seed)
    sequences = (device.spawn(len(layers)), noise.spawn(len(layers)))
    for layer, of_device, of_noise in zip(layers, *sequences, strict=True):
        # A seed for each model, so that one more model changes nothing about the others.
        seeds = zip(_seeds(of_device, len(models)), _seeds(of_noise, len(models)), strict=True)
        sites = [Site(*own) for own in seeds]
        layer.__class__ = ON_CHIP[type(layer)]
        _CROSSBARS.hide(layer, Crossbar(list(zip(models, sites, strict=True))))
    for name in unreadable:
        named[name].readable = False
    return models


def is_device(chip: ChipSpec | Chip) -> bool:
    """Whether a chip is written by pulses or lies elsewhere, and so is known by its contract."""
    if isinstance(chip, str) and chip.startswith(SCHEMES):
        return True
    if isinstance(chip, Chip):
        return True
    return any(isinstance(model, PulsedDevice) for model in resolve(chip))


def make_chip(
    chip: ChipSpec | Chip,
    seed: int | SeedSequence | None = None,
    device_seed: int | SeedSequence | None = None,
) -> Chip:
    """The device that is meant by itself, its address, or what is wrong with an emulated one."""
    if isinstance(chip, str) and chip.startswith(SCHEMES):
        return RemoteChip(chip)
    if isinstance(chip, Chip):
        return chip
    from .emulated import EmulatedChip  # which is made of crossbars

    return EmulatedChip(chip, seed=seed, device_seed=device_seed)


def _attach(
    network: nn.Module,
    chip: ChipSpec | Chip,
    seed: int | SeedSequence | None,
    device_seed: int | SeedSequence | None,
    unreadable: Collection[str],
) -> tuple[ChipModel, ...]:
    """Put the layers of a network on a device, in place."""
    if on_chip(network):
        raise ConfigError("the network has layers on a chip already; put it there once")
    linear = {name: module for name, module in network.named_modules() if type(module) in ON_CHIP}
    for name in unreadable:
        if name not in linear:
            raise UnknownNameError("layer of the network", name, linear)
    shape = shape_of(network, [list(linear).index(name) for name in unreadable])
    device = make_chip(chip, seed, device_seed)
    layers = fit_to(device, network, shape)
    whole = not any(isinstance(layer, DecorrelatedLinear) for layer in layers)
    attachment = Attachment(device, layers, whole)
    for index, (layer, spec) in enumerate(zip(layers, attachment.specs, strict=True)):
        layer.__class__ = ON_CHIP[type(layer)]  # type: ignore[assignment]
        _CROSSBARS.hide(layer, Place(attachment, index))
        if not spec.readable:
            layer.readable = False  # type: ignore[assignment]
    return tuple(getattr(device, "models", ()))


def attachments(network: nn.Module) -> list[Attachment]:
    """What the layers of a network that are on devices share, one for each device."""
    places = (_CROSSBARS.of(m) for m in network.modules() if isinstance(m, ChipLayer))
    return list({id(p.attachment): p.attachment for p in places if isinstance(p, Place)}.values())


def read_back(network: nn.Module) -> None:
    """Have the parameters of layers on devices say what the devices hold.

    Raises:
        ChipError: one does not answer.
    """
    for attachment in attachments(network):
        attachment.read_back()


def recognise(network: nn.Module) -> None:
    """See that devices hold the parameters of their layers, and leave them as they are.

    Raises:
        ConfigError: one holds something else.
    """
    for attachment in attachments(network):
        attachment.recognise()


def on_chip(network: nn.Module) -> bool:
    """Whether a network has a layer on a chip, so that its noise cannot be read.

    Asked in every learning step, so without the bookkeeping of `nn.Module.modules`, which takes
    four times as long.
    """
    left: list[nn.Module | None] = [network]
    while left:
        module = left.pop()
        if isinstance(module, ChipLayer):
            return True
        if module is not None:
            left.extend(module._modules.values())
    return False


def off_chip_copy(network: Module) -> Module:
    """A copy of a network off its chip: the ideal network with the weights as written, or read."""
    read_back(network)
    memo: dict[int, nn.Module] = {}
    for module in network.modules():
        if isinstance(module, ChipLayer):
            twin = nn.Module.__new__(module.off_chip)
            vars(twin).update(copy.deepcopy(vars(module), memo))
            memo[id(module)] = twin
    return copy.deepcopy(network, memo)


def save_chip(network: nn.Module) -> bytes:
    """How often the layers of a chip ran, and where their noise is; sealed.

    Noise that could be read from a file would be noise that is known.

    Args:
        network: on a chip.
    """
    crossbars = _crossbars(network)
    return seal([crossbar.save() for crossbar in crossbars], _secret(crossbars), "chip")


def restore_chip(network: nn.Module, capsule: bytes) -> None:
    """Continue from a state that `save_chip` found, in a chip that has not run as far.

    Never back: the noise of a step could be had again with other inputs, and subtracted.

    Args:
        network: on the same chip: the same architecture, models and seeds.
        capsule: the state.

    Raises:
        DamagedFileError: it was damaged, or is that of another chip.
        NoiseInaccessibleError: the chip has run further.
    """
    crossbars = _crossbars(network)
    states = unseal(capsule, _secret(crossbars), "chip")
    if any(c.ran_beyond(state) for c, state in zip(crossbars, states, strict=True)):
        raise NoiseInaccessibleError(
            "this chip has run further than the state that was saved, and going back would let its "
            "noise be had again: make the chip anew, with its seed, and restore that"
        )
    for crossbar, state in zip(crossbars, states, strict=True):
        crossbar.restore(state)


def _crossbars(network: nn.Module) -> list[Crossbar | Place]:
    layers = [module for module in network.modules() if isinstance(module, ChipLayer)]
    return [_CROSSBARS.of(layer) for layer in layers]


def _secret(crossbars: Sequence[Crossbar | Place]) -> list[int]:
    return [word for crossbar in crossbars for word in crossbar.secret()]


def _seeds(sequence: SeedSequence, count: int) -> list[int]:
    return [int(child.generate_state(1, "uint64")[0] >> 1) for child in sequence.spawn(count)]
