"""`nprobot.fit`: every rule learns, the best model is kept, and a resumed fit is the same fit."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
import torch
from torch import nn

from nprobot import RULES, learning_rule
from nprobot.envs.datasets import Dataset, Split, split_rows
from nprobot.envs.errors import (
    ConstantColumnWarning,
    DataShapeError,
    NonFiniteDataError,
    SplitError,
)
from nprobot.errors import ArchitectureError, RuleError
from nprobot.policies import mlp
from nprobot.regression import FitConfig, fit, load, resume
from nprobot.training.errors import (
    ConfigError,
    DamagedRunError,
    NonFiniteError,
    RunExistsError,
    RunNotFoundError,
    StorageError,
    UnknownNameError,
)

SMALL = {"epochs": 3, "batch_size": 32, "samples": 2}


def dataset(seed=0, inputs=4, shift=5.0):
    """Two smooth functions of correlated inputs, in units far from 1."""
    rng = np.random.default_rng(seed)

    def split(rows):
        z = rng.normal(size=(rows, inputs))
        z[:, 1] += 2 * z[:, 0]
        y = np.stack([z[:, 0] - 0.5 * z[:, 2], np.sin(z[:, 1]) + z[:, 3]], axis=1)
        return Split(30 * z + shift, 200 * y - 7, np.zeros(rows))

    names = tuple(f"q{i}" for i in range(inputs))
    return Dataset(
        split(640), split(200), split(200), None,
        names, ("rad",) * inputs, ("t0", "t1"), ("N·m",) * 2, {"task": "toy"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def toy():
    return dataset()


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x, y.astype(np.int64)


class Watch:
    """A reporter that remembers what it was told, and ends a fit after some epochs."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.epoch = 0
        self.messages = []
        self.seen = []

    @property
    def stop_requested(self):
        return self.stop_after is not None and self.epoch >= self.stop_after

    def progress(self, progress):
        self.epoch = progress.epoch
        self.seen.append(progress)

    def message(self, text):
        self.messages.append(text)


