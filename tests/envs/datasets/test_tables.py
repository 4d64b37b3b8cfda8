"""Data as people have it: every way of writing a table, each read right or refused, and said."""

from __future__ import annotations

import os
import warnings

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nprobot.envs import datasets
from nprobot.envs.datasets import columns, tables
from nprobot.errors import ConfigError, DataError, DataWarning, NprobotError

EXAMPLES = round(60 * float(os.environ.get("NPROBOT_FUZZ", "1")))
"""NPROBOT_FUZZ=100 looks a hundred times as long."""

ROWS = [[0.5, -1.25, 3.0], [1.5, 2.25, -4.0], [2.5, 0.125, 1e-3]]


def read(tmp_path, content, name="log.csv"):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tables.read_text_table(file)


def text(header="q,v,tau", separator=",", decimal=".", end="", rows=ROWS):
    lines = [separator.join(str(x).replace(".", decimal) for x in row) + end for row in rows]
    return "\n".join([header.replace(",", separator), *lines, ""])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (text(), []),
        (text(separator=" "), ["space-separated"]),
        (text(separator="   "), ["space-separated"]),
        (text(separator="\t"), ["tab-separated"]),
        (text(separator=";"), ["semicolon-separated"]),
        (text(separator=";", decimal=","), ["semicolon-separated", "decimal comma"]),
        (text(separator=" ", decimal=","), ["space-separated", "decimal comma"]),
        ("# made by hand\n" + text(), ["1 comment line"]),
        ("% a\n% b\n" + text(separator=" "), ["space-separated", "2 comment lines"]),
        (text().encode("utf-8-sig"), ["byte order mark"]),
        (text().encode("utf-16"), ["UTF-16"]),
        (text().replace("\n", "\r\n"), []),
        (text("q,v,tau\nrad,rad/s,N·m"), ["a row of units (rad, rad/s, N·m)"]),
        (text("q [rad],v [rad/s],tau [N·m]"), []),
        ("# " + text(), ["names of the columns from a comment line"]),
        (text('"q","v","tau"'), []),
        (text(end=",", header="q,v,tau,"), ["a separator at the end of each line"]),
        (text(separator=", "), []),
    ],
)
def test_a_table_is_read_right_whatever_it_looks_like(tmp_path, content, said):
    fields = read(tmp_path, content)
    assert list(fields.arrays) == ["q", "v", "tau"]
    assert np.array_equal(np.column_stack([*fields.arrays.values()]), ROWS)
    assert fields.notes == said
    if b"rad" in (content if isinstance(content, bytes) else content.encode()):
        assert fields.units == {"q": "rad", "v": "rad/s", "tau": "N·m"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (text(end=","), "line 2: 4 cells, more than the 3 names"),
        (text(separator=" ", header="q,v"), "line 2: 3 cells, more than the 2 names"),
        (text() + "1,2\n", "line 5: 2 cells, fewer than the 3 names"),
        (text("q,q,tau"), "more than one column 'q'"),
        ("q,v,tau\n", "names and no rows"),
        ("# only\n# comments\n", "no rows"),
        ("", "no rows"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not text"),
    ],
)
def test_what_could_be_misread_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


def test_a_shifted_table_never_trains(tmp_path):
    """Rows with a comma at their end made the run number a torque, without a word."""
    rows = "".join(f"{i},{i % 7},{i % 5},{i // 50},\n" for i in range(200))
    (tmp_path / "log.csv").write_text("q,v,tau,run\n" + rows)
    with pytest.raises(DataError, match="more than the 4 names"):
        datasets.load_table(tmp_path / "log.csv", inputs=["q", "v"], targets=["tau"])


def test_a_table_without_names_gets_some_and_says_so(tmp_path, walk):
    np.savetxt(tmp_path / "log.txt", walk(60, 3))
    with pytest.warns(DataWarning, match="column0, column1"):
        data = datasets.load(
            tmp_path / "log.txt", inputs="column[01]", targets="column2", how="blocks"
        )
    assert data.input_names == ("column0", "column1")
    assert "read as space-separated, no line of names" in data.summary()


