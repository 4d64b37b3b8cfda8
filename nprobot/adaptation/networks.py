"""Between a policy file and a policy that NRL trains: the same network, both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from nprobot.errors import RuleError
from nprobot.policies.chip.crossbar import off_chip_copy
from nprobot.policies.direct_policy import DirectPolicy
from nprobot.policies.files.policy import BoxAction, Operation, Policy
from nprobot.policies.files.torch_policy import MODULES
from nprobot.policies.layers import fold


def check_trainable(policy: Any) -> Policy:  # noqa: ANN401 - whatever deployment can run
    """The policy, if NRL can go on training it.

    Raises:
        RuleError: it is an ONNX file, has discrete or unbounded actions, or another
            network than linear layers with one kind of activation between them.
    """
    if not isinstance(policy, Policy):
        raise RuleError(
            "an ONNX policy cannot learn: give the policy folder (policy.json and "
            "policy.safetensors), with backend numpy"
        )
    if not isinstance(policy.action, BoxAction):
        raise RuleError(
            "NRL learns by perturbing continuous actions; this policy chooses between "
            f"{' × '.join(map(str, policy.action.choices))} discrete ones"
        )
    if not (np.isfinite(policy.action.low).all() and np.isfinite(policy.action.high).all()):
        raise RuleError(
            "NRL needs bounds of all actions, as noise is in shares of their range; this policy "
            "has none for some"
        )
    if not (policy.action.low < policy.action.high).all():
        raise RuleError("an action whose bounds are equal cannot be perturbed")
    names = [operation.name for operation in policy.operations if operation.name != "flatten"]
    activations = names[1::2]
    if len(names) % 2 == 0 or set(names[::2]) != {"linear"} or len(set(activations)) > 1:
        raise RuleError(
            "NRL trains linear layers with one kind of activation between them; this policy has "
            + ", ".join(names)
        )
    return policy


def architecture(policy: Policy) -> dict[str, Any]:
    """Arguments that make a `DirectPolicy` with the policy's layers."""
    linear = _linear(policy.operations)
    others = [o for o in policy.operations if o.name not in ("linear", "flatten")]
    activation: Callable[[], nn.Module] = nn.Tanh
    if others:
        activation = _Activation(MODULES[others[0].name], dict(others[0].settings))
    return {
        "net_arch": [len(operation.arrays["bias"]) for operation in linear[:-1]],
        "activation_fn": activation,
    }


class _Activation:
    """Makes activations of one kind, with settings; can be copied and compared."""

    def __init__(self, kind: type[nn.Module], settings: dict[str, float]) -> None:
        self.kind = kind
        self.settings = settings

    def __call__(self) -> nn.Module:
        return self.kind(**self.settings)

    @override
    def __repr__(self) -> str:
        return repr(self())


@torch.no_grad()
def write_network(policy: Policy, target: DirectPolicy) -> None:
    """Write a policy's numbers into a policy that NRL trains; both then act alike.

    Args:
        policy: that `check_trainable` has let pass.
        target: made with the arguments of `architecture`.
    """
    layers = [module for module in target.actor if isinstance(module, nn.Linear)]
    for layer, (weight, bias) in zip(layers, _unit_layers(policy), strict=True):
        layer.weight.copy_(torch.as_tensor(weight))
        layer.bias.copy_(torch.as_tensor(bias))


def read_network(source: DirectPolicy, policy: Policy) -> Policy:
    """A policy like the one given, with what NRL has learned; noise and chip left behind."""
    assert isinstance(policy.action, BoxAction)
    with torch.random.fork_rng(devices=[]):
        plain = fold(off_chip_copy(source.actor))
    layers = iter([module for module in plain if isinstance(module, nn.Linear)])
    operations = []
    for operation in policy.operations:
        if operation.name != "linear":
            operations.append(operation)
            continue
        layer = next(layers)
        arrays = {"weight": layer.weight.detach().numpy(), "bias": layer.bias.detach().numpy()}
        operations.append(Operation("linear", {k: v.copy() for k, v in arrays.items()}))
    action = replace(policy.action, mapping="rescale")
    return replace(policy, operations=tuple(operations), action=action)


def _unit_layers(policy: Policy) -> list[tuple[Any, Any]]:
    """Weights and biases with outputs of ±1 for the bounds of an action."""
    assert isinstance(policy.action, BoxAction)
    arrays = [(o.arrays["weight"], o.arrays["bias"]) for o in _linear(policy.operations)]
    if policy.action.mapping == "clip":
        low, high = policy.action.low.reshape(-1), policy.action.high.reshape(-1)
        half, middle = (high - low) / 2, (high + low) / 2
        weight, bias = arrays[-1]
        arrays[-1] = (weight / half[:, None], (bias - middle) / half)
    return arrays


def _linear(operations: Sequence[Operation]) -> list[Operation]:
    return [operation for operation in operations if operation.name == "linear"]