def without_times(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def weights(result):
    return nn.utils.parameters_to_vector(result.model.parameters())


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns(toy, rule):
    result = fit([16], toy, rule, epochs=25, batch_size=32, samples=4, learning_rate=0.02)
    assert result.scores["test"].error < 0.15
    assert result.history[0]["validation/nmse"] > 0.8
    assert (result.backward_passes > 0) == (rule in ("bp", "dbp"))


def test_danp_learns_digits(digits):
    result = fit([64], digits, "danp", samples=8, epochs=15, batch_size=64)
    assert result.scores["test"].accuracy >= 0.9
    predicted = result.model.predict(digits[0])
    assert (predicted == digits[1]).mean() >= 0.9
    assert predicted.shape == digits[1].shape
    assert result.backward_passes == 0


def test_perturbation_needs_no_backward_pass(toy, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a backward pass was run")

    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    fit([8], toy, "danp", **SMALL)


def test_passes_are_counted_and_no_row_is_left_out(toy):
    plain = fit([8], toy, "np", epochs=2, batch_size=100, samples=3)
    assert plain.forward_passes == 2 * 640 * (1 + 3)
    iterative = fit([8], toy, "inp", epochs=2, batch_size=100, samples=3)
    assert iterative.forward_passes == 2 * 640 * (1 + 2 * 3)
    backprop = fit([8], toy, "bp", epochs=2, batch_size=100)
    assert (backprop.forward_passes, backprop.backward_passes) == (2 * 640, 2 * 640)


def test_same_seed_same_fit(toy):
    one, same, other = (fit([8], toy, "danp", seed=s, **SMALL) for s in (1, 1, 2))
    assert torch.equal(weights(one), weights(same))
    assert without_times(one.history)[1:] == without_times(same.history)[1:]
    assert not torch.equal(weights(one), weights(other))


def test_random_numbers_of_the_caller_are_left_alone(toy):
    before = torch.get_rng_state()
    fit([8], toy, "np", **SMALL)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rule", ["danp", "bp"])
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


def test_resume_goes_on_from_the_last_model_not_from_the_best(toy, tmp_path):
    settings = {"epochs": 6, "batch_size": 32, "learning_rate": 0.3, "lr_schedule": "constant"}
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


def test_patience_ends_a_fit(toy):
    result = fit(
        [8], toy, "bp", epochs=50, batch_size=32, learning_rate=0.5, lr_schedule="constant",
        patience=3,
    )  # fmt: skip
    assert result.end == "patience"
    assert result.epochs == result.best_epoch + 3 < 50


def test_step_sizes_follow_the_schedule(toy):
    rule = learning_rule("danp", samples=2, seed=0, decorrelation_lr=1e-2)
    network = mlp([4, 8, 2], decorrelated=True)
    result = fit(network, toy, rule, epochs=4, batch_size=32, learning_rate=0.01)
    rates = [row["learning_rate"] for row in result.history]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 0.01
    assert rates[-1] < 1e-4
    assert rule.decorrelation_lr == 1e-2  # given back as it was
    constant = fit([8], toy, "np", lr_schedule="constant", learning_rate=0.01, **SMALL)
    assert {row["learning_rate"] for row in constant.history} == {0.01}


def test_decorrelation_decorrelates(toy):
    plain, decorrelated = (
        fit([8], toy, rule, epochs=10, batch_size=32, decorrelation_lr=5e-2).history[-1]
        for rule in ("anp", "danp")
    )
    assert decorrelated["decorrelation/loss"] < 0.5 * plain["decorrelation/loss"]


def test_weights_can_be_held(toy):
    def last(**settings):
        return fit([8], toy, "np", epochs=5, batch_size=32, learning_rate=0.05, **settings)

    free, decayed, limited = last(), last(weight_decay=1.0), last(max_row_norm=0.5)
    norms = [r.history[-1]["weights/norm"] for r in (free, decayed, limited)]
    assert norms[0] > 1.2 * norms[1]
    for layer in limited.model.network[::2]:
        assert (layer.weight.norm(dim=1) <= 0.5 + 1e-6).all()
    assert any((layer.weight.norm(dim=1) > 0.5).any() for layer in free.model.network[::2])


def test_growing_weights_are_reported(toy):
    watch = Watch()
    fit([8], toy, "np", optimizer="sgd", learning_rate=3.0, reporter=watch, **SMALL)
    assert any("unstable" in text for text in watch.messages)
    quiet = Watch()
    fit([8], toy, "np", reporter=quiet, **SMALL)
    assert quiet.messages == []
    assert quiet.seen[-1].step == quiet.seen[-1].steps == 3 * 20


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
    with pytest.raises(RunExistsError, match="--resume"):
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


def test_arrays_are_split_by_trajectory(toy):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    trajectory = np.repeat(np.arange(10), 30)
    result = fit([4], (x, x[:, :1], trajectory), "bp", **SMALL)
    assert set(result.scores) == {"train", "validation", "test"}


def test_bad_data_is_refused():
    x = np.random.default_rng(0).normal(size=(120, 3))
    y = x[:, :2].copy()
    y[7, 1] = np.nan
    with pytest.raises(NonFiniteDataError, match="row 7, column 1"):
        fit([4], (x, y, np.arange(120) // 20), "np")
    with pytest.raises(SplitError, match="three trajectories"):
        fit([4], (x, x[:, :1], np.zeros(120)), "np")
    with pytest.raises(DataShapeError):
        fit([4], (x[:-1], x[:, :1], np.arange(120) // 20), "np")
    with pytest.raises(ConfigError, match="got ndarray"):
        fit([4], x, "np")


def test_constant_columns_do_no_harm():
    rng = np.random.default_rng(0)
    x, trajectory = rng.normal(size=(300, 3)), np.arange(300) // 30
    y = np.stack([x[:, 0], np.full(300, 4.0)], axis=1)
    x[:, 1] = 9.0
    with pytest.warns(ConstantColumnWarning):
        result = fit([8], (x, y, trajectory), "bp", epochs=20, batch_size=32)
    score = result.scores["test"]
    assert np.isnan(score.nmse[1])
    assert score.error == score.nmse[0] < 0.2
    assert score.rmse[1] < 0.5


def test_misfits_are_refused(toy):
    with pytest.raises(RuleError, match="decorrelated layers"):
        fit(mlp([4, 8, 2]), toy, "danp")
    with pytest.raises(ArchitectureError, match="2 targets"):
        fit(mlp([4, 8, 3]), toy, "np")
    with pytest.raises(ArchitectureError, match="rows of 4 inputs"):
        fit(mlp([5, 8, 2]), toy, "np")


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"rule": "dann"}, UnknownNameError, "did you mean danp"),
        ({"epoch": 3}, UnknownNameError, "did you mean epochs"),
        ({"epochs": 0}, ConfigError, "epochs must be a whole number from 1, got 0"),
        ({"epochs": 2.5}, ConfigError, "epochs"),
        ({"learning_rate": -1.0}, ConfigError, "learning_rate must be above 0"),
        ({"sigma": float("nan")}, ConfigError, "sigma"),
        ({"whitening": 2.0}, ConfigError, "whitening"),
        ({"weight_decay": -0.1}, ConfigError, "weight_decay"),
        ({"max_row_norm": 0.0}, ConfigError, "max_row_norm"),
        ({"patience": 0}, ConfigError, "patience"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"optimizer": "adma"}, UnknownNameError, "did you mean adam"),
        ({"lr_schedule": "step"}, UnknownNameError, "cosine"),
        ({"epochs": "many"}, ConfigError, "epochs"),
        ({"feedback": True}, ConfigError, "np, inp, dnp, dinp, not for 'danp'"),
        ({"rule": "dnp", "feedback": "yes"}, ConfigError, "feedback must be True or False"),
    ],
)
def test_settings_are_checked(settings, error, match):
    with pytest.raises(error, match=match):
        FitConfig.from_dict(settings)


def test_defaults_depend_on_the_rule():
    rates = {rule: FitConfig(rule).complete().learning_rate for rule in RULES}
    assert rates["danp"] > rates["np"]
    assert FitConfig(epochs=100).complete().checkpoint_every == 10


def test_resume_refuses_what_cannot_be_resumed(toy, tmp_path):
    out = tmp_path / "run"
    fit([8], toy, "np", out=out, **SMALL)
    with pytest.raises(ConfigError, match="has done its 3 epochs"):
        resume(out, toy)
    with pytest.raises(ConfigError, match="keeps its sigma"):
        resume(out, toy, epochs=5, sigma=0.5)
    with pytest.raises(ConfigError, match="rows differ"):
        resume(out, dataset(seed=1), epochs=5)
    with pytest.raises(RunNotFoundError):
        resume(tmp_path / "nothing", toy)
    for checkpoint in (out / "checkpoints").glob("step_*"):
        (checkpoint / "training.safetensors").write_bytes(b"broken")
    with pytest.raises(DamagedRunError, match=r"no checkpoint can be used: .* has 6 bytes"):
        resume(out, toy, epochs=5)
    (out / "config.json").write_text("{}")
    with pytest.raises(DamagedRunError):
        resume(out, toy, epochs=5)


def test_half_written_checkpoints_are_not_seen(toy, tmp_path, monkeypatch):
    out = tmp_path / "run"
    fit([8], toy, "np", out=out, **SMALL)
    before = (out / "checkpoints" / "last").resolve()

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nprobot.regression.runner.save_state", fail)
    with pytest.raises(StorageError, match=r"after epoch 4: .*no space left.*go on: nprobot fit"):
        resume(out, toy, epochs=5, checkpoint_every=1)
    assert (out / "checkpoints" / "last").resolve() == before
    monkeypatch.undo()
    assert resume(out, toy, epochs=5).epochs == 5


def test_split_rows_labels_make_a_classification(digits):
    x, y = digits
    splits = split_rows(x, y)
    result = fit([8], (x, y), "bp", epochs=2)
    share = np.bincount(splits.validation.targets).max() / len(splits.validation)
    assert result.scores["validation"].accuracy > share
    assert result.model.classes == 10


def test_learned_feedback_learns_what_noise_alone_does_not(toy):
    settings = SMALL | {"samples": 1, "epochs": 20}
    without, learned = (
        fit([16, 16], toy, "dnp", feedback=feedback, **settings).scores["validation"].error
        for feedback in (False, True)
    )
    assert learned < 0.5 * without
