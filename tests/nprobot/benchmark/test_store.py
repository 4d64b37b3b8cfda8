"""Rows on disk: whole after any kill, one writer, the newest of a run counts."""

from __future__ import annotations

import pytest

from nprobot.benchmark.store import ROWS, Store, read
from nprobot.errors import BusyError, DamagedFileError


def test_rows_come_back_as_they_were(tmp_path, made_up):
    rows = [made_up("BP", seed, -5.0 - seed, rule="bp") for seed in range(3)]
    with Store(tmp_path) as store:
        for row in rows:
            store.append(row)
    assert read(tmp_path) == rows
    with Store(tmp_path) as store:
        assert list(store.rows.values()) == rows


def test_half_a_line_is_cut_off_and_nothing_else(tmp_path, made_up):
    first, second = made_up("BP", 0, -5.0), made_up("BP", 1, -6.0)
    with Store(tmp_path) as store:
        store.append(first)
        store.append(second)
    path = tmp_path / ROWS
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])  # a kill in the middle of the second line
    assert read(tmp_path) == [first]
    with Store(tmp_path) as store:
        assert list(store.rows.values()) == [first]
        store.append(second)
    assert path.read_bytes() == whole


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path, made_up):
    with Store(tmp_path) as store:
        store.append(made_up("BP", 0, -5.0))
        with pytest.raises(BusyError, match="another `nprobot bench`"):
            Store(tmp_path)
        assert len(read(tmp_path)) == 1
    with Store(tmp_path):
        pass


def test_the_newest_row_of_a_run_counts(tmp_path, made_up):
    with Store(tmp_path) as store:
        store.append(made_up("BP", 0, 0.0, status="failed"))
        store.append(made_up("BP", 0, -5.0))
    (row,) = read(tmp_path)
    assert row["return_mean"] == -5.0


def test_a_line_that_is_no_row_is_named(tmp_path):
    (tmp_path / ROWS).write_text('{"key": "a"}\nnonsense\n{"key": "b"}\n')
    with pytest.raises(DamagedFileError, match="line 2"):
        read(tmp_path)
    with pytest.raises(DamagedFileError, match="holds no results"):
        read(tmp_path / "elsewhere")
