"""The ONNX form of a policy: the same actions as numpy and torch, along a rollout too."""

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
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from nprobot.errors import FileError, MissingPackageError, ObservationError
from nprobot.policies import zoo
from nprobot.policies.files import onnx_graph
from nprobot.policies.files.export import export_policy
from nprobot.policies.files.onnx_file import check_agreement, load_onnx, save_onnx
from nprobot.policies.files.operations import FUNCTIONS
from nprobot.policies.files.policy import BoxAction
from nprobot.policies.files.torch_policy import TorchPolicy

from .onnx_helpers import ACTIONS, HIGH, LOW, made, observations


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
    with pytest.raises(FileError, match="differ by"):
        save_onnx(made(), tmp_path)
    assert not list(tmp_path.iterdir())
    policy = made(ACTIONS["switches"])
    with pytest.raises(FileError):
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
