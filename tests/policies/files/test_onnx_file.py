"""The ONNX form of a policy: the same actions as numpy and torch, and no trust in what is read."""

import contextlib
import json
import resource
import subprocess
import sys

import gymnasium
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from nprobot.errors import (
    DamagedFileError,
    FileError,
    ForeignFileError,
    MissingPackageError,
    NewerFileError,
    NotFoundError,
    ObservationError,
)
from nprobot.policies import BoxAction, TorchPolicy, load_onnx, save_onnx, zoo
from nprobot.policies.files import onnx_file, torch_policy
from nprobot.policies.files.onnx_file import check_agreement

from .helpers import ACTIONS, BETWEEN, HIGH, LOW, made, observations


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with the ONNX file of `made()`; not to be written to."""
    folder = tmp_path_factory.mktemp("onnx")
    save_onnx(made(), folder)
    return folder


@pytest.mark.parametrize("action", [name for name in ACTIONS if name != "clip"])
def test_every_operation_and_kind_of_action_is_the_same(action, tmp_path, capfd, recwarn):
    shape = (3, 2) if action == "two axes" else (5,)
    between = BETWEEN if action == "no bounds" else ("tanh",)
    policy = made(ACTIONS[action], between, shape, normalise=action != "rescale")
    generator = torch.get_rng_state()
    assert save_onnx(policy, tmp_path) <= 1e-5
    assert torch.equal(torch.get_rng_state(), generator)
    assert (*capfd.readouterr(), recwarn.list) == ("", "", [])
    loaded, x = load_onnx(tmp_path / "policy.onnx"), observations(shape)
    own, other = policy.predict(x), loaded.predict(x)
    assert (own.dtype, own.shape) == (other.dtype, other.shape)
    assert np.abs(own - other).max() <= 1e-5
    assert len(np.unique(own.round(3), axis=0)) > 1  # the comparison is not of constants
    assert loaded.predict(x[0]).shape == own.shape[1:]
    assert loaded.predict(x.reshape(4, 16, *shape)).shape == (4, 16, *own.shape[1:])
    assert loaded.observation_shape == shape
    if isinstance(policy.action, BoxAction):
        assert (loaded.action.low == policy.action.low).all()
        assert (loaded.action.high == policy.action.high).all()
    else:
        assert loaded.action == policy.action


def test_wrong_observation_is_refused(exported):
    with pytest.raises(ObservationError, match=r"takes \(…, 5\)"):
        load_onnx(exported).predict(np.zeros(4))


def test_normaliser_and_limits_are_inside_the_graph(exported):
    session = onnxruntime.InferenceSession(exported / "policy.onnx")  # as anybody would
    x = observations() * 100
    actions = session.run(["action"], {"observation": x})[0]
    assert np.abs(actions - made().predict(x)).max() <= 1e-5
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()
    assert (actions == HIGH).any()


def test_the_file_has_the_metadata_and_nothing_of_this_machine(exported):
    data = (exported / "policy.onnx").read_bytes()
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["control_rate"] == 25.0
    assert metadata["environment"]["id"] == "InvertedPendulum-v5"
    assert metadata["provenance"]["licence"] == "MIT"
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert b".py" not in data
    loaded = load_onnx(exported)
    assert (loaded.task, loaded.provenance) == (made().task, made().provenance)


def test_reading_needs_neither_torch_nor_onnx(exported):
    code = (
        "import sys, nprobot.policies\n"
        f"nprobot.policies.load_onnx({str(exported)!r}).predict([0.0] * 5)\n"
        "heavy = {'torch', 'stable_baselines3', 'onnx', 'onnxscript'} & set(sys.modules)\n"
        "sys.exit(str(heavy or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "0"


def test_a_wrong_graph_is_found_and_not_written(tmp_path, monkeypatch):
    monkeypatch.setitem(torch_policy.MODULES, "tanh", torch.nn.ReLU)
    with pytest.raises(FileError, match="differ by"):
        save_onnx(made(), tmp_path)
    assert not list(tmp_path.iterdir())
    policy = made(ACTIONS["switches"])
    with pytest.raises(FileError):
        check_agreement(policy, lambda x: 1 - np.minimum(policy.predict(x), 1))


@pytest.mark.parametrize("name", ["onnxruntime", "onnxscript"])
def test_missing_package_says_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=r"nprobot\[onnx\]"):
        save_onnx(made(), tmp_path)


def test_numpy_onnx_and_torch_agree_along_a_rollout(tmp_path):
    """On what a robot observes while a policy that was trained moves every joint."""
    policy = zoo.load_policy("HalfCheetah")
    assert save_onnx(policy, tmp_path) <= 1e-5
    robot = gymnasium.make(policy.task.id)
    seen = [robot.reset(seed=0)[0]]
    for _ in range(300):
        seen.append(robot.step(policy.predict(seen[-1]))[0])
    actions = policy.predict(seen)
    assert np.abs(load_onnx(tmp_path).predict(seen) - actions).max() <= 1e-5
    assert np.abs(TorchPolicy(policy).predict(np.array(seen)) - actions).max() <= 1e-5
    assert actions.std(axis=0).min() > 0.1
    assert load_onnx(tmp_path).provenance == policy.provenance


class TestRefusals:
    """What is not a policy of ours, or was changed, has its own error."""

    @pytest.fixture
    def model(self, exported):
        return onnx.load(exported / "policy.onnx")

    def write(self, model, tmp_path):
        file = tmp_path / "changed.onnx"
        file.write_bytes(model.SerializeToString())
        return file

    def metadata(self, model, **changes):
        kept = {entry.key: entry.value for entry in model.metadata_props}
        kept |= {key: json.dumps(value) for key, value in changes.items()}
        helper.set_model_props(model, kept)

    def test_operators_of_plugins(self, model, tmp_path):
        model.graph.node[0].domain = "com.example"
        with pytest.raises(DamagedFileError, match="cannot be used"):
            load_onnx(self.write(model, tmp_path))

    @pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/hostname"])
    def test_references_to_other_files(self, location, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        tensor = next(t for t in model.graph.initializer if t.name == "network.1.weight")
        (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        with pytest.raises(DamagedFileError, match="External data path"):
            load_onnx(self.write(model, tmp_path))

    @pytest.mark.parametrize("data", [b"", b"\x00", b"hello", b"PK\x03\x04", b"\xff" * 40])
    def test_other_files(self, data, tmp_path):
        (tmp_path / "policy.onnx").write_bytes(data)
        with pytest.raises(ForeignFileError):
            load_onnx(tmp_path)

    def test_missing(self, tmp_path):
        with pytest.raises(NotFoundError, match="nprobot export"):
            load_onnx(tmp_path)

    def test_too_large(self, exported, monkeypatch):
        monkeypatch.setattr(onnx_file, "LARGEST", 1000)
        with pytest.raises(ForeignFileError, match="larger than any such file"):
            load_onnx(exported)

    def test_onnx_of_somebody_else(self, model, tmp_path):
        helper.set_model_props(model, {})
        with pytest.raises(ForeignFileError, match="no format"):
            load_onnx(self.write(model, tmp_path))

    def test_newer(self, model, tmp_path):
        self.metadata(model, version=onnx_file.VERSION + 1)
        with pytest.raises(NewerFileError, match="Upgrade"):
            load_onnx(self.write(model, tmp_path))

    @pytest.mark.parametrize(
        "changes",
        [
            {"version": "1"},
            {"observation_shape": [6]},
            {"observation_shape": [-5]},
            {"observation_shape": 5},
            {"control_rate": -1},
            {"control_rate": "fast"},
            {"environment": "InvertedPendulum-v5"},
            {"action": {"kind": "box", "shape": [3], "low": [0] * 3, "high": [1] * 3}},
            {"action": {"kind": "box", "shape": [2], "low": [1, 1], "high": [0, 0]}},
            {"action": {"kind": "discrete", "choices": [2]}},
            {"action": {"kind": "unknown"}},
            {"provenance": None},
        ],
    )
    def test_metadata_that_contradict_the_graph_or_themselves(self, changes, model, tmp_path):
        self.metadata(model, **changes)
        with pytest.raises(DamagedFileError):
            load_onnx(self.write(model, tmp_path))

    def test_metadata_that_are_not_json(self, model, tmp_path):
        helper.set_model_props(model, {"format": json.dumps(onnx_file.FORMAT), "version": "{"})
        with pytest.raises(DamagedFileError, match="metadata"):
            load_onnx(self.write(model, tmp_path))

    def test_a_loop_is_not_given_to_the_runtime(self, model, tmp_path):
        body = helper.make_graph([], "body", [], [])
        model.graph.node.add(op_type="Loop").attribute.add(name="body", type=5).g.CopyFrom(body)
        with pytest.raises(DamagedFileError, match="operators Loop"):
            load_onnx(self.write(model, tmp_path))

    def test_functions_that_bear_the_name_of_an_operator(self, model, tmp_path):
        model.functions.add(name="Tanh").node.add(op_type="Loop")
        with pytest.raises(DamagedFileError, match="functions"):
            load_onnx(self.write(model, tmp_path))

    def test_a_small_file_that_takes_gigabytes(self, tmp_path):
        """Two vectors of 120 kB, and the matrix of all their products."""
        vector = np.ones(40_000, np.float32)
        graph = helper.make_graph(
            [
                helper.make_node("MatMul", ["column", "row"], ["all"]),
                helper.make_node("Cast", ["observation"], ["action"], to=TensorProto.FLOAT),
            ],
            "bomb",
            [helper.make_tensor_value_info("observation", TensorProto.DOUBLE, ["n", 2])],
            [
                helper.make_tensor_value_info("action", TensorProto.FLOAT, ["n", 2]),
                helper.make_tensor_value_info("all", TensorProto.FLOAT, [40_000, 40_000]),
            ],
            [
                numpy_helper.from_array(vector[:, None], "column"),
                numpy_helper.from_array(vector[None], "row"),
            ],
        )
        opset = helper.make_opsetid("", onnx_file.OPSET)
        bomb = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        self.metadata(bomb, **onnx_file._describe(made(shape=(2,))))
        before = resource.getrlimit(resource.RLIMIT_AS)
        with pytest.raises(DamagedFileError):
            load_onnx(self.write(bomb, tmp_path))
        assert resource.getrlimit(resource.RLIMIT_AS) == before

    def fuzz(self, exported, tmp_path, examples):
        whole, file = (exported / "policy.onnx").read_bytes(), tmp_path / "policy.onnx"

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            at=st.integers(0, len(whole) - 1),
            cut=st.integers(0, 40),
            insert=st.binary(max_size=40),
        )
        def check(at, cut, insert):
            file.write_bytes(whole[:at] + insert + whole[at + cut :])
            with contextlib.suppress(FileError):
                load_onnx(file).predict(np.zeros(5))

        check()

    def test_changed_bytes(self, exported, tmp_path):
        self.fuzz(exported, tmp_path, 100)

    @pytest.mark.slow
    def test_changed_bytes_ten_thousand_times(self, exported, tmp_path):
        self.fuzz(exported, tmp_path, 10_000)
