"""The table of a run's progress."""

import csv

from nprobot.runs.log import ProgressTable, column, read_table

STEPS = "time/total_timesteps"


def test_table_takes_new_columns(tmp_path):
    file = tmp_path / "progress.csv"
    table = ProgressTable(file)
    table.write({STEPS: 1, "b": 0.5}, {})
    table.write({STEPS: 2, "a": 7, "hidden": 1}, {"hidden": ("csv",)})
    table.write({STEPS: 3, "b": 1.5}, {})
    with file.open() as stream:
        assert list(csv.reader(stream)) == [
            [STEPS, "a", "b"],
            ["1", "", "0.5"],
            ["2", "7", ""],
            ["3", "", "1.5"],
        ]
    with file.open("a") as stream:
        stream.write("4,")  # torn
    ProgressTable(file, 2).write({STEPS: 3, "b": 2.5}, {})
    assert column(read_table(file), "b") == ([1, 3], [0.5, 2.5])
