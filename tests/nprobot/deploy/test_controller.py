"""The controller: right actions from good observations, within limits, and safe ones from any."""

import json
import math
import subprocess
import sys
import threading
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nprobot.deploy import Controller, Damping, FaultKind, Hold, Safety, Zero
from nprobot.errors import ConfigError, DeployError
from nprobot.policies import zoo
from nprobot.policies.files.policy import DiscreteAction, Policy

from .helpers import FEW_AND_MANY, FakeClock, controller, gain_policy


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
        with pytest.raises(DeployError, match="above 0"):
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

    def test_importing_is_light(self):
        """Without a second import either."""
        code = (
            "import sys, nprobot\n"
            "policy = nprobot.deploy.load_policy('zoo:InvertedPendulum')\n"
            "nprobot.deploy.Controller(policy).step([0.0] * 4)\n"
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
            ({"action_low": math.nan}, "must be finite"),
            ({"action_low": (math.nan,)}, "not a number"),
            ({"action_low": 3.0}, "no action is inside"),
            ({"action_low": (0.0, 0.0)}, "one number, or 1"),
            ({"observation_high": (1.0, 1.0, 1.0)}, "one number, or 2"),
            ({"safe_action": Damping((0, 1))}, "each of the 1 actuators"),
            ({"safe_action": Damping((2,))}, "indices 0 to 1"),
            ({"safe_action": Damping((1,), -1.0)}, "at least 0"),
        ],
    )
    def test_settings_that_make_no_sense(self, settings_, message):
        with pytest.raises(ConfigError, match=message):
            controller(Safety(**settings_))

    def test_settings_that_do_not_fit_the_policy(self):
        discrete = gain_policy(action=DiscreteAction((3,)))
        for wrong in (Safety(slew=1.0), Safety(action_low=0.0), Safety(safe_action=Damping((0,)))):
            with pytest.raises(ConfigError, match="continuous"):
                controller(wrong, discrete)
        plain = Policy((2,), gain_policy().operations, gain_policy().action)
        with pytest.raises(ConfigError, match="no normaliser"):
            controller(Safety(observation_deviations=5.0), plain)
        with pytest.raises(ConfigError, match="control rate"):
            controller(Safety(slew=1.0), plain)

    def test_settings_come_back_from_json(self):
        safety = Safety(Damping((1,), (0.5,)), slew=(1.0,), observation_low=-2.0, max_age=0.1)
        assert Safety.from_dict(json.loads(json.dumps(safety.to_dict()))) == safety
        for wrong in ({"slwe": 1.0}, {"safe_action": {"kind": "fly"}}, {"slew": "fast"}):
            with pytest.raises(ConfigError):
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
        answers = [np.zeros(1, np.float32), np.array([math.nan], np.float32)]
        broken = SimpleNamespace(
            observation_shape=(2,),
            action=gain_policy().action,
            task=None,
            predict=lambda observation: answers.pop(0),
        )
        own = Controller(broken)
        assert own.step([1.0, 0]) == 0
        assert own.clear_fault().kind == FaultKind.ACTION
        broken.predict = mock.Mock(side_effect=RuntimeError("no more memory"))
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
    with pytest.raises(ConfigError, match="an action is"):
        controller().reset(action)


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


@pytest.mark.parametrize("examples", FEW_AND_MANY)
def test_any_observation_gets_an_action(examples):
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
