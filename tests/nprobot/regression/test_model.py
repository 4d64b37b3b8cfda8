"""Learned models: in the units of their data, the same after a save, the same without torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nprobot.envs.datasets import Dataset, Split
from nprobot.errors import (
    ArchitectureError,
    DamagedFileError,
    ForeignFileError,
    NewerFileError,
    NotFoundError,
)
from nprobot.policies import ACTIVATIONS, mlp
from nprobot.policies.files import policy_file
from nprobot.regression import FittedModel, export_model, load, save
from nprobot.regression.model import describe_network


def data(classes=0):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)) * [1.0, 100.0, 0.0] + [5.0, -30.0, 2.0]
    y = rng.integers(0, classes, 60) if classes else rng.normal(size=(60, 2)) * [10.0, 0.1] + 4
    if classes:
        y[:classes] = np.arange(classes)
    split = Split(x, y, np.zeros(60))
    names = ("label",) if classes else ("t0", "t1")
    return Dataset(
        split, split, split, None,
        ("a", "b", "c"), ("rad", "m", ""), names, ("",) * len(names), {"task": "toy"},
    )  # fmt: skip


def model(sizes=(3, 8, 2), classes=0, activation="tanh", decorrelated=True):
    torch.manual_seed(0)
    network = mlp(sizes, activation, decorrelated)
    if decorrelated:
        for layer in network[::2]:
            layer.R += 0.3 * torch.randn_like(layer.R)
    return FittedModel.for_data(network, data(classes))


pytestmark = pytest.mark.filterwarnings("ignore:.*never change")


def test_outputs_are_in_the_units_of_the_data():
    made, source = model(), data()
    x, y = source.train.inputs, source.train.targets
    scale = x.std(0)
    scale[2] = 1.0  # a column that never changes is not blown up
    with torch.no_grad():
        inner = made.network(torch.tensor((x - x.mean(0)) / scale).float()).numpy()
    np.testing.assert_allclose(made.predict(x), inner * y.std(0) + y.mean(0), rtol=1e-5)


def test_predict_keeps_the_shape():
    made = model()
    x = data().train.inputs
    assert made.predict(x[0]).shape == (2,)
    assert made.predict(x[:6].reshape(2, 3, 3)).shape == (2, 3, 2)
    rows = made.predict(x[:6].reshape(2, 3, 3))
    # A product's last digits depend on how many rows it has.
    np.testing.assert_allclose(rows[1, 2], made.predict(x[5]), rtol=1e-5, atol=1e-5)
    labels = model((3, 8, 4), classes=4)
    assert labels.predict(x).shape == (60,)
    assert labels.predict(x[0]).shape == ()
    with pytest.raises(ArchitectureError, match="rows of 3 inputs"):
        made.predict(np.zeros((5, 4)))
    with pytest.raises(ArchitectureError, match="rows of 3 inputs"):
        made.predict(1.0)


def test_long_inputs_are_cut_in_chunks(monkeypatch):
    x = data().train.inputs
    whole = model().predict(x)
    monkeypatch.setattr("nprobot.regression.model._CHUNK", 7)
    np.testing.assert_allclose(model().predict(x), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("decorrelated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_saved_model_is_the_same(tmp_path, activation, decorrelated):
    made = model(activation=activation, decorrelated=decorrelated)
    loaded = load(save(made, tmp_path))
    assert loaded.description == made.description
    x = data().test.inputs
    np.testing.assert_array_equal(loaded.predict(x), made.predict(x))


def test_describe_network_knows_what_mlp_builds():
    assert describe_network(mlp([3, 4, 2], "elu", True)) == {
        "sizes": [3, 4, 2],
        "activation": "elu",
        "decorrelated": True,
    }
    assert describe_network(mlp([3, 2]))["sizes"] == [3, 2]
    assert describe_network(torch.nn.Linear(3, 2)) is None
    mixed = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LeakyReLU(0.7), mlp([4, 2])[0])
    assert describe_network(mixed) is None  # no named activation has that slope
    assert describe_network(mlp([3, 4, 2], output_activation="tanh")) is None
    no_bias = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
    assert describe_network(no_bias) is None


def test_files_that_are_no_model_are_refused(tmp_path):
    with pytest.raises(NotFoundError, match="no model"):
        load(tmp_path)
    save(model(), tmp_path)
    file = tmp_path / "model.json"
    good = file.read_text()
    for bad in (
        "{",
        "[]",
        "{}",
        good.replace("nprobot-model", "other"),
        good.replace('"sizes"', '"s"'),
    ):
        file.write_text(bad)
        with pytest.raises((DamagedFileError, ForeignFileError)):
            load(tmp_path)
    file.write_text(json.dumps(json.loads(good) | {"version": 99}))
    with pytest.raises(NewerFileError, match="up to version 1"):
        load(tmp_path)
    file.write_text(good)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(DamagedFileError):
        load(tmp_path)


def test_a_network_that_does_not_fit_is_refused(tmp_path):
    save(model(), tmp_path)
    with pytest.raises(ArchitectureError, match="does not fit"):
        load(tmp_path, mlp([3, 9, 2], decorrelated=True))


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("decorrelated", [False, True])
def test_the_policy_file_does_what_the_model_does(tmp_path, classes, decorrelated):
    made = model((3, 8, classes or 2), classes, "leaky_relu", decorrelated)
    policy = policy_file.load(policy_file.save(export_model(made, {"rule": "danp"}), tmp_path))
    x = data(classes).test.inputs
    np.testing.assert_allclose(policy.predict(x), made.predict(x), rtol=2e-5, atol=1e-5)
    assert policy.provenance == {"rule": "danp"}


def test_networks_of_other_kinds_have_no_policy_file():
    made = FittedModel.for_data(torch.nn.Linear(3, 2), data())
    with pytest.raises(ArchitectureError, match="cannot be exported"):
        export_model(made)
