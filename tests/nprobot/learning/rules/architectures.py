"""Networks of the kinds that people's policies are, each with the shape of an input."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from nprobot.policies import BiasHead, ParameterUse


class ResidualConvolutions(nn.Module):
    """GroupNorm, a depthwise and a dilated convolution, a sum, a pooled head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.pointwise = nn.Conv2d(4, 4, 1, bias=False)
        self.dilated = nn.Conv2d(4, 4, 2, dilation=2, stride=2, padding="valid")
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.first(x)
        x = x + self.pointwise(self.depthwise(F.elu(self.norm(x))))
        return self.head(F.elu(self.dilated(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """Any recurrent module of torch, over a sequence (B, T, d), and what it says at the end."""

    def __init__(self, kind=nn.GRU, *, batch_first=True, **settings):
        super().__init__()
        self.memory = kind(3, 5, batch_first=batch_first, **settings)
        self.head = nn.Linear(5 * (1 + self.memory.bidirectional), 3)

    def forward(self, x):
        if self.memory.batch_first:
            return self.head(self.memory(x)[0][:, -1])
        y, last = self.memory(x.transpose(0, 1))
        last = last[0] if isinstance(last, tuple) else last
        return self.head(y).mean(0) + last[-1, :, :3]


class CellByCell(nn.Module):
    def __init__(self, kind=nn.LSTMCell):
        super().__init__()
        self.cell, self.head = kind(3, 5), nn.Linear(5, 3)

    def forward(self, x):
        state = None
        for x_t in x.unbind(1):
            state = self.cell(x_t, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class HandWritten(nn.Module):
    """A recurrent network of two layers, written down over time."""

    def __init__(self):
        super().__init__()
        self.take, self.keep = nn.Linear(3, 6), nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        h = x.new_zeros(len(x), 6)
        for x_t in x.unbind(1):
            h = torch.tanh(self.take(x_t) + self.keep(h))
        return self.head(h)


class Transformer(nn.Module):
    """A block of torch's, norm first, with positions: causal, or the time before the batch."""

    def __init__(self, *, batch_first=True, size=4):
        super().__init__()
        self.embed = nn.Linear(3, size)
        self.position = nn.Embedding(5, size)
        self.block = nn.TransformerEncoderLayer(
            size, 2, 6, dropout=0.0, norm_first=True, batch_first=batch_first, activation="gelu"
        )
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, 3)

    def forward(self, x):
        h = self.embed(x) + self.position(torch.arange(x.shape[1]))
        if self.block.self_attn.batch_first:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
            return self.head(self.norm(self.block(h, mask, is_causal=True))).mean(1)
        return self.head(self.norm(self.block(h.transpose(0, 1)))).mean(0)


class CrossAttention(nn.Module):
    """Queries that are parameters look at a sequence whose width is another."""

    def __init__(self):
        super().__init__()
        self.queries = BiasHead(nn.Parameter(0.5 * torch.randn(2, 4)))
        self.attention = nn.MultiheadAttention(
            4, 2, kdim=3, vdim=3, batch_first=True, add_zero_attn=True
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[:, -1] = True
        y, weights = self.attention(self.queries(x), x, x, key_padding_mask=mask)
        return self.head(y.flatten(1)) + weights[:, 0, :3]


class Joined(nn.Module):
    """An image and a state, two branches that are joined."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(1, 3, 2), nn.PReLU(3), nn.Flatten(), nn.Linear(12, 4))
        self.state = nn.Sequential(nn.Linear(9, 4), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        image, state = self.image(x), self.state(x.flatten(1))
        return self.head(F.elu(torch.cat([image, state], 1)))


class Frames(nn.Module):
    """Frames folded into the batch, seen by convolutions, and then looked at together."""

    def __init__(self):
        super().__init__()
        self.see = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ELU(), nn.Flatten(), nn.Linear(8, 3))
        self.memory, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        seen = self.see(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.head(self.memory(seen)[0][:, -1])


class Tied(nn.Module):
    """Tokens by what an observation says, and a head that has the embedding's weights."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(6, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        tokens = self.embed((x > 0).long() + 2 * (x > 1).long())
        return self.head(torch.tanh(self.mix(tokens.mean(1))))[:, :3]


class Bare(nn.Module):
    """Parameters that belong to no layer, their uses declared."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(0.1 * torch.randn(1, 5, 3))
        self.scale = nn.Parameter(torch.rand(3))
        self.shift = nn.Parameter(torch.randn(4))
        self.matrix = nn.Parameter(torch.randn(3, 4))
        self.add_position = ParameterUse(torch.add, self.position)
        self.times_scale = ParameterUse(torch.mul, self.scale)
        self.times_matrix = ParameterUse(torch.matmul, self.matrix)
        self.less_shift = ParameterUse(torch.sub, self.shift)
        self.out = ParameterUse(F.linear, nn.Parameter(torch.randn(3, 4)))

    def forward(self, x):
        h = torch.tanh(self.times_scale(self.add_position(x)))
        return self.out(torch.tanh(self.less_shift(self.times_matrix(h)))).mean(1)


class Spatial(nn.Module):
    """Convolutions of one and three dimensions, transposed ones, norms in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv1d(2, 4, 3, groups=2, padding=1, padding_mode="circular")
        self.batch = nn.BatchNorm1d(4)
        self.back = nn.ConvTranspose1d(4, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.instance = nn.InstanceNorm1d(4, affine=True)
        self.three = nn.Conv3d(1, 2, (2, 2, 3), stride=(1, 2, 2), padding="valid")
        self.up = nn.ConvTranspose2d(2, 2, 2, dilation=2, bias=False)
        self.root = nn.RMSNorm(2)
        self.head = nn.Linear(2, 3)
        self.batch.running_var.fill_(2.0)
        self.batch.running_mean.fill_(0.3)
        self.batch.eval()

    def train(self, mode=True):
        super().train(mode)
        self.batch.eval()
        return self

    def forward(self, x):
        h = self.instance(self.back(torch.tanh(self.batch(self.one(x)))))
        h = torch.tanh(self.three(h[:, None, :, :, None].expand(-1, -1, -1, -1, 3)))
        h = self.up(h.mean(4))
        return self.head(self.root(h.flatten(2).mT)).mean(1)


ARCHITECTURES = {
    "residual convolutions": (ResidualConvolutions, (2, 5, 5)),
    "GRU": (Recurrent, (4, 3)),
    "LSTM of two layers": (lambda: Recurrent(nn.LSTM, num_layers=2, batch_first=False), (4, 3)),
    "RNN in both directions": (
        lambda: Recurrent(nn.RNN, bidirectional=True, nonlinearity="relu"),
        (3, 3),
    ),
    "LSTM cell": (CellByCell, (3, 3)),
    "GRU cell": (lambda: CellByCell(nn.GRUCell), (3, 3)),
    "hand-written RNN": (HandWritten, (4, 3)),
    "transformer": (Transformer, (4, 3)),
    "transformer, time first": (lambda: Transformer(batch_first=False), (4, 3)),
    "cross-attention": (CrossAttention, (4, 3)),
    "two branches": (Joined, (1, 3, 3)),
    "frames": (Frames, (3, 1, 3, 3)),
    "tied embedding": (Tied, (3,)),
    "bare parameters": (Bare, (5, 3)),
    "one and three dimensions": (Spatial, (2, 3)),
}
"""What makes the network, and the shape of a sample."""


def with_gains_that_differ(net):
    """The same network, its gains and biases not all 1 and 0."""
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() == 1:
                p += 0.3 * torch.randn_like(p)
    return net
