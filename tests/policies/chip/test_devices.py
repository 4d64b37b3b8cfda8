"""Devices that are written by pulses: every statistic against its formula."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from nprobot.errors import ConfigError
from nprobot.policies.chip import PRESETS, resolve
from nprobot.policies.chip.devices import (
    DRIFT_START,
    Cells,
    coincidences,
    drift_exponent,
    programming_sd,
    whole_pulses,
)
from nprobot.policies.chip.nonidealities import InputConverter, PulsedDevice, Site

SHAPE = (200, 200)
PLAIN = PulsedDevice(step=0.01, step_spread=0, cycle=0, asymmetry_spread=0, bound_spread=0)


def cells(device=PLAIN, seed=0, shape=SHAPE, **changes):
    generators = (torch.Generator().manual_seed(seed + i) for i in range(2))
    return Cells(dataclasses.replace(device, **changes), shape, *generators)


def pulses(count, shape=SHAPE):
    return torch.full(shape, float(count)), torch.zeros(shape)


def near(value, expected, share=0.03):
    assert float(value) == pytest.approx(expected, rel=share)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_many_pulses_at_once_are_as_many_single_ones(slope):
    once, singly = cells(slope_up=slope, shape=(1, 1)), cells(slope_up=slope, shape=(1, 1))
    once.pulse(*pulses(40, (1, 1)))
    for _ in range(40):
        singly.pulse(*pulses(1, (1, 1)))
    assert torch.allclose(once.weights, singly.weights, atol=1e-6)
    w = 0.0
    for _ in range(40):
        w += 0.01 * (1 - slope * w)
    near(once.weights, w, 1e-4)


def test_steps_differ_from_device_to_device_and_from_pulse_to_pulse():
    spread = cells(step_spread=0.3)
    spread.pulse(*pulses(1))
    near(spread.weights.mean(), 0.01)
    near(spread.weights.log().std(), 0.3)
    noisy = cells(cycle=0.4, slope_up=0.0)
    noisy.pulse(*pulses(9))
    near(noisy.weights.mean(), 0.09)
    near(noisy.weights.std(), 0.4 * 0.01 * 3)


def test_up_and_down_differ_by_the_asymmetry_and_end_at_their_bounds():
    device = cells(asymmetry=0.2, slope_up=0.0, slope_down=0.0)
    device.pulse(*pulses(1))
    near(device.weights.mean(), 0.012, 1e-4)
    device.pulse(*pulses(1)[::-1])
    near(device.weights.mean(), 0.004, 1e-4)
    bounded = cells(bound_spread=0.1, slope_up=0.0)
    bounded.pulse(*pulses(1000))
    near(bounded.weights.mean(), 1.0)
    near(bounded.weights.std(), 0.1)


def test_what_is_read_has_the_noise_of_the_last_write():
    device = cells(write_noise=1.5, slope_up=0.0)
    device.pulse(*pulses(1))
    near(device.weights.std(), 1.5 * 0.01)
    before = device.weights
    assert torch.equal(before, device.weights)
    device.pulse(*pulses(0))
    assert torch.equal(before, device.weights)


def test_failed_devices_are_stuck():
    device = cells(failed=0.135)
    stuck = device.weights.clone()
    device.pulse(*pulses(20))
    still = device.weights == stuck
    near(still.float().mean(), 0.135)
    assert float(stuck.abs().max()) <= 0.01
    device.fail(0.5, torch.Generator().manual_seed(3))
    near((device.weights.abs() <= 0.01).float().mean(), 0.135 + 0.5 * 0.865)


def test_a_capacitor_leaks_with_every_change():
    device = cells(lifetime=100.0, slope_up=0.0)
    device.pulse(*pulses(50))
    near(device.weights.mean(), 0.5 * 0.99, 1e-4)
    for _ in range(10):
        device.pulse(*pulses(0))
    near(device.weights.mean(), 0.5 * 0.99**11, 1e-4)


def test_pairs_that_only_grow_reach_both_signs_and_are_set_back_in_time():
    device = cells(one_sided=1.0, shape=(20, 20))
    up, down = pulses(10, (20, 20))
    device.pulse(down, up)
    near(device.weights.mean(), -(1 - 0.99**10), 1e-3)
    for _ in range(60):
        device.pulse(up, up)
    assert float((device.state / 1.0).max()) < 0.91
    assert -(1 - 0.99**10) < float(device.weights.mean()) < 0.0  # soft bounds draw both alike
    before, spent = device.weights, device.pulses
    device.refresh()
    assert torch.allclose(device.weights, before, atol=1e-5)
    assert float(device.state.amin(0).max()) == 0.0
    assert device.pulses > spent


def test_phase_change_cells_are_programmed_and_drift_as_measured():
    """Nandakumar et al., ICECS 2019: SD in µS of 25, exponents within [.049, .1]."""
    device = cells(resolve("pcm")[0], bound_spread=0.0)
    device.program(torch.full(SHAPE, 0.4))
    near(device.weights.std() * 25, (0.26348 + 1.965 * 0.4 - 1.1731 * 0.16), 0.2)
    device.advance(9 * DRIFT_START)
    share = torch.tensor(0.4)
    exponent = float(drift_exponent(share, torch.tensor(0.0)))
    assert 0.0489 < exponent < 0.1001
    near(device.state[0].mean(), 0.4 * 10**-exponent, 0.03)
    assert float(programming_sd(torch.tensor(0.0))) * 25 == pytest.approx(0.26348)


def test_trial_and_error_comes_within_a_step():
    device = cells(shape=(50, 50))
    goal = torch.linspace(-0.8, 0.8, 2500).view(50, 50)
    device.program(goal)
    assert float((device.weights - goal).abs().max()) <= 0.0051
    assert device.pulses > 2500


def test_trains_meet_as_often_as_the_outer_product_says():
    generator = torch.Generator().manual_seed(0)
    errors, inputs = torch.tensor([[0.5, -0.2]]), torch.tensor([[1.0, -0.3, 0.0]])
    total = torch.zeros(2, 3)
    for _ in range(400):
        up, down = coincidences(errors, inputs, 10.0, 31, generator)
        assert torch.equal(up, up.round())
        total += up - down
    assert torch.allclose(total / 400, -10.0 * errors.mT @ inputs, atol=0.15)
    wanted = torch.full((20_000,), 2.3)
    near(whole_pulses(wanted, generator).mean(), 2.3, 0.01)


def test_inputs_have_levels_of_their_largest():
    x = torch.randn(3, 50)
    fed = InputConverter(127).inputs(Site(0, 0), x)
    step = 2 * x.abs().amax(1, True) / 126
    assert float(((fed - x).abs() / step).max()) <= 0.5 + 1e-4
    assert torch.allclose(fed / step, (fed / step).round(), atol=1e-3)


def test_presets_have_one_device_each_and_can_be_changed():
    names = {"reram", "reram-om", "reram-hfo2", "pcm", "ecram", "ecram-mo", "capacitor", "exact"}
    assert names <= PRESETS.keys()
    for name in names:
        assert sum(isinstance(model, PulsedDevice) for model in PRESETS[name]) == 1
    changed, *others = resolve("reram-om:failed=0.3")
    assert changed == dataclasses.replace(PRESETS["reram-om"][0], failed=0.3)
    assert tuple(others) == PRESETS["reram-om"][1:]
    with pytest.raises(ConfigError, match="one_sided is 0 or 1"):
        PulsedDevice(one_sided=0.5)
