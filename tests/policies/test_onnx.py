"""The ONNX form of a policy: the same actions as numpy and torch, and nothing else in the file."""

import contextlib
import dataclasses
import json
import subprocess
import sys

import gymnasium
import numpy as np
import onnx
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import nprobot
from nprobot.policies import load_trusted_sb3_zip, onnx_file, onnx_graph, zoo
from nprobot.policies.export import PolicyExportError, export_policy
from nprobot.policies.onnx_file import (
    DisagreementError,
    MissingPackageError,
    check_agreement,
    load_onnx,
    save_onnx,
)
from nprobot.policies.operations import FUNCTIONS, SETTINGS, Operation
from nprobot.policies.policy import (
    BoxAction,
    DiscreteAction,
    Normaliser,
    ObservationError,
    Policy,
    Task,
)
from nprobot.policies.policy_file import (
    DamagedPolicyError,
    ForeignPolicyError,
    MissingPolicyError,
    NewerPolicyError,
    PolicyFileError,
)
from nprobot.policies.torch_policy import TorchPolicy

LOW, HIGH = np.array([-0.2, -3.0], np.float32), np.array([0.4, 3.0], np.float32)
ACTIONS = {
    "clip": BoxAction(LOW, HIGH),
    "rescale": BoxAction(LOW, HIGH, "rescale"),
    "two axes": BoxAction(LOW[None], HIGH[None]),
    "float64": BoxAction(LOW.astype(float), HIGH.astype(float)),
    "no bounds": BoxAction(np.full(2, -np.inf, np.float32), np.full(2, np.inf, np.float32)),
    "discrete": DiscreteAction((2,)),
    "switches": DiscreteAction((2, 3), several=True),
}


def made(action=ACTIONS["clip"], activation="tanh", shape=(5,), normalise=True):
    """A policy with random weights."""
    rng = np.random.default_rng(0)
    d = int(np.prod(shape))

    def linear(inputs, outputs):
        weight = rng.normal(size=(outputs, inputs)).astype(np.float32) / inputs**0.5
        return Operation(
            "linear", {"weight": weight, "bias": rng.normal(size=outputs).astype(np.float32)}
        )

    between = [] if activation == "linear" else [_plain(activation)]
    normaliser = Normaliser(rng.normal(size=shape), rng.uniform(0.1, 4, shape), 1e-8, 10.0)
    return Policy(
        shape,
        (Operation("flatten"), linear(d, 16), *between, linear(16, action.outputs)),
        action,
        normaliser if normalise else None,
        Task("InvertedPendulum-v5", {"reset_noise_scale": 0.1}, 25.0),
        {"rule": "danp", "licence": "MIT"},
    )


def _plain(name):
    return Operation(name, settings=dict.fromkeys(SETTINGS.get(name, ()), 0.3))


def observations(shape=(5,), batch=64):
    return np.random.default_rng(1).normal(0, 3, (batch, *shape))


def through_torch(policy):
    network = TorchPolicy(policy)
    return lambda x: network(torch.as_tensor(x)).detach().numpy()


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_every_operation_is_the_same_in_numpy_onnx_and_torch(activation, tmp_path):
    policy = made(activation=activation)
    assert save_onnx(policy, tmp_path) <= 1e-5
    x = observations()
    actions = policy.predict(x)
    assert np.abs(load_onnx(tmp_path).predict(x) - actions).max() <= 1e-5
    assert np.abs(through_torch(policy)(x) - actions).max() <= 1e-5
    assert len(np.unique(actions.round(3), axis=0)) > 3  # the comparison is not of constants


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("action", ACTIONS)
def test_every_kind_of_action(action, normalise, tmp_path):
    policy = made(ACTIONS[action], normalise=normalise)
    save_onnx(policy, tmp_path)
    loaded = load_onnx(tmp_path / "policy.onnx")
    x = observations()
    own, other = policy.predict(x), loaded.predict(x)
    assert own.dtype == other.dtype
    assert own.shape == other.shape
    assert np.abs(own - other).max() <= 1e-5
    assert check_agreement(policy, through_torch(policy)) <= 1e-5
    one = loaded.predict(x[0])
    assert one.shape == own.shape[1:]
    assert loaded.predict(x.reshape(4, 16, 5)).shape == (4, 16, *own.shape[1:])
    if isinstance(policy.action, BoxAction):
        assert (loaded.action.low == policy.action.low).all()
        assert (loaded.action.high == policy.action.high).all()
    else:
        assert loaded.action == policy.action


