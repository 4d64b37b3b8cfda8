"""The flight recorder: what it keeps is what happened, and can be replayed to the last bit."""

import contextlib
import dataclasses
import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nprobot.deploy import Controller, Damping, FaultKind, FlightRecord, Safety, replay
from nprobot.errors import (
    DamagedFileError,
    DeployError,
    FileError,
    ForeignFileError,
    NewerFileError,
    NotFoundError,
    NprobotError,
)
from nprobot.policies import zoo
from nprobot.policies.files.policy import BoxAction

from .helpers import FEW_AND_MANY

POLICY = zoo.load_policy("InvertedPendulum")
SAFETY = Safety(Damping((3,), 0.3), slew=30.0, max_age=0.5, max_repeats=3, max_missed_deadlines=2)


class Clock:
    """Every third step takes 50 ms of a control period of 40 ms."""

    def __init__(self):
        self.calls, self.now = 0, 0.0

    def __call__(self):
        self.calls += 1
        self.now += 0.05 if self.calls % 6 == 0 else 0.001
        return self.now


def eventful_flight(steps=300, record=1000, seed=0):
    """A controller that has seen everything: faults, repeats, late steps, trips, new episodes."""
    rng = np.random.default_rng(seed)
    own = Controller(POLICY, safety=SAFETY, record=record, clock=Clock())
    x = np.zeros(4)
    for i in range(steps):
        if i % 40 == 39:
            own.reset(rng.uniform(-1, 1, 1) if i % 80 == 39 else None)
        if i % 23 == 22:
            own.clear_fault()
        if i % 100 == 60:
            own.trip("stop")
        if i % 100 == 85:
            own.trip("stuck", FaultKind.WATCHDOG)
        if rng.random() > 0.3:
            x = rng.normal(0, 0.1, 4)
        bad = {10: None, 24: [math.nan, 0, 0, 0], 45: [1.0, 2.0]}
        own.step(bad.get(i % 50, x), age=1.0 if i % 70 == 7 else 0.0)
    return own


def test_keeps_what_happened():
    own = Controller(POLICY, record=10)
    rows = np.random.default_rng(0).normal(0, 0.1, (4, 4))
    actions = [own.step(row, age=0.25) for row in rows]
    own.step(None)
    record = own.recorder.record()
    assert len(record) == 5
    assert record.first == 0
    assert (record.arrays["observation"][:4] == rows).all()
    assert (record.arrays["action"][:4] == actions).all()
    assert [record[i].begins for i in range(5)] == [True, False, False, False, False]
    assert [record[i].fault for i in (3, 4)] == [None, FaultKind.UNUSABLE]
    assert record[4].observation is None
    assert record[4].commanded is None
    assert record[2].age == 0.25
    assert record[1].previous == actions[0]


def test_keeps_only_the_last_steps():
    own = Controller(POLICY, record=7)
    rows = np.random.default_rng(0).normal(0, 0.1, (50, 4))
    for row in rows:
        own.step(row)
    record = own.recorder.record()
    assert (len(record), record.first) == (7, 43)
    assert (record.arrays["observation"] == rows[43:]).all()


def test_the_moment_of_a_fault_is_not_written_over():
    own = Controller(POLICY, record=10)
    rows = np.random.default_rng(0).normal(0, 0.1, (50, 4))
    for row in rows[:20]:
        own.step(row)
    own.trip("stop")
    for row in rows[20:]:
        own.step(row)
    record = own.recorder.record()
    assert (record.first, len(record)) == (15, 10)
    assert [record[i].fault for i in range(10)] == [None] * 5 + [FaultKind.EXTERNAL] * 5
    assert replay(record, POLICY).identical
    own.clear_fault()  # a record has no gap: it begins anew
    for row in rows[:3]:
        own.step(row)
    record = own.recorder.record()
    assert (record.first, len(record)) == (50, 3)
    assert (record.arrays["observation"] == rows[:3]).all()
    assert replay(record, POLICY).identical


def test_comes_back_from_its_file(tmp_path):
    record = eventful_flight().recorder.record()
    again = FlightRecord.load(record.save(tmp_path / "deep" / "flight.npz"))
    assert again.first == record.first
    assert again.about == json.loads(json.dumps(record.about))
    assert set(again.arrays) == set(record.arrays)
    for name, array in record.arrays.items():
        assert np.array_equal(array, again.arrays[name], equal_nan=array.dtype.kind == "f")
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["flight.npz"]
    np.load(tmp_path / "deep" / "flight.npz", allow_pickle=False)["header"]


