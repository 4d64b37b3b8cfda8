"""A network on an emulated noisy chip, whose activity can be read and whose noise cannot."""

from __future__ import annotations

from collections.abc import Collection
from typing import Never

from numpy.random import SeedSequence
from torch import nn
from typing_extensions import override

from nprobot.errors import NoiseInaccessibleError
from nprobot.policies.chip.contract import Chip
from nprobot.policies.chip.crossbar import off_chip_copy, put_on_chip
from nprobot.policies.chip.nonidealities import ChipSpec

from .activity import Tree


class NoisyNetwork(nn.Module):
    """A network on an emulated noisy chip.

    Every layer's pre-activations carry noise, in learning and afterwards. Inputs and
    pre-activations of the layers can be read, as on hardware; the noise, its generators and what
    the chip makes of the weights are not to be found. So rules that have to know the noise (NP,
    INP, DNP, DINP) raise `NoiseInaccessibleError`; NP and DNP with learned feedback, ANP and DANP
    learn from several noisy passes; see `nprobot.learning.hidden_noise`. Backpropagation
    differentiates the weights as written around the noisy activity.

    Args:
        network: any module. Its layers move to the chip, in place: they stay the same objects, so
            an SB3 policy that shares them is on the chip, too. Its parameters are what is written
            to the chip, and what learning changes.
        node_noise: what is wrong with the chip: a standard deviation, a model such as
            `GaussianNoise(0.06)` or `WeightMismatch(0.3)`, a preset (``"analog"``,
            ``"spintronic"``, ``"ideal"``), or a sequence of these, which apply in order; see
            `nprobot.policies.chip`. Or a device (`nprobot.Chip`), the address of one, or a preset
            with weights that are written by pulses.
        seed: the seed of everything random on the chip; None draws one, which nobody learns.
        device_seed: which device it is: decides what is fixed for life, such as mismatch. From
            `seed` if None.
        unreadable: names of the network's layers whose pre-activations never leave the chip, and
            so the inputs of the next layer. Such a layer stays as it is, as do the weights of the
            next one; layers before and after them learn.

    Attributes:
        network: the network, its layers on the chip.
        models: what is wrong with the chip.

    Raises:
        ConfigError: a model has an impossible value, or the network cannot be put on a chip.
    """

    def __init__(
        self,
        network: nn.Module,
        node_noise: ChipSpec | Chip,
        *,
        seed: int | SeedSequence | None = None,
        device_seed: int | None = None,
        unreadable: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.models = put_on_chip(
            network, node_noise, seed=seed, device_seed=device_seed, unreadable=unreadable
        )

    @override
    def forward(self, inputs: Tree) -> Tree:
        """Noisy outputs for a batch."""
        return self.network(inputs)

    def off_chip_copy(self) -> nn.Module:
        """A copy of the network off the chip, ideal, with the weights as written."""
        return off_chip_copy(self.network)

    @override
    def extra_repr(self) -> str:
        """What is printed between the brackets."""
        return ", ".join(map(repr, self.models))

    @override
    def __reduce_ex__(self, protocol: object) -> Never:
        raise NoiseInaccessibleError(
            "NoisyNetwork cannot be copied or pickled: the copy would let the chip's noise be "
            "tried out in advance. Save its state_dict(), or copy the network off the chip with "
            "off_chip_copy()"
        )
