"""Fits on disk: what a folder holds, the best model kept, a resumed fit is the same fit."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
import torch
from torch import nn

from nprobot import learning_rule
from nprobot.errors import (
    ArchitectureError,
    ConfigError,
    DamagedFileError,
    ExistsError,
    NonFiniteError,
    NotFoundError,
    StorageError,
)
from nprobot.policies import mlp
from nprobot.regression import fit, load, resume
from nprobot.runs import checkpoints

from .helpers import SMALL, Watch, dataset, weights, without_times


@pytest.mark.parametrize("rule", ["danp", "np+feedback", "bp"])
def test_resume_is_bit_exact(toy, tmp_path, rule):
    whole = fit([8], toy, rule, out=tmp_path / "whole", seed=3, **(SMALL | {"epochs": 6}))
    settings = SMALL | {"epochs": 6, "checkpoint_every": 100}
    part = fit([8], toy, rule, out=tmp_path / "part", seed=3, reporter=Watch(2), **settings)
    assert (part.end, part.epochs) == ("interrupted", 2)
    resumed = resume(tmp_path / "part", toy)
    assert (resumed.end, resumed.epochs) == ("complete", 6)
    assert torch.equal(weights(whole), weights(resumed))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    a, b = without_times(whole.history), without_times(resumed.history)
    assert str(a) == str(b)  # as text, because NaN is not itself
    assert whole.scores == resumed.scores
    assert resumed.forward_passes == whole.forward_passes


def test_resume_continues_from_the_last_model_not_from_the_best(toy, tmp_path):
    settings = {"epochs": 6, "batch_size": 32, "learning_rate": 0.3, "lr_schedule": "constant"}
    settings["seed"] = 2
    whole = fit([8], toy, "bp", out=tmp_path / "whole", **settings)
    stop = whole.best_epoch + 1
    assert stop < 6  # the rate is high enough to jump away from the best model again
    part = fit([8], toy, "bp", out=tmp_path / "part", reporter=Watch(stop), **settings)
    assert part.best_epoch < part.epochs
    resumed = resume(tmp_path / "part", toy)
    assert torch.equal(weights(whole), weights(resumed))


def test_best_model_is_returned_and_saved(toy, tmp_path):
    result = fit(
        [8], toy, "bp", epochs=8, batch_size=32, learning_rate=0.5, lr_schedule="constant",
        out=tmp_path / "run",
    )  # fmt: skip
    errors = [row["validation/nmse"] for row in result.history]
    assert result.best_epoch == int(np.argmin(errors)) < 8
    assert result.scores["validation"].error == min(errors)
    loaded = load(tmp_path / "run")
    np.testing.assert_array_equal(
        loaded.predict(toy.test.inputs), result.model.predict(toy.test.inputs)
    )


def test_divergence_is_an_error_that_says_what_to_do(toy, tmp_path):
    deep = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(NonFiniteError, match=r"in epoch .* A lower learning rate"):
        fit(deep, toy, "bp", optimizer="sgd", learning_rate=1e4, out=tmp_path / "r", **SMALL)


def test_rule_object_brings_its_settings(toy, tmp_path):
    rule = learning_rule("np", samples=5, sigma=1e-2, noise="gaussian", seed=0)
    result = fit(mlp([4, 8, 2]), toy, rule, epochs=1, out=tmp_path / "run")
    assert result.forward_passes == 640 * 6
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["samples"], config["sigma"], config["noise"]) == (5, 1e-2, "gaussian")
    with pytest.raises(ConfigError, match="samples"):
        fit(mlp([4, 8, 2]), toy, rule, samples=2)


def test_a_fit_of_an_earlier_version_is_continued(toy, tmp_path):
    """It named feedback by a setting of its own, and counted its sessions' epochs otherwise."""
    whole = fit([8], toy, "np+feedback", out=tmp_path / "whole", **SMALL | {"epochs": 5})
    out = tmp_path / "old"
    fit([8], toy, "np+feedback", out=out, reporter=Watch(2), **SMALL | {"epochs": 5})
    files = out / "config.json", out / "checkpoints" / "last" / "training.json"
    for file in files:
        description = json.loads(file.read_text())
        description["config"] |= {"rule": "np", "feedback": True}
        file.write_text(json.dumps(description, indent=1) + "\n")
    (session,) = description_of(out)["sessions"]
    session["after_epoch"] = session.pop("from_epoch")
    (out / "config.json").write_text(json.dumps({**description_of(out), "sessions": [session]}))
    (out / "checkpoints" / "last" / "checkpoint.json").unlink()
    checkpoints._describe((out / "checkpoints" / "last").resolve(), 0)
    resumed = resume(out, toy)
    assert torch.equal(weights(whole), weights(resumed))
    assert description_of(out)["config"]["rule"] == "np+feedback"


