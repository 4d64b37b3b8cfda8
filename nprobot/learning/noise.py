"""Perturbations: seeded draws of Gaussian, Rademacher or orthogonal node noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nprobot.errors import RuleError, did_you_mean


def gaussian(
    shape: Sequence[int], like: Tensor, generator: torch.Generator, scale: float = 1.0
) -> Tensor:
    """Normal noise of the given shape, on the device and of the type of `like`."""
    noise = torch.randn(*shape, dtype=like.dtype, device=like.device, generator=generator)
    return noise.mul_(scale)


def rademacher(
    shape: Sequence[int], like: Tensor, generator: torch.Generator, scale: float = 1.0
) -> Tensor:
    """Random signs of the given shape: eight a byte of randomness, a ninth of the Gaussian's time.

    One random 64-bit word makes 64 signs; each of its bytes picks a row of a table of 256 x 8.
    """
    count = math.prod(shape)
    words = torch.empty(-(-count // 64), dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None, generator=generator)
    table = _signs(like.dtype, like.device, scale)
    if like.is_cpu:  # numpy's lookup takes half of torch's time
        rows = table.numpy().take(words.numpy().view(np.uint8), axis=0)
        return torch.from_numpy(rows.reshape(-1)[:count].reshape(shape))
    return F.embedding(words.view(torch.uint8).int(), table).view(-1)[:count].view(*shape)


def orthogonal(
    shape: Sequence[int], like: Tensor, generator: torch.Generator, scale: float = 1.0
) -> Tensor:
    """Directions of length √N, times `scale`, orthogonal to each other across a sample's K draws.

    Uniform over the sphere each, as Gaussian noise is in direction; blocks of N where K is larger.

    Args:
        shape: (K, ..., N).
        like: gives device and type.
        generator: the generator of the random numbers.
        scale: the standard deviation.
    """
    draws, nodes = shape[0], shape[-1]
    blocks = []
    for start in range(0, draws, nodes):
        count = min(nodes, draws - start)
        columns = gaussian((*shape[1:-1], nodes, count), like, generator)
        q, r = torch.linalg.qr(columns)
        # The signs of a QR decomposition are a convention; without it Q is uniform.
        q = q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)
        blocks.append(q.movedim(-1, 0))
    return torch.cat(blocks).mul_(scale * math.sqrt(nodes))


DISTRIBUTIONS: dict[str, Callable[[Sequence[int], Tensor, torch.Generator, float], Tensor]] = {
    "gaussian": gaussian,
    "rademacher": rademacher,
    "orthogonal": orthogonal,
}


class PerturbationStream:
    """A seeded stream of perturbations whose place in the stream can be saved.

    Args:
        distribution: ``"gaussian"``, ``"rademacher"`` or ``"orthogonal"``; mean 0 and variance 1.
        seed: the seed of the stream; None draws one from the operating system.
        antithetic: whether every draw comes with its negative.

    Raises:
        RuleError: unknown distribution.
    """

    def __init__(self, distribution: str, seed: int | None, *, antithetic: bool = False) -> None:
        if distribution not in DISTRIBUTIONS:
            hint = did_you_mean(distribution, DISTRIBUTIONS)
            raise RuleError(
                f"unknown noise {distribution!r}{hint}. Known: {', '.join(DISTRIBUTIONS)}"
            )
        self.distribution = distribution
        self.antithetic = antithetic
        self.seed = torch.Generator().seed() if seed is None else int(seed)
        self._generators: dict[str, torch.Generator] = {}

    def draw(self, shape: Sequence[int], like: Tensor, scale: float = 1.0) -> Tensor:
        """Noise of the given shape and standard deviation, on the device and of the type of `like`.

        Antithetic noise needs an even first axis.
        """
        generator = self.generator(like.device)
        if not self.antithetic:
            return DISTRIBUTIONS[self.distribution](shape, like, generator, scale)
        half = DISTRIBUTIONS[self.distribution]((shape[0] // 2, *shape[1:]), like, generator, scale)
        return torch.cat([half, -half])

    def normal_like(self, like: Tensor, scale: float) -> Tensor:
        """Normal noise of the shape of `like`, whatever the distribution of the others."""
        return gaussian(like.shape, like, self.generator(like.device), scale)

    def generator(self, device: torch.device) -> torch.Generator:
        """The stream of a device; made when first asked for, as a GPU may not be there."""
        name = "cpu" if device.type == "cpu" else str(device)  # which takes a third of a draw
        if (generator := self._generators.get(name)) is None:
            generator = torch.Generator(device).manual_seed(self.seed)
            self._generators[name] = generator
        return generator

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_generators": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _generators={})
        self.load_state_dict(state["_generators"])

    def state_dict(self) -> dict[str, Tensor]:
        """The place in each device's stream, byte tensors by device name."""
        return {device: generator.get_state() for device, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved place."""
        self._generators.clear()
        for device, place in state.items():
            self.generator(torch.device(device)).set_state(place)


@lru_cache(maxsize=64)
def _signs(dtype: torch.dtype, device: torch.device, scale: float) -> Tensor:
    """The signs that each byte stands for, times `scale`; shape (256, 8)."""
    bits = (torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1
    return scale * (2 * bits - 1).to(device, dtype)
