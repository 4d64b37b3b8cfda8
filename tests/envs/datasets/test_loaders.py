"""A user's own files: what is read, what is split, and what is refused with a reason."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas
import pytest
import scipy.io

from nprobot.envs import datasets
from nprobot.envs.datasets.columns import import_optional
from nprobot.errors import ConfigError, DataError, DataWarning, MissingPackageError


@pytest.fixture
def table(walk):
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


@pytest.mark.parametrize(
    ("inputs", "targets", "error", "message"),
    [
        (["q", "qdd"], ["tau"], DataError, r"'qdd'.*'q', 'v', 'a'"),
        (["run"], ["tau"], DataError, "'run'.*holds 'a' in row 0"),
        (["q", "tau"], ["tau"], ConfigError, "once"),
        ([], ["tau"], ConfigError, "at least one"),
    ],
)
def test_columns_that_cannot_be_used_are_named(table, tmp_path, inputs, targets, error, message):
    table.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(error, match=message):
        datasets.load_table(tmp_path / "log.csv", inputs=inputs, targets=targets)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "no file"),
        ("log.parquet", b"PAR1 nothing else", "cannot be read"),
        ("log.csv", b"", "cannot be read"),
        ("log.json", b"{}", r"\.csv"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        datasets.load_table(tmp_path / name, **COLUMNS)


def test_cells_that_are_no_numbers_are_counted_and_placed(table, tmp_path):
    table.loc[7, "v"] = np.nan
    table.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(DataError, match=r"1 of 300 rows.*NaN.*in 'v' \(1\).*row 7"):
        datasets.load_table(tmp_path / "log.csv", **COLUMNS, trajectory="run")


def test_constant_columns_are_named_and_do_no_harm(table, tmp_path):
    table["v"] = 3.0
    table.to_csv(tmp_path / "log.csv", index=False)
    with pytest.warns(DataWarning, match=r"1 input column\(s\).*: v \(always 3\)"):
        data = datasets.load_table(tmp_path / "log.csv", **COLUMNS, trajectory="run")
    mean, scale = datasets.moments(data.train.inputs)
    assert mean[1] == 3.0 and scale[1] == 1.0
    assert np.isfinite(datasets.linear_regression(data)["test"]).all()


# -- npz ---------------------------------------------------------------------------------------


def test_npz_with_one_table(tmp_path, walk):
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


def test_npz_with_ready_splits_keeps_them(tmp_path, walk):
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


def test_npz_with_leaking_splits_is_warned_of(tmp_path, walk):
    x, y = walk(200, 3), walk(200, 1)
    np.savez(tmp_path / "leak.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    with pytest.warns(DataWarning, match="30 of 30"):
        datasets.load_npz(tmp_path / "leak.npz")
    with pytest.raises(DataError, match="leaves none"):
        datasets.load_npz(tmp_path / "leak.npz", drop_duplicates=True)


X = np.cumsum(np.random.default_rng(0).normal(size=(60, 3)), axis=0)


@pytest.mark.filterwarnings("ignore::nprobot.errors.DataWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": X, "b": X}, "'a', 'b'"),
        ({"x": X, "y": X[:50]}, "60 rows of inputs and 50 of targets"),
        ({"x": np.float64(3), "y": X}, "one number, not a column"),
        ({"x": X, "y": np.array(["left"] * 60)}, "'left' in row 0"),
        ({"x": X, "y": np.full(60, -1)}, "Labels"),
        ({"x": np.full((60, 3), np.inf), "y": X}, r"60 of 60 rows.*'x' \(180\)"),
        ({"x": X[:9], "y": X[:9]}, "9 rows"),
        ({"x": X, "y": X, "trajectory": np.zeros(5)}, r"\(5,\)"),
        ({"x": X, "y": np.array([{}] * 60, dtype=object)}, "bad.npz"),
    ],
)
def test_faulty_npz_files_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(DataError, match=message):
        datasets.load_npz(tmp_path / "bad.npz")


def test_npz_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, x=X, y=X)
    with pytest.raises(DataError, match="'run'"):
        datasets.load_npz(path, trajectory="run")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        datasets.load_npz(path)
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(DataError, match="bare array"):
        datasets.load_npz(path)


# -- SARCOS ------------------------------------------------------------------------------------


@pytest.fixture
def sarcos(tmp_path, walk):
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


def test_sarcos_official_test_file_that_repeats_training_rows_is_found_out(sarcos, walk):
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


def test_sarcos_rows_out_of_order_are_found_out(sarcos, walk):
    table = np.random.default_rng(0).permutation(walk(400, 28))
    with pytest.warns(DataWarning, match="do not follow each other"):
        datasets.load_sarcos(sarcos(table=table))


def test_faulty_sarcos_files_are_refused(sarcos, tmp_path, walk):
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


# -- after loading --------------------------------------------------------------------------------


def test_linear_regression_is_exact_on_linear_data_and_header_is_json(table, tmp_path):
    table.to_csv(tmp_path / "log.csv", index=False)
    data = datasets.load_table(tmp_path / "log.csv", **COLUMNS, trajectory="run")
    assert np.allclose(datasets.linear_regression(data)["test"], 0, atol=1e-12)
    json.dumps(dict(data.meta))
    assert "1 targets" in data.summary() and "6 trajectories" not in data.summary()


def test_a_missing_package_is_named_with_the_way_to_get_it():
    with pytest.raises(
        MissingPackageError, match=r"Reading scrolls needs papyrus.*nprobot\[data\]"
    ):
        import_optional("papyrus.reader", "Reading scrolls")
