"""Keeping time: the watchdog, the pacer and the statistics of latency."""

import math
import threading

import numpy as np
import pytest

from nprobot.deploy import FaultKind, Watchdog
from nprobot.deploy.loop_timing import LatencyHistogram, Pacer, short_duration
from nprobot.errors import ConfigError, DeployError

from .helpers import FakeClock, controller


class TestWatchdog:
    def test_fires_once_when_it_is_time(self):
        clock, calls = FakeClock(), []
        watchdog = Watchdog(0.5, lambda: calls.append(clock.now), clock=clock)
        clock.now = 0.4
        assert not watchdog.check()
        watchdog.feed()
        clock.now = 0.8
        assert not watchdog.check()
        clock.now = 1.0
        assert watchdog.check()
        assert watchdog.check()
        assert calls == [1.0]
        watchdog.feed()
        assert not watchdog.check()

    def test_runs_beside_a_stuck_loop(self):
        fired = threading.Event()
        with Watchdog(1e-3, fired.set):
            assert fired.wait(30)

    def test_trips_the_controller(self):
        own, clock = controller(), FakeClock()
        watchdog = Watchdog(0.5, lambda: own.trip("stuck", FaultKind.WATCHDOG), clock=clock)
        clock.now = 1.0
        watchdog.check()
        assert own.step([1.0, 0]) == 0
        assert own.fault.kind == FaultKind.WATCHDOG

    def test_needs_a_timeout(self):
        with pytest.raises(ConfigError, match="above 0"):
            Watchdog(0.0, print)


class TestPacer:
    def test_ticks_lie_on_a_grid(self):
        clock = FakeClock()
        pacer = Pacer(10, clock=clock, sleep=clock.sleep)
        ticks = []
        for work in (0.03, 0.09, 0.0):
            clock.now += work
            pacer.wait()
            ticks.append(clock.now)
        assert ticks == pytest.approx([0.1, 0.2, 0.3])
        assert pacer.late == 0

    def test_a_late_loop_goes_on_at_once_and_does_not_hurry_afterwards(self):
        clock = FakeClock()
        pacer = Pacer(10, clock=clock, sleep=clock.sleep)
        clock.now = 0.35  # three ticks have passed
        pacer.wait()
        assert (clock.now, pacer.late) == (0.35, 3)
        pacer.wait()
        assert clock.now == pytest.approx(0.4)

    def test_needs_a_rate(self):
        with pytest.raises(DeployError):
            Pacer(0)


class TestLatency:
    def test_percentiles_are_exact_to_one_percent(self):
        times = np.random.default_rng(0).lognormal(-9, 1, 20_000)
        latency = LatencyHistogram(deadline=5e-4)
        for seconds in times:
            latency.add(seconds)
        summary = latency.summary()
        assert summary.p50 == pytest.approx(np.percentile(times, 50), rel=0.012)
        assert summary.p99 == pytest.approx(np.percentile(times, 99), rel=0.012)
        assert summary.longest == times.max()
        assert summary.missed == (times > 5e-4).sum()

    def test_extremes(self):
        latency = LatencyHistogram()
        assert math.isnan(latency.summary().p50)
        assert str(latency.summary()) == "no steps"
        for seconds in (0.0, 1e9):
            latency.add(seconds)
        assert latency.summary().longest == 1e9
        assert latency.summary().p50 <= 1.1e-7

    def test_units(self):
        assert [short_duration(t) for t in (8.5e-7, 2.1e-5, 3.4e-3, 1.2)] == [
            "850 ns",
            "21 µs",
            "3.4 ms",
            "1.2 s",
        ]
