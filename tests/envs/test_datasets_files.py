"""A user's own files: what is read, what is split, and what is refused with a reason."""

import json
import warnings

import numpy as np
import pandas
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from nprobot.envs import datasets
from nprobot.envs.datasets.splitting import duplicates
from nprobot.errors import DataError, DataWarning


def walk(rows, columns, seed=0):
    """Rows that follow each other in time."""
    return np.cumsum(np.random.default_rng(seed).normal(size=(rows, columns)), axis=0)


@pytest.fixture
def table():
    x = walk(300, 3)
    frame = pandas.DataFrame(x, columns=["q", "v", "a"])
    frame["tau"] = x @ [1.0, 2.0, 3.0]
    frame["run"] = np.repeat(["a", "b", "c", "d", "e", "f"], 50)
    return frame


COLUMNS = {"inputs": ["q", "v", "a"], "targets": ["tau"]}


# -- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_tables_are_read_by_column_and_split_by_trajectory(table, tmp_path, ending):
    path = tmp_path / f"log.{ending}"
    table.to_parquet(path) if ending == "parquet" else table.to_csv(path, index=False)
    data = datasets.load_table(
        path, **COLUMNS, trajectory="run", units={"q": "rad", "tau": "N·m"}, seed=3
    )
    assert data.input_names == ("q", "v", "a") and data.target_names == ("tau",)
    assert data.input_units == ("rad", "", "") and data.target_units == ("N·m",)
    labels = [set(s.trajectory.tolist()) for s in data.splits.values()]
    assert sorted(len(s) for s in labels) == [1, 1, 4]
    assert set.union(*labels) == set(range(6)) and sum(map(len, labels)) == 6
    assert np.allclose(data.train.inputs @ [1, 2, 3], data.train.targets[:, 0])
    assert "by trajectory" in data.meta["split"]


def test_tables_without_trajectories_are_split_in_blocks_and_say_so(table, tmp_path):
    table.to_csv(tmp_path / "log.csv", index=False)
    with pytest.warns(DataWarning, match="contiguous blocks"):
        data = datasets.load_table(tmp_path / "log.csv", **COLUMNS)
    assert "contiguous blocks" in data.meta["split"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        datasets.load_table(tmp_path / "log.csv", **COLUMNS, how="blocks")


def test_one_trajectory_cannot_be_split_by_trajectory(table, tmp_path):
    table["run"] = "only"
    table.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(DataError, match="at least three trajectories; the data has 1"):
        datasets.load_table(tmp_path / "log.csv", **COLUMNS, trajectory="run")


def test_faulty_tables_are_refused(table, tmp_path):
    path = tmp_path / "log.csv"
    with pytest.raises(DataError, match="no file"):
        datasets.load_table(path, **COLUMNS)
    table.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"'qdd'.*'q', 'v', 'a'"):
        datasets.load_table(path, inputs=["q", "qdd"], targets=["tau"])
    with pytest.raises(DataError, match="once"):
        datasets.load_table(path, inputs=["q", "tau"], targets=["tau"])
    with pytest.raises(DataError, match="at least one"):
        datasets.load_table(path, inputs=[], targets=["tau"])
    with pytest.raises(DataError, match=r"'run'.*not numbers"):
        datasets.load_table(path, inputs=["run"], targets=["tau"])
    table.loc[7, "v"] = np.nan
    table.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"1 NaN or infinite values.*row 7, column 1"):
        datasets.load_table(path, **COLUMNS, trajectory="run")
    (tmp_path / "log.parquet").write_bytes(b"PAR1 nothing else")
    with pytest.raises(DataError, match="cannot be read"):
        datasets.load_table(tmp_path / "log.parquet", **COLUMNS)
    (tmp_path / "log.json").write_text("{}")
    with pytest.raises(DataError, match=r"\.csv"):
        datasets.load_table(tmp_path / "log.json", **COLUMNS)
    path.write_text("")
    with pytest.raises(DataError):
        datasets.load_table(path, **COLUMNS)


def test_constant_columns_are_named_and_do_no_harm(table, tmp_path):
    table["v"] = 3.0
    table.to_csv(tmp_path / "log.csv", index=False)
    with pytest.warns(DataWarning, match=r"1 column\(s\).*: v"):
        data = datasets.load_table(tmp_path / "log.csv", **COLUMNS, trajectory="run")
    mean, scale = datasets.moments(data.train.inputs)
    assert mean[1] == 3.0 and scale[1] == 1.0
    assert np.isfinite(datasets.linear_regression(data)["test"]).all()


# -- npz ---------------------------------------------------------------------------------------


