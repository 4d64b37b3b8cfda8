"""Fits that are killed, and fits whose files are damaged, forged, foreign or newer."""

import contextlib
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nprobot.errors import (
    ArchitectureError,
    BusyError,
    DamagedFileError,
    ForeignFileError,
    NewerFileError,
    NonFiniteError,
    NprobotError,
)
from nprobot.regression import fit, resume
from nprobot.regression.fit_folder import FitFolder
from nprobot.runs import checkpoints as checkpoint_folder
from nprobot.runs.atomic_files import lock_run
from nprobot.runs.checkpoints import newest_whole
from nprobot.runs.reporting import Silent

FILES = [
    *("checkpoint.json", "model.json", "model.safetensors"),
    *("training.json", "training.safetensors"),
]
OPTIONS = {"epochs": 4, "batch_size": 40, "samples": 2, "checkpoint_every": 1, "seed": 3}
LAST, BEFORE = "step_000000012", "step_000000009"


class Listener(Silent):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def data(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(150, 3))
    return x, np.sin(x[:, :2]), np.arange(150) // 15


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A fit that was never stopped; not to be changed."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("fits") / "whole"
    fit([6], data(), "danp", out=path, **OPTIONS)
    return path


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "fit", symlinks=True)
    return tmp_path / "fit"


def sign(path):
    """Write checksums that fit the files, as somebody could who means to deceive."""
    (path / "checkpoint.json").unlink()
    checkpoint_folder._describe(path, 0)


def left(path):
    """What a fit leaves behind, but for what the clock says."""
    last = path / "checkpoints" / LAST
    found = {name: (last / name).read_bytes() for name in FILES[1:3]}
    found["tensors"] = (last / "training.safetensors").read_bytes()
    state = json.loads((last / "training.json").read_text())
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in state.pop("history")]
    del state["seconds"]
    table = (path / "progress.csv").read_text().splitlines()
    found |= {"state": state, "rows": str(rows), "lines": len(table), "columns": table[0]}
    return found | {"scores": (path / "scores.csv").read_text()}


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(FILES), st.sampled_from(["flip", "cut", "gone"]), st.integers(0, 2**20))
def test_any_damaged_byte_is_noticed(whole, tmp_path_factory, name, kind, place):
    folder = tmp_path_factory.getbasetemp() / "damaged fit"
    if not folder.exists():
        shutil.copytree(whole / "checkpoints", folder, symlinks=True)
    file = folder / LAST / name
    content = file.read_bytes()
    place %= len(content)
    flipped = content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
    messages = []
    try:
        if kind == "gone":
            file.unlink()
        else:
            file.write_bytes(flipped if kind == "flip" else content[:place])
        assert newest_whole(folder, messages.append).name == BEFORE
        assert LAST in messages[0]
    finally:
        file.write_bytes(content)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(FILES[1:]), st.integers(0, 2**20), st.integers(1, 255))
@example("training.json", 2308, 1)
@example("training.json", 1200, 3)
def test_a_forged_checkpoint_is_a_typed_error_or_a_fit(whole, tmp_path, name, place, mask):
    path = tmp_path / "forged"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path, symlinks=True)
    shutil.rmtree(path / "checkpoints" / LAST)
    file = path / "checkpoints" / BEFORE / name
    content = bytearray(file.read_bytes())
    content[place % len(content)] ^= mask
    file.write_bytes(content)
    sign(file.parent)
    with contextlib.suppress(NprobotError, ArchitectureError):  # typed, whichever it is
        resume(path, data())


def test_the_checkpoint_before_a_damaged_one_is_used(copy, whole):
    (copy / "checkpoints" / LAST / "training.safetensors").write_bytes(b"torn")
    (copy / "progress.csv").write_text("torn")
    listener = Listener()
    resume(copy, data(), reporter=listener)
    assert any(f"using {BEFORE} instead" in message for message in listener.messages)
    assert left(copy) == left(whole)
    assert (copy / "checkpoints" / f"damaged_{LAST}").exists()


def test_what_a_fit_had_left_to_do_at_its_end(copy, whole):
    description = json.loads((copy / "config.json").read_text())
    del description["sessions"][-1]["to_epoch"]
    (copy / "config.json").write_text(json.dumps(description))
    (copy / "curve.png").unlink()
    (copy / "scores.csv").unlink()
    resume(copy, data())
    assert left(copy) == left(whole)
    assert (copy / "curve.png").exists()


def test_a_fit_has_a_checkpoint_from_its_beginning(tmp_path, monkeypatch):
    def killed(run):
        raise KeyboardInterrupt

    monkeypatch.setattr("nprobot.regression.fit_run.Fit.run", killed)
    with pytest.raises(KeyboardInterrupt):
        fit([6], data(), "danp", out=tmp_path / "fit", **OPTIONS)
    monkeypatch.undo()
    assert resume(tmp_path / "fit", data()).epochs == 4


def test_foreign_newer_and_busy(copy):
    file = copy / "config.json"
    good = file.read_text()
    file.write_text(good.replace("nprobot-fit", "nprobot-run"))
    with pytest.raises(ForeignFileError, match="nprobot-run"):
        FitFolder.open(copy)
    file.write_text(good.replace('"version": 1', '"version": 7', 1))
    with pytest.raises(NewerFileError, match="version 7"):
        FitFolder.open(copy)
    file.write_text(good.replace('"epochs"', '"epoch"'))
    with pytest.raises(NprobotError, match="epoch"):
        FitFolder.open(copy)
    file.write_text(good[:100])
    with pytest.raises(DamagedFileError):
        FitFolder.open(copy)
    file.write_text(good.replace('"seed": 3', '"seed": 4'))
    with pytest.raises(ForeignFileError, match="its seed is 3"):
        resume(copy, data(), epochs=6)
    file.write_text(good)
    with lock_run(copy), pytest.raises(BusyError):
        resume(copy, data(), epochs=6)


def test_numbers_that_are_lost_end_the_fit(tmp_path):
    options = OPTIONS | {"learning_rate": 1e30, "lr_schedule": "constant"}
    with pytest.raises(NonFiniteError, match=r"in epoch .*last good checkpoint is .*step_"):
        fit([6], data(), "bp", out=tmp_path / "fit", **options)
