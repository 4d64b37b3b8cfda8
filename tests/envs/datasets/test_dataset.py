"""Data sets hold what fits together; files hold nothing pickled, and damage is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nprobot.envs import datasets
from nprobot.envs.datasets import Dataset, Split
from nprobot.errors import DataError


def split(rows=10, width=3, outputs=2, **changes):
    rng = np.random.default_rng(rows)
    values = {
        "inputs": rng.normal(size=(rows, width)),
        "targets": rng.normal(size=(rows, outputs)),
        "trajectory": np.zeros(rows, dtype=np.int64),
    }
    return Split(**{**values, **changes})


def names(count):
    return tuple(f"c{i}" for i in range(count))


def build(**changes):
    values = {"train": split(), "validation": split(5), "test": split(6), "shifted": None}
    columns = {"input_names": names(3), "input_units": names(3)}
    columns |= {"target_names": names(2), "target_units": names(2)}
    return Dataset(**{**values, **columns, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"test": split(6, width=4)},
        {"validation": split(6, outputs=1)},
        {"test": Split(np.zeros((6, 3)), np.zeros(6, int), np.zeros(6, int))},
        {"input_names": names(2)},
        {"target_units": names(3)},
    ],
)
def test_splits_that_do_not_fit_together_are_refused(change):
    build()
    with pytest.raises(DataError):
        build(**change)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"targets": np.zeros((9, 2))}, "as many"),
        ({"trajectory": np.zeros((10, 1), int)}, "as many"),
        ({"inputs": np.zeros((10, 0))}, "shape"),
        ({"inputs": np.zeros(10)}, "shape"),
        ({"inputs": np.zeros((10, 3), complex)}, "real numbers"),
        ({"targets": np.where(np.arange(20).reshape(10, 2) == 5, np.nan, 1.0)}, "row 2"),
    ],
)
def test_rows_that_are_none_are_refused(bad, message):
    with pytest.raises(DataError, match=message):
        split(**bad)


def test_a_split_without_rows_is_refused():
    with pytest.raises(DataError, match="at least one row"):
        split(0)


def test_arrays_of_a_split_cannot_be_written():
    part = split()
    for name in ("inputs", "targets", "trajectory"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(part, name)[0] = 0


# -- files -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(recorded, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    recorded.save(path)
    return path


def test_files_hold_no_pickle_and_are_read_without(recorded, saved, same):
    with np.load(saved, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
    loaded = Dataset.load(saved)
    assert same(loaded, recorded)
    assert same(datasets.load_npz(saved), recorded)
    for name in ("input_names", "input_units", "target_names", "target_units"):
        assert getattr(loaded, name) == getattr(recorded, name)


def test_an_interrupted_save_leaves_the_old_file_and_no_other(recorded, tmp_path, monkeypatch):
    path = tmp_path / "kept.npz"
    recorded.save(path)
    before = path.read_bytes()

    def half(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        recorded.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["kept.npz"]


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no file"):
        Dataset.load(tmp_path / "gone.npz")
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    with pytest.raises(DataError, match=r"datasets\.load\."):
        Dataset.load(tmp_path / "foreign.npz")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.floats(0, 1), flips=st.lists(st.floats(0, 0.999999), max_size=6))
@example(cut=1.0, flips=[0.5692680981011589])  # an array's header that ends within a bracket
def test_fuzzed_files_raise_typed_errors_or_load_whole(recorded, saved, same, cut, flips):
    content = bytearray(saved.read_bytes())
    for flip in flips:
        content[int(flip * len(content))] ^= 0x55
    fuzzed = saved.with_name("fuzzed.npz")
    fuzzed.write_bytes(content[: int(cut * len(content)) + 1] if cut < 0.9 else content)
    try:
        loaded = Dataset.load(fuzzed)
    except DataError:
        return
    assert same(loaded, recorded)
