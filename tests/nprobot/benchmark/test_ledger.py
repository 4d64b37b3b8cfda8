"""The ledger against costs worked out by hand from the sizes of the layers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import nprobot
from nprobot.benchmark import METHODS, RunSpec
from nprobot.benchmark.execution import Recorder
from nprobot.benchmark.ledger import Phase, multiply_adds

SIZES = [5, 7, 6, 3]
BATCH = 10


def forward(sizes=SIZES, first=0):
    """Of one sample through the layers from `first` on."""
    return sum(d * h for d, h in list(pairwise(sizes))[first:])


def decorrelation(batch, sizes=SIZES):
    """x* = R x and C = mean x* x*ᵀ for every sample, C R once a step."""
    return sum(2 * batch * d * d + d**3 for d in sizes[:-1])


def folding(sizes=SIZES):
    """The product W R, once a step: noisy passes then cost what plain ones do."""
    return sum(h * d * d for d, h in pairwise(sizes))


def cost(name, samples):
    """Of one gradient step and one update of R."""
    rule = nprobot.learning_rule(name, samples=samples, seed=0)
    network = nprobot.policies.mlp(SIZES, decorrelated=rule.decorrelated)
    x = torch.randn(BATCH, SIZES[0])

    def step():
        rule.backward(network, x, lambda y: y.square().mean(-1))
        rule.decorrelate(network)

    return multiply_adds(step)


def test_backprop_costs_three_passes_less_the_gradient_of_the_input():
    assert cost("bp", 1) == BATCH * (3 * forward() - SIZES[0] * SIZES[1])


@pytest.mark.parametrize("name", ["np", "anp"])
@pytest.mark.parametrize("samples", [1, 8])
def test_perturbation_costs_a_clean_pass_an_outer_product_and_noisy_passes(name, samples):
    # The first layer's pre-activation is the same in all passes and is computed once.
    assert cost(name, samples) == BATCH * (2 * forward() + samples * forward(first=1))


def test_iterative_perturbation_pays_for_the_layers_behind_the_noisy_one():
    noisy = forward(first=1) + forward(first=2)
    assert cost("inp", 4) == BATCH * (2 * forward() + 4 * noisy)


@pytest.mark.parametrize("name", ["dnp", "danp"])
@pytest.mark.parametrize("samples", [1, 8])
def test_decorrelation_is_in_the_bill(name, samples):
    plain = BATCH * (2 * forward() + samples * forward(first=1))
    assert cost(name, samples) == plain + decorrelation(BATCH) + folding()


def test_the_products_that_torch_has():
    a, b, v = torch.ones(2, 3), torch.ones(3, 4), torch.ones(3)
    assert multiply_adds(lambda: a @ b) == 24
    assert multiply_adds(lambda: a @ v) == 6
    assert multiply_adds(lambda: v @ v) == 3
    assert multiply_adds(lambda: torch.ones(5, 2, 3) @ torch.ones(5, 3, 4)) == 120
    assert multiply_adds(lambda: torch.ones(2, 4).addmm_(a, b)) == 24
    assert multiply_adds(lambda: a + a) == 0


def products(n):
    return torch.ones(n, 1) @ torch.ones(1, 1)


def test_the_first_time_is_counted_by_itself_and_the_last_like_those_before():
    phase = Phase(probes=2)
    for n in (50, 2, 4, 100, 100):
        phase.begin()
        products(n)
        phase.end()
    assert phase.multiply_adds == 50 + 2 * (2 + 4)


def test_warming_up_is_counted_by_itself():
    phase = Phase(probes=1)
    for n, idle in ((1, True), (2, True), (7, False), (5, False), (100, False)):
        phase.begin()
        products(n)
        phase.end(idle=idle)
    assert phase.multiply_adds == 1 + 2 + 7 + 2 * 5


def test_nothing_is_counted_after_a_failure():
    phase = Phase(probes=9)
    phase.begin()
    phase.abandon()
    products(7)
    assert phase.multiply_adds == 0


@pytest.mark.parametrize(("rule", "samples"), [("bp", None), ("anp", 3)])
def test_a_whole_run_of_ppo_is_billed(rule, samples):
    spec = RunSpec(
        env="InvertedPendulum-v5", steps=128, learner="x", algo="ppo", rule=rule, samples=samples,
        settings={"n_steps": 32, "batch_size": 32, "n_epochs": 2}, envs=2, hidden=(8,),
        episodes=1, points=1, point_episodes=1,
    )  # fmt: skip
    recorder = Recorder(spec, lambda steps: None)
    ledger = METHODS["ppo"].run(spec, recorder)
    recorder.close()
    one = 4 * 8 + 8 * 1
    updates, rollout = 2, 64
    learned = 2 * 2 * updates * rollout  # actor and critic, two epochs
    # The critic is asked once more for the value after the last step of each rollout.
    acting = 2 * updates * rollout * one + updates * 2 * one
    assert ledger.env_steps == 128
    if rule == "bp":
        assert ledger.forward_passes == 2 * 128 + learned
        assert ledger.backward_passes == learned
        assert ledger.multiply_adds == acting + learned * (3 * one - 4 * 8)
    else:
        assert ledger.forward_passes == 2 * 128 + learned * (1 + 3)
        assert ledger.backward_passes == 0
        # The first update also checks each network, with a few passes of a minibatch.
        checks = ledger.multiply_adds - (acting + learned * (2 * one + 3 * 8))
        assert checks in [2 * n * 32 * one for n in range(6)]
