"""Policies from the zip files of stable-baselines3."""

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import nprobot
from nprobot.errors import ArchitectureError
from nprobot.policies import load_trusted_sb3_zip
from nprobot.policies.files.policy import Task

from .onnx_helpers import observations


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
        with pytest.raises(ArchitectureError, match="use an MlpPolicy"):
            load_trusted_sb3_zip(tmp_path / "model", stable_baselines3.SAC)
