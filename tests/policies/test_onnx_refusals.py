"""Graphs that are not a policy's arithmetic: refused before a runtime sees them."""

import contextlib
import json

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from nprobot.errors import (
    DamagedFileError,
    FileError,
    ForeignFileError,
    NewerFileError,
    NotFoundError,
)
from nprobot.policies.files import onnx_file
from nprobot.policies.files.onnx_file import load_onnx, save_onnx

from .onnx_helpers import made


class TestRefusals:
    """Whatever is not our arithmetic is refused before a runtime sees it."""

    @pytest.fixture
    def model(self, tmp_path):
        save_onnx(made(), tmp_path)
        return onnx.load(tmp_path / "policy.onnx")

    def write(self, model, tmp_path):
        file = tmp_path / "changed.onnx"
        file.write_bytes(model.SerializeToString())
        return file

    def metadata(self, model, **changes):
        kept = {entry.key: entry.value for entry in model.metadata_props}
        kept |= {key: json.dumps(value) for key, value in changes.items()}
        helper.set_model_props(model, kept)

    def test_loops_and_branches(self, model, tmp_path):
        body = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "body",
            [],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
        for node in (
            helper.make_node("Loop", [], ["z"], body=body),
            helper.make_node("Tanh", ["observation"], ["z"], body=body),
        ):
            changed = onnx.ModelProto.FromString(model.SerializeToString())
            changed.graph.node.append(node)
            with pytest.raises(ForeignFileError, match="it holds"):
                load_onnx(self.write(changed, tmp_path))

    def test_operators_of_plugins_and_functions(self, model, tmp_path):
        model.graph.node[0].domain = "com.example"
        with pytest.raises(ForeignFileError, match="not ONNX's own"):
            load_onnx(self.write(model, tmp_path))
        model.graph.node[0].domain = ""
        model.functions.add(name="f", domain="")
        with pytest.raises(ForeignFileError, match="field 25"):
            load_onnx(self.write(model, tmp_path))

    def test_references_to_other_files(self, model, tmp_path):
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/hostname")
        with pytest.raises(ForeignFileError, match="a tensor with field 1"):
            load_onnx(self.write(model, tmp_path))

    def test_unknown_operators(self, model, tmp_path):
        model.graph.node[0].op_type = "RandomNormal"
        with pytest.raises(ForeignFileError, match="RandomNormal"):
            load_onnx(self.write(model, tmp_path))

    @pytest.mark.parametrize("data", [b"", b"\x00", b"hello", b"PK\x03\x04", b"\xff" * 40])
    def test_other_files(self, data, tmp_path):
        (tmp_path / "policy.onnx").write_bytes(data)
        with pytest.raises(ForeignFileError):
            load_onnx(tmp_path)

    def test_missing(self, tmp_path):
        with pytest.raises(NotFoundError, match="nprobot export"):
            load_onnx(tmp_path)

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
    def test_metadata_that_make_no_sense(self, changes, model, tmp_path):
        self.metadata(model, **changes)
        with pytest.raises(DamagedFileError):
            load_onnx(self.write(model, tmp_path))

    def test_metadata_that_are_not_json(self, model, tmp_path):
        helper.set_model_props(model, {"format": "{"})
        with pytest.raises(DamagedFileError, match="not JSON"):
            load_onnx(self.write(model, tmp_path))

    def fuzz(self, tmp_path_factory, examples):
        folder = tmp_path_factory.mktemp("fuzz")
        save_onnx(made(), folder)
        file = folder / "policy.onnx"
        whole = file.read_bytes()

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

    def test_changed_bytes(self, tmp_path_factory):
        self.fuzz(tmp_path_factory, 100)

    @pytest.mark.slow
    def test_changed_bytes_ten_thousand_times(self, tmp_path_factory):
        self.fuzz(tmp_path_factory, 10_000)