@pytest.mark.parametrize("seed", range(3))
def test_replays_to_the_last_bit(seed, tmp_path):
    own = eventful_flight(seed=seed)
    record = FlightRecord.load(own.recorder.record().save(tmp_path / "flight.npz"))
    kinds = {record[i].fault for i in range(len(record))}
    assert kinds >= {
        *(None, FaultKind.UNUSABLE, FaultKind.NOT_FINITE, FaultKind.STALE),
        *(FaultKind.EXTERNAL, FaultKind.WATCHDOG),
    }
    result = replay(record, POLICY)
    assert result.identical, str(result)
    assert result.steps == 300


@pytest.mark.parametrize("record", range(40, 60))
def test_replays_without_its_start(record):
    kept = eventful_flight(record=record).recorder.record()
    assert kept.first > 0
    result = replay(kept, POLICY)
    assert result.identical, str(result)
    assert result.steps == len(kept) - 1


def test_another_policy_is_noticed():
    other = dataclasses.replace(
        POLICY, action=BoxAction(POLICY.action.low / 100, POLICY.action.high / 100)
    )
    flight = Controller(POLICY)
    for row in np.random.default_rng(0).normal(0, 0.1, (20, 4)):
        flight.step(row)
    result = replay(flight.recorder.record(), other)
    assert not result.identical
    assert result.first_difference is not None
    assert result.largest_difference > 0.01
    assert "differ by up to" in str(result)


def test_a_changed_fault_is_noticed():
    own = Controller(POLICY)
    own.step([0.0] * 4)
    record = own.recorder.record()
    record.arrays["fault"][0] = 0
    result = replay(record, POLICY)
    assert not result.faults_agree
    assert "the faults do not" in str(result)


def test_a_policy_of_another_shape_is_refused():
    own = Controller(POLICY)
    own.step([0.0] * 4)
    record = own.recorder.record()
    for name in ("observation", "action"):
        arrays = {**record.arrays, name: np.zeros((1, 5))}
        with pytest.raises(DeployError, match=rf"the {name} shape \(5,\), the policy has"):
            replay(FlightRecord(0, record.about, arrays), POLICY)


def test_memory_does_not_grow():
    own = Controller(POLICY, record=100)
    rows = np.random.default_rng(0).normal(0, 0.1, (200, 4))
    for row in rows:
        own.step(row)
    tracemalloc.start()
    for _ in range(10):
        for row in rows:
            own.step(row)
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(20):
        for row in rows:
            own.step(row)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 2000


class TestFilesOfOthers:
    @pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04rest", b"\x93NUMPY\x01\x00"])
    def test_no_flight_record(self, data, tmp_path):
        file = tmp_path / "flight.npz"
        file.write_bytes(data)
        with pytest.raises(DamagedFileError, match="not a readable flight record"):
            FlightRecord.load(file)
        with pytest.raises(NotFoundError, match="no flight record"):
            FlightRecord.load(tmp_path / "nothing.npz")

    @pytest.mark.parametrize(
        ("header", "error"),
        [({"format": "other"}, ForeignFileError), ({"version": 99}, NewerFileError)],
    )
    def test_other_formats(self, header, error, tmp_path):
        file = tmp_path / "flight.npz"
        header = {"format": "nprobot-flight", "version": 1, **header}
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8))
        with pytest.raises(error):
            FlightRecord.load(file)

    def test_pickles_are_refused(self, tmp_path):
        file = tmp_path / "flight.npz"
        np.savez(file, header=np.array([{"format": "nprobot-flight"}], dtype=object))
        with pytest.raises(DamagedFileError, match="allow_pickle=False"):
            FlightRecord.load(file)

    @pytest.mark.parametrize(
        "change",
        [
            lambda arrays: arrays.pop("fault"),
            lambda arrays: arrays.update(more=np.zeros(3)),
            lambda arrays: arrays.update(fault=arrays["fault"] + 100),
            lambda arrays: arrays.update(fault=arrays["fault"] - 5),
            lambda arrays: arrays.update(age=np.zeros(2)),
            lambda arrays: arrays.update(age=arrays["age"][:, None]),
            lambda arrays: arrays.update(begins=arrays["age"]),
            lambda arrays: arrays.update(commanded=arrays["observation"]),
        ],
    )
    def test_arrays_that_do_not_fit(self, change, tmp_path):
        record = eventful_flight(10).recorder.record()
        change(record.arrays)
        with pytest.raises(FileError):
            FlightRecord.load(record.save(tmp_path / "flight.npz"))

    @pytest.mark.parametrize("examples", FEW_AND_MANY)
    def test_changed_bytes(self, examples, tmp_path):
        file = tmp_path / "flight.npz"
        eventful_flight(20).recorder.record().save(file)
        whole = file.read_bytes()

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            at=st.integers(0, len(whole) - 1),
            cut=st.integers(0, 30),
            insert=st.binary(max_size=30),
        )
        def check(at, cut, insert):
            file.write_bytes(whole[:at] + insert + whole[at + cut :])
            with contextlib.suppress(NprobotError):
                replay(FlightRecord.load(file), POLICY)

        check()
