"""The controller: right actions from good observations, safe actions and a fault from bad ones."""

import json
import math
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nprobot.deploy import (
    Controller,
    Damping,
    FaultKind,
    Hold,
    RateError,
    Safety,
    SafetyConfigError,
    Watchdog,
    Zero,
)
from nprobot.deploy.latency import Latency, duration
from nprobot.deploy.pacing import Pacer
from nprobot.policies import zoo
from nprobot.policies.operations import Operation
from nprobot.policies.policy import BoxAction, DiscreteAction, Normaliser, Policy, Task


def gain_policy(gain=1.0, bound=2.0, rate=100.0, action=None):
    """Two observations, one action: gain times the first of them."""
    outputs = action.outputs if action is not None else 1
    weight = np.zeros((outputs, 2), np.float32)
    weight[0, 0] = gain
    layer = Operation("linear", {"weight": weight, "bias": np.zeros(outputs, np.float32)})
    box = BoxAction(np.full(1, -bound, np.float32), np.full(1, bound, np.float32))
    normaliser = Normaliser(np.zeros(2), np.ones(2), 1e-8, 100.0)
    return Policy((2,), (layer,), action or box, normaliser, Task("Some-v0", {}, rate))


def controller(safety=None, policy=None, **options):
    return Controller(policy or gain_policy(), safety=safety, **options)


class FakeClock:
    """Seconds that pass only when told to, and `lag` between two looks."""

    def __init__(self, lag=0.0):
        self.now = 0.0
        self.lag = lag

    def __call__(self):
        self.now += self.lag
        return self.now


