"""Every rule against reference vectors from the first author's code, float64, agreement to 1e-6."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import nprobot
from nprobot.policies import mlp

PLAIN_RULES = [
    name
    for name, rule in nprobot.catalogue.rules().items()
    if not rule.feedback and not rule.traits.peer
]

GOLDEN = Path(__file__).parent / "golden"
CASES = [
    (file, rule, draws)
    for file, draws_more in (("mse", 3), ("ce", 4))
    for rule in PLAIN_RULES
    for draws in ((0,) if "bp" in rule else (1, draws_more))
]


@pytest.mark.parametrize(("file", "name", "draws"), CASES)
def test_rule_agrees_with_the_reference_vectors(file, name, draws):
    golden = np.load(GOLDEN / f"golden_{file}.npz")

    def tensor(key):
        return torch.from_numpy(np.asarray(golden[key], dtype=np.float64))

    rule = nprobot.learning_rule(
        name,
        sigma=float(golden["sigma"]),
        samples=max(draws, 1),
        decorrelation_lr=float(golden["decorrelation_lr"]),
    )
    net = mlp(golden["sizes"].tolist(), "leaky_relu", decorrelated=rule.decorrelated).double()
    layers = [module for module in net if hasattr(module, "weight")]
    for i, layer in enumerate(layers):
        layer.weight.data = tensor(f"W{i}")
        layer.bias.data = tensor(f"b{i}")
        if rule.decorrelated:
            layer.R.copy_(tensor(f"R{i}"))
    x, y = tensor("x"), tensor("y")

    def loss(out):
        if file == "mse":
            return ((out - y) ** 2).mean(-1)
        return -(y * torch.log_softmax(out, -1)).sum(-1)

    noise = [tensor(f"noise{i}")[:draws] for i in range(len(layers))] if draws else None
    clean = rule.backward(net, x, loss, perturbations=noise)

    family = "dbp" if rule.decorrelated else "bp"
    key = f"{name}.K{draws}" if draws else name
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(clean, tensor(f"loss_per_sample.{family}"), **close)
    for i, layer in enumerate(layers):
        torch.testing.assert_close(layer.weight.grad, tensor(f"{key}.dW{i}"), **close)
        torch.testing.assert_close(layer.bias.grad, tensor(f"{key}.db{i}"), **close)
    if rule.decorrelated:
        rule.decorrelate(net)
        for i, layer in enumerate(layers):
            torch.testing.assert_close(layer.R, tensor(f"R{i}.after_update"), **close)
