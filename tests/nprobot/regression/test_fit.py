"""`nprobot.fit`: every rule learns, a seed decides all, rates follow, weights can be held."""

from __future__ import annotations

import pytest
import torch

from nprobot import catalogue, learning_rule
from nprobot.policies import mlp
from nprobot.regression import fit

from .helpers import SMALL, Watch, weights, without_times


@pytest.mark.parametrize("rule", [n for n, r in catalogue.rules().items() if not r.traits.peer])
def test_every_rule_learns(toy, rule):
    result = fit([16], toy, rule, epochs=25, batch_size=32, samples=4, learning_rate=0.02)
    assert result.scores["test"].error < 0.15
    assert result.history[0]["validation/nmse"] > 0.8
    assert (result.backward_passes > 0) == (rule in ("bp", "dbp"))


def test_danp_learns_digits(digits):
    result = fit([64], digits, "danp", samples=8, epochs=15, batch_size=64)
    assert result.scores["test"].accuracy >= 0.9
    predicted = result.model.predict(digits[0])
    assert (predicted == digits[1]).mean() >= 0.9
    assert predicted.shape == digits[1].shape
    assert result.backward_passes == 0


def test_perturbation_needs_no_backward_pass(toy, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a backward pass was run")

    # The way to the engine that `Tensor.backward`, `autograd.backward` and `autograd.grad` share.
    monkeypatch.setattr(torch.autograd, "_engine_run_backward", refuse)
    assert fit([8], toy, "danp", **SMALL).backward_passes == 0
    with pytest.raises(AssertionError, match="a backward pass"):
        fit([8], toy, "bp", **SMALL)


def test_passes_are_counted_and_no_row_is_left_out(toy):
    plain = fit([8], toy, "np", epochs=2, batch_size=100, samples=3)
    assert plain.forward_passes == 2 * 640 * (1 + 3)
    iterative = fit([8], toy, "inp", epochs=2, batch_size=100, samples=3)
    assert iterative.forward_passes == 2 * 640 * (1 + 2 * 3)
    backprop = fit([8], toy, "bp", epochs=2, batch_size=100)
    assert (backprop.forward_passes, backprop.backward_passes) == (2 * 640, 2 * 640)


def test_same_seed_same_fit(toy):
    one, same, other = (fit([8], toy, "danp", seed=s, **SMALL) for s in (1, 1, 2))
    assert torch.equal(weights(one), weights(same))
    assert without_times(one.history)[1:] == without_times(same.history)[1:]
    assert not torch.equal(weights(one), weights(other))


def test_random_numbers_of_the_caller_are_left_alone(toy):
    before = torch.get_rng_state()
    fit([8], toy, "np", **SMALL)
    assert torch.equal(before, torch.get_rng_state())


def test_patience_ends_a_fit(toy):
    result = fit(
        [8], toy, "bp", epochs=50, batch_size=32, learning_rate=0.5, lr_schedule="constant",
        patience=3,
    )  # fmt: skip
    assert result.end == "patience"
    assert result.epochs == result.best_epoch + 3 < 50


def test_step_sizes_follow_the_schedule(toy):
    rule = learning_rule("danp", samples=2, seed=0, decorrelation_lr=1e-2)
    network = mlp([4, 8, 2], decorrelated=True)
    result = fit(network, toy, rule, epochs=4, batch_size=32, learning_rate=0.01)
    rates = [row["learning_rate"] for row in result.history]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.01
    assert rates[-1] < 1e-4
    assert rule.decorrelation_lr == 1e-2  # given back as it was
    constant = fit([8], toy, "np", lr_schedule="constant", learning_rate=0.01, **SMALL)
    assert {row["learning_rate"] for row in constant.history} == {0.01}


def test_decorrelation_decorrelates(toy):
    plain, decorrelated = (
        fit([8], toy, rule, epochs=10, batch_size=32, decorrelation_lr=5e-2).history[-1]
        for rule in ("anp", "danp")
    )
    assert decorrelated["decorrelation/loss"] < 0.5 * plain["decorrelation/loss"]


def test_weights_can_be_held(toy):
    def last(**settings):
        return fit([8], toy, "np", epochs=5, batch_size=32, learning_rate=0.05, **settings)

    free, decayed, limited = last(), last(weight_decay=1.0), last(max_row_norm=0.5)
    norms = [r.history[-1]["weights/norm"] for r in (free, decayed, limited)]
    assert norms[0] > 1.2 * norms[1]
    for layer in limited.model.network[::2]:
        assert (layer.weight.norm(dim=1) <= 0.5 + 1e-6).all()
    assert any((layer.weight.norm(dim=1) > 0.5).any() for layer in free.model.network[::2])


def test_growing_weights_are_reported(toy):
    watch = Watch()
    fit([8], toy, "np", optimizer="sgd", learning_rate=3.0, reporter=watch, **SMALL)
    assert any("unstable" in text for text in watch.messages)
    quiet = Watch()
    fit([8], toy, "np", reporter=quiet, **SMALL)
    assert quiet.messages == []
    assert quiet.seen[-1].done == quiet.seen[-1].total == 3 * 20
    assert "epoch 3 of 3, validation nMSE" in quiet.seen[-1].figures


def test_ctrl_c_ends_a_fit_that_is_not_kept_at_once(toy):
    with pytest.raises(KeyboardInterrupt):
        fit([8], toy, "np", reporter=Watch(1), **SMALL)


def test_learned_feedback_learns_what_noise_alone_does_not(toy):
    settings = SMALL | {"samples": 1, "epochs": 20}
    without, learned = (
        fit([16, 16], toy, rule, **settings).scores["validation"].error
        for rule in ("dnp", "dnp+feedback")
    )
    assert learned < 0.5 * without
