"""`nprobot.alignment`: what it reports, and that it leaves no trace."""

from __future__ import annotations

import pytest
import torch

import nprobot
from nprobot.policies import mlp

from .rule_networks import Branches, squared_error


def setting(decorrelated=False):
    net = mlp([21, 64, 64, 7], decorrelated=decorrelated)
    x = torch.randn(256, 21)
    return net, x, squared_error(torch.randn(256, 7))


@pytest.mark.parametrize("name", ["bp", "dbp"])
def test_backprop_is_aligned_with_itself(name):
    net, x, loss = setting(name == "dbp")
    result = nprobot.alignment(nprobot.learning_rule(name), net, x, loss)
    for row in (*result.layers, result.total):
        assert row.cosine == pytest.approx(1, abs=1e-5)
        assert row.norm_ratio == pytest.approx(1, abs=1e-5)
        assert row.predicted_cosine == 1


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize("name", ["np", "inp", "dnp", "dinp"])
@pytest.mark.parametrize("samples", [4, 64])
def test_measured_cosines_are_the_predicted_ones(name, noise, samples):
    decorrelated = name.startswith("d")
    net, x, loss = setting(decorrelated)
    results = [
        nprobot.alignment(
            nprobot.learning_rule(name, samples=samples, noise=noise, seed=seed), net, x, loss
        )
        for seed in range(8)
    ]
    assert [row.nodes for row in results[0].layers] == [64, 64, 7]
    assert results[0].total.nodes == 135
    for rows in zip(*((*result.layers, result.total) for result in results), strict=True):
        cosine = sum(row.cosine for row in rows) / len(rows)
        ratio = sum(row.norm_ratio for row in rows) / len(rows)
        assert cosine == pytest.approx(rows[0].predicted_cosine, rel=0.2, abs=0.02)
        assert ratio * rows[0].predicted_cosine == pytest.approx(1, abs=0.2)


def test_prediction_holds_for_convolutions():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3)
    )
    rule = nprobot.learning_rule("np", samples=256, seed=0)
    x = torch.randn(64, 2, 6, 6)
    result = nprobot.alignment(rule, net, x, squared_error(torch.randn(64, 3)))
    for row in result.layers:
        assert row.cosine == pytest.approx(row.predicted_cosine, rel=0.25)


def test_more_draws_align_better():
    net, x, loss = setting()
    cosines = [
        nprobot.alignment(nprobot.learning_rule("anp", samples=k, seed=0), net, x, loss).cosine
        for k in (1, 16, 256)
    ]
    assert cosines == sorted(cosines)
    assert cosines[-1] > 0.6


def test_it_leaves_gradients_noise_and_counters_as_they_were():
    net, x, loss = setting()
    rule = nprobot.learning_rule("anp", seed=0)
    rule.backward(net, x, loss)
    grads = [p.grad for p in net.parameters()]
    values = [g.clone() for g in grads]
    before = rule.state_dict()
    nprobot.alignment(rule, net, x, loss)
    after = rule.state_dict()
    assert all(p.grad is g for p, g in zip(net.parameters(), grads, strict=True))
    assert all(torch.equal(g, v) for g, v in zip(grads, values, strict=True))
    assert torch.equal(before["noise"]["cpu"], after["noise"]["cpu"])
    assert before["forward_passes"] == after["forward_passes"]


def test_table_names_the_layers_of_nested_networks():
    x = torch.randn(16, 5)
    result = nprobot.alignment(
        nprobot.learning_rule("anp", seed=0),
        Branches("tuple"),
        x,
        lambda y: y[0].square().sum(-1) + y[1].square().sum(-1),
    )
    table = str(result)
    for name in ("trunk.0", "left", "right.0", "right.2", "all"):
        assert name in table