def test_observations_with_several_axes(tmp_path):
    policy = made(shape=(3, 2))
    save_onnx(policy, tmp_path)
    x = observations((3, 2))
    loaded = load_onnx(tmp_path)
    assert loaded.observation_shape == (3, 2)
    assert np.abs(loaded.predict(x) - policy.predict(x)).max() <= 1e-5
    with pytest.raises(ObservationError, match=r"takes \(…, 3, 2\)"):
        loaded.predict(x[0, 0])


def test_normaliser_and_limits_are_inside_the_graph(tmp_path):
    policy = made()
    save_onnx(policy, tmp_path)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(tmp_path / "policy.onnx"))  # as anybody would
    x = observations() * 100
    actions = session.run(["action"], {"observation": x})[0]
    assert np.abs(actions - policy.predict(x)).max() <= 1e-5
    assert (actions >= LOW).all()
    assert (actions <= HIGH).all()
    assert (actions == HIGH).any()


def test_metadata_are_in_the_file(tmp_path):
    save_onnx(made(), tmp_path)
    model = onnx.load(tmp_path / "policy.onnx")
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["control_rate"] == 25.0
    assert metadata["environment"]["id"] == "InvertedPendulum-v5"
    assert metadata["provenance"]["licence"] == "MIT"
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    loaded = load_onnx(tmp_path)
    assert loaded.task == made().task
    assert loaded.provenance == made().provenance


def test_reading_needs_neither_torch_nor_onnx(tmp_path):
    save_onnx(made(), tmp_path)
    code = (
        "import sys, nprobot.policies\n"
        f"nprobot.policies.load_onnx({str(tmp_path)!r}).predict([0.0] * 5)\n"
        "heavy = {'torch', 'stable_baselines3', 'onnx'} & set(sys.modules)\n"
        "sys.exit(str(heavy or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "0"


def test_a_wrong_graph_is_found_and_not_written(tmp_path, monkeypatch):
    monkeypatch.setitem(onnx_graph.SAME_NAME, "tanh", "Relu")
    with pytest.raises(DisagreementError, match="differ by"):
        save_onnx(made(), tmp_path)
    assert not list(tmp_path.iterdir())
    policy = made(ACTIONS["switches"])
    with pytest.raises(DisagreementError):
        check_agreement(policy, lambda x: 1 - np.minimum(policy.predict(x), 1))


def test_missing_package_says_what_to_install(tmp_path, monkeypatch):
    save_onnx(made(), tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"nprobot\[onnx\]"):
        load_onnx(tmp_path)


def test_numpy_onnx_and_torch_agree_along_a_rollout(tmp_path):
    """1,000 steps of a robot, controlled by the torch model that was trained."""
    torch.manual_seed(0)
    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("HalfCheetah-v5")]))
    model = stable_baselines3.PPO("MlpPolicy", env, n_steps=64, device="cpu", seed=0)
    with torch.no_grad():
        model.policy.action_net.weight *= 50  # SB3 starts it near zero
    model.learn(256)  # the statistics of the observations
    env.training = False
    policy = export_policy(model)
    save_onnx(policy, tmp_path)
    loaded = load_onnx(tmp_path)
    robot = gymnasium.make("HalfCheetah-v5")
    observation, _ = robot.reset(seed=0)
    actions = []
    for _ in range(1000):
        action, _ = model.predict(env.normalize_obs(observation), deterministic=True)
        assert np.abs(policy.predict(observation) - action).max() <= 1e-5
        assert np.abs(loaded.predict(observation) - action).max() <= 1e-5
        observation, *_ = robot.step(action)
        actions.append(action)
    assert np.std(actions, axis=0).min() > 0.02  # it moved every joint


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
            with pytest.raises(ForeignPolicyError, match="it holds"):
                load_onnx(self.write(changed, tmp_path))

    def test_operators_of_plugins_and_functions(self, model, tmp_path):
        model.graph.node[0].domain = "com.example"
        with pytest.raises(ForeignPolicyError, match="not ONNX's own"):
            load_onnx(self.write(model, tmp_path))
        model.graph.node[0].domain = ""
        model.functions.add(name="f", domain="")
        with pytest.raises(ForeignPolicyError, match="field 25"):
            load_onnx(self.write(model, tmp_path))

    def test_references_to_other_files(self, model, tmp_path):
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/hostname")
        with pytest.raises(ForeignPolicyError, match="a tensor with field 1"):
            load_onnx(self.write(model, tmp_path))

    def test_unknown_operators(self, model, tmp_path):
        model.graph.node[0].op_type = "RandomNormal"
        with pytest.raises(ForeignPolicyError, match="RandomNormal"):
            load_onnx(self.write(model, tmp_path))

    @pytest.mark.parametrize("data", [b"", b"\x00", b"hello", b"PK\x03\x04", b"\xff" * 40])
    def test_other_files(self, data, tmp_path):
        (tmp_path / "policy.onnx").write_bytes(data)
        with pytest.raises(ForeignPolicyError):
            load_onnx(tmp_path)

    def test_missing(self, tmp_path):
        with pytest.raises(MissingPolicyError, match="nprobot export"):
            load_onnx(tmp_path)

    def test_onnx_of_somebody_else(self, model, tmp_path):
        helper.set_model_props(model, {})
        with pytest.raises(ForeignPolicyError, match="no format"):
            load_onnx(self.write(model, tmp_path))

    def test_newer(self, model, tmp_path):
        self.metadata(model, version=onnx_file.VERSION + 1)
        with pytest.raises(NewerPolicyError, match="Upgrade"):
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
        with pytest.raises(DamagedPolicyError):
            load_onnx(self.write(model, tmp_path))

    def test_metadata_that_are_not_json(self, model, tmp_path):
        helper.set_model_props(model, {"format": "{"})
        with pytest.raises(DamagedPolicyError, match="not JSON"):
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
            with contextlib.suppress(PolicyFileError):
                load_onnx(file).predict(np.zeros(5))

        check()

    def test_changed_bytes(self, tmp_path_factory):
        self.fuzz(tmp_path_factory, 100)

    @pytest.mark.slow
    def test_changed_bytes_ten_thousand_times(self, tmp_path_factory):
        self.fuzz(tmp_path_factory, 10_000)