@pytest.mark.parametrize("content", [text(separator=";", decimal=","), text("q,v,tau\nm,m/s,N")])
def test_guesses_are_warnings(tmp_path, content):
    (tmp_path / "log.csv").write_text(content * 1 + "".join(content.splitlines(True)[2:]) * 30)
    with pytest.warns(DataWarning, match="was read with"):
        datasets.load(tmp_path / "log.csv", inputs=["q"], targets=["tau"], how="blocks")


# -- several recordings ------------------------------------------------------------------------


@pytest.fixture
def recordings(tmp_path, walk):
    """Four files as an arm writes them: space-separated, three joints, no acceleration."""
    for number in (1, 2, 10, 3):
        t = np.arange(200) / 100
        q = np.stack([np.sin((j + number) * t) for j in range(1, 4)], 1)
        v = np.stack([(j + number) * np.cos((j + number) * t) for j in range(1, 4)], 1)
        names = " ".join(f"{kind}_{j}" for kind in ("ang", "vel", "torq") for j in range(3))
        rows = np.hstack([q, v, walk(200, 3, number)])
        np.savetxt(tmp_path / f"run{number}.csv", rows, header=names, comments="")
    return tmp_path


GROUPS = {"inputs": ["ang_*", "vel_*"], "targets": "torq_*"}


def test_several_files_are_a_trajectory_each(recordings):
    data = datasets.load(recordings / "run*.csv", **GROUPS)
    assert data.meta["files"] == ["run1.csv", "run2.csv", "run3.csv", "run10.csv"]
    assert data.meta["split"] == "by trajectory (4 trajectories)"
    assert data.input_names[2:4] == ("ang_2", "vel_0") and data.target_names[0] == "torq_0"
    every = np.concatenate([s.trajectory for s in data.splits.values()])
    assert sorted(set(every.tolist())) == [0, 1, 2, 3] and len(every) == 800
    data = datasets.load(
        [recordings / f"run{n}.csv" for n in (1, 2, 3)], **GROUPS, test=recordings / "run10.csv"
    )
    assert len(data.test) == 200 and len(data.train) + len(data.validation) == 600
    assert set(data.test.trajectory.tolist()) == {3}


def test_an_acceleration_is_made_where_it_is_missing_and_said(recordings):
    data = datasets.load(recordings / "run*.csv", **GROUPS, derivatives="vel_*", rate=100)
    assert data.input_names[6:] == tuple(f"vel_{j}.derivative" for j in range(3))
    assert "derivatives of 'vel_0', 'vel_1', 'vel_2' by a Savitzky-Golay filter" in data.summary()
    for split in data.splits.values():
        for piece in np.unique(split.trajectory):
            rows = split.inputs[split.trajectory == piece]
            exact = -((np.array([1, 2, 3]) + [1, 2, 3, 10][piece]) ** 2) * rows[:, :3]
            error = np.abs(rows[:, 6:] - exact)[10:-10] / np.abs(exact).max(axis=0)
            assert error.max() < 0.15 * (1 + (piece == 3))
    with pytest.raises(ConfigError, match="rate"):
        datasets.load(recordings / "run*.csv", **GROUPS, derivatives="vel_*")


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({"inputs": "ang_*", "targets": "torq*x"}, DataError, r"no column 'torq\*x'"),
        ({"inputs": "*", "targets": "torq_*"}, ConfigError, "named once.*'torq_0'"),
        ({"inputs": ["ang_*", "*_0"], "targets": "torq_1"}, ConfigError, "'ang_0'"),
        ({"inputs": "ang_0", "targets": "torque_0"}, DataError, "did you mean 'torq_0'"),
        ({"inputs": "ang_0"}, ConfigError, "'ang_0', 'ang_1'.*vel"),
    ],
)
def test_groups_that_do_not_fit_are_named(recordings, names, error, message):
    with pytest.raises(error, match=message):
        datasets.load(recordings / "run1.csv", **names)


