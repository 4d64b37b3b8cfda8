"""Data that `nprobot.fit` takes, and data and networks that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from nprobot.envs.datasets import split_rows
from nprobot.errors import ArchitectureError, ConfigError, DataError, DataWarning, RuleError
from nprobot.policies import mlp
from nprobot.regression import fit

from .helpers import SMALL


def test_arrays_are_split_by_trajectory(toy):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    trajectory = np.repeat(np.arange(10), 30)
    result = fit([4], (x, x[:, :1], trajectory), "bp", **SMALL)
    assert set(result.scores) == {"train", "validation", "test"}


def test_bad_data_is_refused():
    x = np.random.default_rng(0).normal(size=(120, 3))
    y = x[:, :2].copy()
    y[7, 1] = np.nan
    with pytest.raises(DataError, match="row 7, column 1"):
        fit([4], (x, y, np.arange(120) // 20), "np")
    with pytest.raises(DataError, match="three trajectories"):
        fit([4], (x, x[:, :1], np.zeros(120)), "np")
    with pytest.raises(DataError):
        fit([4], (x[:-1], x[:, :1], np.arange(120) // 20), "np")
    with pytest.raises(ConfigError, match="got ndarray"):
        fit([4], x, "np")


def test_constant_columns_do_no_harm():
    rng = np.random.default_rng(0)
    x, trajectory = rng.normal(size=(300, 3)), np.arange(300) // 30
    y = np.stack([x[:, 0], np.full(300, 4.0)], axis=1)
    x[:, 1] = 9.0
    with pytest.warns(DataWarning):
        result = fit([8], (x, y, trajectory), "bp", epochs=20, batch_size=32)
    score = result.scores["test"]
    assert np.isnan(score.nmse[1])
    assert score.error == score.nmse[0] < 0.2
    assert score.rmse[1] < 0.5


def test_misfits_are_refused(toy):
    with pytest.raises(RuleError, match="decorrelated layers"):
        fit(mlp([4, 8, 2]), toy, "danp")
    with pytest.raises(ArchitectureError, match="2 targets"):
        fit(mlp([4, 8, 3]), toy, "np")
    with pytest.raises(ArchitectureError, match="rows of 4 inputs"):
        fit(mlp([5, 8, 2]), toy, "np")


def test_split_rows_labels_make_a_classification(digits):
    x, y = digits
    splits = split_rows(x, y)
    result = fit([8], (x, y), "bp", epochs=2)
    share = np.bincount(splits.validation.targets).max() / len(splits.validation)
    assert result.scores["validation"].accuracy > share
    assert result.model.classes == 10
