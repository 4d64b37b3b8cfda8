"""Networks of every kind that the rules take, each with inputs and a loss."""

from __future__ import annotations

import torch
from torch import nn

from nprobot.policies import BiasHead, mlp


class GaussianHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(3, 2)
        self.log_std = BiasHead(2)

    def forward(self, x):
        return self.mean(x), self.log_std(x)


class Shared(nn.Module):
    """The same layer twice: its gradient is the sum over both uses."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


class Dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x):
        return torch.tanh(self.first(x["a"])) + self.second(x["b"])


def convolution():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)
    )


class Residual(nn.Module):
    """A block whose output is added to its input."""

    def __init__(self, units=16):
        super().__init__()
        self.first, self.last = nn.Linear(6, units), nn.Linear(units, 3)
        self.block = nn.Sequential(nn.Linear(units, units), nn.Tanh(), nn.Linear(units, units))

    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.last(torch.tanh(x + self.block(x)))


class Gated(nn.Module):
    """Units times units of another layer, and inputs beside units."""

    def __init__(self, units=16):
        super().__init__()
        self.value, self.gate = nn.Linear(6, units), nn.Linear(6, units)
        self.hidden, self.head = nn.Linear(units, units), nn.Linear(6 + units, 3)

    def forward(self, x):
        h = torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))
        return self.head(torch.cat([x, torch.tanh(self.hidden(h))], -1))


class Normalised(nn.Module):
    def __init__(self, units=16):
        super().__init__()
        self.first, self.hidden = nn.Linear(6, units), nn.Linear(units, units)
        self.norm = nn.LayerNorm(units, elementwise_affine=False)
        self.head = nn.Linear(units, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(self.norm(torch.tanh(self.first(x))))))


class Attention(nn.Module):
    """Self-attention over a sequence, with a residual sum and a mean over the sequence."""

    def __init__(self, units=8):
        super().__init__()
        self.embed, self.head = nn.Linear(6, units), nn.Linear(units, 3)
        self.query, self.key, self.value, self.out = (nn.Linear(units, units) for _ in range(4))

    def forward(self, x):
        h = self.embed(x)
        scores = self.query(h) @ self.key(h).mT / h.shape[-1] ** 0.5
        h = h + self.out(torch.softmax(scores, -1) @ self.value(h))
        return self.head(torch.tanh(h).mean(1))


def convolutions():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.ELU()),
        *(nn.Conv2d(6, 8, 3, stride=2), nn.ELU(), nn.Flatten()),
        *(nn.Linear(72, 16), nn.Tanh(), nn.Linear(16, 3)),
    )


def pooled():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.ELU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 2), nn.ELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    )


def tuple_loss(y):
    left, right = y
    return left.square().mean(-1) + right.abs().sum(-1)


def dict_loss(y):
    return tuple_loss((y["left"], y["right"]))


def gaussian_loss(y):
    mean, log_std = y
    return ((mean - 1) * torch.exp(-log_std)).square().sum(-1) + log_std.sum(-1)


def plain_loss(y):
    return (y - 0.3).square().mean(-1)


NETWORKS = {
    "mlp": (lambda: mlp([5, 6, 2]), torch.randn(4, 5), plain_loss),
    "nested, tuple": (lambda: Branches("tuple"), torch.randn(4, 5), tuple_loss),
    "nested, dict": (lambda: Branches("dict"), torch.randn(4, 5), dict_loss),
    "bias head": (GaussianHead, torch.randn(4, 3), gaussian_loss),
    "shared layer": (Shared, torch.randn(4, 4), plain_loss),
    "convolution": (convolution, torch.randn(4, 2, 5, 5), plain_loss),
    "no bias": (lambda: nn.Sequential(nn.Linear(5, 2, bias=False)), torch.randn(4, 5), plain_loss),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)),
        torch.randn(4, 2, 3),
        plain_loss,
    ),
    "dict inputs": (Dictionary, {"a": torch.randn(4, 3), "b": torch.randn(4, 2)}, plain_loss),
}


class Branches(nn.Module):
    """Nested modules, a skip connection and several outputs, as tuple or dict."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
        self.left = nn.Linear(8, 3)
        self.right = nn.Sequential(nn.Linear(13, 4), nn.ELU(), nn.Linear(4, 2))

    def forward(self, x):
        h = self.trunk(x)
        left, right = self.left(h), self.right(torch.cat([h, x], dim=-1))
        return {"left": left, "right": right} if self.kind == "dict" else (left, right)


def squared_error(target):
    return lambda y: ((y - target) ** 2).mean(-1)


def gradients(network):
    return torch.cat([p.grad.detach().flatten() for p in network.parameters()])


def backprop_gradients(network, inputs, loss):
    network.zero_grad()
    loss(network(inputs)).mean().backward()
    result = gradients(network).clone()
    network.zero_grad()
    return result
