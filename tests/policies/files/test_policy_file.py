"""The policy file: it comes back as it was, without torch, and nothing in it is trusted."""

import copy
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nprobot.errors import (
    DamagedFileError,
    FileError,
    ForeignFileError,
    NewerFileError,
    NotFoundError,
)
from nprobot.policies import load, save
from nprobot.policies.files import policy_file
from nprobot.policies.files.card import card

from .helpers import ACTIONS, made, observations


@pytest.fixture
def folder(tmp_path):
    return save(made(), tmp_path / "policy")


def edit(folder, change):
    file = folder / "policy.json"
    description = json.loads(file.read_text())
    change(description)
    file.write_text(json.dumps(description))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("action", ACTIONS)
def test_comes_back_as_it_was(action, normalise, tmp_path):
    policy = made(ACTIONS[action], ("elu", "tanh"), normalise=normalise)
    again = load(save(policy, tmp_path))
    assert np.abs(again.predict(observations()) - policy.predict(observations())).max() <= 1e-6
    for ours, theirs in zip(again.operations, policy.operations, strict=True):
        assert (ours.name, ours.settings) == (theirs.name, theirs.settings)
        assert all((ours.arrays[name] == array).all() for name, array in theirs.arrays.items())
    assert (again.task, again.provenance) == (policy.task, policy.provenance)
    assert again.normaliser is None or again.normaliser.mean.dtype == np.float64
    assert sorted(f.name for f in tmp_path.iterdir()) == ["policy.json", "policy.safetensors"]


@pytest.mark.parametrize("name", ["", "policy.json", "policy.safetensors"])
def test_loads_from_the_folder_or_either_file(folder, name):
    assert load(folder / name).observation_shape == (5,)


def test_running_a_policy_imports_no_torch(folder):
    code = (
        "import sys, nprobot.policies\n"
        f"nprobot.policies.load({str(folder)!r}).predict([[0.0] * 5])\n"
        "heavy = {'torch', 'stable_baselines3'} & set(sys.modules); sys.exit(str(heavy or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "0"


def test_missing(tmp_path, folder):
    with pytest.raises(NotFoundError, match=r"policy\.json"):
        load(tmp_path)
    (folder / "policy.safetensors").unlink()
    with pytest.raises(NotFoundError, match="copy the whole folder"):
        load(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "something-else", "version": 1}'])
def test_foreign(folder, text):
    (folder / "policy.json").write_text(text)
    with pytest.raises(ForeignFileError):
        load(folder)


def test_newer(folder):
    edit(folder, lambda d: d.update(version=policy_file.VERSION + 1))
    with pytest.raises(NewerFileError, match="Upgrade"):
        load(folder)


def test_changed_tensors(folder):
    file = folder / "policy.safetensors"
    data = file.read_bytes()
    for broken in (b"", data[:5], data[:100], data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]):
        file.write_bytes(broken)
        with pytest.raises(DamagedFileError, match="was written with"):
            load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("network"),
        lambda d: d["network"].append({"op": "exec"}),
        lambda d: d["network"].pop(1),
        lambda d: d["network"].append({"op": "tanh", "alpha": 1.0}),
        lambda d: d["network"][1].update(weight="no such tensor"),
        lambda d: d["network"][1].update(weight="network.1.bias"),
        lambda d: d["action"].update(mapping="explode"),
        lambda d: d["action"].update(kind="unknown"),
        lambda d: d["action"].update(low="action.high", high="action.low"),
        lambda d: d["observation"].update(shape=[6]),
        lambda d: d["observation"].update(shape=["5"]),
        lambda d: d["observation"]["normaliser"].update(clip=-1),
        lambda d: d["environment"].update(control_rate=-50),
        lambda d: d["environment"].update(control_rate="fast"),
        lambda d: d.update(provenance=3),
        lambda d: d.update(tensors=None),
        lambda d: d.update(version="1"),
    ],
)
def test_descriptions_that_contradict_themselves(folder, change):
    edit(folder, change)
    with pytest.raises(DamagedFileError):
        load(folder)


def with_tensors(folder, **changed):
    """Other numbers, with the right checksum."""
    file = folder / "policy.safetensors"
    data = safetensors.numpy.save(safetensors.numpy.load_file(file) | changed)
    file.write_bytes(data)
    edit(folder, lambda d: d["tensors"].update(sha256=hashlib.sha256(data).hexdigest()))


def test_nan_in_the_weights(folder):
    with_tensors(folder, **{"network.1.weight": np.full((16, 5), np.nan, np.float32)})
    with pytest.raises(DamagedFileError, match="not finite"):
        load(folder)


@pytest.mark.parametrize("dtype", [np.complex64, np.int32, np.bool_])
@pytest.mark.parametrize("name", ["network.1.weight", "observation.mean", "action.low"])
def test_numbers_of_another_kind(folder, name, dtype):
    shape = safetensors.numpy.load_file(folder / "policy.safetensors")[name].shape
    with_tensors(folder, **{name: np.zeros(shape, dtype)})
    with pytest.raises(DamagedFileError, match="float"):
        load(folder)


