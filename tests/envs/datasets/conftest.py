"""A cache of each test's own, and a small recording of the arm."""

from __future__ import annotations

import numpy as np
import pytest

from nprobot.envs import datasets
from nprobot.envs.datasets import Recording


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("NPROBOT_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def small():
    return Recording(train=4, validation=2, test=2, duration=1.0)


@pytest.fixture(scope="session")
def recorded(small):
    """Inverse dynamics of the arm."""
    return datasets.inverse_dynamics(recording=small, cache=False)


@pytest.fixture(scope="session")
def same():
    """Whether two data sets have the same splits and rows."""

    def compare(left, right):
        return left.splits.keys() == right.splits.keys() and all(
            np.array_equal(getattr(a, part), getattr(b, part))
            for a, b in zip(left.splits.values(), right.splits.values(), strict=True)
            for part in ("inputs", "targets", "trajectory")
        )

    return compare


@pytest.fixture(scope="session")
def walk():
    """Rows that follow each other in time."""

    def rows(count, columns, seed=0):
        return np.cumsum(np.random.default_rng(seed).normal(size=(count, columns)), axis=0)

    return rows
