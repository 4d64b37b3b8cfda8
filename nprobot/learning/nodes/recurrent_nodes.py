"""Nodes of recurrent layers: the pre-activations of their gates, at every time step.

A layer is unfolded over time into calls of the same weights, whose gradients add up. Its inputs and
its last state stand side by side, ``[x_t, h_{t−1}]``, as what one linear map takes. What the gates
do has no weights.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from nprobot.errors import RuleError

from .node_layer import NodeLayer, Run, add_gradient, check_weight, layer_kind, learnt

State = Any
"""h, or (h, c) of an LSTM; each of shape (B, H)."""


class GateNodes(NodeLayer):
    """The gates of one recurrent layer in one direction.

    A GRU's new state weighs what comes from h before it is added: 4 H nodes, of which the last two
    parts see x and h alone; the others have the 4 H of an LSTM or the H of a plain layer.

    Args:
        name: the name of the layer.
        module: whose parameters they are.
        suffix: of their names.
    """

    module: Any

    def __init__(self, name: str, module: nn.Module, suffix: str = "") -> None:
        super().__init__(f"{name}{suffix.replace('_', '.', 1)}", module)
        names = [f"{kind}_{part}{suffix}" for kind in ("weight", "bias") for part in ("ih", "hh")]
        check_weight(name, module, *names[:2])
        own: Any = module._parameters
        self.of_x, self.of_h = own[names[0]], own[names[1]]
        self.bias_x, self.bias_h = own.get(names[2]), own.get(names[3])
        self.size: int = self.of_h.shape[1]
        self.gru = isinstance(module, nn.GRU | nn.GRUCell)
        self.lstm = isinstance(module, nn.LSTM | nn.LSTMCell)
        self.plain = getattr(module, "nonlinearity", "tanh")

    @override
    def parameters(self) -> list[nn.Parameter]:
        own = (self.of_x, self.of_h, self.bias_x, self.bias_h)
        return [p for p in own if p is not None]

    def step(self, run: Run, x: Tensor, state: State) -> State:
        """The state after inputs x, shape (B, d)."""
        h = state[0] if self.lstm else state
        a = run(self, torch.cat([x, h], -1))
        if self.lstm:
            i, f, g, o = a.chunk(4, -1)
            c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c), c
        if self.gru:
            r, z, of_x, of_h = a.chunk(4, -1)
            new = torch.tanh(of_x + torch.sigmoid(r) * of_h)
            return new + torch.sigmoid(z) * (h - new)
        return torch.relu(a) if self.plain == "relu" else torch.tanh(a)

    @override
    def pre_activation(self, x: Tensor) -> Tensor:
        x, h = self._parts(x)
        a_x, a_h = F.linear(x, self.of_x, self.bias_x), F.linear(h, self.of_h, self.bias_h)
        if not self.gru:
            return a_x + a_h
        (gates_x, new_x), (gates_h, new_h) = self._gates(a_x), self._gates(a_h)
        return torch.cat([gates_x + gates_h, new_x, new_h], -1)

    @override
    def accumulate(self, error: Tensor, x: Tensor) -> None:
        for of, bias, own, fed in self._shares(error, x):
            add_gradient(of, own.mT, fed)
            add_gradient(bias, own)

    @override
    def outer(self, error: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [
            pair
            for of, bias, own, fed in self._shares(error, x)
            for pair in learnt((of, own.unsqueeze(-1) * fed.unsqueeze(-2)), (bias, own))
        ]

    @override
    def input_rows(self, x: Tensor) -> Tensor:
        return x

    @override
    def pull_back(self, error: Tensor, matrix: Tensor, shape: torch.Size) -> Tensor:
        return error @ matrix.mT

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and state."""
        first, size = x.shape[-1] - self.size, self.size
        return x.narrow(-1, 0, first), x.narrow(-1, first, size)

    def _gates(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The gates of a GRU, and what makes the new state."""
        return a.narrow(-1, 0, 2 * self.size), a.narrow(-1, 2 * self.size, self.size)

    def _shares(self, error: Tensor, x: Tensor) -> list[tuple[Any, Any, Tensor, Tensor]]:
        """For both maps weight, bias, node errors and what the weight was fed."""
        own_x = own_h = error
        if self.gru:
            gates, size = error.narrow(-1, 0, 2 * self.size), self.size
            own_x = error.narrow(-1, 0, 3 * size)
            own_h = torch.cat([gates, error.narrow(-1, 3 * size, size)], -1)
        fed_x, fed_h = self._parts(x)
        return [(self.of_x, self.bias_x, own_x, fed_x), (self.of_h, self.bias_h, own_h, fed_h)]


@layer_kind
class CellNodes(GateNodes):
    """Nodes of a cell, which the network itself calls step by step."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (nn.RNNCell, nn.GRUCell, nn.LSTMCell)

    @override
    def forward(self, run: Run, x: Tensor, hx: State = None) -> State:
        return self.step(run, x, _zeros(self, x, x.shape[0]) if hx is None else hx)


@layer_kind
class RecurrentNodes(NodeLayer):
    """Nodes of `RNN`, `GRU` and `LSTM`, of any number of layers, in one or both directions."""

    supports: ClassVar[tuple[type[nn.Module], ...]] = (nn.RNN, nn.GRU, nn.LSTM)
    module: Any

    def __init__(self, name: str, module: nn.RNNBase) -> None:
        super().__init__(name, module)
        if module.proj_size:
            raise self.refuse("projects its state (proj_size); use proj_size=0, and a Linear")
        ways = ("", "_reverse") if module.bidirectional else ("",)
        self.stack = [
            [GateNodes(name, module, f"_l{layer}{way}") for way in ways]
            for layer in range(module.num_layers)
        ]

    @override
    def forward(self, run: Run, x: Any, hx: State = None) -> tuple[Tensor, State]:
        if not isinstance(x, Tensor) or x.dim() != 3:
            raise RuleError(
                f"layer {self.name!r} takes a batch of sequences, a tensor of three axes: pad "
                "packed sequences (and weigh the losses), and give a single sequence a batch axis"
            )
        lstm = isinstance(self.module, nn.LSTM)
        x = x if self.module.batch_first else x.transpose(0, 1)
        outputs = list(x.unbind(1))
        last: list[State] = []
        for gates in self.stack:
            sides: list[list[Tensor]] = []
            for way in gates:
                index = len(last)
                if hx is None:
                    state = _zeros(way, x, x.shape[0])
                else:
                    state = (hx[0][index], hx[1][index]) if lstm else hx[index]
                steps = []
                for x_t in reversed(outputs) if len(sides) else outputs:
                    state = way.step(run, x_t, state)
                    steps.append(state[0] if lstm else state)
                sides.append(steps[::-1] if len(sides) else steps)
                last.append(state)
            outputs = [torch.cat(both, -1) for both in zip(*sides, strict=True)]
        y = torch.stack(outputs, 1 if self.module.batch_first else 0)
        if lstm:
            return y, (torch.stack([h for h, _ in last]), torch.stack([c for _, c in last]))
        return y, torch.stack(last)


def _zeros(gates: GateNodes, x: Tensor, rows: int) -> State:
    h = x.new_zeros(rows, gates.size)
    return (h, h) if gates.lstm else h