@pytest.mark.parametrize("path", ["nothing/*.csv", "gone.csv", ".", "notes.docx"])
def test_files_that_are_not_there_are_named(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(DataError, match=path.replace("*", r"\*").rstrip(".") or "folder"):
        datasets.load(path, inputs="a", targets="b")


# -- missing values, times, meaning ---------------------------------------------------------------


def table(tmp_path, walk, **columns):
    frame = dict(zip("qv", walk(300, 2).T, strict=True)) | {"tau": walk(300, 1, 5)[:, 0]} | columns
    rows = zip(*frame.values(), strict=True)
    body = "\n".join(",".join("" if x != x else str(x) for x in row) for row in rows)
    file = tmp_path / "log.csv"
    file.write_text(",".join(frame) + "\n" + body)
    return {"path": file, "inputs": ["q", "v"], "targets": ["tau"], "how": "blocks"}


def test_rows_with_missing_cells_are_counted_or_dropped(tmp_path, walk):
    tau = walk(300, 1, 5)[:, 0]
    tau[[7, 8, 200]] = np.nan
    given = table(tmp_path, walk, tau=tau)
    with pytest.raises(DataError, match=r"3 of 300 rows.*'tau' \(3\); the first is row 7"):
        datasets.load(**given)
    data = datasets.load(**given, missing="drop")
    assert "3 rows without numbers dropped" in data.summary()
    assert np.isfinite(data.train.targets).all()
    slopes = datasets.load(**given, missing="drop", derivatives="v", rate=100)
    assert not np.isin(slopes.train.targets, tau[[7, 8, 200]]).any()


TIME = np.arange(300) / 100


@pytest.mark.parametrize(
    ("time", "error", "message"),
    [
        (np.r_[TIME[:150], TIME[150:] + 0.5], None, "not constant: 0.01 s .* to 0.51 s; 1 of 299"),
        (np.r_[TIME[:150], TIME[:150]], DataError, "does not grow at 1 of 299"),
        (TIME * 1000, None, r"says 0.1 rows a second.*time \[ms\]"),
    ],
)
def test_times_that_are_not_even_are_said(tmp_path, walk, time, error, message):
    given = table(tmp_path, walk, time=time)
    if error is None:
        with pytest.warns(DataWarning, match=message):
            datasets.load(**given)
    else:
        with pytest.warns(DataWarning, match=message):
            datasets.load(**given)
        with pytest.raises(error, match=message):
            datasets.load(**given, time="time")


def test_an_even_time_is_the_rate(tmp_path, walk):
    given = table(tmp_path, walk, **{"t [ms]": 10 * np.arange(300)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = datasets.load(**given)
    assert data.meta["rate"] == pytest.approx(100)
    with pytest.raises(ConfigError, match=r"50 Hz.*100 Hz"):
        datasets.load(**given, rate=50)
    days = np.array("2024-05-01T10:00:00", "datetime64[ms]") + 20 * np.arange(300)
    data = datasets.load(**table(tmp_path, walk, clock=days), time="clock")
    assert data.meta["rate"] == pytest.approx(50)


def test_what_columns_mean_is_looked_at(tmp_path, walk):
    with pytest.warns(DataWarning, match=r"1 target column.*tau \(always 0\)"):
        datasets.load(**table(tmp_path, walk, tau=np.zeros(300)))
    q = walk(300, 2)[:, 0]
    with pytest.warns(DataWarning, match="copies of inputs.*'tau of q'"):
        datasets.load(**table(tmp_path, walk, tau=5 - 2 * q))
    given = table(tmp_path, walk, time=np.arange(300)) | {"how": "auto"}
    with pytest.raises(DataError, match="300 trajectory labels for 300 rows: a time or a counter"):
        datasets.load(**given, trajectory="time")
    run = np.r_[np.zeros(280), 1 + np.arange(20) // 7]
    with pytest.warns(DataWarning, match="split is uneven.*test"):
        datasets.load(**table(tmp_path, walk, run=run) | {"how": "auto"}, trajectory="run")


def test_labels_that_are_a_quantity_are_said(tmp_path, walk):
    x, counter = walk(300, 2), np.arange(300) * 17
    np.savez(tmp_path / "log.npz", x=x, y=counter)
    with pytest.warns(DataWarning, match="5,084 classes for 210 rows"):
        datasets.load(tmp_path / "log.npz")
    np.savez(tmp_path / "log.npz", x=x, y=1 + (x[:, 0] > 0))
    with pytest.warns(DataWarning, match="no training row has 0"):
        datasets.load(tmp_path / "log.npz")


# -- MATLAB ------------------------------------------------------------------------------------


def save_mat(path, content, newer):
    """A MATLAB file, also as version 7.3 lays it out: HDF5, columns first, structures as groups."""
    if not newer:
        return scipy.io.savemat(path, content)

    def write(group, name, value):
        if isinstance(value, dict):
            for part, inner in value.items():
                write(group.require_group(name), part, inner)
        elif isinstance(value, list):
            cells = [group.file.create_dataset(f"#refs#/{name}{i}", data=np.atleast_2d(v).T)
                     for i, v in enumerate(value)]  # fmt: skip
            references = np.array([[cell.ref for cell in cells]], dtype=h5py.ref_dtype)
            group.create_dataset(name, data=references.T, dtype=h5py.ref_dtype)
        else:
            group.create_dataset(name, data=np.atleast_2d(value).T)

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in content.items():
            write(file, name, value)
    return path.open("r+b").write(b"MATLAB 7.3 MAT-file")


@pytest.mark.parametrize("newer", [False, True])
def test_matlab_files_with_named_arrays_and_nested_structures(tmp_path, walk, newer):
    q, tau = walk(120, 3), walk(120, 3, 1)
    content = {"log": {"joint": {"q": q, "v": q[:, :1]}, "tau": tau.T}, "fs": 100.0}
    save_mat(tmp_path / "log.mat", content, newer)
    with pytest.warns(DataWarning, match=r"the rows of log.tau along the second axis"):
        data = datasets.load(
            tmp_path / "log.mat", inputs="log.joint.*", targets="log.tau", how="blocks"
        )
    assert data.input_names == ("log.joint.q0", "log.joint.q1", "log.joint.q2", "log.joint.v")
    rows = {row.tobytes(): out for row, out in zip(q, tau, strict=True)}
    for x, y in zip(data.train.inputs, data.train.targets, strict=True):
        assert np.array_equal(rows[x[:3].tobytes()], y) and x[3] == x[0]
    one = {"inputs": "log.joint.q[01]", "targets": "log.tau2", "how": "blocks"}
    with pytest.warns(DataWarning):
        assert datasets.load(tmp_path / "log.mat", **one).input_size == 2


@pytest.mark.parametrize("newer", [False, True])
def test_a_cell_array_is_a_recording_an_element(tmp_path, walk, newer):
    runs = [walk(50 + 10 * i, 2, i) for i in range(4)]
    if newer:
        cells = {"q": runs, "tau": [run[:, :1] ** 2 for run in runs]}
    else:
        cells = {name: np.empty(4, object) for name in ("q", "tau")}
        for i, run in enumerate(runs):
            cells["q"][i], cells["tau"][i] = run, run[:, :1] ** 2
    save_mat(tmp_path / "log.mat", cells, newer)
    data = datasets.load(tmp_path / "log.mat", inputs="q", targets="tau")
    assert data.meta["split"] == "by trajectory (4 trajectories)"
    assert sum(map(len, data.splits.values())) == 260
    assert np.allclose(data.train.inputs[:, 0] ** 2, data.train.targets[:, 0])


def test_options_that_a_format_cannot_honour_are_errors(tmp_path, walk, recorded):
    scipy.io.savemat(tmp_path / "sarcos_inv.mat", {"sarcos_inv": walk(300, 28)})
    recorded.save(tmp_path / "ours.npz")
    x = walk(200, 3)
    ready = {"x_train": x, "y_train": x[:, :1], "x_test": x + 1, "y_test": x[:, :1]}
    np.savez(tmp_path / "ready.npz", **ready)
    for name, options in {
        "sarcos_inv.mat": {"how": "rows"},
        "ours.npz": {"inputs": "joint1"},
        "ready.npz": {"how": "rows"},
    }.items():
        with pytest.raises(ConfigError, match=f"{name}.*leave .* away"):
            datasets.load(tmp_path / name, **options)
    with pytest.raises(ConfigError, match="test"):
        datasets.load(tmp_path / "sarcos_inv.mat", drop_duplicates=True)
    np.savetxt(tmp_path / "a.csv", x, delimiter=",", header="a,b,c", comments="")
    with pytest.raises(ConfigError, match="'d'"):
        datasets.load(tmp_path / "a.csv", inputs="a", targets="b", units={"d": "m"})


# -- fuzzing -------------------------------------------------------------------------------------

CELLS = st.floats(allow_nan=False, allow_infinity=False, width=32).map(float)
NAMES = st.lists(
    st.from_regex(r"[a-zA-Z][a-z_.0-9]{0,8}", fullmatch=True), min_size=2, max_size=6, unique=True
)


@settings(max_examples=EXAMPLES, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data())
def test_fuzz_tables_are_read_as_they_were_written(tmp_path, data):
    """Any mixture of the ways to write a table: the numbers come back, in their columns."""
    names = data.draw(NAMES.filter(lambda n: not any(map(tables._is_number, n))))
    rows = data.draw(
        st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), min_size=3, max_size=8)
    )
    separator = data.draw(st.sampled_from([",", ";", "\t", "|", " ", "  ", ", "]))
    decimal = data.draw(st.sampled_from([".", ","])) if "," not in separator else "."
    comments = data.draw(st.lists(st.sampled_from(["# made", "% 1,2,3", "// x y"]), max_size=2))
    units = data.draw(st.booleans())
    lines = [*comments, separator.join(names)]
    lines += [separator.join(["rad/s"] * len(names))] * units
    lines += [separator.join(repr(x).replace(".", decimal) for x in row) for row in rows]
    newline = data.draw(st.sampled_from(["\n", "\r\n"]))
    code = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    fields = read(tmp_path, (newline.join(lines) + newline).encode(code))
    assert list(fields.arrays) == names
    assert np.allclose(np.column_stack([*fields.arrays.values()]), rows, rtol=1e-14, atol=0)
    assert ("rad/s" in fields.units.values()) == units


@settings(max_examples=4 * EXAMPLES, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    base=st.sampled_from([text(), text(separator=";", decimal=","), text("q,v,tau\nm,m/s,N")]),
    edits=st.lists(
        st.tuples(
            st.integers(0, 200),
            st.integers(0, 6),
            st.one_of(st.binary(max_size=4), st.sampled_from(
                [b",", b";", b" ", b"\n", b'"', b"nan", b"#", b"\0", b"1e999", b"\xff", b",,", b"-"]
            )),
        ),
        max_size=4,
    ),
)  # fmt: skip
@example(base='"q"', edits=[])
def test_fuzz_a_damaged_table_is_read_or_refused_with_a_reason(tmp_path, base, edits):
    """No way of damaging a file ends in anything but rows or an error of ours."""
    raw = bytearray((base * 1 + "".join(base.splitlines(True)[2:]) * 12).encode())
    for place, length, put in edits:
        raw[place : place + length] = put
    file = tmp_path / "log.csv"
    file.write_bytes(bytes(raw))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        try:
            data = datasets.load(file, inputs="q", targets="tau", how="blocks", missing="drop")
        except NprobotError as error:
            assert len(str(error)) > 20
        else:
            assert np.isfinite(data.train.inputs).all() and data.input_names == ("q",)


@settings(max_examples=2 * EXAMPLES, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    shapes=st.dictionaries(
        st.sampled_from(["x", "y", "trajectory", "x_train", "y_train", "y_test", "x_test", "z"]),
        st.tuples(
            st.lists(st.integers(0, 40), max_size=3),
            st.sampled_from(["f4", "f8", "i4", "u1", "U3", "?", "c16", "i8"]),
        ),
        max_size=5,
    ),
    options=st.fixed_dictionaries(
        {},
        optional={
            "inputs": st.sampled_from(["x", "x*", "z", "x0"]),
            "targets": st.sampled_from(["y", "*", "z1"]),
            "trajectory": st.sampled_from(["z", "y"]),
            "derivatives": st.just("x"),
            "rate": st.sampled_from([10.0, 0.0]),
            "missing": st.sampled_from(["drop", "keep"]),
        },
    ),
)
@example(shapes={"x": ([0], "f4"), "y": ([], "f4")}, options={})
def test_fuzz_arrays_and_options_are_used_or_refused_with_a_reason(tmp_path, shapes, options):
    rng = np.random.default_rng(0)
    for ending in ("npz", "mat"):
        arrays = {n: rng.integers(0, 9, size=s).astype(k) for n, (s, k) in shapes.items()}
        file = tmp_path / f"log.{ending}"
        np.savez(file, **arrays) if ending == "npz" else scipy.io.savemat(file, arrays)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            try:
                data = datasets.load(file, **options)
            except NprobotError as error:
                assert len(str(error)) > 20
            else:
                assert np.isfinite(data.train.inputs).all()


def test_names_for_people():
    assert columns.listed(["a", "b", "c"], 2) == "'a', 'b' and 1 more"
