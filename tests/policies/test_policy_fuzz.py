"""Policy files changed in any way: a typed error, or a policy that works; never anything else."""

import copy
import hashlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nprobot.errors import FileError
from nprobot.policies import zoo
from nprobot.policies.files.policy_file import load, save

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


def check(folder):
    """Load a policy file that may be anything, and use it."""
    try:
        policy = load(folder)
    except FileError:
        return
    actions = policy.predict(np.zeros((2, *policy.observation_shape)))
    assert actions.shape[0] == 2


def fuzz(folder, examples):
    policy = zoo.load_policy("InvertedPendulum")
    save(policy, folder)
    description_file, tensor_file = folder / "policy.json", folder / "policy.safetensors"
    text, tensors = description_file.read_bytes(), tensor_file.read_bytes()
    description = json.loads(text)
    description["provenance"] = {"rule": "danp"}  # the rest is never looked into
    paths = list(places(description))

    def write(new_text, new_tensors):
        description_file.write_bytes(new_text)
        tensor_file.write_bytes(new_tensors)
        check(folder)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data):
        kind = data.draw(st.sampled_from(["value", "text", "tensors"]))
        if kind == "value":
            path = data.draw(st.sampled_from(paths))
            new = changed(description, path, data.draw(ANYTHING), data.draw(st.booleans()))
            write(json.dumps(new).encode(), tensors)
            return
        whole = text if kind == "text" else tensors
        # The header of the tensors is where their names, shapes and types are.
        at = data.draw(st.integers(0, min(len(whole), 1500)))
        cut, insert = data.draw(st.integers(0, 20)), data.draw(st.binary(max_size=20))
        new = whole[:at] + insert + whole[at + cut :]
        if kind == "text":
            write(new, tensors)
        else:  # with the right checksum, so that what is in the file is looked at
            described = copy.deepcopy(description)
            described["tensors"]["sha256"] = hashlib.sha256(new).hexdigest()
            write(json.dumps(described).encode(), new)

    run()


def test_any_change(tmp_path):
    fuzz(tmp_path, 150)


@pytest.mark.slow
def test_any_change_ten_thousand_times(tmp_path):
    fuzz(tmp_path, 10_000)
