"""Statistics against values worked out by hand, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nprobot.benchmark import aggregates

SCORES = [[0.0, 1.0, 2.0, 3.0], [10.0, 20.0, 30.0, 100.0]]


def test_interquartile_mean_is_of_the_middle_half_of_all_runs():
    # Sorted: 0 1 | 2 3 10 20 | 30 100
    assert aggregates.iqm(SCORES).value == pytest.approx((2 + 3 + 10 + 20) / 4)


@pytest.mark.parametrize("runs", [3, 5, 7, 12])
def test_interquartile_mean_is_scipys_trimmed_mean(runs):
    scores = np.random.default_rng(runs).normal(size=(3, runs))
    assert aggregates.iqm(list(scores)).value == pytest.approx(
        stats.trim_mean(scores, 0.25, axis=None)
    )


def test_interquartile_mean_counts_every_task_the_same():
    few, many = SCORES
    assert aggregates.iqm([few * 3, many]).value == pytest.approx(aggregates.iqm(SCORES).value)
    # Half of the weight is the first task's: what is kept is the upper half of it, 0, and 6.
    assert aggregates.iqm([[0.0], [6.0, 8.0]]).value == pytest.approx((0 + 6) / 2)
    assert aggregates.iqm([[1.0], [5.0] * 4]).value == pytest.approx(3.0)


def test_median_and_mean_are_over_tasks_of_means_over_runs():
    scores = [[0.0, 2.0], [3.0], [10.0, 30.0]]
    assert aggregates.median(scores).value == 3.0
    assert aggregates.mean(scores).value == pytest.approx((1 + 3 + 20) / 3)


def test_improvement_counts_ties_half_and_tasks_alike():
    # First task: of 4 pairs 3 are won, none tied; second: 1 pair, a tie.
    assert aggregates.improvement([[1.0, 3.0], [5.0]], [[0.0, 2.0], [5.0]]).value == pytest.approx(
        (3 / 4 + 1 / 2) / 2
    )


def test_improvement_is_the_mann_whitney_statistic():
    generator = np.random.default_rng(0)
    x, y = generator.normal(0.3, 1, 9), generator.normal(0, 1, 7)
    expected = stats.mannwhitneyu(x, y, alternative="greater").statistic / (9 * 7)
    assert aggregates.improvement([x], [y]).value == pytest.approx(expected)


def test_profile_is_the_share_of_runs_above_a_threshold():
    shares = aggregates.profile([[0.0, 1.0], [2.0, 2.0, 2.0, 0.5]], [-1.0, 0.5, 1.5, 2.0])
    assert shares.tolist() == [1.0, (1 / 2 + 3 / 4) / 2, (0 + 3 / 4) / 2, 0.0]


def test_estimates_and_intervals_are_those_of_rliable():
    """Its numbers for two learners, three tasks, five seeds: rliable 1.2.0 beside pandas 2.1."""
    ours = [[0.94, 1.10, 0.99, 1.01, 0.52], [1.02, 0.61, 0.75, 0.93, 1.17]]
    ours.append([0.88, 0.97, 1.31, 1.12, 0.90])
    theirs = [[0.91, 0.80, 1.05, 0.77, 0.98], [0.70, 0.83, 0.66, 0.90, 1.04]]
    theirs.append([0.95, 0.97, 1.02, 1.20, 0.58])
    for found, expected in (
        (aggregates.iqm(ours), (0.97111, 0.8611, 1.0489)),
        (aggregates.median(ours), (0.912, 0.812, 1.050)),
        (aggregates.mean(ours), (0.948, 0.850, 1.0393)),
        (aggregates.improvement(ours, theirs), (0.59333, 0.3733, 0.8067)),
    ):
        assert found.value == pytest.approx(expected[0], abs=1e-4)
        assert (found.low, found.high) == pytest.approx(expected[1:], abs=0.025)


def test_bootstrap_stays_within_each_task():
    # Runs of a task are all alike, so resampling within tasks changes nothing.
    interval = aggregates.iqm([[1.0] * 3, [5.0] * 3])
    assert (interval.value, interval.low, interval.high) == (3.0, 3.0, 3.0)


def test_bootstrap_of_a_mean_is_what_scipy_finds():
    runs = np.random.default_rng(1).normal(size=40)
    ours = aggregates.mean([runs])
    theirs = stats.bootstrap(
        (runs,), np.mean, method="percentile", n_resamples=20_000, rng=0
    ).confidence_interval
    assert ours.value == pytest.approx(runs.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.high, abs=0.03)


def test_the_same_rows_give_the_same_intervals():
    assert aggregates.iqm(SCORES) == aggregates.iqm(SCORES)
    low, high = aggregates.profile_interval(SCORES, [0.5, 15.0])
    assert (low <= aggregates.profile(SCORES, [0.5, 15.0])).all()
    assert (high >= aggregates.profile(SCORES, [0.5, 15.0])).all()


def test_one_run_has_no_spread_and_no_error():
    assert str(aggregates.iqm([[0.5]])) == "0.50 [0.50, 0.50]"