@pytest.mark.parametrize("bound", [np.inf, -np.inf, np.nan])
def test_bounds_without_a_finite_action_between_them(folder, bound):
    bounds = np.full(2, bound, np.float32)
    with_tensors(folder, **{"action.low": bounds, "action.high": bounds})
    with pytest.raises(DamagedFileError, match="bounds"):
        load(folder)


def described(**changes):
    """A change of a description: keys with dots are paths."""

    def change(d):
        for path, value in changes.items():
            inner = d
            *before, last = path.split("__")
            for key in before:
                inner = inner[key]
            inner[last] = value

    return change


SIZED = [{"op": "flatten"}, {"op": "identity"}]


@pytest.mark.parametrize(
    "change",
    [
        # What a few hundred bytes declare: terabytes, or steps that never end.
        described(
            network=SIZED,
            observation={"shape": [10**9], "normaliser": None},
            action={"kind": "discrete", "choices": [10**9]},
        ),
        described(
            network=SIZED,
            observation={"shape": [2**17], "normaliser": None},
            action={"kind": "multi_discrete", "choices": [1] * 2**17},
        ),
        described(
            network=[{"op": "flatten"}, *[{"op": "gelu"}] * 900],
            observation={"shape": [2**20], "normaliser": None},
            action={"kind": "discrete", "choices": [2**20]},
        ),
        described(
            network=[*SIZED, *[{"op": "tanh"}] * 2000],
            observation={"shape": [2], "normaliser": None},
            action={"kind": "discrete", "choices": [2]},
        ),
        described(observation={"shape": [1] * 60 + [5], "normaliser": None}),
        described(observation={"shape": [True, 5], "normaliser": None}),
        described(action={"kind": "discrete", "choices": [2.7]}),
        described(action={"kind": "discrete", "choices": [True, True]}),
        described(environment__control_rate=True),
        described(environment__control_rate=1e-300),
        described(environment__control_rate=1e300),
        described(environment__id=["my_robot:Env"]),
        described(environment__kwargs=[["frame_skip", 0]]),
        # What would reach the terminal, or the card.
        described(provenance__licence="\x1b]0;owned\x07"),
        described(environment__id="Reacher\r-v5"),
        described(provenance__versions=["numpy"]),
        described(provenance__evaluation={"returns": "many"}),
        described(provenance__steps="a lot"),
    ],
)
def test_hostile_descriptions(folder, change):
    edit(folder, change)
    with pytest.raises(DamagedFileError) as caught:
        load(folder)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "sparse", "loop"])
def test_what_is_no_file_at_all(folder, name, kind):
    """None of them is read: a pipe or a device would never end."""
    file = folder / name
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "sparse":
        with file.open("wb") as stream:
            stream.truncate(2**40)
    else:
        file.symlink_to("/dev/zero" if kind == "device" else file)
    with pytest.raises(ForeignFileError):
        load(folder)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "network.1.weight", "tanh", "box", "discrete", "rescale"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def places(value, path=()):
    """Path of every value inside a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def changed(description, path, value, delete):
    """A copy with another value at a path, or without what is there."""
    if not path:
        return value
    description = copy.deepcopy(description)
    inner = description
    for key in path[:-1]:
        inner = inner[key]
    if delete:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return description


def fuzz(folder, examples):
    """Whatever is changed: a typed error, or a policy that works; never anything else."""
    description_file, tensor_file = folder / "policy.json", folder / "policy.safetensors"
    text, tensors = description_file.read_bytes(), tensor_file.read_bytes()
    description = json.loads(text)
    paths = list(places(description))

    def check(new_text, new_tensors):
        description_file.write_bytes(new_text)
        tensor_file.write_bytes(new_tensors)
        try:
            policy = load(folder)
        except FileError:
            return
        actions = policy.predict(np.zeros((2, *policy.observation_shape)))
        assert actions.shape[0] == 2 and actions.dtype.kind in "fi"
        json.dumps(actions.tolist())
        assert card(policy)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data):
        kind = data.draw(st.sampled_from(["value", "text", "tensors"]))
        if kind == "value":
            path = data.draw(st.sampled_from(paths))
            new = changed(description, path, data.draw(ANYTHING), data.draw(st.booleans()))
            check(json.dumps(new).encode(), tensors)
            return
        whole = text if kind == "text" else tensors
        # The header of the tensors is where their names, shapes and types are.
        at = data.draw(st.integers(0, min(len(whole), 1500)))
        cut, insert = data.draw(st.integers(0, 20)), data.draw(st.binary(max_size=20))
        new = whole[:at] + insert + whole[at + cut :]
        if kind == "text":
            check(new, tensors)
        else:  # with the right checksum, so that what is in the file is looked at
            described = copy.deepcopy(description)
            described["tensors"]["sha256"] = hashlib.sha256(new).hexdigest()
            check(json.dumps(described).encode(), new)

    run()


def test_any_change(folder):
    fuzz(folder, 150)


@pytest.mark.slow
def test_any_change_ten_thousand_times(folder):
    fuzz(folder, 10_000)
