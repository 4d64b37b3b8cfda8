"""Data that the tests of fits share."""

from __future__ import annotations

import numpy as np
import pytest

from .helpers import dataset


@pytest.fixture(scope="session")
def toy():
    """Data for a fit; not to be changed."""
    return dataset()


@pytest.fixture(scope="session")
def digits():
    """Pictures of digits and what they show; not to be changed."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x, y.astype(np.int64)
