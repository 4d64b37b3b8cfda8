"""A step of a torch optimiser on gradients that are the same arrays every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class FusedStep:
    """A step of an optimiser, without what torch looks up every time.

    Adam and AdamW step in the one kernel that their ``fused=True`` means, on the state that the
    optimiser keeps and saves. Other optimisers are handed the gradients and step by themselves.

    Args:
        optimizer: with its settings as they are now.
        parameters: that learn.
        gradients: the gradients of each, filled before every step.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        gradients: Sequence[Tensor],
    ) -> None:
        self.optimizer = optimizer
        self._pairs = list(zip(parameters, gradients, strict=True))
        self._kernels = self._adam()

    def __call__(self) -> None:
        """Step."""
        if self._kernels is None:
            for parameter, gradient in self._pairs:
                parameter.grad = gradient
            self.optimizer.step()
            for parameter, _ in self._pairs:
                parameter.grad = None  # the array is written to again
            self._kernels = self._adam()
            return
        for kernel, count, arguments, settings in self._kernels:
            count += 1
            kernel(*arguments, **settings)

    def _adam(self) -> list[tuple[Any, Tensor, list[Any], dict[str, Any]]] | None:
        """The kernels and what they take; None for other optimisers, and before a first step."""
        optimizer = self.optimizer
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
            return None
        if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            return None
        own = {id(parameter): gradient for parameter, gradient in self._pairs}
        found = []
        for group in optimizer.param_groups:
            members = [p for p in group["params"] if id(p) in own]
            states = [optimizer.state.get(p, {}) for p in members]
            if not all(states) or not group["fused"] or group["amsgrad"] or group["maximize"]:
                return None
            if isinstance(group["lr"], Tensor) or not members:
                return None
            decoupled = group.get("decoupled_weight_decay", type(optimizer) is torch.optim.AdamW)
            kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
            beta1, beta2 = group["betas"]
            means, squares = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq"))
            # In one tensor, to count all up at once.
            count = torch.stack([state["step"] for state in states])
            for state, own_count in zip(states, count.unbind(), strict=True):
                state["step"] = own_count
            gradients = [own[id(p)] for p in members]
            settings = {name: group[name] for name in ("lr", "weight_decay", "eps")}
            settings |= {"beta1": beta1, "beta2": beta2, "amsgrad": False, "maximize": False}
            arguments = [members, gradients, means, squares, [], list(count.unbind())]
            found.append((kernel, count, arguments, settings))
        return found
