"""Full disks and folders that cannot be written: a clear end, and nothing lost."""

import errno
import os

import pytest

from nprobot.cli import main

FULL = """
import os, sys
writes = 0
changing = {{"os.rename", "os.mkdir", "os.symlink"}}
def watch(event, details):
    global writes
    if event == "open":
        if not (isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)):
            return
    elif event not in changing:
        return
    if {path!r} in str(details[0]):
        writes += 1
        if writes >= {at}:
            raise OSError({number}, os.strerror({number}), details[0])
sys.addaudithook(watch)
"""
"""Lets every change of the run's folder fail from the nth on."""

LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))"
"""Lets the system refuse to write more than so many bytes into any file."""


def start(launcher, *arguments, before=""):
    """Exit code of the program."""
    process = launcher.start("train", *arguments, before=before)
    process.join()
    return process.exitcode


def check_end(launcher, path, code, reason):
    said = launcher.said()
    assert code == 1, said
    assert "Traceback" not in said
    error = said.strip().splitlines()[-1]
    assert error.startswith("nprobot train: error: at step ")
    assert "cannot write " in error
    assert reason in error
    assert f"The last good checkpoint is {path / 'checkpoints'}/step_000000256." in error
    assert f"continue: nprobot train --resume {path}" in error
    assert not list((path / "checkpoints").glob(".writing*"))


@pytest.mark.parametrize(
    ("at", "number"), [(9, errno.ENOSPC), (15, errno.EROFS)], ids=["full", "read-only"]
)
def test_the_disk_takes_nothing_more(launcher, run_at_256, run, tools, at, number):
    before = FULL.format(path=str(run_at_256), at=at, number=number)
    code = start(launcher, "--resume", run_at_256, before=before)
    reason = os.strerror(number).lower()
    check_end(launcher, run_at_256, code, reason)
    assert start(launcher, "--resume", run_at_256) == 0
    tools.assert_same(run_at_256, run)


def test_a_file_that_fits_in_part(launcher, run_at_256, run, tools):
    code = start(launcher, "--resume", run_at_256, before=LIMIT)
    check_end(launcher, run_at_256, code, "file too large")
    assert start(launcher, "--resume", run_at_256) == 0
    tools.assert_same(run_at_256, run)


@pytest.fixture
def run_at_256(run, tmp_path, tools):
    return tools.cut(run, tmp_path / "run", 256)


def test_a_place_where_no_folder_can_be(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", "--steps", "64", "--out", str(tmp_path / "file" / "run")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"nprobot train: error: cannot write {tmp_path / 'file' / 'run'}: ")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_full_at_every_write(launcher, run, tmp_path, tools):
    at, code = 0, 1
    while code:
        at += 1
        path = tools.cut(run, tmp_path / f"run{at}", 256)
        before = FULL.format(path=str(path), at=at, number=errno.ENOSPC)
        code = start(launcher, "--resume", path, before=before)
        assert code in (0, 1)
        assert "Traceback" not in launcher.said()
        if code:
            assert start(launcher, "--resume", path) == 0
        tools.assert_same(path, run)
    assert at > 20
