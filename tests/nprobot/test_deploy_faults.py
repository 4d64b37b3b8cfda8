"""What the controller takes for a fault, and the safe actions that follow one."""

import math
import threading

import numpy as np
import pytest

from nprobot.deploy import Controller, Damping, FaultKind, Hold, Safety, Zero

from .deploy_helpers import FakeClock, controller, gain_policy


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