class TestActions:
    def test_actions_are_those_of_the_policy_to_the_last_bit(self):
        policy = zoo.load_policy("InvertedPendulum")
        own = Controller.load("zoo:InvertedPendulum")
        for x in np.random.default_rng(0).normal(0, 0.1, (200, 4)):
            action, expected = own.step(x), policy.predict(x)
            assert action.tobytes() == expected.tobytes()
            assert action.dtype == expected.dtype
        assert own.fault is None
        assert own.steps == 200

    def test_rate_is_the_policy_s(self):
        assert controller().rate == 100
        assert controller(rate=50).rate == 50
        assert controller(policy=gain_policy(rate=None)).rate is None

    @pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
    def test_impossible_rate(self, rate):
        with pytest.raises(RateError, match="above 0"):
            controller(rate=rate)

    def test_discrete_actions(self):
        policy = gain_policy(action=DiscreteAction((3,)))
        own = controller(policy=policy)
        assert own.step([1.0, 0]).item() == 0
        assert own.step([-1.0, 0]).item() == 1
        assert own.step([math.nan, 0]).item() == 0

    def test_the_caller_may_write_into_the_action(self):
        own = controller()
        own.step([1.0, 0])[:] = 77
        assert own.previous_action == 1

    def test_importing_is_light_and_quick_to_start(self):
        code = (
            "import sys, nprobot.deploy\n"
            "nprobot.deploy.Controller.load('zoo:InvertedPendulum').step([0.0] * 4)\n"
            "heavy = {'torch', 'stable_baselines3', 'mujoco', 'matplotlib', 'onnx', 'zmq'}\n"
            "print(sorted(heavy & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == "[]", done.stderr


class TestLimits:
    def test_action_limits_are_narrower_than_the_policy_s(self):
        own = controller(Safety(action_low=-0.5, action_high=(0.25,)))
        assert own.step([1.0, 0]) == 0.25
        assert own.step([-1.0, 0]) == -0.5
        assert own.step([0.1, 0]) == np.float32(0.1)
        assert own.fault is None  # a limit is no fault

    def test_the_policy_s_bounds_hold_under_wider_limits(self):
        assert controller(Safety(action_high=99.0)).step([5.0, 0]) == 2

    def test_slew(self):
        own = controller(Safety(slew=20.0))  # 0.2 a step at 100 Hz
        wanted = [1.0, 1.0, 1.0, -1.0]
        actions = [own.step([x, 0]).item() for x in wanted]
        assert actions == pytest.approx([0.2, 0.4, 0.6, 0.4], abs=1e-6)
        own.reset([1.0])  # the robot is there already
        assert own.step([1.0, 0]) == 1
        own.reset()
        assert own.step([1.0, 0]) == pytest.approx(0.2)

    def test_what_the_policy_wished_is_kept(self):
        own = controller(Safety(slew=20.0))
        own.step([1.0, 0])
        step = own.recorder.record()[0]
        assert (step.commanded, step.action) == (1, pytest.approx(0.2))

    @pytest.mark.parametrize(
        ("settings_", "message"),
        [
            ({"slew": 0.0}, "above 0"),
            ({"max_age": -1.0}, "above 0"),
            ({"max_repeats": 0}, "1 or more"),
            ({"action_low": math.nan}, "not a number"),
            ({"action_low": 3.0}, "no action is inside"),
            ({"action_low": (0.0, 0.0)}, "one number, or 1"),
            ({"observation_high": (1.0, 1.0, 1.0)}, "one number, or 2"),
            ({"safe_action": Damping((0, 1))}, "each of the 1 actuators"),
            ({"safe_action": Damping((2,))}, "indices 0 to 1"),
            ({"safe_action": Damping((1,), -1.0)}, "at least 0"),
        ],
    )
    def test_settings_that_make_no_sense(self, settings_, message):
        with pytest.raises(SafetyConfigError, match=message):
            controller(Safety(**settings_))

    def test_settings_that_do_not_fit_the_policy(self):
        discrete = gain_policy(action=DiscreteAction((3,)))
        for wrong in (Safety(slew=1.0), Safety(action_low=0.0), Safety(safe_action=Damping((0,)))):
            with pytest.raises(SafetyConfigError, match="continuous"):
                controller(wrong, discrete)
        plain = Policy((2,), gain_policy().operations, gain_policy().action)
        with pytest.raises(SafetyConfigError, match="no normaliser"):
            controller(Safety(observation_deviations=5.0), plain)
        with pytest.raises(SafetyConfigError, match="control rate"):
            controller(Safety(slew=1.0), plain)

    def test_settings_come_back_from_json(self):
        safety = Safety(Damping((1,), (0.5,)), slew=(1.0,), observation_low=-2.0, max_age=0.1)
        assert Safety.from_dict(json.loads(json.dumps(safety.to_dict()))) == safety
        for wrong in ({"slwe": 1.0}, {"safe_action": {"kind": "fly"}}, {"slew": "fast"}):
            with pytest.raises(SafetyConfigError):
                Safety.from_dict(wrong)


class TestFaults:
    @pytest.mark.parametrize(
        ("observation", "kind"),
        [
            ([math.nan, 0], FaultKind.NOT_FINITE),
            ([0, math.inf], FaultKind.NOT_FINITE),
            ([1.0], FaultKind.UNUSABLE),
            ([[1.0, 2.0]], FaultKind.UNUSABLE),
            (None, FaultKind.UNUSABLE),
            ("12", FaultKind.UNUSABLE),
            ([1.0, "2"], FaultKind.UNUSABLE),
            ([[1.0], [2.0, 3.0]], FaultKind.UNUSABLE),
            ([1j, 0], FaultKind.UNUSABLE),
            ([10**400, 0], FaultKind.UNUSABLE),
        ],
    )
    def test_bad_observation(self, observation, kind):
        own = controller()
        own.step([1.0, 0])
        assert own.step(observation) == 0
        assert own.fault is not None
        assert own.fault.kind == kind
        assert own.fault.step == 1
        # Latched: good observations change nothing until somebody clears it.
        assert own.step([1.0, 0]) == 0
        own.reset()
        assert own.step([1.0, 0]) == 0
        assert own.clear_fault().kind == kind
        assert own.step([1.0, 0]) == 1
        assert own.clear_fault() is None

    def test_the_first_fault_is_kept(self):
        own = controller()
        own.step([math.nan, 0])
        own.step(None)
        own.trip("later")
        assert own.fault.kind == FaultKind.NOT_FINITE

    def test_range(self):
        own = controller(Safety(observation_low=(-1.0, -9.0), observation_high=3.0))
        assert own.step([3.0, -9.0]) == 2
        own.step([-1.5, 0.0])
        assert own.fault.kind == FaultKind.OUT_OF_RANGE
        assert "element (0,) is -1.5, below -1" in own.fault.message

    def test_far_from_what_training_saw(self):
        own = controller(Safety(observation_deviations=6.0))
        own.step([5.9, -5.9])
        assert own.fault is None
        own.step([0.0, -6.1])
        assert own.fault.kind == FaultKind.OUT_OF_RANGE
        assert "standard deviations" in own.fault.message

    @pytest.mark.parametrize("age", [0.06, -1.0, math.nan, math.inf, "old", None, 10**400])
    def test_stale(self, age):
        own = controller(Safety(max_age=0.05))
        own.step([1.0, 0], age=0.05)
        assert own.fault is None
        own.step([1.0, 0], age=age)
        assert own.fault.kind == FaultKind.STALE

    def test_frozen_sensor(self):
        own = controller(Safety(max_repeats=3))
        for _ in range(3):
            own.step([1.0, 0])
        own.step([1.0, 1e-12])
        for _ in range(2):
            own.step([1.0, 1e-12])
        assert own.fault is None
        own.step([1.0, 1e-12])
        assert own.fault.kind == FaultKind.STALE

    def test_policy_that_fails_or_overflows(self):
        class Broken:
            observation_shape = (2,)
            action = gain_policy().action
            task = None
            provenance: dict = {}  # noqa: RUF012
            answer: object = np.zeros(1, np.float32)

            def predict(self, observation):
                if isinstance(self.answer, Exception):
                    raise self.answer
                return self.answer

        policy = Broken()
        own = Controller(policy)
        policy.answer = np.array([math.nan], np.float32)
        assert own.step([1.0, 0]) == 0
        assert own.clear_fault().kind == FaultKind.ACTION
        policy.answer = RuntimeError("no more memory")
        assert own.step([1.0, 0]) == 0
        assert own.fault.kind == FaultKind.POLICY
        assert "no more memory" in own.fault.message

    def test_deadlines_missed_in_a_row(self):
        clock = FakeClock()
        own = controller(Safety(max_missed_deadlines=3), clock=clock)  # 10 ms each
        clock.lag = 0.02
        for _ in range(2):
            own.step([1.0, 0])
        clock.lag = 0.001
        own.step([1.0, 0])
        clock.lag = 0.02
        for _ in range(2):
            assert own.step([1.0, 0]) == 1
        assert own.fault is None
        assert own.step([1.0, 0]) == 0  # too late is not used
        assert own.fault.kind == FaultKind.DEADLINE
        summary = own.latency.summary()
        assert (summary.steps, summary.missed) == (6, 5)
        assert summary.longest == pytest.approx(0.02)

    def test_trip_from_another_thread(self):
        own = controller()
        thread = threading.Thread(target=own.trip, args=("emergency stop",))
        thread.start()
        thread.join()
        assert own.step([1.0, 0]) == 0
        assert own.fault.kind == FaultKind.EXTERNAL


class TestSafeActions:
    def faulted(self, safe_action, bad, bound=2.0, **limits):
        own = controller(Safety(safe_action, **limits), gain_policy(bound=bound))
        own.step([0.7, 3.0])
        return own.step(bad).item(), own

    def test_zero(self):
        assert self.faulted(Zero(), [math.nan, 0])[0] == 0
        assert self.faulted(Zero(), None, action_low=0.1)[0] == pytest.approx(0.1)

    def test_hold(self):
        action, own = self.faulted(Hold(), [math.nan, 0])
        assert action == np.float32(0.7)
        assert own.step([0.1, 0]) == np.float32(0.7)

    def test_damping_brakes_what_it_can_see(self):
        own = controller(Safety(Damping((1,), 0.2)))
        own.trip("stop")
        assert own.step([0.7, 3.0]) == pytest.approx(-0.6)
        assert own.step([0.7, -1.0]) == pytest.approx(0.2)
        assert own.step([0.7, 500.0]) == -2  # inside the bounds
        assert own.step([0.7, math.nan]) == 0  # an old velocity would drive the robot

    def test_slew_does_not_slow_it_down(self):
        own = controller(Safety(slew=20.0))
        own.reset([1.0])
        own.step([1.0, 0])
        assert own.step(None) == 0


@pytest.mark.parametrize("action", [[1.0, 2.0], [math.nan], "up"])
def test_reset_wants_an_action(action):
    with pytest.raises(SafetyConfigError, match="an action is"):
        controller().reset(action)


class TestWatchdog:
    def test_fires_once_when_it_is_hungry(self):
        clock, calls = FakeClock(), []
        dog = Watchdog(0.5, lambda: calls.append(clock.now), clock=clock)
        clock.now = 0.4
        assert not dog.check()
        dog.feed()
        clock.now = 0.8
        assert not dog.check()
        clock.now = 1.0
        assert dog.check()
        assert dog.check()
        assert calls == [1.0]
        dog.feed()
        assert not dog.check()

    def test_runs_beside_a_stuck_loop(self):
        fired = threading.Event()
        with Watchdog(1e-3, fired.set):
            assert fired.wait(30)

    def test_trips_the_controller(self):
        own, clock = controller(), FakeClock()
        dog = Watchdog(0.5, lambda: own.trip("stuck", FaultKind.WATCHDOG), clock=clock)
        clock.now = 1.0
        dog.check()
        assert own.step([1.0, 0]) == 0
        assert own.fault.kind == FaultKind.WATCHDOG

    def test_needs_a_timeout(self):
        with pytest.raises(SafetyConfigError, match="above 0"):
            Watchdog(0.0, print)


class TestPacer:
    def test_ticks_lie_on_a_grid(self):
        clock = FakeClock()

        def sleep(seconds):
            clock.now += seconds

        pacer = Pacer(10, clock=clock, sleep=sleep)
        ticks = []
        for work in (0.03, 0.09, 0.0):
            clock.now += work
            pacer.wait()
            ticks.append(clock.now)
        assert ticks == pytest.approx([0.1, 0.2, 0.3])
        assert pacer.late == 0

    def test_a_late_loop_goes_on_at_once_and_does_not_hurry_afterwards(self):
        clock = FakeClock()

        def sleep(seconds):
            clock.now += seconds

        pacer = Pacer(10, clock=clock, sleep=sleep)
        clock.now = 0.35  # three ticks have passed
        pacer.wait()
        assert (clock.now, pacer.late) == (0.35, 3)
        pacer.wait()
        assert clock.now == pytest.approx(0.4)

    def test_needs_a_rate(self):
        with pytest.raises(RateError):
            Pacer(0)


class TestLatency:
    def test_percentiles_are_exact_to_one_percent(self):
        times = np.random.default_rng(0).lognormal(-9, 1, 20_000)
        latency = Latency(deadline=5e-4)
        for seconds in times:
            latency.add(seconds)
        summary = latency.summary()
        assert summary.p50 == pytest.approx(np.percentile(times, 50), rel=0.012)
        assert summary.p99 == pytest.approx(np.percentile(times, 99), rel=0.012)
        assert summary.longest == times.max()
        assert summary.missed == (times > 5e-4).sum()

    def test_extremes(self):
        latency = Latency()
        assert math.isnan(latency.summary().p50)
        assert str(latency.summary()) == "no steps"
        for seconds in (0.0, 1e9):
            latency.add(seconds)
        assert latency.summary().longest == 1e9
        assert latency.summary().p50 <= 1.1e-7

    def test_units(self):
        assert [duration(t) for t in (8.5e-7, 2.1e-5, 3.4e-3, 1.2)] == [
            "850 ns",
            "21 µs",
            "3.4 ms",
            "1.2 s",
        ]


ANYTHING = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.integers(),
    st.lists(st.floats() | st.integers() | st.text(max_size=2) | st.none(), max_size=4),
    st.recursive(st.floats(), lambda inner: st.lists(inner, max_size=3), max_leaves=6),
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_, np.complex64]),
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
    ),
    hnp.arrays(np.float64, (2,)),
)


def fuzz_observations(examples):
    own = controller(Safety(Damping((1,), 0.2), slew=20.0, max_repeats=2, max_age=1.0), record=50)
    floats = st.floats() | st.none() | st.text(max_size=2)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ANYTHING, floats, st.booleans())
    def check(observation, age, clear):
        if clear:
            own.clear_fault()
        action = own.step(observation, age=age)
        assert action.shape == (1,)
        assert np.isfinite(action).all()
        assert np.abs(action).max() <= 2

    check()


def test_any_observation_gets_an_action():
    fuzz_observations(200)


@pytest.mark.slow
def test_any_observation_gets_an_action_ten_thousand_times():
    fuzz_observations(10_000)
