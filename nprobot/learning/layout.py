"""Where a network has the axis of its batch.

Layers learn from inputs whose first axis is the batch. Networks have it elsewhere, too: behind the
time, as recurrent layers and transformers have it by default; folded with the frames of a sample
into one axis; or not at all, as where an embedding looks up the positions of a sequence, the same
for all samples. Which it is shows when the same batch is run twice as large.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nprobot.errors import RuleError

from .nodes import NodeLayer

Use = tuple[str, int]
"""A layer by name, and how often it has been used before in the pass."""
Seen = Mapping[Use, tuple[NodeLayer, Tensor]]

SECOND = "behind another axis"
NOWHERE = "nowhere"


class UnusualBatch(Exception):
    """Inputs of a layer may not have the batch as their first axis."""


class Layout:
    """Where the batch is in the inputs of each use of a layer.

    Args:
        unusual: `SECOND` or `NOWHERE`, by the use.
    """

    def __init__(self, unusual: dict[Use, str]) -> None:
        self.unusual = unusual

    def apply(
        self,
        layer: NodeLayer,
        x: Tensor,
        rows: int,
        uses: Counter[str],
        handler: Callable[[NodeLayer, Tensor], Tensor],
    ) -> Tensor:
        """What the handler makes of inputs with the batch as their first axis, put back."""
        where = self.unusual.get((layer.name, uses[layer.name]))
        uses[layer.name] += 1
        if where == SECOND:
            return handler(layer, x.transpose(0, 1)).transpose(0, 1)
        if where == NOWHERE:
            # An axis of length 1 is where it would be.
            x = x if x.shape[0] == 1 and x.dim() > 1 else x.unsqueeze(0)
            x = x.expand(rows, *x.shape[1:])
        return handler(layer, x)

    @classmethod
    def compare(cls, once: Seen, twice: Seen, batch: int) -> Layout:
        """The layout, from what layers are fed with a batch and with the same batch twice.

        Raises:
            RuleError: the batch is where it cannot be found.
        """
        unusual: dict[Use, str] = {}
        for use, (layer, x) in once.items():
            other = twice[use][1] if use in twice else x.new_empty(0)
            before, after = list(x.shape), list(other.shape)
            if before == after and layer.positionwise:
                unusual[use] = NOWHERE
            elif after == [2 * before[0], *before[1:]] and before[0] % batch == 0:
                if not torch.allclose(
                    other[: len(x)].float(), x.float(), 1e-3, 1e-3, equal_nan=True
                ):
                    raise RuleError(
                        f"layer {layer.name!r} is fed {before[0]} rows of {batch} samples, with "
                        "the samples of one frame side by side; put the frames of one sample side "
                        "by side, as x.flatten(0, 1) of (B, T, ...) does"
                    )
            elif layer.positionwise and after == [before[0], 2 * batch, *before[2:]]:
                unusual[use] = SECOND
            else:
                raise RuleError(
                    f"layer {layer.name!r} ({type(layer.module).__name__}) is fed shape "
                    f"{tuple(before)}, in which the axis of the {batch} samples is not the first; "
                    "move it there (batch_first=True, x.transpose(0, 1))"
                )
        return cls(unusual)


USUAL = Layout({})
LAYOUTS: WeakKeyDictionary[nn.Module, dict[Any, Layout]] = WeakKeyDictionary()
"""What is known of networks, by the shapes of their inputs and the names of their layers."""


def looks_usual(layer: NodeLayer, x: Tensor, rows: int) -> bool:
    """Whether inputs can only be a batch with this number of rows."""
    if x.shape[0] != rows:
        return False
    if not layer.positionwise:
        return True
    return (x.dim() == 2 and x.is_floating_point()) or (x.dim() > 2 and x.shape[1] != rows)


def tree_shapes(inputs: Any) -> Any:  # noqa: ANN401 - hashable
    """The shapes of all tensors of a tree."""
    if isinstance(inputs, Tensor):
        return inputs.shape
    if isinstance(inputs, dict):
        return tuple((key, tree_shapes(value)) for key, value in inputs.items())
    if isinstance(inputs, tuple | list):
        return tuple(map(tree_shapes, inputs))
    return None