def test_npz_with_one_table(tmp_path):
    x = walk(120, 4)
    path = tmp_path / "own.npz"
    np.savez(path, x=x.astype(np.float32), y=x[:, 0], trajectory=np.arange(120) // 20)
    data = datasets.load_npz(path)
    assert data.train.inputs.dtype == np.float32 and data.target_size == 1
    np.savez(path, states=x, forces=x[:, :2], run=np.arange(120) // 30)
    data = datasets.load_npz(path, inputs="states", targets="forces", trajectory="run")
    assert (data.input_size, data.target_size, data.classes) == (4, 2, None)
    assert data.target_names == ("forces0", "forces1")


def test_npz_of_images_with_labels_is_classification(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(90, 4, 4, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, size=90).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=labels)
    data = datasets.load_npz(tmp_path / "images.npz")
    assert data.input_size == 48 and data.classes == data.target_size == 5
    assert data.train.inputs.dtype == np.float32 and data.train.inputs.max() <= 1
    assert data.train.targets.shape == (len(data.train),)
    assert sum(map(len, data.splits.values())) == 90
    with pytest.raises(DataError, match="labels"):
        datasets.linear_regression(data)


def test_npz_with_ready_splits_keeps_them(tmp_path):
    x, z = walk(200, 3), walk(40, 3, seed=9)
    path = tmp_path / "ready.npz"
    np.savez(path, X_train=x, y_train=x[:, :1], X_test=z, y_test=z[:, :1])
    data = datasets.load_npz(path)
    assert np.array_equal(data.test.inputs, z)
    assert 160 <= len(data.train) + len(data.validation) <= 200
    np.savez(path, X_train=x, y_train=x[:, :1], X_test=z, y_test=z[:, :1], X_validation=z + 1,
             y_validation=z[:, :1])  # fmt: skip
    assert np.array_equal(datasets.load_npz(path).validation.inputs, z + 1)
    np.savez(path, X_train=x, y_train=x[:, :1])
    with pytest.raises(DataError, match="X_test and y_test"):
        datasets.load_npz(path)


def test_npz_with_leaking_splits_is_warned_of(tmp_path):
    x, y = walk(200, 3), walk(200, 1)
    np.savez(tmp_path / "leak.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    with pytest.warns(DataWarning, match="30 of 30"):
        datasets.load_npz(tmp_path / "leak.npz")
    with pytest.raises(DataError, match="leaves none"):
        datasets.load_npz(tmp_path / "leak.npz", drop_duplicates=True)


def test_faulty_npz_files_are_refused(tmp_path):
    path = tmp_path / "bad.npz"
    x = walk(60, 3)
    for content, error, message in [
        ({"a": x, "b": x}, DataError, "'a', 'b'"),
        ({"x": x, "y": x[:50]}, DataError, "60 rows of inputs and 50 of targets"),
        ({"x": x[:, 0], "y": x}, DataError, r"\(60,\)"),
        ({"x": x, "y": np.array(["left"] * 60)}, DataError, "real numbers"),
        ({"x": x, "y": np.full(60, -1)}, DataError, "Labels"),
        ({"x": np.full((60, 3), np.inf), "y": x}, DataError, "180"),
        ({"x": x[:9], "y": x[:9]}, DataError, "9 rows"),
        ({"x": x, "y": x, "trajectory": np.zeros(5)}, DataError, r"\(5,\)"),
        ({"x": x, "y": np.array([{}] * 60, dtype=object)}, DataError, "bad.npz"),
    ]:
        np.savez(path, **content)
        with (
            warnings.catch_warnings(),
            pytest.raises(error, match=message),
        ):
            warnings.simplefilter("ignore", DataWarning)
            datasets.load_npz(path)
    np.savez(path, x=x, y=x)
    with pytest.raises(DataError, match="'run'"):
        datasets.load_npz(path, trajectory="run")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        datasets.load_npz(path)
    np.save(tmp_path / "bare.npy", x)
    with pytest.raises(DataError, match="bare array"):
        datasets.load_npz(tmp_path / "bare.npy")


# -- SARCOS ------------------------------------------------------------------------------------


@pytest.fixture
def sarcos(tmp_path):
    def write(name="sarcos_inv", rows=400, seed=0, table=None, key=None):
        path = tmp_path / f"{name}.mat"
        scipy.io.savemat(path, {key or name: walk(rows, 28, seed) if table is None else table})
        return path

    return write


def test_sarcos_training_file_alone_is_split_in_blocks(sarcos):
    data = datasets.load_sarcos(sarcos())
    assert (data.input_size, data.target_size) == (21, 7)
    assert data.input_units[::7] == ("rad", "rad/s", "rad/s²")
    assert "contiguous blocks" in data.meta["split"]
    rows = {row.tobytes() for row in data.train.inputs}
    assert not any(row.tobytes() in rows for row in data.test.inputs)


def test_sarcos_official_test_file_that_repeats_training_rows_is_found_out(sarcos):
    train = walk(400, 28)
    mixed = np.vstack([train[::10], walk(20, 28, seed=5)])
    first, second = sarcos(table=train), sarcos("sarcos_inv_test", table=mixed)
    with pytest.warns(DataWarning, match="40 of 60 test rows"):
        data = datasets.load_sarcos(first, second)
    assert len(data.test) == 60
    with pytest.warns(DataWarning, match="dropped"):
        data = datasets.load_sarcos(first, second, drop_duplicates=True)
    assert len(data.test) == 20
    clean = sarcos("sarcos_inv_test", table=walk(30, 28, seed=6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(datasets.load_sarcos(first, clean).test) == 30


def test_sarcos_rows_out_of_order_are_found_out(sarcos):
    table = np.random.default_rng(0).permutation(walk(400, 28))
    with pytest.warns(DataWarning, match="do not follow each other"):
        datasets.load_sarcos(sarcos(table=table))


def test_faulty_sarcos_files_are_refused(sarcos, tmp_path):
    with pytest.raises(DataError, match="no file"):
        datasets.load_sarcos(tmp_path / "sarcos_inv.mat")
    with pytest.raises(DataError, match="28 columns"):
        datasets.load_sarcos(sarcos(table=walk(50, 27)))
    table = walk(400, 28)
    table[3, 4] = np.nan
    with pytest.raises(DataError, match="row 3, column 4"):
        datasets.load_sarcos(sarcos(table=table))
    path = tmp_path / "broken.mat"
    path.write_bytes(b"not a matlab file" * 40)
    with pytest.raises(DataError, match="MATLAB"):
        datasets.load_sarcos(path)


# -- splitting ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(30, 900),
    seed=st.integers(0, 99),
    train=st.floats(0.05, 0.9),
    validation=st.floats(0.1, 0.9),
)
def test_blocks_are_contiguous_disjoint_and_apart(rows, seed, train, validation):
    fractions = (train, (1 - train) * validation, (1 - train) * (1 - validation))
    x = np.arange(rows, dtype=float)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = datasets.split_rows(x, x, fractions=fractions, how="blocks", seed=seed)
    found = [set(part.inputs[:, 0].astype(int).tolist()) for part in parts[:3]]
    assert all(found)
    for i, own in enumerate(found):
        for other in found[i + 1 :]:
            assert not own & other and not {row + 1 for row in own} & other
    assert sum(map(len, found)) >= 0.6 * rows


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=3, max_size=12),
    seed=st.integers(0, 99),
    train=st.floats(0.05, 0.9),
)
def test_trajectories_stay_whole_and_no_split_is_empty(lengths, seed, train):
    labels = np.repeat(np.arange(len(lengths)) * 7, lengths)
    x = np.arange(len(labels), dtype=float)[:, None]
    fractions = (train, (1 - train) / 2, (1 - train) / 2)
    *parts, _ = datasets.split_rows(x, x, labels, fractions=fractions, seed=seed)
    groups = [set(labels[part.inputs[:, 0].astype(int)].tolist()) for part in parts]
    assert all(groups)
    assert sum(map(len, groups)) == len(lengths)
    assert sum(map(len, parts)) == len(labels)


def test_impossible_splits_are_refused():
    x = walk(50, 2)
    for bad in ((0.5, 0.5, 0.0), (0.5, 0.4, 0.4), (0.6, 0.4)):
        with pytest.raises(DataError, match="fractions"):
            datasets.split_rows(x, x, fractions=bad)
    with pytest.raises(DataError, match="how"):
        datasets.split_rows(x, x, how="sideways")
    with pytest.raises(DataError, match="labels"):
        datasets.split_rows(x, x, how="trajectory")


def test_duplicates_see_through_precision_and_signed_zeros():
    rows = np.array([[0.0, 1.0], [0.1, 2.0], [3.0, 4.0]])
    others = np.array([[3.0, 5.0], [-0.0, 1.0], [np.float64(np.float32(0.1)), 2.0]])
    assert duplicates(rows, others).tolist() == [True, True, False]


# -- measures ----------------------------------------------------------------------------------


def test_nmse_is_zero_when_perfect_and_one_for_the_mean():
    y = walk(100, 3)
    assert np.allclose(datasets.nmse(y, y), 0)
    assert np.allclose(datasets.nmse(np.tile(y.mean(0), (100, 1)), y), 1)
    assert np.allclose(datasets.nmse(y + 2 * y.std(0), y), 4)
    with pytest.raises(DataError, match="shape"):
        datasets.nmse(y[:, :2], y)


def test_linear_regression_is_exact_on_linear_data_and_header_is_json(table, tmp_path):
    table.to_csv(tmp_path / "log.csv", index=False)
    data = datasets.load_table(tmp_path / "log.csv", **COLUMNS, trajectory="run")
    assert np.allclose(datasets.linear_regression(data)["test"], 0, atol=1e-12)
    json.dumps(dict(data.meta))
    assert "1 targets" in data.summary() and "6 trajectories" not in data.summary()
