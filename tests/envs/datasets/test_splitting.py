"""Splits share no trajectory and no neighbours; measures of how good a prediction is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nprobot.envs import datasets
from nprobot.envs.datasets.splitting import duplicates
from nprobot.errors import ConfigError, DataError, UnknownNameError


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(30, 900),
    seed=st.integers(0, 99),
    train=st.floats(0.05, 0.9),
    validation=st.floats(0.1, 0.9),
)
def test_blocks_are_contiguous_disjoint_and_apart(rows, seed, train, validation):
    fractions = (train, (1 - train) * validation, (1 - train) * (1 - validation))
    x = np.arange(rows, dtype=float)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = datasets.split_rows(x, x, fractions=fractions, how="blocks", seed=seed)
    found = [set(part.inputs[:, 0].astype(int).tolist()) for part in parts[:3]]
    assert all(found)
    for i, own in enumerate(found):
        for other in found[i + 1 :]:
            assert not own & other and not {row + 1 for row in own} & other
    assert sum(map(len, found)) >= 0.6 * rows


@pytest.mark.filterwarnings("ignore::nprobot.errors.DataWarning")
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=3, max_size=12),
    seed=st.integers(0, 99),
    train=st.floats(0.05, 0.9),
)
def test_trajectories_stay_whole_and_no_split_is_empty(lengths, seed, train):
    labels = np.repeat(np.arange(len(lengths)) * 7, lengths)
    x = np.arange(len(labels), dtype=float)[:, None]
    fractions = (train, (1 - train) / 2, (1 - train) / 2)
    *parts, _ = datasets.split_rows(x, x, labels, fractions=fractions, seed=seed)
    groups = [set(labels[part.inputs[:, 0].astype(int)].tolist()) for part in parts]
    assert all(groups)
    assert sum(map(len, groups)) == len(lengths)
    assert sum(map(len, parts)) == len(labels)


def test_impossible_splits_are_refused(walk):
    x = walk(50, 2)
    for bad in ((0.5, 0.5, 0.0), (0.5, 0.4, 0.4), (0.6, 0.4)):
        with pytest.raises(ConfigError, match="fractions"):
            datasets.split_rows(x, x, fractions=bad)
    with pytest.raises(UnknownNameError, match="how"):
        datasets.split_rows(x, x, how="sideways")
    with pytest.raises(ConfigError, match="labels"):
        datasets.split_rows(x, x, how="trajectory")
    with pytest.raises(DataError, match="at least three trajectories; the data has 1"):
        datasets.split_rows(x, x, np.zeros(50))


def test_duplicates_see_through_precision_and_signed_zeros():
    rows = np.array([[0.0, 1.0], [0.1, 2.0], [3.0, 4.0]])
    others = np.array([[3.0, 5.0], [-0.0, 1.0], [np.float64(np.float32(0.1)), 2.0]])
    assert duplicates(rows, others).tolist() == [True, True, False]


def test_nmse_is_zero_when_perfect_and_one_for_the_mean(walk):
    y = walk(100, 3)
    assert np.allclose(datasets.nmse(y, y), 0)
    assert np.allclose(datasets.nmse(np.tile(y.mean(0), (100, 1)), y), 1)
    assert np.allclose(datasets.nmse(y + 2 * y.std(0), y), 4)
    with pytest.raises(DataError, match="shape"):
        datasets.nmse(y[:, :2], y)