def description_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_run_folder_holds_everything(toy, tmp_path):
    out = tmp_path / "run"
    result = fit([8], toy, "danp", out=out, source={"task": "toy"}, command="x", **SMALL)
    description = json.loads((out / "config.json").read_text())
    assert description["config"]["learning_rate"] == 0.01  # the value in use, not None
    assert description["about"]["network"]["sizes"] == [4, 8, 2]
    assert description["sessions"][0]["versions"]["torch"] == torch.__version__
    lines = (out / "progress.csv").read_text().splitlines()
    assert len(lines) == 1 + 1 + 3
    scores = (out / "scores.csv").read_text().splitlines()
    assert scores[0] == "split,target,unit,rmse,nmse"
    assert any(line.startswith("test,t1,N·m,") for line in scores)
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert {f.name for f in (out / "checkpoints" / "last").iterdir()} == {
        *("model.json", "model.safetensors", "policy.json", "policy.safetensors"),
        *("training.json", "training.safetensors", "checkpoint.json"),
    }
    assert result.folder.path == out
    with pytest.raises(ExistsError, match="--resume"):
        fit([8], toy, "danp", out=out)


def test_networks_of_any_kind(toy, tmp_path):
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(12, 2)

        def forward(self, x):
            return self.last(torch.cat([torch.tanh(self.first(x)), x], -1))

    network = Skip()
    result = fit(network, toy, "np", out=tmp_path / "run", **SMALL)
    assert result.model.network is network
    assert not (tmp_path / "run" / "checkpoints" / "last" / "policy.json").exists()
    with pytest.raises(ArchitectureError, match="load\\(path, network\\)"):
        load(tmp_path / "run")
    loaded = load(tmp_path / "run", Skip())
    expected = result.model.predict(toy.test.inputs)
    np.testing.assert_array_equal(loaded.predict(toy.test.inputs), expected)
    assert resume(tmp_path / "run", toy, Skip(), epochs=4).epochs == 4


def test_resume_refuses_what_cannot_be_resumed(toy, tmp_path):
    out = tmp_path / "run"
    fit([8], toy, "np", out=out, **SMALL)
    with pytest.raises(ConfigError, match="has done its 3 epochs"):
        resume(out, toy)
    with pytest.raises(ConfigError, match="keeps its sigma"):
        resume(out, toy, epochs=5, sigma=0.5)
    with pytest.raises(ConfigError, match="rows differ"):
        resume(out, dataset(seed=1), epochs=5)
    with pytest.raises(NotFoundError):
        resume(tmp_path / "nothing", toy)
    for checkpoint in (out / "checkpoints").glob("step_*"):
        (checkpoint / "training.safetensors").write_bytes(b"broken")
    with pytest.raises(DamagedFileError, match=r"no checkpoint can be used: .* has 6 bytes"):
        resume(out, toy, epochs=5)
    (out / "config.json").write_text("{}")
    with pytest.raises(DamagedFileError):
        resume(out, toy, epochs=5)


def test_half_written_checkpoints_are_not_seen(toy, tmp_path, monkeypatch):
    out = tmp_path / "run"
    fit([8], toy, "np", out=out, **SMALL)
    before = (out / "checkpoints" / "last").resolve()

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nprobot.regression.fit_run.save_state", fail)
    with pytest.raises(
        StorageError, match=r"after epoch 4: .*no space left.*continue: nprobot fit"
    ):
        resume(out, toy, epochs=5, checkpoint_every=1)
    assert (out / "checkpoints" / "last").resolve() == before
    monkeypatch.undo()
    assert resume(out, toy, epochs=5).epochs == 5
