"""Rows on disk: whole after any kill, one writer, the newest of a run counts."""

from __future__ import annotations

import json

import pytest

from nprobot.benchmark import RunSpec
from nprobot.benchmark.rows import FORMAT, ROWS, open_rows, read
from nprobot.errors import BusyError, DamagedFileError


def test_rows_come_back_as_they_were(tmp_path, made_up):
    rows = [made_up("BP", seed, -5.0 - seed, rule="bp") for seed in range(3)]
    with open_rows(tmp_path) as store:
        for row in rows:
            store.append(row)
    assert read(tmp_path) == rows
    with open_rows(tmp_path) as store:
        assert list(store.rows.values()) == rows


def test_half_a_line_is_cut_off_and_nothing_else(tmp_path, made_up):
    first, second = made_up("BP", 0, -5.0), made_up("BP", 1, -6.0)
    with open_rows(tmp_path) as store:
        store.append(first)
        store.append(second)
    path = tmp_path / ROWS
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])  # a kill in the middle of the second line
    assert read(tmp_path) == [first]
    with open_rows(tmp_path) as store:
        assert list(store.rows.values()) == [first]
        store.append(second)
    assert path.read_bytes() == whole


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path, made_up):
    with open_rows(tmp_path) as store:
        store.append(made_up("BP", 0, -5.0))
        with pytest.raises(BusyError, match="another process"), open_rows(tmp_path):
            pass
        assert len(read(tmp_path)) == 1
    with open_rows(tmp_path):
        pass


def test_the_newest_row_of_a_run_counts(tmp_path, made_up):
    with open_rows(tmp_path) as store:
        store.append(made_up("BP", 0, 0.0, status="failed"))
        store.append(made_up("BP", 0, -5.0))
    (row,) = read(tmp_path)
    assert row["return_mean"] == -5.0


def test_a_row_of_an_earlier_version_is_read_in_todays_words(tmp_path, made_up):
    row = made_up("NP + feedback, K = 1", 0, -5.0, rule="np+feedback")
    row["settings"] = {"exploration_noise": 0.1}
    old = {name: value for name, value in row.items() if name not in ("format", "actuators")}
    old |= {"key": "other", "hardware": "servo", "rule": "np"}
    old["settings"] = {"feedback": True, "action_noise": 0.1}
    (tmp_path / ROWS).write_text(json.dumps(old) + "\n")
    (read_row,) = read(tmp_path)
    assert "hardware" not in read_row
    assert read_row["format"] == 1 and read_row["versions"] == row["versions"]
    spec = RunSpec.of_row(row | {"actuators": "servo"})
    assert RunSpec.of_row(read_row) == spec
    assert read_row["key"] == spec.key
    # Written again, it is a row of today.
    (tmp_path / ROWS).write_text(json.dumps(read_row | {"format": FORMAT}) + "\n")
    assert read(tmp_path)[0] | {"format": 1} == read_row


def test_rows_can_be_read_from_a_file_of_any_name(tmp_path, made_up):
    row = made_up("BP", 0, -5.0)
    (tmp_path / "core.jsonl").write_text(json.dumps(row) + "\n")
    assert read(tmp_path / "core.jsonl") == [row]


def test_a_line_that_is_no_row_is_named(tmp_path):
    row = f'{{"key": "a", "format": {FORMAT}}}\n'
    (tmp_path / ROWS).write_text(f"{row}nonsense\n{row}")
    with pytest.raises(DamagedFileError, match="line 2"):
        read(tmp_path)
    with pytest.raises(DamagedFileError, match="holds no results"):
        read(tmp_path / "elsewhere")
