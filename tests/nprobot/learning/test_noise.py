"""The perturbations: distribution, independence, seeds."""

from __future__ import annotations

import pytest
import torch

from nprobot.errors import RuleError
from nprobot.learning.noise import PerturbationStream

LIKE = torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("shape", [(3, 50, 1001), (7,), (1, 1)])
def test_mean_variance_and_independence(distribution, shape):
    draw = PerturbationStream(distribution, 0).draw(shape, LIKE)
    assert draw.shape == shape
    assert draw.dtype == torch.float64
    if draw.numel() > 1000:
        flat = draw.flatten()
        tolerance = 5 / flat.numel() ** 0.5
        assert abs(flat.mean()) < tolerance
        assert abs(flat.square().mean() - 1) < 2 * tolerance
        # Signs come 8 a byte and 64 a word: neighbours at these lags must not be related.
        for lag in (1, 2, 4, 7, 8, 16, 63, 64, 1001):
            assert abs((flat[lag:] * flat[:-lag]).mean()) < tolerance


def test_rademacher_draws_are_signs():
    draw = PerturbationStream("rademacher", 0).draw((4, 9), LIKE)
    assert set(draw.flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(("draws", "nodes"), [(3, 7), (7, 7), (10, 4)])
def test_orthogonal_draws_are_orthogonal_within_a_sample_and_their_mean_is_the_identity(
    draws, nodes
):
    draw = PerturbationStream("orthogonal", 0).draw((draws, 2000, nodes), LIKE)
    block = draw[: min(draws, nodes)]
    products = torch.einsum("kbn,jbn->bkj", block, block)
    torch.testing.assert_close(products, nodes * torch.eye(len(block)).double().expand_as(products))
    outer = torch.einsum("kbn,kbm->nm", draw, draw) / (draws * 2000)
    assert (outer - torch.eye(nodes)).abs().max() < 5 / (draws * 2000) ** 0.5
    assert abs(torch.einsum("bn,bm->nm", draw[0, 1:], draw[0, :-1]) / 2000).max() < 0.12


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "orthogonal"])
def test_antithetic_draws_come_in_pairs(distribution):
    draw = PerturbationStream(distribution, 0, antithetic=True).draw((6, 5, 9), LIKE)
    assert torch.equal(draw[:3], -draw[3:])
    assert draw[0].unique().numel() > 1


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "orthogonal"])
def test_streams_depend_on_the_seed_alone_and_move_on(distribution):
    a, b, c = (PerturbationStream(distribution, seed) for seed in (1, 1, 2))
    first = a.draw((100,), LIKE)
    assert torch.equal(first, b.draw((100,), LIKE))
    assert not torch.equal(first, c.draw((100,), LIKE))
    assert not torch.equal(first, a.draw((100,), LIKE))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    a.draw((100,), LIKE)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_seed_means_a_fresh_one():
    assert PerturbationStream("gaussian", None).seed != PerturbationStream("gaussian", None).seed


def test_unknown_distribution_is_refused_with_the_nearest():
    with pytest.raises(RuleError, match=r"did you mean 'rademacher'\?"):
        PerturbationStream("rademacer", 0)
