"""Policies from stable-baselines3's models and zip files: in numpy, the actions of the model."""

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import nprobot
from nprobot.errors import ArchitectureError
from nprobot.policies import (
    ACTIVATIONS,
    ControlTask,
    DecorrelatedLinear,
    decorrelate,
    export_policy,
    load_trusted_sb3_zip,
)


class Space(gymnasium.Env):
    """An environment that has spaces and nothing else."""

    def __init__(self, action_space, observation_space=None):
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-np.inf, np.inf, (5,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}


BOX = spaces.Box(np.array([-0.2, -3.0, -1.0], np.float32), np.array([0.4, 3.0, 1.0], np.float32))


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
    env.training = False
    return model, env


def observations(shape=(5,), batch=64):
    return np.random.default_rng(1).normal(0, 2, (batch, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("action_space", "shape", "options"),
    [
        *((space, (5,), {}) for space in (BOX, spaces.Discrete(4), spaces.MultiDiscrete([3, 2]))),
        (spaces.MultiBinary(3), (5,), {}),
        (BOX, (5,), {"normalise": False}),
        (BOX, (3, 2), {"observation_space": spaces.Box(-1, 1, (3, 2))}),
        *((BOX, (5,), {"activation": name}) for name in ACTIVATIONS if name != "tanh"),
    ],
)
def test_actions_equal_those_of_the_model(action_space, shape, options):
    model, env = trained(action_space, **options)
    x = observations(shape)
    expected, _ = model.predict(env.normalize_obs(x), deterministic=True)
    policy = export_policy(model)
    actions = policy.predict(x)
    assert actions.shape == expected.shape
    assert np.abs(actions - expected).max() < 1e-5
    assert policy.predict(x[0]).shape == expected.shape[1:]
    assert len(np.unique(actions.round(3), axis=0)) > 3  # the comparison is not of constants


def test_export_leaves_the_model_and_the_generator_alone():
    model, _ = trained(BOX)
    before = [tensor.clone() for tensor in model.policy.state_dict().values()]
    generator = torch.get_rng_state()
    export_policy(model)
    assert torch.equal(torch.get_rng_state(), generator)
    after = model.policy.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("action_space", "observation_space"),
    [
        (BOX, spaces.Discrete(5)),
        (BOX, spaces.Box(0, 255, (36, 36, 3), np.uint8)),
        (spaces.MultiBinary((2, 2)), None),
        (spaces.Discrete(3, start=1), None),
    ],
)
def test_spaces_that_cannot_be_exported(action_space, observation_space):
    model, _ = trained(spaces.Discrete(3))
    model.action_space = action_space
    model.observation_space = observation_space or model.observation_space
    with pytest.raises(ArchitectureError, match="cannot be exported"):
        export_policy(model)


def test_other_layers_and_feature_extractors_cannot_be_exported():
    model, _ = trained(BOX)
    model.policy.mlp_extractor.policy_net[1] = torch.nn.Softmax(-1)
    with pytest.raises(ArchitectureError, match="Softmax"):
        export_policy(model)
    model.policy.pi_features_extractor = torch.nn.Identity()
    with pytest.raises(ArchitectureError, match="use an MlpPolicy"):
        export_policy(model)


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
        task = ControlTask(env, {}, 25.0)
        policy = load_trusted_sb3_zip(tmp_path / "model.zip", algorithm, task=task)
        x = observations((4,))
        expected, _ = model.predict(x, deterministic=True)
        assert np.abs(policy.predict(x) - expected).max() <= 1e-5
        assert policy.task == task
        nprobot.policies.save(policy, tmp_path / "policy")
        assert nprobot.policies.load(tmp_path / "policy").task == task

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
        x = observations((4,))
        expected, _ = model.predict(env.normalize_obs(x), deterministic=True)
        assert np.abs(policy.predict(x) - expected).max() <= 1e-5
