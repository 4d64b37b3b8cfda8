"""The policy file: the actions of the torch policy, in numpy, and no trust in what is read."""

import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import safetensors.numpy
import stable_baselines3
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from nprobot.errors import (
    ArchitectureError,
    DamagedFileError,
    FileError,
    ForeignFileError,
    NewerFileError,
    NotFoundError,
    ObservationError,
)
from nprobot.policies.files import policy_file
from nprobot.policies.files.export import export_policy
from nprobot.policies.files.operations import Operation
from nprobot.policies.files.policy import BoxAction, DiscreteAction, Normaliser, Policy, Task
from nprobot.policies.layers import DecorrelatedLinear, decorrelate
from nprobot.policies.networks import ACTIVATIONS


class Space(gymnasium.Env):
    """An environment that has spaces and nothing else."""

    def __init__(self, action_space, observation_space=None):
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-np.inf, np.inf, (5,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}


BOX = spaces.Box(np.array([-0.2, -3.0, -1.0], np.float32), np.array([0.4, 3.0, 1.0], np.float32))
ACTION_SPACES = [BOX, spaces.Discrete(4), spaces.MultiDiscrete([3, 2])]


def trained(action_space, observation_space=None, activation="tanh", normalise=True):
    """An SB3 model with decorrelation matrices and observation statistics that are not trivial."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    env = VecNormalize(
        DummyVecEnv([lambda: Space(action_space, observation_space)]), norm_obs=normalise
    )
    model = stable_baselines3.PPO(
        "MlpPolicy",
        env,
        n_steps=8,
        batch_size=8,
        device="cpu",
        policy_kwargs={"activation_fn": ACTIVATIONS[activation], "net_arch": [16, 12]},
    )
    decorrelate(model.policy)
    for layer in model.policy.modules():
        if isinstance(layer, DecorrelatedLinear):
            layer.R += 0.1 * torch.randn_like(layer.R)
            with torch.no_grad():
                layer.weight *= 2
    with torch.no_grad():
        model.policy.action_net.weight *= 50  # SB3 starts it near zero
    if normalise:
        env.obs_rms.mean = rng.normal(size=env.obs_rms.mean.shape)
        env.obs_rms.var = rng.uniform(0.1, 4, env.obs_rms.var.shape)
    return model, env


def observations(shape=(5,), batch=64):
    return np.random.default_rng(1).normal(0, 2, (batch, *shape)).astype(np.float32)


@pytest.fixture
def policy():
    model, _ = trained(BOX)
    task = Task("InvertedPendulum-v5", {"reset_noise_scale": 0.1}, 25.0)
    return export_policy(model, task, {"rule": "danp", "steps": 1000})


@pytest.fixture
def folder(policy, tmp_path):
    return policy_file.save(policy, tmp_path / "policy")


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=lambda s: type(s).__name__)
def test_actions_equal_those_of_the_model(action_space, normalise, tmp_path):
    model, env = trained(action_space, normalise=normalise)
    folder = policy_file.save(export_policy(model), tmp_path)
    x = observations()
    env.training = False
    expected, _ = model.predict(env.normalize_obs(x), deterministic=True)
    actions = policy_file.load(folder).predict(x)
    assert actions.shape == expected.shape
    assert np.abs(actions - expected).max() < 1e-5
    assert len(np.unique(actions.round(3), axis=0)) > 3  # the comparison is not of constants


def test_export_leaves_the_model_and_the_generator_alone():
    model, _ = trained(BOX)
    before = [tensor.clone() for tensor in model.policy.state_dict().values()]
    generator = torch.get_rng_state()
    export_policy(model)
    assert torch.equal(torch.get_rng_state(), generator)
    after = model.policy.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_equals_torch(activation):
    model, env = trained(BOX, activation=activation)
    expected, _ = model.predict(env.normalize_obs(observations()), deterministic=True)
    assert np.abs(export_policy(model).predict(observations()) - expected).max() < 1e-5


def test_observations_with_several_axes_are_flattened():
    model, env = trained(BOX, spaces.Box(-1, 1, (3, 2)))
    x = observations((3, 2))
    expected, _ = model.predict(env.normalize_obs(x), deterministic=True)
    policy = export_policy(model)
    assert np.abs(policy.predict(x) - expected).max() < 1e-5
    assert policy.predict(x[0]).shape == (3,)


def test_comes_back_as_it_was(policy, folder):
    again = policy_file.load(folder)
    x = observations()
    assert (again.predict(x) == policy.predict(x)).all()
    assert again.task == policy.task
    assert again.provenance == policy.provenance
    assert again.normaliser is not None
    assert again.normaliser.mean.dtype == np.float64
    assert sorted(f.name for f in folder.iterdir()) == ["policy.json", "policy.safetensors"]


@pytest.mark.parametrize("name", ["", "policy.json", "policy.safetensors"])
def test_loads_from_the_folder_or_either_file(folder, name):
    assert policy_file.load(folder / name).observation_shape == (5,)


def test_one_observation_a_batch_and_more_axes(policy):
    x = observations(batch=6)
    one_by_one = np.stack([policy.predict(row) for row in x])
    assert np.allclose(policy.predict(x), one_by_one, atol=1e-6)
    assert policy.predict(x.reshape(2, 3, 5)).shape == (2, 3, 3)


def test_discrete_action_of_one_observation_is_a_number():
    policy = export_policy(trained(spaces.Discrete(4))[0])
    assert policy.predict(observations()[0]).shape == ()


@pytest.mark.parametrize("shape", [(4,), (5, 6), ()])
def test_wrong_observation_is_refused(policy, shape):
    with pytest.raises(ObservationError, match=r"takes \(…, 5\)"):
        policy.predict(np.zeros(shape))


def test_actions_stay_inside_their_bounds(policy):
    actions = policy.predict(observations() * 100)
    assert (actions >= BOX.low).all()
    assert (actions <= BOX.high).all()
    assert (actions == BOX.high).any()


def test_rescaled_actions_reach_from_bound_to_bound():
    operation = Operation("linear", {"weight": np.eye(1), "bias": np.zeros(1)})
    action = BoxAction(np.array([2.0]), np.array([6.0]), "rescale")
    policy = Policy((1,), (operation,), action)
    assert policy.predict([[-1.0], [0.0], [1.0]]).ravel().tolist() == [2.0, 4.0, 6.0]


def test_running_a_policy_imports_no_torch(folder):
    code = (
        "import sys; from nprobot.policies import policy_file\n"
        f"policy_file.load({str(folder)!r}).predict([[0.0] * 5])\n"
        "heavy = {'torch', 'stable_baselines3'} & set(sys.modules); sys.exit(str(heavy or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "0"


class TestRefusals:
    """Every fault has its own error, and nothing else ever gets out."""

    def edit(self, folder: Path, change):
        file = folder / "policy.json"
        description = json.loads(file.read_text())
        change(description)
        file.write_text(json.dumps(description))

    def test_missing(self, tmp_path):
        with pytest.raises(NotFoundError, match=r"policy\.json"):
            policy_file.load(tmp_path)

    def test_missing_tensors(self, folder):
        (folder / "policy.safetensors").unlink()
        with pytest.raises(NotFoundError, match="copy the whole folder"):
            policy_file.load(folder)

    @pytest.mark.parametrize("text", ["[]", "{}", '{"format": "something-else", "version": 1}'])
    def test_foreign(self, folder, text):
        (folder / "policy.json").write_text(text)
        with pytest.raises(ForeignFileError):
            policy_file.load(folder)

    def test_newer(self, folder):
        self.edit(folder, lambda d: d.update(version=policy_file.VERSION + 1))
        with pytest.raises(NewerFileError, match="Upgrade"):
            policy_file.load(folder)

    @pytest.mark.parametrize("size", [0, 5, 100])
    def test_truncated_tensors(self, folder, size):
        file = folder / "policy.safetensors"
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(DamagedFileError):
            policy_file.load(folder)

    def test_one_changed_bit(self, folder):
        file = folder / "policy.safetensors"
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data)
        with pytest.raises(DamagedFileError, match="was written with"):
            policy_file.load(folder)

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
    def test_description_that_makes_no_sense(self, folder, change):
        self.edit(folder, change)
        with pytest.raises(DamagedFileError):
            policy_file.load(folder)

    def test_nan_in_the_weights(self, folder, policy):
        file = folder / "policy.safetensors"
        tensors = safetensors.numpy.load_file(file)
        tensors["network.1.weight"][0, 0] = np.nan
        data = safetensors.numpy.save(tensors)
        file.write_bytes(data)
        self.edit(folder, lambda d: d["tensors"].update(sha256=policy_file._sha256(data)))
        with pytest.raises(DamagedFileError, match="not finite"):
            policy_file.load(folder)

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        ),
        path=st.sampled_from(
            ["version", "network", "action", "observation", "environment", "tensors", "provenance"]
        ),
    )
    def test_any_value_anywhere(self, folder, value, path):
        file = folder / "policy.json"
        before = file.read_text()
        self.edit(folder, lambda d: d.update({path: value}))
        try:
            policy_file.load(folder).predict(observations())
        except FileError:
            pass
        finally:
            file.write_text(before)


class TestConstruction:
    def test_layers_that_do_not_fit(self):
        linear = Operation("linear", {"weight": np.ones((2, 3)), "bias": np.ones(2)})
        with pytest.raises(ArchitectureError, match="takes 3 inputs"):
            Policy((4,), (linear,), DiscreteAction((2,)))
        with pytest.raises(ArchitectureError, match="the actions need"):
            Policy((3,), (linear,), DiscreteAction((3,)))

    def test_normaliser_of_another_shape(self):
        linear = Operation("linear", {"weight": np.ones((2, 3)), "bias": np.ones(2)})
        normaliser = Normaliser(np.zeros(4), np.ones(4), 1e-8, 10.0)
        with pytest.raises(ArchitectureError, match="mean of the observations"):
            Policy((3,), (linear,), DiscreteAction((2,)), normaliser)

    def test_unknown_operation(self):
        with pytest.raises(ArchitectureError, match="known: linear"):
            Operation("softmax")

    @pytest.mark.parametrize(
        ("action_space", "observation_space"),
        [
            (BOX, spaces.Discrete(5)),
            (BOX, spaces.Box(0, 255, (36, 36, 3), np.uint8)),
            (spaces.MultiBinary(3), None),
            (spaces.Discrete(3, start=1), None),
        ],
    )
    def test_spaces_that_cannot_be_exported(self, action_space, observation_space):
        model, _ = trained(spaces.Discrete(3))
        model.action_space = action_space
        model.observation_space = observation_space or model.observation_space
        with pytest.raises(ArchitectureError, match="cannot be exported"):
            export_policy(model)

    def test_unknown_layer_cannot_be_exported(self):
        model, _ = trained(BOX)
        model.policy.mlp_extractor.policy_net[1] = torch.nn.Softmax(-1)
        with pytest.raises(ArchitectureError, match="Softmax"):
            export_policy(model)
