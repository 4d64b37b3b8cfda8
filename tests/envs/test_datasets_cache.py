"""Data sets on disk: nothing pickled, nothing half-written, nothing damaged goes unnoticed."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nprobot.envs import datasets
from nprobot.envs.datasets import Dataset, Recording, Split, cache_folder, generate
from nprobot.errors import DataError, DataWarning

SMALL = Recording(train=2, validation=1, test=1, duration=0.5)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("NPROBOT_CACHE", str(folder))
    return folder


def same(left, right):
    return left.splits.keys() == right.splits.keys() and all(
        np.array_equal(getattr(a, part), getattr(b, part))
        for a, b in zip(left.splits.values(), right.splits.values(), strict=True)
        for part in ("inputs", "targets", "trajectory")
    )


def stored(cache):
    return sorted(p for p in (cache / "datasets").iterdir())


@pytest.fixture
def counted(monkeypatch):
    """How often trajectories were really drawn."""
    calls = []
    draw = generate._trajectories

    def counting(*arguments):
        calls.append(arguments)
        return draw(*arguments)

    monkeypatch.setattr(generate, "_trajectories", counting)
    return calls


def test_second_request_reads_what_the_first_stored(cache, counted):
    first = datasets.inverse_dynamics(recording=SMALL)
    second = datasets.inverse_dynamics(recording=SMALL)
    assert len(counted) == 1 and same(first, second)
    assert first.meta["settings_hash"] == second.meta["settings_hash"]
    assert json.dumps(second.meta["settings"]) == json.dumps(first.meta["settings"])
    assert second.input_names == first.input_names and second.target_units == first.target_units


def test_every_setting_is_part_of_the_key(cache, counted):
    datasets.inverse_dynamics(recording=SMALL)
    datasets.inverse_dynamics(recording=SMALL, payload=1.0)
    datasets.inverse_dynamics(recording=SMALL, friction_scale=2.0)
    datasets.inverse_dynamics(recording=Recording(2, 1, 1, duration=0.5, synergy=0.5))
    datasets.inverse_dynamics("Pusher-v5", SMALL)
    datasets.forward_kinematics(recording=SMALL)
    assert len(counted) == 6 and len(stored(cache)) == 6
    datasets.inverse_dynamics(recording=SMALL, cache=False)
    assert len(counted) == 7 and len(stored(cache)) == 6


def test_an_edited_model_file_is_other_data(cache, counted, tmp_path):
    path = tmp_path / "robot.xml"
    text = (
        '<mujoco><worldbody><body><joint axis="0 1 0"/>'
        '<geom size=".1" pos=".3 0 0" mass="{}"/></body></worldbody></mujoco>'
    )
    path.write_text(text.format(1))
    light = datasets.inverse_dynamics(path, SMALL)
    path.write_text(text.format(2))
    heavy = datasets.inverse_dynamics(path, SMALL)
    assert len(counted) == 2
    assert np.allclose(2 * light.test.targets, heavy.test.targets, rtol=1e-6)


@pytest.mark.parametrize("where", [0.02, 0.3, 0.6, 0.97])
def test_damage_anywhere_is_noticed_reported_and_repaired(cache, where):
    good = datasets.inverse_dynamics(recording=SMALL)
    (path,) = stored(cache)
    content = bytearray(path.read_bytes())
    spot = int(where * len(content))
    for i in range(spot, spot + 64):
        content[i] ^= 0xFF
    path.write_bytes(content)
    with pytest.warns(DataWarning, match="made again"):
        again = datasets.inverse_dynamics(recording=SMALL)
    assert same(good, again)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(good, datasets.inverse_dynamics(recording=SMALL))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04K\x01."])
def test_foreign_files_in_the_cache_are_replaced(cache, content):
    good = datasets.inverse_dynamics(recording=SMALL)
    (path,) = stored(cache)
    path.write_bytes(content)
    with pytest.warns(DataWarning):
        assert same(good, datasets.inverse_dynamics(recording=SMALL))


def test_a_file_under_the_wrong_name_is_not_believed(cache):
    good = datasets.inverse_dynamics(recording=SMALL)
    (path,) = stored(cache)
    datasets.inverse_dynamics(recording=SMALL, payload=1.0).save(path)
    with pytest.warns(DataWarning, match="other settings"):
        assert same(good, datasets.inverse_dynamics(recording=SMALL))


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    monkeypatch.setenv("NPROBOT_CACHE", str(blocker))
    with pytest.warns(DataWarning, match="NPROBOT_CACHE"):
        data = datasets.inverse_dynamics(recording=SMALL)
    assert len(data.train) == 100


def test_processes_that_ask_at_once_get_the_same_whole_file(cache):
    code = (
        "from nprobot.envs import datasets as d\n"
        "r = d.Recording(train=2, validation=1, test=1, duration=0.5)\n"
        "print('ready', flush=True)\n"
        "input()\n"
        "for _ in range(5): data = d.inverse_dynamics(recording=r)\n"
        "print(abs(data.shifted.targets).sum())\n"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    sums = {worker.communicate()[0] for worker in workers}
    assert len(sums) == 1 and all(worker.returncode == 0 for worker in workers)
    assert [path.suffix for path in stored(cache)] == [".npz"]


def test_an_interrupted_save_leaves_the_old_file_and_no_other(cache, tmp_path, monkeypatch):
    data = datasets.inverse_dynamics(recording=SMALL)
    path = tmp_path / "kept.npz"
    data.save(path)
    before = path.read_bytes()

    def half(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(KeyboardInterrupt):
        data.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.glob("*kept*")] == ["kept.npz"]
    assert not list(tmp_path.glob(".*part"))


def test_files_hold_no_pickle_and_are_read_without(cache, tmp_path):
    data = datasets.inverse_dynamics(recording=SMALL)
    data.save(tmp_path / "data.npz")
    with np.load(tmp_path / "data.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
    assert same(Dataset.load(tmp_path / "data.npz"), data)
    assert same(datasets.load_npz(tmp_path / "data.npz"), data)


def test_data_sets_are_stored_the_same_whoever_makes_them(cache, tmp_path):
    """Same settings in a fresh interpreter: the same bytes."""
    mine = datasets.inverse_dynamics(recording=SMALL)
    code = (
        "from nprobot.envs import datasets as d\n"
        "r = d.Recording(train=2, validation=1, test=1, duration=0.5)\n"
        f"d.inverse_dynamics(recording=r, cache=False).save({str(tmp_path / 'other.npz')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    other = Dataset.load(tmp_path / "other.npz")
    assert same(mine, other)
    assert other.meta["settings_hash"] == mine.meta["settings_hash"]


def test_cache_folder_honours_the_environment(monkeypatch):
    monkeypatch.setenv("NPROBOT_CACHE", "/somewhere/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/xdg")
    assert cache_folder() == Path("/somewhere/own")
    monkeypatch.delenv("NPROBOT_CACHE")
    assert cache_folder() == Path("/somewhere/xdg/nprobot")
    monkeypatch.delenv("XDG_CACHE_HOME")
    for platform, part in (("linux", ".cache"), ("darwin", "Caches"), ("win32", "nprobot")):
        monkeypatch.setattr(sys, "platform", platform)
        assert part in cache_folder().parts


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no file"):
        Dataset.load(tmp_path / "gone.npz")
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="load_npz"):
        Dataset.load(tmp_path / "foreign.npz")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "data.npz"
    datasets.inverse_dynamics(recording=SMALL, cache=False).save(path)
    return path


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.floats(0, 1), flips=st.lists(st.floats(0, 0.999999), max_size=6))
@example(cut=1.0, flips=[0.5692680981011589])  # an array's header that ends within a bracket
def test_fuzzed_files_raise_typed_errors_or_load_whole(saved, cut, flips):
    content = bytearray(saved.read_bytes())
    for flip in flips:
        content[int(flip * len(content))] ^= 0x55
    fuzzed = saved.with_name("fuzzed.npz")
    fuzzed.write_bytes(content[: int(cut * len(content)) + 1] if cut < 0.9 else content)
    try:
        loaded = Dataset.load(fuzzed)
    except DataError:
        return
    assert same(loaded, Dataset.load(saved))


# -- Split and Dataset -------------------------------------------------------------------------


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
    values = {
        "train": split(),
        "validation": split(5),
        "test": split(6),
        "shifted": None,
        "input_names": names(3),
        "input_units": names(3),
        "target_names": names(2),
        "target_units": names(2),
    }
    return Dataset(**{**values, **changes})


def test_splits_and_data_sets_that_do_not_fit_are_refused():
    build()
    for change in (
        {"test": split(6, width=4)},
        {"validation": split(6, outputs=1)},
        {"test": Split(np.zeros((6, 3)), np.zeros(6, int), np.zeros(6, int))},
        {"input_names": names(2)},
        {"target_units": names(3)},
    ):
        with pytest.raises(DataError):
            build(**change)
    for bad in (
        {"targets": np.zeros((9, 2))},
        {"trajectory": np.zeros((10, 1), int)},
        {"inputs": np.zeros((10, 0))},
        {"inputs": np.zeros(10)},
        {"inputs": np.zeros((0, 3)), "targets": np.zeros((0, 2)), "trajectory": np.zeros(0, int)},
        {"inputs": np.zeros((10, 3), complex)},
    ):
        with pytest.raises(DataError):
            split(**bad)
    with pytest.raises(DataError, match="row 2"):
        split(targets=np.where(np.arange(20).reshape(10, 2) == 5, np.nan, 1.0))


def test_arrays_of_a_split_cannot_be_written():
    part = split()
    for name in ("inputs", "targets", "trajectory"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(part, name)[0] = 0