class TestTrustedZip:
    """stable-baselines3's own files, for people who trust them."""

    @pytest.mark.parametrize("name", ["PPO", "A2C", "SAC", "TD3", "DDPG", "DQN"])
    def test_actions_are_those_of_the_model(self, name, tmp_path):
        torch.manual_seed(0)
        algorithm = getattr(stable_baselines3, name)
        env = "CartPole-v1" if name == "DQN" else "InvertedPendulum-v5"
        model = algorithm(
            "MlpPolicy", env, policy_kwargs={"net_arch": [16, 16]}, device="cpu", seed=0
        )
        model.save(tmp_path / "model")
        task = Task(env, {}, 25.0)
        policy = load_trusted_sb3_zip(tmp_path / "model.zip", algorithm, task=task)
        x = observations((4,)).astype(np.float32)
        expected, _ = model.predict(x, deterministic=True)
        assert np.abs(policy.predict(x) - expected).max() <= 1e-5
        assert policy.task == task
        nprobot.policies.save(policy, tmp_path / "policy")
        assert (nprobot.policies.load(tmp_path / "policy").predict(x) == policy.predict(x)).all()

    def test_the_normaliser_comes_from_its_own_file(self, tmp_path):
        env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("InvertedPendulum-v5")]))
        env.obs_rms.mean, env.obs_rms.var = np.arange(4.0), np.arange(1.0, 5.0)
        model = stable_baselines3.SAC(
            "MlpPolicy", env, policy_kwargs={"net_arch": [16, 16]}, device="cpu", seed=0
        )
        model.save(tmp_path / "model")
        env.save(tmp_path / "statistics.pkl")
        policy = load_trusted_sb3_zip(
            tmp_path / "model", stable_baselines3.SAC, vec_normalize=tmp_path / "statistics.pkl"
        )
        env.training = False
        x = observations((4,)).astype(np.float32)
        expected, _ = model.predict(env.normalize_obs(x), deterministic=True)
        assert np.abs(policy.predict(x) - expected).max() <= 1e-5

    def test_what_cannot_be_described_is_refused(self, tmp_path):
        class Picture(gymnasium.Env):
            observation_space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
            action_space = spaces.Box(-1, 1, (1,))

        model = stable_baselines3.SAC("CnnPolicy", Picture(), device="cpu", buffer_size=1)
        model.save(tmp_path / "model")
        with pytest.raises(PolicyExportError, match="use an MlpPolicy"):
            load_trusted_sb3_zip(tmp_path / "model", stable_baselines3.SAC)


def test_the_zoo_can_be_written_as_onnx(tmp_path):
    for name in zoo.names():
        policy = zoo.load_policy(name)
        assert save_onnx(policy, tmp_path / name) <= 1e-5
        assert load_onnx(tmp_path / name).provenance == dict(policy.provenance)


def test_float64_weights_are_compared_too():
    policy = made()
    wide = tuple(
        dataclasses.replace(
            operation, arrays={k: v.astype(np.float64) for k, v in operation.arrays.items()}
        )
        for operation in policy.operations
    )
    assert check_agreement(dataclasses.replace(policy, operations=wide), policy.predict) <= 1e-5
