"""One simulated hour of control at 100 Hz: no fault, no growth of memory."""

import gc
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from nprobot.deploy import Controller, Safety, fly, make_robot
from nprobot.policies.files.policy import BoxAction, ControlTask, Normaliser, Operation, Policy

RATE = 100
HOUR = 3600 * RATE


def resident_memory():
    """Bytes of this process in memory; the most there ever were where the system says no more."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def arm_policy():
    """A network for the arm that pushes a little in all directions."""
    rng = np.random.default_rng(0)

    def linear(inputs, outputs, scale):
        weight = (scale * rng.normal(size=(outputs, inputs)) / inputs**0.5).astype(np.float32)
        return Operation("linear", {"weight": weight, "bias": np.zeros(outputs, np.float32)})

    one = np.ones(7, np.float32)
    tanh = Operation("tanh")
    return Policy(
        (35,),
        (linear(35, 64, 1.0), tanh, linear(64, 64, 1.0), tanh, linear(64, 7, 0.02)),
        BoxAction(-one, one),
        Normaliser(np.zeros(35), np.ones(35), 1e-8, 10.0),
        ControlTask("nprobot/ArmTrack-v0", {"duration": 60.0}, float(RATE)),
    )


@pytest.mark.slow
def test_an_hour_without_a_fault_and_without_growth():
    policy = arm_policy()
    # How busy this machine is must not decide: no number of late actions is a fault here.
    safety = Safety(
        slew=50.0, observation_low=-100.0, observation_high=100.0, max_missed_deadlines=HOUR
    )
    controller = Controller(policy, safety=safety)
    robot = make_robot(policy, actuators="servo")
    flight = fly(robot, controller, episodes=61)
    next(flight)  # a minute for everything that is made on first use
    memory = []
    for episode in flight:
        assert episode.fault is None, episode.fault
        assert np.isfinite(episode.total)
        gc.collect()
        memory.append(resident_memory() / 2**20)
    # The arm plans a minute's motion at once: memory goes up and down by some MiB. The low points
    # of the first and the last twenty minutes are what can be compared.
    before, after = min(memory[:20]), min(memory[-20:])
    print(f"{controller.steps:,} steps, memory {before:.1f} to {after:.1f} MiB")
    print(controller.latency.summary())
    assert len(memory) == 60
    assert controller.steps == HOUR + HOUR // 60
    assert controller.fault is None
    assert after - before < 2
