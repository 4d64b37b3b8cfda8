"""Between torch and policy files: layers to operations, and a policy as a torch module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ArchitectureError
from .policy import KINDS, Array, BoxAction, Operation, Policy

MODULES: Mapping[str, type[nn.Module]] = {
    name: getattr(nn, kind.module) for name, kind in KINDS.items()
}
"""What torch calls the kinds of operations."""
NAMES: Mapping[type[nn.Module], str] = {module: name for name, module in MODULES.items()}


def operations(network: nn.Module) -> Iterator[Operation]:
    """The operations of a layer, or of all layers of an `nn.Sequential`; numbers are copied.

    Args:
        network: without decorrelated layers; `nprobot.policies.fold` makes it so.

    Raises:
        ArchitectureError: policy files do not know a layer.
    """
    if isinstance(network, nn.Sequential):
        for layer in network:
            yield from operations(layer)
        return
    name = NAMES.get(type(network))
    if name is None or getattr(network, "approximate", "none") != "none":
        known = ", ".join(module.__name__ for module in NAMES)
        raise ArchitectureError(f"layer {network} cannot be exported; known: {known}")
    kind = KINDS[name]
    yield Operation(
        name,
        {key: _array(network, key) for key in kind.arrays},
        {key: float(getattr(network, key)) for key in kind.settings},
    )


def layer(operation: Operation) -> nn.Module:
    """The layer that computes an operation in float32; its numbers are copies, and do not learn."""
    module = MODULES[operation.name]
    if not operation.arrays:
        return module(**operation.settings)
    outputs, inputs = operation.arrays["weight"].shape
    # On the device "meta", so that no initial weights are drawn from the generator.
    made = module(inputs, outputs, device="meta", **operation.settings)
    arrays = {name: torch.tensor(array).float() for name, array in operation.arrays.items()}
    made.load_state_dict(arrays, assign=True)
    return made.requires_grad_(False)


class TorchPolicy(nn.Module):
    """A deterministic policy, raw observations in, actions inside their bounds out.

    Args:
        policy: what it computes; its numbers are copied.
    """

    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        normaliser, action = policy.normaliser, policy.action
        self.clip = None if normaliser is None else normaliser.clip
        if normaliser is not None:
            deviation = np.sqrt(normaliser.var + normaliser.epsilon)
            self.register_buffer("mean", torch.tensor(normaliser.mean))
            self.register_buffer("deviation", torch.tensor(deviation))
        self.network = nn.Sequential(*map(layer, policy.operations))
        self.action = action
        if isinstance(action, BoxAction):
            dtype = torch.float32 if action.low.dtype == np.float32 else torch.float64
            self.register_buffer("low", torch.tensor(action.low, dtype=dtype))
            self.register_buffer("high", torch.tensor(action.high, dtype=dtype))

    def forward(self, observation: Tensor) -> Tensor:
        """Actions (B, *action) for raw observations (B, *observation), best in float64."""
        x = observation
        if self.clip is not None:
            x = ((x - self.mean) / self.deviation).clamp(-self.clip, self.clip)
        outputs: Tensor = self.network(x.float())
        if isinstance(self.action, BoxAction):
            actions = outputs.reshape(-1, *self.low.shape).to(self.low.dtype)
            if self.action.mapping == "rescale":
                actions = self.low + 0.5 * (actions + 1) * (self.high - self.low)
            return actions.clamp(self.low, self.high)
        parts = torch.split(outputs, list(self.action.choices), dim=-1)
        chosen = torch.stack([part.argmax(-1) for part in parts], dim=-1)
        return chosen if self.action.several else chosen[:, 0]

    @torch.no_grad()
    def predict(self, observations: Array) -> Array:
        """The same from numpy to numpy."""
        actions: Array = self(torch.as_tensor(observations)).numpy()
        return actions


def _array(module: nn.Module, name: str) -> Array:
    value: Tensor | None = getattr(module, name)
    if value is None:  # a layer without bias
        value = torch.zeros(len(module.get_parameter("weight")))
    array: Array = value.detach().cpu().float().numpy().copy()
    return array
