"""A network and a loop that you write: rule.backward in the place of loss.backward.

python scripts/examples/own_loop.py
"""

import argparse

import torch
from torch import nn

import nprobot


class Residual(nn.Module):
    """What lies between the layers is up to you; here a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(21, 64), nn.Linear(64, 64)
        self.last = nn.Linear(64, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (B, 7) of inputs (B, 21)."""
        hidden = torch.tanh(self.first(x))
        return self.last(hidden + torch.tanh(self.second(hidden)))


def main(rule: str = "np+feedback", steps: int = 1000) -> tuple[float, float]:
    """Learn what a random teacher does; returns the error before and after."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(21, 64), nn.Tanh(), nn.Linear(64, 7))
    inputs = torch.randn(4096, 21)
    targets = teacher(inputs).detach()

    learner = nprobot.learning_rule(rule, seed=0)
    network: nn.Module = Residual()
    if learner.decorrelated:
        network = nprobot.policies.decorrelate(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)

    with torch.no_grad():
        before = float((network(inputs) - targets).square().mean())
        for _ in range(steps):
            rows = torch.randint(len(inputs), (64,))
            x, y = inputs[rows], targets[rows]
            optimizer.zero_grad()
            learner.backward(network, x, lambda out, y=y: (out - y).square().mean(-1))
            optimizer.step()
            learner.decorrelate(network)
        after = float((network(inputs) - targets).square().mean())
    print(f"error {before:.3f} before, {after:.4f} after {learner.forward_passes:,} passes")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rule", default="np+feedback")
    parser.add_argument("--steps", type=int, default=1000)
    main(**vars(parser.parse_args()))
